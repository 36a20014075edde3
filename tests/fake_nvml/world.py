"""Worlds of the fake library: load one, change it while a program runs, save it atomically."""

from __future__ import annotations

import copy
import json
import os
import re
import struct
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.fake_nvml.build import Library, build_library, exported_functions

CALLS_VARIABLE = "FAKE_NVML_CALLS"
# The layout in calls.c.
_CALL_SLOT = struct.Struct("=I4xQ64s48s")
_CALL_SLOTS = 8192
_CALL_NAMED = 2

WORLDS_DIR = Path(__file__).parents[2] / "app" / "dashtop" / "sources" / "simulated" / "worlds"

# The library checks for a changed file every 4 ms; this is two such intervals and ticks of the coarse clock.
SETTLE_S = 0.02

FAULT_MAPPINGS = ("returns", "latency_us")
FAULT_LISTS = ("hang", "hang_unkillable", "crash")
INIT_FUNCTIONS = ("nvmlInit", "nvmlInit_v2", "nvmlInitWithFlags")
# A fault of the machine, of a GPU or of a MIG instance.
_FAULT_KEY = re.compile(rf"(gpus\.\d+\.(mig\.instances\.\d+\.)?)?(?P<kind>{'|'.join((*FAULT_MAPPINGS, *FAULT_LISTS))})")
# Keys that are not written to the file of the library.
_PYTHON_ONLY_KEYS = ("source", "description", "absent", "calls")

_EVENT_TYPES = {
    "single_bit_ecc": 0x1,
    "double_bit_ecc": 0x2,
    "pstate": 0x4,
    "xid": 0x8,
    "clock": 0x10,
    "power_source": 0x80,
    "mig_config": 0x100,
    "single_bit_ecc_storm": 0x200,
    "dram_retirement": 0x400,
    "dram_retirement_failure": 0x800,
    "non_fatal_poison": 0x1000,
    "fatal_poison": 0x2000,
    "gpu_unavailable": 0x4000,
    "gpu_recovery_action": 0x8000,
}

# Duration of calls on real machines, in microseconds: published timings of an RTX 5090 and a laptop RTX 4090. They
# measure pynvml's functions, which call the library twice to read a list (first its length); the values here are of one
# call. Process lists took 0.1 ms (empty) to 4.5 ms; here it is 0.5 ms with a few processes. The driver measures PCIe
# throughput over 20 ms while the caller waits, according to NVML's documentation.
REALISTIC_LATENCY_US: Mapping[str, int] = {
    "nvmlInit_v2": 4000,
    "nvmlDeviceGetMemoryInfo": 3,
    "nvmlDeviceGetMemoryInfo_v2": 3,
    "nvmlDeviceGetUtilizationRates": 1,
    "nvmlDeviceGetTemperature": 1,
    "nvmlDeviceGetTemperatureV": 1,
    "nvmlDeviceGetPowerUsage": 1,
    "nvmlDeviceGetClockInfo": 1,
    "nvmlDeviceGetCurrPcieLinkGeneration": 1,
    "nvmlDeviceGetCurrPcieLinkWidth": 1,
    "nvmlDeviceGetEncoderUtilization": 1,
    "nvmlDeviceGetDecoderUtilization": 1,
    "nvmlDeviceGetFanSpeed": 400,
    "nvmlDeviceGetFanSpeed_v2": 400,
    "nvmlDeviceGetFanSpeedRPM": 400,
    "nvmlDeviceGetTotalEnergyConsumption": 2600,
    "nvmlDeviceGetComputeRunningProcesses": 250,
    "nvmlDeviceGetComputeRunningProcesses_v2": 250,
    "nvmlDeviceGetComputeRunningProcesses_v3": 250,
    "nvmlDeviceGetGraphicsRunningProcesses": 100,
    "nvmlDeviceGetGraphicsRunningProcesses_v2": 100,
    "nvmlDeviceGetGraphicsRunningProcesses_v3": 100,
    "nvmlDeviceGetMPSComputeRunningProcesses": 100,
    "nvmlDeviceGetMPSComputeRunningProcesses_v2": 100,
    "nvmlDeviceGetMPSComputeRunningProcesses_v3": 100,
    "nvmlDeviceGetRunningProcessDetailList": 250,
    "nvmlDeviceGetProcessUtilization": 850,
    "nvmlDeviceGetProcessesUtilizationInfo": 850,
    "nvmlDeviceGetPcieThroughput": 21000,
}
# The same for single fields of nvmlDeviceGetFieldValues: memory temperature (also if not supported), energy, and the
# PCIe byte counters, 0.2 to 0.4 ms for both.
REALISTIC_FIELD_LATENCY_US: Mapping[str, int] = {"82": 1200, "83": 2600, "191": 2600, "197": 150, "198": 150}


