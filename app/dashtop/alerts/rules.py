"""The alert rules, one row each: what fires, after how long, when it clears, and what it says.

Full load is success: no rule is about high utilization or power. A rule judges what it can read; None means that it
cannot, and then it neither fires nor clears. Times and limits follow public practice where there is one (NVIDIA's RMA
criteria, alert rules of nvidia_gpu_exporter, job_defense_shield); the others are our judgement.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dashtop.metrics.xid import REPORTED_OTHERWISE, UNKNOWN, XIDS
from dashtop.model.metric import GIB, Severity
from dashtop.model.sample import PROCESSES, Event, Gpu, GpuProcess, Mount, Sample

if TYPE_CHECKING:
    from collections.abc import Callable

MINUTE: Final = 60.0
HOUR: Final = 60 * MINUTE

_TEMPERATURE: Final = "gpu.temperature"
_UTILIZATION: Final = "gpu.utilization.gpu"
_POWER, _POWER_LIMIT = "gpu.power.current_watts", "gpu.power.max_watts"
_BUSY_PERCENT: Final = 50.0


class Scope(Enum):
    """What a rule is about; the type of what its functions get."""

    GPU = "gpu"
    PROCESS = "process"
    MOUNT = "mount"
    HOST = "host"


class Mode(Enum):
    """When a rule fires.

    HOLD: its score has been above 0 for `for_s`. MEAN: the mean of its score over the last `for_s` is at least
    `threshold`, and at least 80 % of that time was judged.
    """

    HOLD = "hold"
    MEAN = "mean"


class HeldProcess(NamedTuple):
    """A process, and the GPU whose memory it holds."""

    process: GpuProcess
    gpu: Gpu


class Measured(NamedTuple):
    """What a message names: the value that is judged, the limit it is compared with, and what else is `detail`."""

    value: float | None = None
    limit: float | None = None
    detail: str = ""


class Steady(NamedTuple):
    """A value, and by how much it may differ from the first one of the window."""

    value: float
    tolerance: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One alert rule. Its functions get a Gpu, a HeldProcess, a Mount or a Sample, by `scope`.

    `score` is above 0 where the condition holds, None where it cannot be judged. `is_clear` must hold for `clear_s`
    before the alert ends; by default that is a score of 0 or less. `escalate_after_s`: the alert is a warning after
    this time. `steady`: values that stay within their tolerance while the condition lasts; one that leaves it begins
    the window anew. `message` is formatted with `gpu` ("GPU 3 (H100)"), `process`, `mount`, `value`, `limit` and
    `detail`.
    """

    id: str
    title: str
    scope: Scope
    severity: Severity
    score: Callable[[Any], float | None]
    message: str
    advice: str = ""
    measure: Callable[[Any], Measured] = lambda _subject: Measured()
    is_clear: Callable[[Any], bool | None] | None = None
    mode: Mode = Mode.HOLD
    for_s: float = 0.0
    threshold: float = 0.0
    clear_s: float = 0.0
    escalate_after_s: float | None = None
    steady: Callable[[Any], tuple[Steady, ...]] | None = None
    enabled: bool = True


# --- GPUs -------------------------------------------------------------------------------------------------------------


def _value(key: str) -> Callable[[Gpu], float | None]:
    return lambda gpu: gpu.values.get(key)


def _measure(value_key: str, limit_key: str | None = None) -> Callable[[Gpu], Measured]:
    return lambda gpu: Measured(gpu.values.get(value_key), gpu.values.get(limit_key) if limit_key else None)


def _above(key: str, limit_key: str, margin: float) -> Callable[[Gpu], float | None]:
    """Score by how much a value is above its limit less `margin`."""

    def score(gpu: Gpu) -> float | None:
        value, limit = gpu.values.get(key), gpu.values.get(limit_key)
        return None if value is None or limit is None else value - (limit - margin)

    return score


