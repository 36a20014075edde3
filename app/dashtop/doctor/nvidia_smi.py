"""Runs nvidia-smi and parses its output: `nvidia-smi -q -x` and `nvidia-smi pmon -c 1`.

Field names: NVIDIA's nvsmi_device_v11.dtd (R470 to R525), v12 (R530 to R575) and v13 (R580 on).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from dashtop.metrics.convert import pcie_bandwidth, percent
from dashtop.model.errors import DashtopError
from dashtop.model.metric import GIB, MIB
from dashtop.model.text import sanitize_text
from dashtop.model.unavailable import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from dashtop.model.sample import Device

    FieldReader = Callable[[ET.Element], float | None]

PROGRAM = "nvidia-smi"
# With persistence mode off, nvidia-smi initializes every GPU first, which takes seconds each.
TIMEOUT_S = 60.0
MAX_ERROR_LENGTH = 200

_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?) ?(%|C|W|MHz|MiB|KB/s|x)?")
_PSTATE = re.compile(r"P(\d+)")
# Characters that XML 1.0 forbids; names of processes can contain them.
_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_WORDS = {
    "Enabled": 1.0, "Disabled": 0.0, "Yes": 1.0, "No": 0.0,
    "Default": 0.0, "Exclusive_Thread": 1.0, "Prohibited": 2.0, "Exclusive_Process": 3.0,
}  # fmt: skip
# Bits of nvmlClocksEventReasons (nvml.h), by the end of the element's name.
_REASON_BITS = {
    "gpu_idle": 0x1,
    "applications_clocks_setting": 0x2,
    "sw_power_cap": 0x4,
    "hw_slowdown": 0x8,
    "sync_boost": 0x10,
    "sw_thermal_slowdown": 0x20,
    "hw_thermal_slowdown": 0x40,
    "hw_power_brake_slowdown": 0x80,
    "display_clocks_setting": 0x100,
}
KNOWN_REASONS = sum(_REASON_BITS.values())
"""The bits that nvidia-smi shows; it has none for the others."""


class NvidiaSmiError(DashtopError):
    """nvidia-smi is missing, failed, or printed what cannot be parsed. The message is a sentence."""


class SmiProcess(NamedTuple):
    """A process in a list of nvidia-smi. Memory in MiB, utilizations in percent; None: not shown."""

    pid: int
    kind: str
    name: str
    memory_mib: float | None = None
    sm: float | None = None
    memory: float | None = None
    encoder: float | None = None
    decoder: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SmiGpu:
    """A GPU, or a MIG instance, as nvidia-smi shows it. `values` are in the units of the GPU metric table.

    `uuid` is that of the GPU. nvidia-smi shows none of an instance: `instance` counts those of a GPU (None: the GPU).
    """

    uuid: str
    instance: int | None
    values: Mapping[str, float]
    texts: Mapping[str, str]
    processes: tuple[SmiProcess, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class SmiReport:
    """What nvidia-smi shows. `pmon`: processes by position of the GPU; None where it refuses (MIG)."""

    gpus: tuple[SmiGpu, ...]
    pmon: Mapping[int, tuple[SmiProcess, ...]] | None


def query() -> SmiReport:
    """Run nvidia-smi. Raise NvidiaSmiError."""
    text = _run("-q", "-x")
    gpus = parse_query(text)
    try:
        pmon = parse_pmon(_run("pmon", "-c", "1"))
    except NvidiaSmiError:
        pmon = None  # "Not supported on the device(s)", as with MIG; the lists of -q -x remain
    return SmiReport(gpus=gpus, pmon=pmon)


def _run(*arguments: str) -> str:
    program = shutil.which(PROGRAM)
    if program is None:
        raise NvidiaSmiError(
            f"{PROGRAM} was not found on the PATH: there is nothing to compare the GPUs with. It is part of the NVIDIA"
            " driver (Debian: nvidia-smi, Ubuntu: nvidia-utils-…); a container gets it with"
            " NVIDIA_DRIVER_CAPABILITIES=utility."
        )
    command = " ".join((PROGRAM, *arguments))
    try:
        done = subprocess.run(
            [program, *arguments],
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise NvidiaSmiError(f"{command} did not end within {TIMEOUT_S:g} s: the driver does not respond.") from None
    except OSError as error:
        raise NvidiaSmiError(f"{command} cannot be run: {error.strerror or error}.") from None
    text = done.stdout.decode(errors="replace")
    if done.returncode != 0:
        lines = [line for line in (done.stderr.decode(errors="replace") + text).splitlines() if line.strip()]
        message = sanitize_text(lines[0], limit=MAX_ERROR_LENGTH) if lines else "no message"
        raise NvidiaSmiError(f"{command} failed with exit status {done.returncode}: {message}")
    return text


def parse_query(text: str) -> tuple[SmiGpu, ...]:
    """Parse the output of `nvidia-smi -q -x`. Raise NvidiaSmiError."""
    try:
        log = ET.fromstring(_NOT_XML.sub("\ufffd", text))  # noqa: S314 - from the driver's own program
    except ET.ParseError as error:
        raise NvidiaSmiError(f"{PROGRAM} -q -x did not print XML: {error}.") from None
    versions = {name: _get_text(log, name) for name in ("driver_version", "cuda_version")}
    found = []
    for gpu in log.iter("gpu"):
        uuid = _get_text(gpu, "uuid") or ""
        found.append(
            SmiGpu(
                uuid=uuid,
                instance=None,
                values=_read_values(gpu, _FIELDS),
                texts=_read_texts(gpu, versions),
                processes=tuple(_parse_process(process) for process in gpu.iter("process_info")),
            )
        )
        found += [
            SmiGpu(uuid=uuid, instance=position, values=_read_values(device, _INSTANCE_FIELDS), texts={})
            for position, device in enumerate(gpu.iter("mig_device"))
        ]
    return tuple(found)


def parse_number(text: str | None) -> float | None:
    """Return the number of a value such as "45 C", "312.50 W", "16x", "P8", "Enabled" or "No".

    None for "N/A", "[Unknown Error]", "Requested functionality has been deprecated", and whatever else is no value.
    """
    if text is None:
        return None
    if text in _WORDS:
        return _WORDS[text]
    match = _NUMBER.fullmatch(text) or _PSTATE.fullmatch(text)
    return float(match[1]) if match else None


def _get_text(element: ET.Element, path: str) -> str | None:
    text = element.findtext(path)
    return sanitize_text(text.strip(), limit=MAX_ERROR_LENGTH) if text is not None else None


def _field(*paths: str, factor: float = 1.0) -> FieldReader:
    """Return a reader of the first of these elements that has a number."""

    def read(gpu: ET.Element) -> float | None:
        numbers = (parse_number(_get_text(gpu, path)) for path in paths)
        return next((number * factor for number in numbers if number is not None), None)

    return read


def _sum(*paths: str) -> FieldReader:
    """Return a reader of the sum of those of these elements that have a number."""

    def read(gpu: ET.Element) -> float | None:
        numbers = [number for path in paths if (number := parse_number(_get_text(gpu, path))) is not None]
        return sum(numbers) if numbers else None

    return read


def _share(part: FieldReader, whole: FieldReader) -> FieldReader:
    def read(gpu: ET.Element) -> float | None:
        values = part(gpu), whole(gpu)
        return percent(values[0], values[1]) if values[0] is not None and values[1] else None

    return read


def _read_ecc(kind: str, period: str) -> FieldReader:
    """Return a reader of `kind` (correctable, uncorrectable) errors. Before Turing they are single_bit and double_bit.

    v13 splits the uncorrectable errors of SRAM by what detected them (parity, SEC-DED).
    """
    names = (f"sram_{kind}", f"sram_{kind}_parity", f"sram_{kind}_secded", f"dram_{kind}")
    bits = "single_bit" if kind == "correctable" else "double_bit"
    modern = _sum(*(f"ecc_errors/{period}/{name}" for name in names))
    legacy = _field(f"ecc_errors/{period}/{bits}/total")
    return lambda gpu: legacy(gpu) if modern(gpu) is None else modern(gpu)


def _read_reasons(gpu: ET.Element) -> float | None:
    """Return the throttle reasons as a bit mask. Called throttle reasons before R535, event reasons since."""
    for group, prefix in (
        ("clocks_event_reasons", "clocks_event_reason_"),
        ("clocks_throttle_reasons", "clocks_throttle_reason_"),
    ):
        found = {name: _get_text(gpu, f"{group}/{prefix}{name}") for name in _REASON_BITS}
        if any(text in {"Active", "Not Active"} for text in found.values()):
            bits = sum(_REASON_BITS[name] for name, text in found.items() if text == "Active")
            return float(bits)
    return None


_LINK = "pci/pci_gpu_link_info"
_generation, _width = _field(f"{_LINK}/pcie_gen/current_link_gen"), _field(f"{_LINK}/link_widths/current_link_width")


def _read_bandwidth(gpu: ET.Element) -> float | None:
    generation, width = _generation(gpu), _width(gpu)
    if generation is None or width is None:
        return None
    try:
        return pcie_bandwidth(int(generation), int(width))
    except Unavailable:
        return None


_POWER = tuple(
    f"{group}/{name}"
    for group in ("gpu_power_readings", "power_readings")
    for name in ("power_draw", "average_power_draw", "instant_power_draw")
)
_POWER_LIMIT = ("gpu_power_readings/current_power_limit", "power_readings/enforced_power_limit")


def _limit(name: str) -> FieldReader:
    return _field(f"gpu_power_readings/{name}_power_limit", f"power_readings/{name}_power_limit")


_MIB_IN_GIB = MIB / GIB
_memory_used, _memory_total = (_field(f"fb_memory_usage/{name}", factor=_MIB_IN_GIB) for name in ("used", "total"))

_INSTANCE_FIELDS: dict[str, FieldReader] = {
    "gpu.memory.used_gb": _memory_used,
    "gpu.memory.total_gb": _memory_total,
    "gpu.memory.used_percent": _share(_memory_used, _memory_total),
    "gpu.memory.reserved_gb": _field("fb_memory_usage/reserved", factor=_MIB_IN_GIB),
    "gpu.memory.bar1_used_gb": _field("bar1_memory_usage/used", factor=_MIB_IN_GIB),
    "gpu.memory.bar1_total_gb": _field("bar1_memory_usage/total", factor=_MIB_IN_GIB),
}
_FIELDS: dict[str, FieldReader] = {
    **_INSTANCE_FIELDS,
    "gpu.utilization.gpu": _field("utilization/gpu_util"),
    "gpu.utilization.memory": _field("utilization/memory_util"),
    "gpu.encoder_utilization": _field("utilization/encoder_util"),
    "gpu.decoder_utilization": _field("utilization/decoder_util"),
    "gpu.jpeg_utilization": _field("utilization/jpeg_util"),
    "gpu.ofa_utilization": _field("utilization/ofa_util"),
    "gpu.encoder_sessions": _field("encoder_stats/session_count"),
    "gpu.temperature": _field("temperature/gpu_temp"),
    "gpu.memory_temperature": _field("temperature/memory_temp"),
    "gpu.temperature_margin": _field("temperature/gpu_temp_tlimit"),
    "gpu.memory_temperature_limit": _field("temperature/gpu_temp_max_mem_threshold"),
    "gpu.temperature_slowdown": _field("temperature/gpu_temp_slow_threshold"),
    "gpu.temperature_shutdown": _field("temperature/gpu_temp_max_threshold"),
    "gpu.power.current_watts": _field(*_POWER),
    "gpu.power.instant_watts": _field("gpu_power_readings/instant_power_draw"),
    "gpu.power.average_watts": _field("gpu_power_readings/average_power_draw"),
    "gpu.power.max_watts": _field(*_POWER_LIMIT),
    "gpu.power.usage_percent": _share(_field(*_POWER), _field(*_POWER_LIMIT)),
    "gpu.power.limit_default_watts": _limit("default"),
    "gpu.power.limit_min_watts": _limit("min"),
    "gpu.power.limit_max_watts": _limit("max"),
    "gpu.fan_speed": _field("fan_speed"),
    "gpu.clocks.gpu_mhz": _field("clocks/graphics_clock"),
    "gpu.clocks.sm_mhz": _field("clocks/sm_clock"),
    "gpu.clocks.memory_mhz": _field("clocks/mem_clock"),
    "gpu.clocks.video_mhz": _field("clocks/video_clock"),
    "gpu.clocks.gpu_max_mhz": _field("max_clocks/graphics_clock"),
    "gpu.clocks.memory_max_mhz": _field("max_clocks/mem_clock"),
    "gpu.clocks.event_reasons": _read_reasons,
    "gpu.performance_state": _field("performance_state"),
    "gpu.pcie.generation": _generation,
    "gpu.pcie.width": _width,
    "gpu.pcie.max_generation": _field(f"{_LINK}/pcie_gen/max_link_gen"),
    "gpu.pcie.max_width": _field(f"{_LINK}/link_widths/max_link_width"),
    "gpu.pcie.bandwidth_gbps": _read_bandwidth,
    "gpu.pcie.tx_mbps": _field("pci/tx_util", factor=1e-3),
    "gpu.pcie.rx_mbps": _field("pci/rx_util", factor=1e-3),
    "gpu.pcie.replays": _field("pci/replay_counter"),
    "gpu.ecc.volatile_corrected": _read_ecc("correctable", "volatile"),
    "gpu.ecc.volatile_uncorrected": _read_ecc("uncorrectable", "volatile"),
    "gpu.ecc.aggregate_corrected": _read_ecc("correctable", "aggregate"),
    "gpu.ecc.aggregate_uncorrected": _read_ecc("uncorrectable", "aggregate"),
    "gpu.retired_pages.single_bit": _field("retired_pages/multiple_single_bit_retirement/retired_count"),
    "gpu.retired_pages.double_bit": _field("retired_pages/double_bit_retirement/retired_count"),
    "gpu.retired_pages.pending": _field("retired_pages/pending_retirement", "retired_pages/pending_blacklist"),
    "gpu.remapped_rows.corrected": _field("remapped_rows/remapped_row_corr"),
    "gpu.remapped_rows.uncorrected": _field("remapped_rows/remapped_row_unc"),
    "gpu.remapped_rows.pending": _field("remapped_rows/remapped_row_pending"),
    "gpu.remapped_rows.failure": _field("remapped_rows/remapped_row_failure"),
    "gpu.compute_mode": _field("compute_mode"),
    "gpu.persistence_mode": _field("persistence_mode"),
    "gpu.mig_mode": _field("mig_mode/current_mig"),
}
"""How each metric is read. Not shown by `nvidia-smi -q -x`: GPM, NVLink, and the energy counter."""

_TEXTS = {
    "name": "product_name",
    "architecture": "product_architecture",
    "serial": "serial",
    "vbios": "vbios_version",
    "pci_bus_id": "pci/pci_bus_id",
}


def _read_values(element: ET.Element, fields: Mapping[str, FieldReader]) -> dict[str, float]:
    return {key: value for key, read in fields.items() if (value := read(element)) is not None}


def _read_texts(gpu: ET.Element, versions: Mapping[str, str | None]) -> dict[str, str]:
    texts = {**versions, **{name: _get_text(gpu, path) for name, path in _TEXTS.items()}}
    return {name: text for name, text in texts.items() if text and text != "N/A"}


def read_device_texts(device: Device) -> dict[str, str | None]:
    """Return the facts of a device that `SmiGpu.texts` has."""
    return {name: getattr(device, name) for name in ("driver_version", "cuda_version", *_TEXTS)}


def _parse_process(process: ET.Element) -> SmiProcess:
    pid, kind, name = (_get_text(process, path) or "" for path in ("pid", "type", "process_name"))
    return SmiProcess(int(pid), kind, name, memory_mib=parse_number(_get_text(process, "used_memory")))


def parse_pmon(text: str) -> dict[int, tuple[SmiProcess, ...]]:
    """Parse the output of `nvidia-smi pmon -c 1`. The columns depend on the driver; the first comment names them.

    A GPU without processes has one row of dashes. Raise NvidiaSmiError.
    """
    lines = text.splitlines()
    header = next((line[1:].split() for line in lines if line.startswith("# gpu")), None)
    if header is None:
        raise NvidiaSmiError(f"{PROGRAM} pmon printed no header.")
    found: dict[int, tuple[SmiProcess, ...]] = {}
    for line in lines:
        cells = dict(zip(header, line.split(maxsplit=len(header) - 1), strict=False))
        if line.startswith("#") or not cells.get("gpu", "").isdigit():
            continue
        gpu = int(cells["gpu"])
        before = found.setdefault(gpu, ())
        if cells.get("pid", "").isdigit():
            percents = (parse_number(cells.get(name)) for name in ("sm", "mem", "enc", "dec"))
            sm, memory, encoder, decoder = percents
            name = cells.get("command", "").strip()
            process = SmiProcess(int(cells["pid"]), cells.get("type", ""), name, None, sm, memory, encoder, decoder)
            found[gpu] = (*before, process)
    return found


def join_processes(processes: Iterable[SmiProcess]) -> dict[int, SmiProcess]:
    """Return the processes by pid. Every entry of a pid has its total memory, so they are not added."""
    joined: dict[int, SmiProcess] = {}
    for process in processes:
        known = joined.get(process.pid)
        if known is None or (process.memory_mib or 0) > (known.memory_mib or 0):
            joined[process.pid] = process
    return joined
