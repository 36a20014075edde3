"""GPU-hours, energy and peaks of memory from process spans and readings in equal buckets. Pure functions.

The heat map and the peaks of the usage page come from here, and the hours of times before the usage ledger began.
A GPU is held while a compute process uses it, else free; idle while it is held at a utilization of at most
MAX_IDLE_PERCENT; and utilized for time × utilization: half an hour at 50 % is a quarter of an hour. The utilization is
that of the whole GPU. It belongs to the only user who holds the GPU; of several each has the share of the time that
they hold it, an estimate. Times without a reading count for nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from dashtop.model.sample import is_holding
from dashtop.model.usage import UNKNOWN
from dashtop.usage.holders import MAX_IDLE_PERCENT, name_owner
from dashtop.usage.summary import name_group

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from dashtop.model.sample import GpuProcess, ProcessSpan

    Floats = NDArray[np.float64]


_HOUR_MS: Final = 3_600_000.0
# The longest time that a reading covers: twice the widest roll-up of finer ranges and the longest usual interval.
_MAX_COVER_MS: Final = 120_000
# The readings before and after one that say how far apart readings are there.
_NEIGHBOURS: Final = 5
# A bucket counts as shared if users held the GPU at the same time for this share of it: times are rounded.
_MIN_OVERLAP: Final = 0.01


GroupKey = tuple[str, int]
"""Name of a group; for a process also when it started, else 0."""
FindKey = Callable[["ProcessSpan"], GroupKey]


def name_user(span: ProcessSpan) -> GroupKey:
    """Return the key of a span's user."""
    return name_owner(span.info), 0


def choose_key(by: str) -> FindKey:
    """Return what finds the key of a span for one of the groupings of the usage summary, except GPUs."""

    def find(span: ProcessSpan) -> GroupKey:
        info = span.info
        name = name_group(
            by,
            owner=name_owner(info),
            container=info.container or "",
            slurm_job=info.slurm_job or "",
            process=f"{info.name or UNKNOWN} {span.pid}",
        )
        return name, (info.started_ms or 0) if by == "process" else 0

    return find


def find_peaks(
    records: Sequence[GpuRecord], buckets: Buckets, interval_ms: int, find_key: FindKey
) -> dict[GroupKey, int | None]:
    """Return the most memory that all processes of each group held at the same time, in bytes."""
    memory: dict[GroupKey, list[Interval]] = defaultdict(list)
    for record in records:
        for interval in find_intervals(record.processes or (), record.running, buckets, interval_ms, find_key):
            memory[interval.key].append(interval)
    return {key: find_peak(intervals) for key, intervals in memory.items()}


@dataclass(frozen=True, slots=True)
class Buckets:
    """`count` buckets of `step_ms` from `start_ms`, epoch milliseconds."""

    start_ms: int
    step_ms: int
    count: int

    @property
    def end_ms(self) -> int:
        """End of the last bucket."""
        return self.start_ms + self.count * self.step_ms


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuRecord:
    """What the history knows of one GPU: a value for each bucket, NaN where there is none, and its process spans.

    `utilization` in percent, `power` in watts, `energy`: the last value of the driver's counter, in Wh. `processes`
    None: the driver does not list them. `running`: the processes of the present.
    """

    uuid: str
    is_recorded: NDArray[np.bool_]
    utilization: Floats
    power: Floats
    energy: Floats
    processes: Sequence[ProcessSpan] | None
    running: Sequence[GpuProcess] = ()


class Energy(NamedTuple):
    """Energy in Wh. `is_counted`: from the driver's counter; else power times time."""

    watt_hours: float
    is_counted: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuUsage:
    """Hours of one GPU. None: not known, since the driver reports no utilization or lists no processes.

    Held and free are all of the recorded time. `utilized_h` includes utilization without a compute process. By bucket,
    0 to 1: how much of it the GPU was held and `active`, held but `idle`, `free`, and `held` at a utilization that is
    not reported; the rest is not known.
    """

    uuid: str
    recorded_h: float
    held_h: float | None
    utilized_h: float | None
    idle_h: float | None
    free_h: float | None
    energy: Energy | None
    active: Floats
    idle: Floats
    free: Floats
    held: Floats