def world_names() -> list[str]:
    """Return the names of the recorded worlds."""
    return sorted(path.stem for path in WORLDS_DIR.glob("*.json"))


class World:
    """A world in memory, and its file for the library. Changes take effect with :meth:`save`."""

    def __init__(self, data: Mapping[str, Any], file: Path, cache_dir: Path) -> None:
        self.data: dict[str, Any] = copy.deepcopy(dict(data))
        self.file = file
        self._cache_dir = cache_dir
        self._calls_file = file.with_name(f"{file.name}.calls")
        self._library: Library | None = None
        for gpu in self.gpus:
            _expand_links(gpu)

    @classmethod
    def load(cls, name: str, file: Path, cache_dir: Path) -> World:
        """Return a recorded world, not yet saved."""
        return cls(json.loads((WORLDS_DIR / f"{name}.json").read_text()), file, cache_dir)

    @classmethod
    def read(cls, recording: Path, file: Path, cache_dir: Path) -> World:
        """Return the world that `dashtop doctor --record` wrote on some machine, not yet saved."""
        data = json.loads(recording.read_text())
        data["absent"] = sorted(set(data.get("absent", ())) & exported_functions())
        return cls(data, file, cache_dir)

    # --- programs that load the library ---

    @property
    def library(self) -> Library:
        """Return the library, compiled without the symbols listed in `absent`."""
        if self._library is None:
            self._library = build_library(self._cache_dir, self.data.get("absent", ()))
        return self._library

    def env(self, base: dict[str, str] | None = None) -> dict[str, str]:
        """Return the environment for a program that uses this world."""
        if not self.file.exists():
            self.save()
        env = self.library.env(self.file, base)
        if self._calls_file.exists():
            env[CALLS_VARIABLE] = str(self._calls_file)
        return env

    def count_calls(self) -> World:
        """Count the calls of programs that are started from now on."""
        self._calls_file.write_bytes(bytes(_CALL_SLOTS * _CALL_SLOT.size))
        return self

    def calls(self) -> Counter[tuple[str, str]]:
        """Return the number of calls by function and UUID of the device ("": no device)."""
        counted: Counter[tuple[str, str]] = Counter()
        for named, calls, function, uuid in _CALL_SLOT.iter_unpack(self._calls_file.read_bytes()):
            if named == _CALL_NAMED:
                counted[function.rstrip(b"\0").decode(), uuid.rstrip(b"\0").decode()] = calls
        return counted

    # --- changes ---

    @property
    def gpus(self) -> list[dict[str, Any]]:
        gpus: list[dict[str, Any]] = self.data["gpus"]
        return gpus

    def gpu(self, gpu: int | str) -> dict[str, Any]:
        """Return the data of one GPU, by position or UUID, to be changed and saved."""
        if isinstance(gpu, int):
            return self.gpus[gpu]
        return next(entry for entry in self.gpus if entry["uuid"] == gpu)

    def set(self, gpu: int | str, path: str, value: Any) -> World:
        """Set `utilization.gpu`, `fans.0.speed`, … of one GPU. A counter with a new rate keeps its current value."""
        holder, last = self._walk(gpu, path)
        old: Any = holder[last] if isinstance(holder, list) or last in holder else None
        if _is_counter(old) and _is_counter(value) and "value" not in value:
            value = {**old, **value, "value": _counter_now(old), "since_ns": time.monotonic_ns()}
        holder[last] = value
        return self

    def remove(self, gpu: int | str, path: str) -> World:
        """Remove a value: its function returns NOT_SUPPORTED."""
        holder, last = self._walk(gpu, path)
        if isinstance(holder, list):
            del holder[last]
        else:
            holder.pop(last, None)
        return self

    def set_return(self, function: str, code: int | None, gpu: int | str | None = None) -> World:
        """Let a function ("*": every function) return this code for one GPU or all; None removes the fault."""
        return self._set_fault("returns", function, code, gpu)

    def set_latency(self, function: str, microseconds: int | None, gpu: int | str | None = None) -> World:
        return self._set_fault("latency_us", function, microseconds, gpu)

    def set_hang(
        self, function: str, hang: bool = True, gpu: int | str | None = None, *, unkillable: bool = False
    ) -> World:
        """Let a function hang until the fault is cleared; unkillable: only SIGKILL ends the process meanwhile."""
        return self._set_listed("hang_unkillable" if unkillable else "hang", function, hang, gpu)

    def set_crash(self, function: str, crash: bool = True, gpu: int | str | None = None) -> World:
        """Let a function end the process with SIGSEGV."""
        return self._set_listed("crash", function, crash, gpu)

    def clear_faults(self) -> World:
        for holder in [self.data, *self.gpus]:
            for kind in (*FAULT_MAPPINGS, *FAULT_LISTS):
                holder.pop(kind, None)
        return self

    def add_event(self, gpu: int | str, kind: str | int, data: int = 0, **more: int) -> World:
        """Add an event for event sets, such as `"xid", 79` for a GPU that has fallen off the bus."""
        events = self.data.setdefault("events", [])
        number = 1 + max((int(event.get("id", 0)) for event in events), default=0)
        events.append({"id": number, "uuid": self.gpu(gpu)["uuid"], "type": kind, "data": data, **more})
        return self

    def with_realistic_latencies(self) -> World:
        """Let calls take as long as on real machines (:data:`REALISTIC_LATENCY_US`)."""
        self.data["latency_us"] = {**REALISTIC_LATENCY_US, **self.data.get("latency_us", {})}
        self.data["field_latency_us"] = {**REALISTIC_FIELD_LATENCY_US, **self.data.get("field_latency_us", {})}
        return self

    def save(self, *, settle: bool = True) -> World:
        """Write the world atomically; return when programs are certain to use it."""
        text = "".join(f"{line}\n" for line in sorted(self._lines()))
        scratch = self.file.with_name(f"{self.file.name}.{os.getpid()}.new")
        scratch.write_bytes(text.encode("utf-8", "surrogateescape"))
        scratch.replace(self.file)
        if settle:
            time.sleep(SETTLE_S)
        return self

    def unload_driver(self) -> World:
        """Remove the file: initialization returns DRIVER_NOT_LOADED until the next save."""
        self.file.unlink(missing_ok=True)
        time.sleep(SETTLE_S)
        return self

    def write_sysfs(self, root: Path) -> Path:
        """Write the files of these GPUs under /sys to `root`; `runtime_status` is `"suspended"` or `"active"`."""
        for gpu in self.gpus:
            bus_id = gpu["pci"]["bus_id"].lower()[-12:]
            device = root / "bus" / "pci" / "devices" / bus_id
            power = device / "power"
            power.mkdir(parents=True, exist_ok=True)
            (device / "vendor").write_text("0x10de\n")
            (device / "class").write_text("0x030000\n")
            if not (device / "driver").is_symlink():
                (device / "driver").symlink_to("../../../bus/pci/drivers/nvidia")
            for name, value in (("runtime_status", gpu.get("runtime_status", "active")), ("control", "auto")):
                scratch = power / f"{name}.new"
                scratch.write_text(f"{value}\n")
                scratch.replace(power / name)  # atomic: dashtop reads them meanwhile
        return root

    # --- internals ---

    def _walk(self, gpu: int | str, path: str) -> tuple[Any, Any]:
        holder: Any = self.gpu(gpu)
        *parents, last = path.split(".")
        for part in parents:
            holder = holder[int(part)] if isinstance(holder, list) else holder.setdefault(part, {})
        return holder, int(last) if isinstance(holder, list) else last

    def _holder(self, gpu: int | str | None) -> dict[str, Any]:
        return self.data if gpu is None else self.gpu(gpu)

    def _set_fault(self, kind: str, function: str, value: int | None, gpu: int | str | None) -> World:
        faults: dict[str, int] = self._holder(gpu).setdefault(kind, {})
        name = _function_name(function)
        if value is None:
            faults.pop(name, None)
        else:
            faults[name] = value
        return self

    def _set_listed(self, kind: str, function: str, on: bool, gpu: int | str | None) -> World:
        listed: list[str] = self._holder(gpu).setdefault(kind, [])
        name = _function_name(function)
        listed[:] = [other for other in listed if other != name] + ([name] if on else [])
        return self

    def _lines(self) -> Iterator[str]:
        uuids = [entry["uuid"] for gpu in self.gpus for entry in [gpu, *gpu.get("mig", {}).get("instances", [])]]
        if len(set(uuids)) != len(uuids):
            raise ValueError(f"two devices have the same UUID: {uuids}")
        now = time.monotonic_ns()
        machine = {key: value for key, value in self.data.items() if key not in _PYTHON_ONLY_KEYS}
        machine["events"] = [
            {"id": number, **event, "type": _EVENT_TYPES.get(event["type"], event["type"])}
            for number, event in enumerate(self.data.get("events", ()), 1)
        ]
        if "field_latency_us" in self.data:
            machine["has_field_latencies"] = True
        yield from _flatten("", machine, now)


