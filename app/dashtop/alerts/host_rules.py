"""The rules about the machine: driver, disks and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dashtop.alerts.rule import MINUTE, Measured, Rule, Scope
from dashtop.model.metric import GIB, Severity

if TYPE_CHECKING:
    from collections.abc import Callable

    from dashtop.model.sample import Mount, Sample


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


HOST_RULES: Final = (
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