def _below(key: str, limit_key: str, margin: float) -> Callable[[Gpu], bool | None]:
    """Return whether a value is at least `margin` below its limit."""
    score = _above(key, limit_key, margin)
    return lambda gpu: None if (excess := score(gpu)) is None else excess <= 0


def _throttled(bit: int, without: int = 0) -> Callable[[Gpu], float | None]:
    """Score 1 while a throttle reason is active, and none of `without` is."""

    def score(gpu: Gpu) -> float | None:
        flags = gpu.values.get("gpu.clocks.event_reasons")
        return None if flags is None else float(bool(int(flags) & bit) and not int(flags) & without)

    return score


def _score_lost(gpu: Gpu) -> float:
    return float(gpu.state is not None and gpu.state.is_lost)


_LINK: Final = ("gpu.pcie.generation", "gpu.pcie.max_generation", "gpu.pcie.width", "gpu.pcie.max_width")


def _score_slow_link(gpu: Gpu) -> float | None:
    """Score 1 where the PCIe link of a busy GPU is below its maximum. An idle GPU lowers its link to save power."""
    load = gpu.values.get(_UTILIZATION)
    link = [value for value in map(gpu.values.get, _LINK) if value is not None]
    if load is None or load < _BUSY_PERCENT or len(link) < len(_LINK):
        return None
    generation, highest, width, widest = link
    return float(generation < highest or width < widest)


def _measure_link(gpu: Gpu) -> Measured:
    generation, highest, width, widest = (gpu.values.get(key) or 0.0 for key in _LINK)
    return Measured(detail=f"Gen {generation:.0f} x{width:.0f} under load, Gen {highest:.0f} x{widest:.0f} is possible")


def _score_low_power_limit(gpu: Gpu) -> float | None:
    limit, default = gpu.values.get("gpu.power.max_watts"), gpu.values.get("gpu.power.limit_default_watts")
    load = gpu.values.get(_UTILIZATION)
    if limit is None or default is None or load is None:
        return None
    return float(load >= _BUSY_PERCENT and limit < 0.9 * default)


def _score_unowned_memory(gpu: Gpu) -> float | None:
    """Score 1 where memory in use belongs to no process that is known. All owners and sizes must be known."""
    used, total = gpu.values.get("gpu.memory.used_gb"), gpu.values.get("gpu.memory.total_gb")
    sizes = [process.gpu_memory_bytes for process in gpu.processes]
    if used is None or total is None or PROCESSES in gpu.unavailable or gpu.device.shares_host_memory:
        return None
    if None in sizes or any(process.info.foreign for process in gpu.processes):
        return None
    return float(used - sum(size or 0 for size in sizes) / GIB > max(4.0, 0.1 * total))


def _measure_unowned_memory(gpu: Gpu) -> Measured:
    used = gpu.values.get("gpu.memory.used_gb") or 0.0
    return Measured(used - sum(process.gpu_memory_bytes or 0 for process in gpu.processes) / GIB)


# A GPU whose processes wait for each other shows full utilization: NCCL spins at 100 % with 152 of 700 W
# (NVIDIA/nccl#1550), or about 70 W (#968), and SM activity is not 0 either. Without activity metrics (GPM) it is not
# judged: a small model on a large GPU draws as little.
_MAX_HANG_ACTIVITY: Final = {
    "gpu.utilization.compute": 35.0,
    "gpu.utilization.tensor": 0.5,
    "gpu.utilization.dram": 2.0,
}
_LINK_TRAFFIC: Final = ("gpu.pcie.tx_mbps", "gpu.pcie.rx_mbps", "gpu.nvlink.tx_mbps", "gpu.nvlink.rx_mbps")
_MIN_HANG_UTILIZATION, _MAX_HANG_POWER, _MAX_HANG_TRAFFIC_MBPS = 95.0, 0.35, 1.0


