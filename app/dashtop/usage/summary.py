"""Sums of the usage ledger by user, container, Slurm job, process or GPU: hours, energy and cost."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from dashtop.model.run import START_TOLERANCE_MS
from dashtop.model.timerange import HOUR_MS
from dashtop.model.usage import OTHERS, SHARED, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dashtop.model.sample import StoredGpu
    from dashtop.model.usage import GpuUsage, Prices, ProcessUsage, StoredUsage

GROUPINGS: Final = ("user", "container", "slurm_job", "process", "gpu")
NONE: Final = "(none)"
"""Key of the processes without a container or without a Slurm job."""
COUNTER, INTEGRATED, MIXED, ESTIMATED = "counter", "integrated", "mixed", "estimated_share"
ENERGY_KINDS: Final = (COUNTER, INTEGRATED, MIXED, ESTIMATED)
"""Where energy comes from: differences of the driver's counter, power × time, both, or the estimated share of one of
several owners (or processes, containers, jobs) who held a GPU at the same time."""

_MJ_PER_KWH: Final = 3.6e9
_MIN_PART: Final = 0.01
"""Shares of time and energy below this are those of the moments at which processes begin and end."""
_MIN_KIND_PART: Final = 0.05
"""A smaller share of energy does not make it mixed: the counter has no value for the first second after a start."""
# The parts of a process in the time of its group.
_HELD: Final = {
    "user": ("owner_held_ms", "owner_idle_ms"),
    "container": ("container_held_ms", "container_idle_ms"),
    "slurm_job": ("job_held_ms", "job_idle_ms"),
    "process": ("held_ms", "idle_ms"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageRow:
    """The usage of one user, container, job, process or GPU. Hours and kWh; None: not known, or not applicable.

    `held_h`: a compute process held a GPU; `shared_h`: this divided by the owners at the time, which adds up to the
    time in which GPUs were held; `busy_h`: time × load; `idle_h`: held at no load. `known`: share of the held time
    whose load is known; below 1, busy and idle time are at least these. `active_kwh`: energy beyond the base power;
    `base_kwh`: part of the base; None: not known, and then part of the active energy. `energy_kind`: one of
    ENERGY_KINDS. `is_shared`: others (owners, processes) held a GPU meanwhile.
    """

    key: str
    held_h: float | None
    shared_h: float | None
    busy_h: float | None
    idle_h: float | None
    active_kwh: float | None
    base_kwh: float | None
    cost: float | None
    energy_kind: str | None
    is_shared: bool = False
    known: float = 1.0
    gpus: tuple[str, ...] = ()
    processes: int = 0
    mean_memory_bytes: float | None = None
    pid: int | None = None
    started_ms: int | None = None
    user: str | None = None
    gpu_id: int | None = None
    gpu_name: str | None = None
    coverage: float | None = None
    free_h: float | None = None
    energy_kwh: float | None = None
    thermal_h: float | None = None
    hw_h: float | None = None
    power_cap_h: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageSummary:
    """Rows by held time, the longest first. `coverage`: share of [start_ms, end_ms) in which GPUs were read.

    `energy_kwh`: of all GPUs; `unattributed_kwh`: the part while no process held them. `began_ms`: since when there are
    records; None: there are none.
    """

    by: str
    start_ms: int
    end_ms: int
    began_ms: int | None
    coverage: float
    energy_kwh: float | None
    unattributed_kwh: float | None
    is_cut: bool
    rows: tuple[UsageRow, ...]


def summarize(
    usage: StoredUsage, by: str, *, now_ms: int, prices: Prices, gpus: Sequence[StoredGpu] = ()
) -> UsageSummary:
    """Return the sums by one of GROUPINGS. `gpus`: index and name of each GPU."""
    end_ms = min(usage.end_ms, max(now_ms, usage.start_ms + 1))
    span_ms = end_ms - usage.start_ms
    totals = usage.records.gpus
    if by == "gpu":
        known = {gpu.uuid: gpu for gpu in gpus}
        rows = [_build_gpu_row(total, usage, known.get(total.gpu_uuid), span_ms, prices) for total in totals]
        rows.sort(key=lambda row: (row.gpu_id is None, row.gpu_id or 0, row.key))
    else:
        by_uuid = {total.gpu_uuid: total for total in totals}
        groups: dict[tuple[object, ...], list[ProcessUsage]] = defaultdict(list)
        for record in _unify_starts(usage.records.processes):
            groups[_find_group(record, by)].append(record)
        rows = [_build_row(records, by, by_uuid, prices) for records in groups.values()]
        rows.sort(key=lambda row: (-(row.held_h or 0.0), row.key))
    return UsageSummary(
        by=by,
        start_ms=usage.start_ms,
        end_ms=end_ms,
        began_ms=usage.began_ms,
        coverage=min(1.0, max((total.seen_ms for total in totals), default=0.0) / span_ms),
        energy_kwh=_to_kwh(_sum(total.energy_mj for total in totals)),
        unattributed_kwh=_to_kwh(_sum(total.unattributed_mj for total in totals)),
        is_cut=usage.is_cut,
        rows=tuple(rows),
    )


def _unify_starts(records: Sequence[ProcessUsage]) -> list[ProcessUsage]:
    """Return the records with one start, the earliest, for each process: it is calculated anew after a restart."""
    starts: dict[tuple[int, str], set[int]] = defaultdict(set)
    for record in records:
        if record.started_ms > 0:
            starts[record.pid, record.owner].add(record.started_ms)
    firsts: dict[tuple[int, str, int], int] = {}
    for (pid, owner), found in starts.items():
        first = before = min(found)
        for start_ms in sorted(found):
            if start_ms - before > START_TOLERANCE_MS:
                first = start_ms
            before = start_ms
            firsts[pid, owner, start_ms] = first
    unified = []
    for record in records:
        first = firsts.get((record.pid, record.owner, record.started_ms), record.started_ms)
        unified.append(record if first == record.started_ms else replace(record, started_ms=first))
    return unified


def _find_group(record: ProcessUsage, by: str) -> tuple[object, ...]:
    if record.owner == SHARED:
        return (SHARED,)
    if by == "process":
        return (OTHERS,) if _is_rest(record) else (record.pid, record.started_ms, record.owner)
    return (_name_group(record, by),)


def name_group(by: str, *, owner: str, container: str, slurm_job: str, process: str) -> str:
    """Return the key of a process for one of GROUPINGS, except GPUs."""
    return {"user": owner, "container": container, "slurm_job": slurm_job, "process": process}[by] or NONE


def _name_group(record: ProcessUsage, by: str) -> str:
    if record.owner == SHARED:
        return SHARED
    return name_group(
        by,
        owner=record.owner,
        container=record.container,
        slurm_job=record.slurm_job,
        process=OTHERS if _is_rest(record) else f"{record.name or UNKNOWN} {record.pid}",
    )


def _is_rest(record: ProcessUsage) -> bool:
    """Return whether a record is that of the processes that are not listed."""
    return record.pid == 0 and record.name == OTHERS


def _build_row(records: Sequence[ProcessUsage], by: str, totals: dict[str, GpuUsage], prices: Prices) -> UsageRow:
    first = records[0]
    held, idle = _HELD[by]
    held_ms, shared_ms = sum(getattr(each, held) for each in records), sum(each.share_ms for each in records)
    own_ms, known_ms = sum(each.held_ms for each in records), sum(each.known_ms for each in records)
    active, base = _sum(each.active_mj for each in records), _sum(each.base_mj for each in records)
    memory = _sum(each.memory_byte_ms for each in records)
    uuids = tuple(dict.fromkeys(each.gpu_uuid for each in records))
    is_shared = _is_shared(records, held)
    is_one = by == "process" and first.owner != SHARED and not _is_rest(first)
    return UsageRow(
        key=_name_group(first, by),
        held_h=held_ms / HOUR_MS,
        shared_h=shared_ms / HOUR_MS,
        busy_h=sum(each.busy_ms for each in records) / HOUR_MS if known_ms else None,
        idle_h=sum(getattr(each, idle) for each in records) / HOUR_MS if known_ms else None,
        active_kwh=_to_kwh(active),
        base_kwh=_to_kwh(base),
        cost=_calculate_cost(shared_ms, active, base, prices),
        energy_kind=_find_kind(active, (totals[uuid] for uuid in uuids if uuid in totals), is_shared=is_shared),
        is_shared=is_shared,
        known=known_ms / own_ms if own_ms else 0.0,
        gpus=uuids,
        processes=len({(each.pid, each.started_ms) for each in records if each.owner != SHARED}),
        mean_memory_bytes=memory / held_ms if memory is not None and held_ms else None,
        pid=first.pid if is_one else None,
        started_ms=(first.started_ms or None) if is_one else None,
        user=first.owner if is_one else None,
    )


def _is_shared(records: Iterable[ProcessUsage], held: str) -> bool:
    """Return whether others than a group held a GPU at the same time, so that its energy was split.

    `held`: the field with the group's held time.
    """
    times: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for each in records:
        share_ms, held_ms = times[each.gpu_uuid]
        times[each.gpu_uuid] = share_ms + each.share_ms, held_ms + getattr(each, held)
    return any(share_ms < (1 - _MIN_PART) * held_ms for share_ms, held_ms in times.values())


def _build_gpu_row(
    total: GpuUsage, usage: StoredUsage, gpu: StoredGpu | None, span_ms: int, prices: Prices
) -> UsageRow:
    records = [each for each in usage.records.processes if each.gpu_uuid == total.gpu_uuid]
    active, base = _sum(each.active_mj for each in records), _sum(each.base_mj for each in records)
    is_listed = total.unlisted_ms < (1 - _MIN_PART) * total.seen_ms
    held_h = total.held_ms / HOUR_MS if is_listed else None
    return UsageRow(
        key=total.gpu_uuid,
        held_h=held_h,
        shared_h=held_h,
        busy_h=total.busy_ms / HOUR_MS if total.known_ms else None,
        idle_h=total.idle_ms / HOUR_MS if is_listed and total.known_ms else None,
        active_kwh=_to_kwh(active),
        base_kwh=_to_kwh(base),
        cost=_calculate_cost(total.held_ms, active if active is not None else 0.0, base, prices),
        energy_kind=_find_kind(total.energy_mj, (total,), is_shared=False),
        known=total.known_ms / total.seen_ms if total.seen_ms else 0.0,
        gpus=(total.gpu_uuid,),
        processes=len({(each.pid, each.started_ms) for each in records if each.owner != SHARED}),
        gpu_id=gpu.index if gpu is not None else None,
        gpu_name=gpu.name if gpu is not None else None,
        coverage=min(1.0, total.seen_ms / span_ms),
        free_h=total.free_ms / HOUR_MS if is_listed else None,
        energy_kwh=_to_kwh(total.energy_mj),
        thermal_h=total.thermal_ms / HOUR_MS,
        hw_h=total.hw_ms / HOUR_MS,
        power_cap_h=total.power_cap_ms / HOUR_MS,
    )


def _find_kind(energy_mj: float | None, totals: Iterable[GpuUsage], *, is_shared: bool) -> str | None:
    if energy_mj is None:
        return None
    if is_shared:
        return ESTIMATED
    found = list(totals)
    energy = sum(total.energy_mj or 0.0 for total in found)
    part = sum(total.integrated_mj or 0.0 for total in found) / energy if energy else 0.0
    return COUNTER if part < _MIN_KIND_PART else INTEGRATED if part > 1 - _MIN_KIND_PART else MIXED


def _calculate_cost(shared_ms: float, active_mj: float | None, base_mj: float | None, prices: Prices) -> float | None:
    """Return the cost of shared time and of the known energy; None without prices, or if nothing of it is known.

    Energy that cannot be split among owners is in the row of SHARED, and so is its cost: each owner pays its time.
    """
    if prices.kwh is None and prices.gpu_hour is None:
        return None
    if prices.gpu_hour is None and active_mj is None:
        return None
    energy = ((active_mj or 0.0) + (base_mj or 0.0)) / _MJ_PER_KWH
    return (prices.kwh or 0.0) * energy + (prices.gpu_hour or 0.0) * shared_ms / HOUR_MS


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _to_kwh(millijoules: float | None) -> float | None:
    return None if millijoules is None else millijoules / _MJ_PER_KWH