@dataclass(kw_only=True, slots=True)
class GroupUsage:
    """Hours of one user, container, Slurm job or process over all GPUs.

    `utilized_h`, `idle_h` None: no utilization is known of what they held.

    `known_h`: held time whose utilization is known. `is_estimated`: others held a GPU at the same time.
    `peak_bytes`: most memory of all processes together; None: no size is known.
    """

    key: GroupKey
    held_h: float = 0.0
    known_h: float = 0.0
    utilized_h: float | None = None
    idle_h: float | None = None
    is_estimated: bool = False
    peak_bytes: int | None = None
    owners: set[str] = field(default_factory=set)
    processes: set[tuple[int, int | str | None]] = field(default_factory=set)
    gpus: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Interval:
    """A time [start_ms, end_ms) in which one process held a GPU, with its peak of memory."""

    key: GroupKey
    process: tuple[int, int | str | None]
    start_ms: int
    end_ms: int
    peak_bytes: int | None
    owner: str


@dataclass(frozen=True, slots=True)
class Usage:
    """The usage of all GPUs; groups by held time, the longest first."""

    gpus: tuple[GpuUsage, ...]
    groups: tuple[GroupUsage, ...]


def calculate_usage(
    records: Sequence[GpuRecord], buckets: Buckets, interval_ms: int, find_key: FindKey = name_user
) -> Usage:
    """Return the usage by GPU and by user, or what else `find_key` returns for a span.

    A sample covers the `interval_ms` until the next one.
    """
    users: dict[GroupKey, GroupUsage] = {}
    memory: dict[GroupKey, list[Interval]] = defaultdict(list)
    gpus = []
    for record in records:
        intervals = find_intervals(record.processes or (), record.running, buckets, interval_ms, find_key)
        by_user: dict[GroupKey, list[Interval]] = defaultdict(list)
        for interval in intervals:
            by_user[interval.key].append(interval)
            memory[interval.key].append(interval)
        held = {user: measure_cover(own, buckets) * record.is_recorded for user, own in by_user.items()}
        held_by_any = measure_cover(intervals, buckets) * record.is_recorded
        held_by_all = sum(held.values(), np.zeros(buckets.count))
        gpus.append(_calculate_gpu(record, held_by_any, buckets))
        for user, cover in held.items():
            usage = users.setdefault(user, GroupUsage(key=user))
            usage.gpus.append(record.uuid)
            usage.processes |= {interval.process for interval in by_user[user]}
            usage.owners |= {interval.owner for interval in by_user[user]}
            usage.is_estimated |= _is_shared(cover, held_by_all - held_by_any, record.utilization)
            _add_hours(usage, cover, held_by_all, record.utilization, buckets.step_ms / _HOUR_MS)
    for user, usage in users.items():
        usage.peak_bytes = find_peak(memory[user])
    return Usage(tuple(gpus), tuple(sorted(users.values(), key=lambda each: (-each.held_h, each.key))))