def _score_hang(gpu: Gpu) -> float | None:
    load, power = gpu.values.get(_UTILIZATION), gpu.values.get(_POWER)
    limit, used = gpu.values.get(_POWER_LIMIT), gpu.values.get("gpu.memory.used_gb")
    activity = [(gpu.values.get(key), highest) for key, highest in _MAX_HANG_ACTIVITY.items()]
    if load is None or power is None or limit is None or used is None or any(value is None for value, _ in activity):
        return None
    is_quiet = all((gpu.values.get(key) or 0.0) < _MAX_HANG_TRAFFIC_MBPS for key in _LINK_TRAFFIC)
    is_inactive = all(value is not None and value <= highest for value, highest in activity)
    is_waiting = load >= _MIN_HANG_UTILIZATION and power <= _MAX_HANG_POWER * limit
    return float(bool(gpu.processes) and is_waiting and is_quiet and is_inactive)


def _list_steady(gpu: Gpu) -> tuple[Steady, ...]:
    power, limit = gpu.values.get(_POWER) or 0.0, gpu.values.get(_POWER_LIMIT) or 0.0
    used, total = gpu.values.get("gpu.memory.used_gb") or 0.0, gpu.values.get("gpu.memory.total_gb") or 0.0
    return (Steady(power, 0.03 * limit), Steady(used, 0.001 * total))