def _function_name(function: str) -> str:
    if function in INIT_FUNCTIONS:
        return "nvmlInit_v2"
    if function != "*" and function not in exported_functions():
        raise ValueError(f"{function} is not a function of the fake library")
    return function


def _expand_links(gpu: dict[str, Any]) -> None:
    """Expand `nvlink.link_count` and `nvlink.link` to a list of links that can be changed one by one."""
    nvlink = gpu.get("nvlink", {})
    if "link" in nvlink:
        alike = nvlink.pop("link")
        nvlink["links"] = [copy.deepcopy(alike) for _ in range(nvlink.pop("link_count"))]


def _is_counter(value: Any) -> bool:
    return isinstance(value, dict) and "per_second" in value


def _counter_now(counter: Mapping[str, Any]) -> int:
    since = counter.get("since_ns", time.monotonic_ns())
    return int(counter.get("value", 0) + counter["per_second"] * (time.monotonic_ns() - since) / 1e9)


def _flatten(prefix: str, value: Any, now: int) -> Iterator[str]:
    """Yield lines `dotted.key=value` for the C code; a key without a value is null."""
    if fault := _FAULT_KEY.fullmatch(prefix):
        settings = dict.fromkeys(value, True) if fault["kind"] in FAULT_LISTS else value
        value = {_function_name(function): setting for function, setting in settings.items()}
    if _is_counter(value):
        # Stored in the world, so that the counter continues from here when the world is saved again.
        value.setdefault("value", 0)
        value.setdefault("since_ns", now)
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(f"{prefix}.{key}" if prefix else str(key), item, now)
    elif isinstance(value, Iterable) and not isinstance(value, str):
        for index, item in enumerate(value):
            yield from _flatten(f"{prefix}.{index}", item, now)
    elif value is None:
        yield prefix
    elif isinstance(value, bool):
        yield f"{prefix}={int(value)}"
    else:
        yield f"{prefix}={str(value).replace(chr(92), chr(92) * 2).replace(chr(10), chr(92) + 'n')}"
