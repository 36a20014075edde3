"""Records what NVML answers: every call with its return code, latency and result. Runs in a process of its own.

Before each call it prints the call, so that the parent knows which one hangs or crashes. Each line on stdout is a JSON
object: {"begin": [device, function]}, {"call": record, "keys": keys}, {"facts": [device, keys]} or {"end": true}. A
device is "0" or, for a MIG instance, "0/1"; "" is the machine. `keys` are those of a world file
(tests/fake_nvml/README.md).
"""

from __future__ import annotations

import ctypes
import inspect
import json
import math
import re
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pynvml

from dashtop.model.unavailable import Unavailable
from dashtop.sources.nvml.bindings import MAX_TEXT_LENGTH, find_function
from dashtop.sources.nvml.processes import is_v3_misread
from dashtop.sources.nvml.queries import MAX_NVLINKS, read_fan_rpm

if TYPE_CHECKING:
    from collections.abc import Callable

RATE_INTERVAL_S = 1.1
"""Between two readings of a counter; GPM needs more than 0.1 s (NVML manual, nvmlGpmMetricsGet)."""
ALL_LINKS = 2**32 - 1
NO_INSTANCE = 2**32 - 1
WRAP_BITS = 32
KIB, KILOBYTE = 1024, 1000

# Functions with one value, by the end of their name: the key of a world.
_SINGLE = {
    "Name": "name", "UUID": "uuid", "Serial": "serial", "VbiosVersion": "vbios", "BoardPartNumber": "board_part_number",
    "InforomImageVersion": "inforom_image_version", "MinorNumber": "minor_number", "Brand": "brand",
    "Architecture": "architecture", "BoardId": "board_id", "MultiGpuBoard": "multi_gpu_board",
    "NumGpuCores": "cores", "MemoryBusWidth": "memory_bus_width", "BusType": "bus_type", "IrqNum": "irq",
    "PowerSource": "power_source", "NumaNodeId": "numa_node", "ModuleId": "module_id",
    "GspFirmwareVersion": "gsp_firmware_version", "PerformanceState": "performance_state", "FanSpeed": "fan_speed",
    "CurrentClocksEventReasons": "clocks_event_reasons", "CurrentClocksThrottleReasons": "clocks_event_reasons",
    "SupportedClocksEventReasons": "clocks_event_reasons_supported", "PowerUsage": "power.usage",
    "PowerManagementMode": "power.management_mode", "PowerManagementLimit": "power.limit",
    "EnforcedPowerLimit": "power.enforced_limit", "PowerManagementDefaultLimit": "power.default_limit",
    "TotalEnergyConsumption": "energy_mj", "CurrPcieLinkGeneration": "pcie.generation",
    "MaxPcieLinkGeneration": "pcie.max_generation", "GpuMaxPcieLinkGeneration": "pcie.gpu_max_generation",
    "CurrPcieLinkWidth": "pcie.width", "MaxPcieLinkWidth": "pcie.max_width", "PcieSpeed": "pcie.speed_mbps",
    "PcieReplayCounter": "pcie.replay_counter", "ComputeMode": "compute_mode", "PersistenceMode": "persistence_mode",
    "DisplayMode": "display_mode", "DisplayActive": "display_active", "VirtualizationMode": "virtualization_mode",
    "AccountingMode": "accounting_mode", "AccountingBufferSize": "accounting_buffer_size",
    "DefaultEccMode": "ecc.default", "RetiredPagesPendingStatus": "retired_pages.pending",
    "MaxMigDeviceCount": "mig.max_devices", "GpuInstanceId": "gpu_instance_id",
    "ComputeInstanceId": "compute_instance_id", "MarginTemperature": "temperature_margin",
    "SupportedEventTypes": "event_types",
}  # fmt: skip
# Functions with several values.
_SEVERAL = {
    "CudaComputeCapability": ("compute_capability.0", "compute_capability.1"),
    "PowerManagementLimitConstraints": ("power.min_limit", "power.max_limit"),
    "EccMode": ("ecc.current", "ecc.pending"),
    "MigMode": ("mig.current", "mig.pending"),
    "EncoderUtilization": ("encoder.utilization", "encoder.sampling_period_us"),
    "DecoderUtilization": ("decoder.utilization", "decoder.sampling_period_us"),
    "JpgUtilization": ("jpeg.utilization", "jpeg.sampling_period_us"),
    "OfaUtilization": ("ofa.utilization", "ofa.sampling_period_us"),
    "MinMaxFanSpeed": ("fan_speed_range.min", "fan_speed_range.max"),
    "EncoderStats": ("encoder_stats.sessions", "encoder_stats.fps", "encoder_stats.latency_us"),
    "RemappedRows": (
        "remapped_rows.correctable", "remapped_rows.uncorrectable", "remapped_rows.pending", "remapped_rows.failure",
    ),
}  # fmt: skip
# Functions with a number as argument: the key for each number.
_CLOCKS = ("graphics", "sm", "memory", "video")
_INDEXED = {
    "Temperature": {0: "temperature"},
    "TemperatureThreshold": dict(
        enumerate(
            f"temperature_thresholds.{name}"
            for name in (
                "shutdown", "slowdown", "mem_max", "gpu_max", "acoustic_min", "acoustic_curr", "acoustic_max",
            )
        )
    ),
    **{
        function: {number: f"{key}.{name}" for number, name in enumerate(_CLOCKS)}
        for function, key in (
            ("ClockInfo", "clocks"), ("MaxClockInfo", "max_clocks"), ("ApplicationsClock", "application_clocks"),
            ("DefaultApplicationsClock", "default_application_clocks"),
            ("MaxCustomerBoostClock", "max_customer_boost_clocks"),
        )
    },
    "PcieThroughput": {0: "pcie.tx_kb_per_s", 1: "pcie.rx_kb_per_s"},
}  # fmt: skip
# nvmlMemoryErrorType_t and nvmlEccCounterType_t.
_ECC = {
    (kind, period): f"ecc.{kind_name}_{period_name}"
    for kind, kind_name in enumerate(("corrected", "uncorrected"))
    for period, period_name in enumerate(("volatile", "aggregate"))
}
# Fields that are read one by one (nvml.h, NVML_FI_*), in the order in which drivers learned them.
_FIELDS = {
    82: "memory_temperature", 83: "", 94: "", 95: "pcie.replay_rollover_counter", 138: "", 139: "",
    185: "power.average", 186: "power.instant", 191: "",
    193: "temperature_limits.shutdown", 194: "temperature_limits.slowdown",
    195: "temperature_limits.mem_max", 196: "temperature_limits.gpu_max", 197: "pcie.tx_bytes", 198: "pcie.rx_bytes",
    230: "recovery_action",
}  # fmt: skip
_LINK_FIELDS = (138, 139)
_PCIE_FIELDS = (197, 198)
_GPM_METRICS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 20, 21)
_LISTS = {"C": "Compute", "G": "Graphics", "M": "MPSCompute"}