_GPU_RULES: Final = (
    Rule(
        id="hang",
        title="Processes that may hang",
        scope=Scope.GPU,
        severity=Severity.WARNING,
        mode=Mode.MEAN,
        for_s=10 * MINUTE,
        threshold=0.99,
        score=_score_hang,
        steady=_list_steady,
        clear_s=MINUTE,
        measure=_measure(_POWER, _POWER_LIMIT),
        message="{gpu} shows full utilization but draws a steady {value:.0f} of {limit:.0f} W for {duration}: its"
        " processes may hang.",
        advice="Look at their logs and stacks (py-spy dump --pid PID); NCCL waits like this for a rank that is gone.",
    ),
    Rule(
        id="gpu_hot",
        title="GPU near its slowdown temperature",
        scope=Scope.GPU,
        severity=Severity.WARNING,
        mode=Mode.MEAN,
        for_s=5 * MINUTE,
        score=_above(_TEMPERATURE, "gpu.temperature_slowdown", 3.0),
        is_clear=_below(_TEMPERATURE, "gpu.temperature_slowdown", 8.0),
        clear_s=5 * MINUTE,
        measure=_measure(_TEMPERATURE, "gpu.temperature_slowdown"),
        message="{gpu} is at {value:.0f} °C; it slows down at {limit:.0f} °C.",
        advice="Check fans, airflow and room temperature.",
    ),
    Rule(
        id="gpu_overheating",
        title="GPU near its shutdown temperature",
        scope=Scope.GPU,
        severity=Severity.CRITICAL,
        for_s=30.0,
        score=_above(_TEMPERATURE, "gpu.temperature_shutdown", 5.0 - 1e-9),
        is_clear=_below(_TEMPERATURE, "gpu.temperature_shutdown", 10.0),
        clear_s=5 * MINUTE,
        measure=_measure(_TEMPERATURE, "gpu.temperature_shutdown"),
        message="{gpu} is at {value:.0f} °C; it switches off at {limit:.0f} °C.",
        advice="Stop the work on it now, then check fans and airflow.",
    ),
    Rule(
        id="hw_thermal",
        title="HW thermal slowdown",
        scope=Scope.GPU,
        severity=Severity.WARNING,
        mode=Mode.MEAN,
        for_s=5 * MINUTE,
        threshold=0.8,
        score=_throttled(0x40),
        clear_s=10 * MINUTE,
        measure=_measure(_TEMPERATURE),
        message="{gpu}: HW thermal slowdown.",
        advice="Check fans and airflow.",
    ),
    Rule(
        id="power_brake",
        title="HW power brake",
        scope=Scope.GPU,
        severity=Severity.WARNING,
        mode=Mode.MEAN,
        for_s=5 * MINUTE,
        threshold=0.8,
        score=_throttled(0x80),
        clear_s=10 * MINUTE,
        message="{gpu}: power brake.",
        advice="Check the power supply and its cables.",
    ),
    Rule(
        id="hw_slowdown",
        title="HW slowdown of unknown cause",
        scope=Scope.GPU,
        severity=Severity.WARNING,
        mode=Mode.MEAN,
        for_s=10 * MINUTE,
        threshold=0.6,
        score=_throttled(0x08, without=0x40 | 0x80),
        clear_s=10 * MINUTE,
        message="{gpu}: HW slowdown, cause unknown.",
        advice="Check temperature, power supply and cables.",
    ),
    Rule(
        id="sw_thermal",
        title="At the temperature target",
        scope=Scope.GPU,
        severity=Severity.INFO,
        mode=Mode.MEAN,
        for_s=30 * MINUTE,
        threshold=0.8,
        score=_throttled(0x20),
        clear_s=10 * MINUTE,
        message="{gpu} has been at its temperature target for 30 min.",
        enabled=False,  # normal on laptops
    ),
    Rule(
        id="power_limit_low",
        title="Power limit far below the default",
        scope=Scope.GPU,
        severity=Severity.INFO,
        for_s=10 * MINUTE,
        score=_score_low_power_limit,
        clear_s=10 * MINUTE,
        measure=_measure("gpu.power.max_watts", "gpu.power.limit_default_watts"),
        message="{gpu} is limited to {value:.0f} of {limit:.0f} W.",
        advice="nvidia-smi --power-limit raises it, if that is not on purpose.",
    ),
    Rule(
        id="ecc_uncorrected",
        title="Uncorrected memory errors",
        scope=Scope.GPU,
        severity=Severity.CRITICAL,
        score=_value("gpu.ecc.volatile_uncorrected"),
        measure=_measure("gpu.ecc.volatile_uncorrected"),
        message="{gpu}: {value:.0f} uncorrected memory errors; results may be wrong.",
        advice="Stop all work on the GPU and reset it.",
    ),
    Rule(
        id="remap_pending",
        title="Row remap pending",
        scope=Scope.GPU,
        severity=Severity.WARNING,
        for_s=MINUTE,
        score=_value("gpu.remapped_rows.pending"),
        message="{gpu}: row remap pending.",
        advice="Drain it, then reset it.",
    ),
    Rule(
        id="pages_pending",
        title="Page retirement pending",
        scope=Scope.GPU,
        severity=Severity.WARNING,
        for_s=MINUTE,
        score=_value("gpu.retired_pages.pending"),
        message="{gpu}: page retirement pending.",
        advice="Drain it, then reset it.",
    ),
    Rule(
        id="remap_failed",
        title="No spare memory rows",
        scope=Scope.GPU,
        severity=Severity.CRITICAL,
        score=_value("gpu.remapped_rows.failure"),
        message="{gpu}: no spare memory rows are left.",
        advice="Replace it.",
    ),
    Rule(
        id="gpu_lost",
        title="GPU lost",
        scope=Scope.GPU,
        severity=Severity.CRITICAL,
        for_s=10.0,
        score=_score_lost,
        clear_s=MINUTE,
        message="{gpu} is lost: {state}.",
        advice="Reset the GPU, or reboot.",
    ),
    Rule(
        id="pcie_low",
        title="Slow PCIe link under load",
        scope=Scope.GPU,
        severity=Severity.WARNING,
        mode=Mode.MEAN,
        for_s=5 * MINUTE,
        threshold=0.9,
        score=_score_slow_link,
        clear_s=5 * MINUTE,
        measure=_measure_link,
        message="{gpu} runs at PCIe {detail}.",
        advice="Reseat the card; check the slot, the riser and the BIOS settings.",
    ),
    Rule(
        id="vram_full",
        title="GPU memory nearly full",
        scope=Scope.GPU,
        severity=Severity.INFO,
        for_s=5 * MINUTE,
        score=lambda gpu: None if (used := gpu.values.get("gpu.memory.used_percent")) is None else used - 98.0 + 1e-9,
        is_clear=lambda gpu: None if (used := gpu.values.get("gpu.memory.used_percent")) is None else used < 95,  # noqa: PLR2004
        measure=_measure("gpu.memory.used_percent"),
        message="{gpu}: memory {value:.0f} % full.",
        enabled=False,  # frameworks allocate all memory in advance
    ),
    Rule(
        id="orphan_memory",
        title="GPU memory without a process",
        scope=Scope.GPU,
        severity=Severity.WARNING,
        for_s=10 * MINUTE,
        score=_score_unowned_memory,
        clear_s=MINUTE,
        measure=_measure_unowned_memory,
        message="{value:.1f} GiB on {gpu} belong to no running process.",
        advice="Look for processes in containers that ended badly; a reset frees the memory.",
    ),
)


