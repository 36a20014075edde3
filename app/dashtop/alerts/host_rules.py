"""The rules about the machine: driver, disks and memory."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from dashtop.alerts.rule import HOUR, MINUTE, Measured, Rule, Scope, adjustable
from dashtop.model.metric import GIB, Severity

if TYPE_CHECKING:
    from dashtop.model.sample import Mount, Sample


MIN_TREND_READINGS: Final = 46
"""Readings, one a minute, from which it is known when a file system will be full."""


def _free_gib(mount: Mount) -> float | None:
    if mount.total_bytes is None or mount.used_percent is None:
        return None
    return mount.total_bytes / GIB * (1 - mount.used_percent / 100)


class DiskDetector:
    """Judges a file system by what is free: a share and a size, as 10 % of 100 TB is much and 2 GiB of 10 are not.

    `hours` above 0: also by when it will be full, at the rate of the last hour. Both halves of the hour must show it:
    one file that was written at once fills nothing.
    """

    def __init__(self, percent: float, gib: float, hours: float = 0.0) -> None:
        self._percent, self._gib, self._hours = percent, gib, hours
        self._free: deque[tuple[float, float]] = deque()  # monotonic seconds, GiB; one a minute
        self._hours_left: float | None = None

    def score(self, target: Mount, now_s: float) -> float | None:
        """Return 1 where it is nearly full, or soon."""
        free = _free_gib(target)
        if free is None:
            return None
        if self._hours and (not self._free or now_s - self._free[-1][0] >= MINUTE):
            self._free.append((now_s, free))
            while now_s - self._free[0][0] > HOUR:
                self._free.popleft()
            self._hours_left = self._predict()
        return float(self._is_below(target, free, 1.0))

    def is_clear(self, target: Mount) -> bool | None:
        """Return whether there is room again: half as much more as where it is nearly full."""
        free = _free_gib(target)
        return None if free is None else not self._is_below(target, free, 1.5)

    def measure(self, target: Mount) -> Measured:
        """Return what is free, and when it will be full."""
        left = self._hours_left
        is_soon = left is not None and left < self._hours
        return Measured(_free_gib(target), detail=f", and is full in {left:.1f} h at this rate" if is_soon else "")

    def _is_below(self, mount: Mount, free: float, factor: float) -> bool:
        if self._hours_left is not None and self._hours_left < factor * self._hours:
            return True
        percent = 100 - (mount.used_percent or 0.0)
        return percent < factor * self._percent and free < factor * self._gib

    def _predict(self) -> float | None:
        """Return in how many hours it is full; None without enough readings, or if it does not fill up."""
        if len(self._free) < MIN_TREND_READINGS:
            return None
        (first_s, first), (middle_s, middle), (last_s, last) = (
            self._free[0],
            self._free[len(self._free) // 2],
            self._free[-1],
        )
        rate = min((first - middle) / (middle_s - first_s), (middle - last) / (last_s - middle_s))
        return last / rate / HOUR if rate > 0 else None


def _available_percent(sample: Sample) -> float | None:
    available = sample.host.values.get("system.memory.available_gb")
    total = sample.host.values.get("system.memory.total_gb")
    return None if available is None or not total else 100 * available / total


def _full_disk(percent: float, gib: float, hours: float) -> dict[str, Any]:
    return {"detector": partial(DiskDetector, percent, gib, hours)}


def _completely_full_disk(percent: float, gib: float) -> dict[str, Any]:
    return {"detector": partial(DiskDetector, percent, gib)}


def _low_memory(percent: float) -> dict[str, Any]:
    def score(sample: Sample) -> float | None:
        return None if (available := _available_percent(sample)) is None else percent - available

    def is_clear(sample: Sample) -> bool | None:
        return None if (available := _available_percent(sample)) is None else available >= 1.5 * percent

    return {"score": score, "is_clear": is_clear}


def _measure_memory(sample: Sample) -> Measured:
    return Measured(sample.host.values.get("system.memory.available_gb"))


_PRESSURE: Final = "system.memory.pressure_percent"
_SWAP: Final = ("system.swap.in_mbps", "system.swap.out_mbps")
_LOW_MEMORY_PERCENT: Final = 10.0


def _swap_traffic(sample: Sample) -> float | None:
    """Return MB/s to and from swap space, where the kernel does not report how long processes wait."""
    rates = [rate for rate in map(sample.host.values.get, _SWAP) if rate is not None]
    return sum(rates) if len(rates) == len(_SWAP) else None


def _thrashing(pressure: float, mbps: float) -> dict[str, Any]:
    """Score by how long processes wait for memory: used swap alone says nothing."""

    def score(sample: Sample) -> float | None:
        waiting = sample.host.values.get(_PRESSURE)
        if waiting is not None:
            return waiting - pressure + 1e-9
        traffic, available = _swap_traffic(sample), _available_percent(sample)
        if traffic is None or available is None:
            return None
        return float(traffic >= mbps and available < _LOW_MEMORY_PERCENT)

    return {"score": score}


def _measure_thrashing(sample: Sample) -> Measured:
    waiting = sample.host.values.get(_PRESSURE)
    if waiting is not None:
        return Measured(waiting, detail=f"Processes wait for memory {waiting:.0f} % of the time")
    traffic = _swap_traffic(sample) or 0.0
    return Measured(traffic, detail=f"Memory is nearly full, and {traffic:.0f} MB/s go to and from swap space")


def _score_silent(sample: Sample) -> float:
    return float(sample.driver_failure is not None)


STALE: Final = Rule(
    id="stale",
    title="No readings",
    scope=Scope.HOST,
    severity=Severity.CRITICAL,
    for_s=30.0,
    message="dashtop has had no reading for {value:.0f} s.",
    advice="Look at its log, and restart it.",
)
"""Judged between samples, not with them (`stale`): at least `for_s`, and ten intervals."""

HOST_RULES: Final = (
    STALE,
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
        **adjustable(_full_disk, percent=10.0, gib=50.0, hours=4.0),
        message="{mount} has {value:.1f} GiB left{detail}.",
        advice="Delete or move files.",
    ),
    Rule(
        id="disk_full_critical",
        title="File system full",
        scope=Scope.MOUNT,
        severity=Severity.CRITICAL,
        for_s=5 * MINUTE,
        **adjustable(_completely_full_disk, percent=2.0, gib=2.0),
        message="{mount} has {value:.1f} GiB left.",
        advice="Delete or move files now.",
    ),
    Rule(
        id="ram_low",
        title="Little memory left",
        scope=Scope.HOST,
        severity=Severity.WARNING,
        for_s=2 * MINUTE,
        **adjustable(_low_memory, percent=5.0),
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
        **adjustable(_thrashing, pressure=10.0, mbps=20.0),
        clear_s=5 * MINUTE,
        measure=_measure_thrashing,
        message="{detail}.",
        advice="End what needs memory least, or move it to another machine.",
    ),
    Rule(
        id="ram_low_critical",
        title="Hardly any memory left",
        scope=Scope.HOST,
        severity=Severity.CRITICAL,
        for_s=30.0,
        **adjustable(_low_memory, percent=2.0),
        measure=_measure_memory,
        message="{value:.1f} GiB of memory left.",
        advice="End a process now, before the kernel does.",
    ),
)