def find_covering(is_recorded: NDArray[np.bool_], step_ms: int) -> NDArray[np.int64]:
    """Return for each bucket the position of the bucket whose reading covers it, -1 where none does (a gap).

    A reading covers the time until the next one, but at most the usual distance of the readings before or after it, and
    _MAX_COVER_MS: the history may have been recorded at a longer interval than the present one, or be rolled up. The
    first one covers as much before it, since its predecessor is outside the window.
    """
    covering = np.full(len(is_recorded), -1, dtype=np.int64)
    positions = np.flatnonzero(is_recorded)
    if not len(positions):
        return covering
    distances = np.diff(positions)
    # At the ends of the window the readings beside them stand for those outside. The distance of a reading to the next
    # one says nothing about itself: it may be a gap.
    padded = np.pad(distances if len(distances) else [1], (_NEIGHBOURS, _NEIGHBOURS + 2), mode="reflect")
    around = sliding_window_view(padded, _NEIGHBOURS)
    usual = np.minimum(np.ceil(around.mean(axis=1)), 2 * np.median(around, axis=1))  # the median ignores other gaps
    before, after = usual[: len(positions)], usual[_NEIGHBOURS + 1 :][: len(positions)]
    limit = np.clip(np.maximum(before, after), 1, max(_MAX_COVER_MS // step_ms, 1))
    buckets = np.arange(len(is_recorded))
    nearest = np.maximum(np.searchsorted(positions, buckets, side="right") - 1, 0)
    is_covered = np.abs(buckets - positions[nearest]) < limit[nearest]
    covering[is_covered] = positions[nearest][is_covered]
    return covering


def fill_distances(record: GpuRecord, step_ms: int) -> GpuRecord:
    """Return the record with each reading in all buckets that it covers, if readings are further apart than buckets."""
    covering = find_covering(record.is_recorded, step_ms)
    is_covered = covering >= 0
    return replace(
        record,
        is_recorded=is_covered,
        utilization=np.where(is_covered, record.utilization[covering], np.nan),
        power=np.where(is_covered, record.power[covering], np.nan),
    )


def find_intervals(
    spans: Iterable[ProcessSpan],
    running: Iterable[GpuProcess],
    buckets: Buckets,
    interval_ms: int,
    find_key: FindKey = name_user,
) -> list[Interval]:
    """Return when compute processes held a GPU, within the buckets.

    A span ends with its last sample, which covers the interval after it unless the next span of the pid begins. The
    last span of a process in `running` goes on until the end: it is written late. A pid with another start time is
    another process.
    """
    by_pid: dict[int, list[ProcessSpan]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: span.start_ms):
        if is_holding(span.kind):
            by_pid[span.pid].append(span)
    started = {process.pid: process.info.started_ms for process in running}
    intervals = []
    for pid, found in by_pid.items():
        for span, following in zip(found, [*found[1:], None], strict=True):
            end_ms = min(span.end_ms + interval_ms, following.start_ms if following else buckets.end_ms)
            if following is None and pid in started and started[pid] == span.info.started_ms:
                end_ms = buckets.end_ms
            start_ms, end_ms = max(span.start_ms, buckets.start_ms), min(end_ms, buckets.end_ms)
            if start_ms < end_ms:
                process = pid, span.info.started_ms if span.info.started_ms is not None else span.info.name
                peak_bytes, owner = span.peak_gpu_memory_bytes, name_owner(span.info)
                intervals.append(Interval(find_key(span), process, start_ms, end_ms, peak_bytes, owner))
    return intervals


def measure_cover(intervals: Iterable[Interval], buckets: Buckets) -> Floats:
    """Return the share of each bucket that any of the intervals covers, 0 to 1."""
    merged: list[list[int]] = []
    for start_ms, end_ms in sorted((interval.start_ms, interval.end_ms) for interval in intervals):
        if merged and start_ms <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end_ms)
        else:
            merged.append([start_ms, end_ms])
    if not merged:
        return np.zeros(buckets.count)
    points = np.array(merged, dtype=np.float64)
    lengths = points[:, 1] - points[:, 0]
    covered = np.stack([np.cumsum(lengths) - lengths, np.cumsum(lengths)], axis=1)  # until each start and end
    edges = buckets.start_ms + buckets.step_ms * np.arange(buckets.count + 1, dtype=np.float64)
    cover: Floats = np.diff(np.interp(edges, points.ravel(), covered.ravel())) / buckets.step_ms
    return cover


def find_peak(intervals: Iterable[Interval]) -> int | None:
    """Return the most memory that the processes held at the same time; None if no size is known."""
    changes = []
    for interval in intervals:
        if interval.peak_bytes is not None:
            changes += [(interval.start_ms, interval.peak_bytes), (interval.end_ms, -interval.peak_bytes)]
    if not changes:
        return None
    # At equal times the end of one span comes before the start of the next one of the same process.
    totals = np.cumsum([size for _, size in sorted(changes)])
    return int(totals.max())


def measure_energy(energy: Floats, power: Floats, is_recorded: NDArray[np.bool_], step_ms: int) -> Energy | None:
    """Return the energy: differences of the counter where it is stored, else power times time; None without both.

    The counter goes on while dashtop does not run. A counter that falls was reset when the driver was loaded.
    """
    counts = energy[np.isfinite(energy)]
    if len(counts) > 1:
        changes = np.diff(counts)
        return Energy(float(np.where(changes >= 0, changes, counts[1:]).sum()), is_counted=True)
    known = np.isfinite(power) & is_recorded
    if not known.any():
        return None
    return Energy(float(power[known].sum()) * step_ms / _HOUR_MS, is_counted=False)


def _calculate_gpu(record: GpuRecord, held: Floats, buckets: Buckets) -> GpuUsage:
    hours = buckets.step_ms / _HOUR_MS
    recorded = record.is_recorded.astype(np.float64)
    is_known = np.isfinite(record.utilization) & record.is_recorded
    load = np.where(is_known, record.utilization, 0.0)
    is_idle = is_known & (load <= MAX_IDLE_PERCENT)
    nothing = np.zeros(buckets.count)
    if record.processes is None:
        held, free = nothing, nothing
    else:
        # Whatever the utilization: its mean over a wide bucket says nothing about the part without a process, that of
        # MIG instances is not reported, and a desktop leaves the GPU to others.
        free = recorded - held
    idle = np.where(is_idle, held, 0.0)
    active = np.where(is_known & ~is_idle, held, 0.0)
    has_load = bool(is_known.any())
    lists_processes = record.processes is not None and bool(record.is_recorded.any())
    return GpuUsage(
        uuid=record.uuid,
        recorded_h=float(recorded.sum()) * hours,
        held_h=float(held.sum()) * hours if lists_processes else None,
        utilized_h=float(load.sum()) / 100 * hours if has_load else None,
        idle_h=float(idle.sum()) * hours if lists_processes and has_load else None,
        free_h=float(free.sum()) * hours if lists_processes else None,
        energy=measure_energy(record.energy, record.power, record.is_recorded, buckets.step_ms),
        active=active,
        idle=idle,
        free=free,
        held=np.where(is_known, 0.0, held),
    )


def _is_shared(held: Floats, overlap: Floats, utilization: Floats) -> bool:
    """Return whether any utilization of what a user held is split. `overlap`: held by several users at one time."""
    return bool(((held > _MIN_OVERLAP) & (overlap > _MIN_OVERLAP) & np.isfinite(utilization)).any())


def _add_hours(usage: GroupUsage, held: Floats, held_by_all: Floats, utilization: Floats, hours: float) -> None:
    """Add what a user held of one GPU. `held_by_all`: the sum over all users. `hours`: length of a bucket."""
    is_known = np.isfinite(utilization) & (held > 0)
    load = np.where(is_known, utilization, 0.0)
    usage.held_h += float(held.sum()) * hours
    usage.known_h += float(held[is_known].sum()) * hours
    if not is_known.any():
        return
    share = held / np.maximum(held_by_all, np.finfo(np.float64).tiny)
    utilized = np.minimum(load / 100 * share, held)
    usage.utilized_h = (usage.utilized_h or 0.0) + float(utilized.sum()) * hours
    usage.idle_h = (usage.idle_h or 0.0) + float(held[is_known & (load <= MAX_IDLE_PERCENT)].sum()) * hours