# --- processes --------------------------------------------------------------------------------------------------------


def _score_idle(held: HeldProcess) -> float | None:
    """Score 1 while a compute process holds memory and does not compute.

    Without a utilization by process, a sole holder is judged by the GPU's. That of a MIG instance is never known.
    """
    process, gpu = held
    size, total = process.gpu_memory_bytes, gpu.values.get("gpu.memory.total_gb")
    if "C" not in process.kind or size is None or total is None or size < max(GIB, 0.05 * total * GIB):
        return None
    if process.sm_percent is not None:
        return float(process.sm_percent == 0)
    load = gpu.values.get(_UTILIZATION)
    return None if len(gpu.processes) > 1 or load is None else float(load <= 1)


_PROCESS_RULES: Final = (
    Rule(
        id="idle_hold",
        title="Memory held without computing",
        scope=Scope.PROCESS,
        severity=Severity.INFO,
        mode=Mode.MEAN,
        for_s=HOUR,
        threshold=0.99,  # one health check must not excuse hours
        escalate_after_s=3 * HOUR,
        score=_score_idle,
        measure=lambda held: Measured((held.process.gpu_memory_bytes or 0) / GIB),
        clear_s=MINUTE,
        message="{process} holds {value:.1f} GiB on {gpu} and has not computed for {duration}.",
        advice="Ask its owner whether it is still needed.",
    ),
)


# --- host -------------------------------------------------------------------------------------------------------------


def _free_gib(mount: Mount) -> float | None:
    if mount.total_bytes is None or mount.used_percent is None:
        return None
    return mount.total_bytes / GIB * (1 - mount.used_percent / 100)


def _score_full(percent: float, gib: float) -> Callable[[Mount], float | None]:
    """Score 1 where less than `percent` and less than `gib` are free: 10 % of 100 TB is much, 2 GiB of 10 are not."""

    def score(mount: Mount) -> float | None:
        free = _free_gib(mount)
        if free is None or mount.used_percent is None:
            return None
        return float(100 - mount.used_percent < percent and free < gib)

    return score


def _has_room(percent: float, gib: float) -> Callable[[Mount], bool | None]:
    score = _score_full(1.5 * percent, 1.5 * gib)
    return lambda mount: None if (full := score(mount)) is None else not full


def _available_percent(sample: Sample) -> float | None:
    available = sample.host.values.get("system.memory.available_gb")
    total = sample.host.values.get("system.memory.total_gb")
    return None if available is None or not total else 100 * available / total


def _score_low_memory(percent: float) -> Callable[[Sample], float | None]:
    return lambda sample: None if (available := _available_percent(sample)) is None else percent - available


def _has_memory(percent: float) -> Callable[[Sample], bool | None]:
    return lambda sample: None if (available := _available_percent(sample)) is None else available >= 1.5 * percent


def _measure_memory(sample: Sample) -> Measured:
    return Measured(sample.host.values.get("system.memory.available_gb"))


_PRESSURE: Final = "system.memory.pressure_percent"
_MAX_PRESSURE_PERCENT: Final = 10.0


def _score_pressure(sample: Sample) -> float | None:
    """Score by how long processes wait for memory: used swap alone says nothing."""
    pressure = sample.host.values.get(_PRESSURE)
    return None if pressure is None else pressure - _MAX_PRESSURE_PERCENT


