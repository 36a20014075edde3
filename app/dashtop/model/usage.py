"""The records of the usage ledger: how long processes held GPUs, how much they computed, and the energy."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Final, NamedTuple

from dashtop.model.timerange import DAY_MS, MINUTE_MS

BUCKET_MS: Final = 10 * MINUTE_MS
"""Width of the buckets of the ledger."""
DAILY_MS: Final = DAY_MS
"""Width of the buckets that are kept for years: days in UTC."""

UNKNOWN: Final = "(unknown)"
FOREIGN: Final = "(outside this container)"
SHARED: Final = "(shared)"
OTHERS: Final = "(others)"
"""Owners that are no users. UNKNOWN: the owner cannot be read. FOREIGN: the pid belongs to another pid namespace.
SHARED: energy that cannot be split among several holders. OTHERS: users beyond a limit of names."""


def _sum(*, is_optional: bool = False) -> Any:
    """Return a field that is added up over rows. `is_optional`: None where nothing is known of it."""
    return field(default=None if is_optional else 0.0, metadata={"is_sum": True})


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessUsage:
    """What one process used of one GPU in a time within one bucket; empty text: none. Milliseconds, millijoules.

    `start_ms`: where the time begins. `pid` 0: energy of several processes (owner SHARED). `started_ms` 0: not known.
    `held_ms`: the process held the GPU. `share_ms`: this divided by the owners who held it at the same time, and by the
    owner's processes, so that the sum over all processes is the time in which the GPU was held. `known_ms`: held time
    whose load is known, of which `idle_ms` was at no load; `busy_ms`: load × time. `owner_held_ms` and the like: the
    process's part of the time in which any process of its owner, container or job held the GPU: their sum is that time.

    `active_mj`: energy beyond the base power; None: not known, or in the row of SHARED. `base_mj`: part of the energy
    that the GPU takes without a process; None: not known, and then part of `active_mj`.
    """

    start_ms: int
    gpu_uuid: str
    pid: int
    started_ms: int
    owner: str
    container: str
    slurm_job: str
    pod: str
    name: str
    held_ms: float = _sum()
    share_ms: float = _sum()
    known_ms: float = _sum()
    busy_ms: float = _sum()
    idle_ms: float = _sum()
    owner_held_ms: float = _sum()
    owner_idle_ms: float = _sum()
    container_held_ms: float = _sum()
    container_idle_ms: float = _sum()
    job_held_ms: float = _sum()
    job_idle_ms: float = _sum()
    memory_byte_ms: float | None = _sum(is_optional=True)
    active_mj: float | None = _sum(is_optional=True)
    base_mj: float | None = _sum(is_optional=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuUsage:
    """What was measured of one GPU or MIG instance in a time within one bucket. Milliseconds, millijoules.

    `seen_ms`: it could be read; of that `held_ms` with a compute process, `unlisted_ms` without a list of its processes
    (a GPU split into MIG instances, or the driver lists none), the rest free. `known_ms`: the utilization is known;
    `busy_ms`: utilization × time, also without a process; `idle_ms`: held at no load. `energy_mj` None: neither energy
    nor power is reported; `integrated_mj`: the part that is power × time instead of a difference of the counter.
    `unattributed_mj`: energy while no process held it. `thermal_ms`, `hw_ms`, `power_cap_ms`: time with such throttle
    reasons.
    """

    start_ms: int
    gpu_uuid: str
    seen_ms: float = _sum()
    held_ms: float = _sum()
    unlisted_ms: float = _sum()
    known_ms: float = _sum()
    busy_ms: float = _sum()
    idle_ms: float = _sum()
    energy_mj: float | None = _sum(is_optional=True)
    integrated_mj: float | None = _sum(is_optional=True)
    unattributed_mj: float | None = _sum(is_optional=True)
    thermal_ms: float = _sum()
    hw_ms: float = _sum()
    power_cap_ms: float = _sum()

    @property
    def free_ms(self) -> float:
        """Time without a compute process."""
        return max(0.0, self.seen_ms - self.held_ms - self.unlisted_ms)


def list_sums(record: type[ProcessUsage | GpuUsage]) -> tuple[str, ...]:
    """Return the names of the fields that are added up."""
    return tuple(each.name for each in fields(record) if each.metadata.get("is_sum"))


class UsageRecords(NamedTuple):
    """Records of processes and of GPUs."""

    processes: tuple[ProcessUsage, ...] = ()
    gpus: tuple[GpuUsage, ...] = ()


NO_USAGE: Final = UsageRecords()


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredUsage:
    """The ledger of [start_ms, end_ms), whole buckets: a record for each process and GPU, and for each GPU.

    `began_ms`: the first bucket that is stored at all; None: there is none. `is_cut`: short processes are added up in
    records with the name OTHERS.
    """

    start_ms: int
    end_ms: int
    began_ms: int | None
    is_cut: bool = False
    records: UsageRecords


class Prices(NamedTuple):
    """Prices in any currency; None: not given. `gpu_hour`: of an hour in which one owner alone held a GPU."""

    kwh: float | None = None
    gpu_hour: float | None = None


NO_PRICES: Final = Prices()