class Recorder:
    """Calls NVML and prints what it answers. `skipped`: (device, function) of calls that hung or crashed before."""

    def __init__(self, skipped: set[tuple[str, str]]) -> None:
        self._skipped = skipped
        self._code: int | None = None

    def call(
        self, device: str, function: str, run: Callable[[], Any], *, arguments: tuple[int, ...] = (), **keys: Any
    ) -> Any:
        """Run one call and print it. Return its result, None if it fails.

        `keys`: `key` names the key of the result, `to_keys` returns the keys for it.
        """
        self._code = None
        if (device, function) in self._skipped:
            return None
        _print(begin=[device, function])
        started = time.perf_counter()
        try:
            value, code = run(), pynvml.NVML_SUCCESS
        except pynvml.NVMLError as error:
            value, code = None, int(error.value)
        except UnicodeDecodeError as error:  # texts stored on a card can hold any bytes
            value, code = error.object.decode("utf-8", "replace"), pynvml.NVML_SUCCESS
        latency_us, self._code = round(1e6 * (time.perf_counter() - started)), code
        plain = _to_plain(value)
        found: dict[str, Any] = {}
        if code == pynvml.NVML_SUCCESS and "key" in keys:
            found = {keys["key"]: plain}
        elif code == pynvml.NVML_SUCCESS and "to_keys" in keys:
            found = keys["to_keys"](value)
        record = {"gpu": device, "function": function, "arguments": arguments, "code": code}
        _print(call={**record, "latency_us": latency_us, "value": plain}, keys=found)
        return value

    def run(self) -> None:
        """Record the machine and every device."""
        self.call("", "nvmlInit_v2", pynvml.nvmlInit)
        if self._code != pynvml.NVML_SUCCESS:
            return
        facts: dict[str, Any] = {"absent": _find_absent()}
        if is_v3_misread():
            facts["wide_process_list"] = True
        _print(facts=["", facts])
        for function, key in (
            ("nvmlSystemGetDriverVersion", "driver_version"),
            ("nvmlSystemGetNVMLVersion", "nvml_version"),
            ("nvmlSystemGetCudaDriverVersion", "cuda_driver_version"),
        ):
            self.call("", function, getattr(pynvml, function), key=key)
        count = self.call("", "nvmlDeviceGetCount_v2", pynvml.nvmlDeviceGetCount) or 0
        handles: dict[str, Any] = {}
        for index in range(count):
            self._open(str(index), index, handles)
        rates = {device: self._start_rates(device, handle) for device, handle in handles.items()}
        for device, handle in handles.items():
            self._record_device(device, handle)
        time.sleep(RATE_INTERVAL_S)
        for device, handle in handles.items():
            self._record_rates(device, handle, *rates[device])

    def _open(self, device: str, index: int, handles: dict[str, Any]) -> None:
        function = "nvmlDeviceGetHandleByIndex_v2"
        handle = self.call(device, function, lambda: pynvml.nvmlDeviceGetHandleByIndex(index), arguments=(index,))
        if handle is None:
            return
        handles[device] = handle
        modes = self.call(device, "nvmlDeviceGetMigMode", lambda: pynvml.nvmlDeviceGetMigMode(handle))
        if not modes or modes[0] != 1:
            return
        found = 0
        for position in range(self._get(device, "MaxMigDeviceCount", handle) or 0):
            instance = self._get(device, "MigDeviceHandleByIndex", handle, position)
            if instance is not None:
                handles[f"{device}/{found}"] = instance
                found += 1

    def _record_device(self, device: str, handle: Any) -> None:
        for name, key in _SINGLE.items():
            self._get(device, name, handle, key=key)
        for name, names in _SEVERAL.items():
            self._get(device, name, handle, to_keys=lambda values, names=names: dict(zip(names, values, strict=False)))
        for name, by_number in _INDEXED.items():
            for number, key in by_number.items():
                self._get(device, name, handle, number, key=key)
        for (kind, period), key in _ECC.items():
            self._get(device, "TotalEccErrors", handle, kind, period, key=key)
        for cause, key in enumerate(("retired_pages.single_bit", "retired_pages.double_bit")):
            self._get(device, "RetiredPages", handle, cause, key=key)
        self._get(device, "UtilizationRates", handle, to_keys=lambda rates: {
            "utilization.gpu": rates.gpu, "utilization.memory": rates.memory,
        })  # fmt: skip
        self._get(device, "BAR1MemoryInfo", handle, to_keys=lambda memory: {
            "bar1.total": memory.bar1Total, "bar1.used": memory.bar1Used,
        })  # fmt: skip
        self._get(device, "FBCStats", handle, to_keys=lambda stats: {
            "fbc_stats.sessions": stats.sessionsCount, "fbc_stats.fps": stats.averageFPS,
            "fbc_stats.latency_us": stats.averageLatency,
        })  # fmt: skip
        self._record_pci(device, handle)
        self._record_memory(device, handle)
        self._record_fans(device, handle)
        self._record_attributes(device, handle)
        self._record_processes(device, handle)

    def _get(self, device: str, name: str, handle: Any, *arguments: int, **keys: Any) -> Any:
        function = f"nvmlDeviceGet{name}"
        run = getattr(pynvml, function)
        return self.call(device, function, lambda: run(handle, *arguments), arguments=arguments, **keys)

    def _record_pci(self, device: str, handle: Any) -> None:
        def to_keys(pci: Any) -> dict[str, Any]:
            return {
                "pci.bus_id": _to_plain(pci.busId),
                "pci.device_id": f"0x{pci.pciDeviceId:08X}",
                "pci.subsystem_id": f"0x{pci.pciSubSystemId:08X}",
            }

        self.call(device, "nvmlDeviceGetPciInfo_v3", lambda: pynvml.nvmlDeviceGetPciInfo_v3(handle), to_keys=to_keys)

    def _record_memory(self, device: str, handle: Any) -> None:
        """Record both versions: in the first, used contains reserved."""
        self.call(device, "nvmlDeviceGetMemoryInfo", lambda: pynvml.nvmlDeviceGetMemoryInfo(handle), to_keys=lambda m: {
            "memory.total": m.total, "memory.used": m.used,
        })  # fmt: skip
        run = pynvml.nvmlDeviceGetMemoryInfo
        self.call(
            device,
            "nvmlDeviceGetMemoryInfo_v2",
            lambda: run(handle, version=pynvml.nvmlMemory_v2),
            to_keys=lambda m: {"memory.total": m.total, "memory.used": m.used, "memory.reserved": m.reserved},
        )

    def _record_fans(self, device: str, handle: Any) -> None:
        count = self._get(device, "NumFans", handle)
        fans = []
        for fan in range(count or 0):
            values = {
                key: self._get(device, name, handle, fan)
                for key, name in (
                    ("speed", "FanSpeed_v2"),
                    ("target", "TargetFanSpeed"),
                    ("policy", "FanControlPolicy_v2"),
                )
            }
            values["rpm"] = self.call(
                device, "nvmlDeviceGetFanSpeedRPM", partial(read_fan_rpm, handle, fan), arguments=(fan,)
            )
            fans.append({key: value for key, value in values.items() if value is not None})
        if count is not None:
            _print(facts=[device, {"fans": fans}])

    def _record_attributes(self, device: str, handle: Any) -> None:
        if "/" not in device:
            return
        attributes = self._get(device, "Attributes_v2", handle)
        if attributes is not None:
            names = [name for name, *_ in attributes._fields_]
            values = {_to_snake_case(name): getattr(attributes, name) for name in names}
            _print(facts=[device, {"attributes": values}])

    def _record_processes(self, device: str, handle: Any) -> None:
        found: dict[int, dict[str, Any]] = {}
        for kind, name in _LISTS.items():
            version = "_v2" if is_v3_misread() or not _has(f"nvmlDeviceGet{name}RunningProcesses_v3") else "_v3"
            for process in self._get(device, f"{name}RunningProcesses{version}", handle) or ():
                entry = found.setdefault(process.pid, {"pid": process.pid, "type": kind})
                if kind not in entry["type"].split("+"):
                    entry["type"] += f"+{kind}"
                entry["used_memory"] = process.usedGpuMemory
                for key, number in (
                    ("gpu_instance_id", process.gpuInstanceId),
                    ("compute_instance_id", process.computeInstanceId),
                ):
                    if number is not None and number != NO_INSTANCE:
                        entry[key] = number
        samples = self._get(device, "ProcessUtilization", handle, 0)
        for sample in sorted(samples or (), key=lambda each: each.timeStamp):
            if sample.pid in found:
                utils = {"sm": sample.smUtil, "mem": sample.memUtil, "enc": sample.encUtil, "dec": sample.decUtil}
                found[sample.pid] |= {f"{name}_util": value for name, value in utils.items()}
        _print(facts=[device, {"processes": list(found.values())}])

    def _start_rates(self, device: str, handle: Any) -> tuple[dict[str, tuple[float, int]], Any]:
        """Read the counters, and take the first GPM sample."""
        sample = None
        support = self.call(
            device, "nvmlGpmQueryDeviceSupport", lambda: pynvml.nvmlGpmQueryDeviceSupport(handle)
        )  # fmt: skip
        if support is not None and support.isSupportedDevice:
            sample = self._take_sample(device, handle)
        return self._read_counters(device, handle), sample

    def _take_sample(self, device: str, handle: Any) -> Any:
        sample = self.call("", "nvmlGpmSampleAlloc", pynvml.nvmlGpmSampleAlloc)
        if sample is not None:
            self.call(device, "nvmlGpmSampleGet", lambda: pynvml.nvmlGpmSampleGet(handle, sample))
        return sample

    def _read_counters(self, device: str, handle: Any) -> dict[str, tuple[float, int]]:
        """Return the counters by name, each with its time."""
        found: dict[str, tuple[float, int]] = {}
        energy = self._get(device, "TotalEnergyConsumption", handle)
        if energy is not None:
            found["energy"] = time.monotonic(), energy
        for field in _FIELDS:
            value = self._read_field(device, handle, field)
            if value is not None and field in _LINK_FIELDS:
                found[str(field)] = time.monotonic(), value
        return found

    def _read_field(self, device: str, handle: Any, field: int) -> int | None:
        """Read one field and print it as a call of its own."""
        scope = ALL_LINKS if field in _LINK_FIELDS else 0

        def run() -> Any:
            value = pynvml.nvmlDeviceGetFieldValues(handle, [(field, scope)])[0]
            if value.nvmlReturn != pynvml.NVML_SUCCESS:
                raise pynvml.NVMLError(value.nvmlReturn)
            return _get_field_value(value)

        key = _FIELDS[field]
        arguments = (field, scope)
        keys = {"key": key} if key and field not in _PCIE_FIELDS else {}
        value = self.call(device, "nvmlDeviceGetFieldValues", run, arguments=arguments, **keys)
        return None if value is None else int(value)

    def _record_rates(self, device: str, handle: Any, before: dict[str, tuple[float, int]], sample: Any) -> None:
        after = self._read_counters(device, handle)
        rates = {
            name: (after[name][1] - value) / (after[name][0] - since)
            for name, (since, value) in before.items()
            if name in after
        }
        facts: dict[str, Any] = {}
        if "energy" in rates:
            facts["energy_mj"] = {"value": after["energy"][1], "per_second": round(rates["energy"])}
        facts |= self._record_pcie_counters(device, handle)
        facts |= self._record_links(device, handle, after, rates)
        facts |= self._record_activity(device, handle, sample)
        _print(facts=[device, facts])

    def _record_pcie_counters(self, device: str, handle: Any) -> dict[str, Any]:
        """Return the PCIe counters. They wrap too fast to be subtracted: their rate is that of the blocking call."""
        facts: dict[str, Any] = {}
        for field, key in zip(_PCIE_FIELDS, ("pcie.tx_bytes", "pcie.rx_bytes"), strict=True):
            value = self._read_field(device, handle, field)
            kilobytes = self._get(device, "PcieThroughput", handle, _PCIE_FIELDS.index(field))
            if value is not None:
                counter = {"value": value, "per_second": (kilobytes or 0) * KILOBYTE}
                facts[key] = counter if value >> WRAP_BITS else {**counter, "wrap_bits": WRAP_BITS}
        return facts

    def _record_links(
        self, device: str, handle: Any, counters: dict[str, tuple[float, int]], rates: dict[str, float]
    ) -> dict[str, Any]:
        """Return the NVLink links. NVML has the traffic of all together; each gets an equal part."""
        links: list[dict[str, Any]] = []
        for link in range(MAX_NVLINKS):
            state = self._get(device, "NvLinkState", handle, link)
            if state is None:
                break
            version = self._get(device, "NvLinkVersion", handle, link)
            links.append({"active": state, **({"version": version} if version is not None else {})})
        for field, key in zip(_LINK_FIELDS, ("tx_bytes", "rx_bytes"), strict=True):
            for link_facts in links if str(field) in counters else ():
                link_facts[key] = {
                    "value": counters[str(field)][1] * KIB // len(links),
                    "per_second": rates.get(str(field), 0.0) * KIB / len(links),
                }
        return {"nvlink": {"links": links}} if links else {}

    def _record_activity(self, device: str, handle: Any, first: Any) -> dict[str, Any]:
        second = self._take_sample(device, handle) if first is not None else None
        if second is None:
            return {}
        request = pynvml.c_nvmlGpmMetricsGet_t()
        request.version = pynvml.NVML_GPM_METRICS_GET_VERSION
        request.numMetrics = len(_GPM_METRICS)
        request.sample1, request.sample2 = first, second
        for position, metric in enumerate(_GPM_METRICS):
            request.metrics[position].metricId = metric
        self.call(device, "nvmlGpmMetricsGet", lambda: pynvml.nvmlGpmMetricsGet(request))
        rows = [request.metrics[position] for position in range(len(_GPM_METRICS))]
        metrics = {str(row.metricId): _to_plain(row.value) for row in rows if row.nvmlReturn == pynvml.NVML_SUCCESS}
        for sample in (first, second):
            self.call("", "nvmlGpmSampleFree", partial(pynvml.nvmlGpmSampleFree, sample))
        return {"gpm": {"supported": True, "metrics": metrics}}