def _score_silent(sample: Sample) -> float:
    return float(sample.gpu_error is not None and sample.gpu_error.silences_driver)


_HOST_RULES: Final = (
    Rule(
        id="driver_silent",
        title="No GPU can be read",
        scope=Scope.HOST,
        severity=Severity.CRITICAL,
        for_s=MINUTE,
        score=_score_silent,
        clear_s=30.0,
        message="No GPU can be read: {state}.",
        advice="dashtop doctor says what to do.",
    ),
    Rule(
        id="disk_full",
        title="File system nearly full",
        scope=Scope.MOUNT,
        severity=Severity.WARNING,
        for_s=5 * MINUTE,
        score=_score_full(10, 50),
        is_clear=_has_room(10, 50),
        measure=lambda mount: Measured(_free_gib(mount)),
        message="{mount} has {value:.1f} GiB left.",
        advice="Delete or move files.",
    ),
    Rule(
        id="disk_full_critical",
        title="File system full",
        scope=Scope.MOUNT,
        severity=Severity.CRITICAL,
        for_s=5 * MINUTE,
        score=_score_full(2, 2),
        is_clear=_has_room(2, 2),
        measure=lambda mount: Measured(_free_gib(mount)),
        message="{mount} has {value:.1f} GiB left.",
        advice="Delete or move files now.",
    ),
    Rule(
        id="ram_low",
        title="Little memory left",
        scope=Scope.HOST,
        severity=Severity.WARNING,
        for_s=2 * MINUTE,
        score=_score_low_memory(5),
        is_clear=_has_memory(5),
        measure=_measure_memory,
        message="{value:.1f} GiB of memory left.",
        advice="End what needs it least before the kernel does.",
    ),
    Rule(
        id="swap_thrash",
        title="Processes wait for memory",
        scope=Scope.HOST,
        severity=Severity.WARNING,
        for_s=2 * MINUTE,
        score=_score_pressure,
        clear_s=5 * MINUTE,
        measure=lambda sample: Measured(sample.host.values.get(_PRESSURE)),
        message="Processes wait for memory {value:.0f} % of the time.",
        advice="End what needs memory least, or move it to another machine.",
    ),
    Rule(
        id="ram_low_critical",
        title="Hardly any memory left",
        scope=Scope.HOST,
        severity=Severity.CRITICAL,
        for_s=30.0,
        score=_score_low_memory(2),
        is_clear=_has_memory(2),
        measure=_measure_memory,
        message="{value:.1f} GiB of memory left.",
        advice="End a process now, before the kernel does.",
    ),
)

# --- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class EventRule:
    """An alert that fires at once with an XID.

    It ends `clear_s` after the last such event; None: when it is acknowledged, or the GPU or driver has come back.
    """

    id: str
    title: str
    severity: Severity
    clear_s: float | None


XID_HARDWARE: Final = EventRule(
    id="xid_hardware", title="Hardware error of a GPU", severity=Severity.CRITICAL, clear_s=None
)
XID_CONTAINED: Final = EventRule(
    id="xid_contained",
    title="Contained or unknown error of a GPU",
    severity=Severity.WARNING,
    clear_s=10 * MINUTE,
)
EVENT_RULES: Final = (XID_HARDWARE, XID_CONTAINED)


def find_event_rule(event: Event) -> EventRule | None:
    """Return the rule that an event fires.

    Errors of applications fire none: one node logged 11 760 times XID 45.
    """
    if event.kind != "xid" or event.code is None or event.code in REPORTED_OTHERWISE:
        return None
    meaning = XIDS.get(event.code, UNKNOWN)
    if meaning.severity is Severity.CRITICAL:
        return XID_HARDWARE
    return None if meaning.is_application or meaning.severity is Severity.INFO else XID_CONTAINED


RULES: Final[tuple[Rule, ...]] = (*_GPU_RULES, *_PROCESS_RULES, *_HOST_RULES)