def _print(**line: Any) -> None:
    print(json.dumps(line), flush=True)  # noqa: T201 - read by the parent


def _has(function: str) -> bool:
    try:
        return find_function(function) is not None
    except Unavailable:
        return False


def _find_absent() -> list[str]:
    """Return the functions that pynvml knows and this library does not have."""
    names = set(re.findall(r'_nvmlGetFunctionPointer\("(nvml\w+)"\)', inspect.getsource(pynvml)))
    return sorted(name for name in names if not _has(name))


def _get_field_value(field: Any) -> int | float:
    names = {
        pynvml.NVML_VALUE_TYPE_DOUBLE: "dVal",
        pynvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
        pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
        pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
        pynvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "sllVal",
        pynvml.NVML_VALUE_TYPE_SIGNED_INT: "siVal",
    }
    value: int | float = getattr(field.value, names.get(field.valueType, "ullVal"))
    return value


def _to_snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z]+)", r"_\1", name).lower()


def _to_plain(value: Any) -> Any:
    """Return a result of pynvml as JSON can hold it; None for a handle."""
    plain: Any = None
    if isinstance(value, bytes | str):
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        plain = text[:MAX_TEXT_LENGTH]
    elif isinstance(value, float) and not math.isfinite(value):
        plain = str(value)
    elif isinstance(value, int | float):
        plain = value
    elif isinstance(value, ctypes.Structure | ctypes.Union):
        plain = {name: _to_plain(getattr(value, name)) for name, *_ in value._fields_}
    elif isinstance(value, ctypes.Array | list | tuple):
        plain = [_to_plain(each) for each in value]
    elif value is not None and type(value).__module__ != "_ctypes" and hasattr(value, "__dict__"):
        plain = {name: _to_plain(each) for name, each in vars(value).items()}
    return plain


def main(skipped: str) -> None:
    """Record, and print the lines for the parent process. `skipped`: JSON list of [device, function]."""
    Recorder({(device, function) for device, function in json.loads(skipped)}).run()
    _print(end=True)
    sys.stdout.flush()
