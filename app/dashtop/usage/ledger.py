"""The usage ledger: integrates with each sample how long processes hold GPUs, how much they compute, and the energy.

A GPU is held while a compute process uses it. The load of a process is the utilization of the GPU if its owner is the
only one that holds it, else the SM utilization that the driver reports of the process. Time counts from one reading of
a GPU to the next, at most two intervals: longer gaps are not measured. Nothing here reads a clock or a file.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Final

from dashtop.metrics.gpu_state import EVENT_REASONS, UTILIZATION
from dashtop.model.sample import PROCESSES, is_holding
from dashtop.model.timerange import DAY_MS
from dashtop.model.unavailable import UnavailableReason
from dashtop.model.usage import BUCKET_MS, NO_USAGE, SHARED, GpuUsage, ProcessUsage, UsageRecords
from dashtop.usage.holders import MAX_IDLE_PERCENT, Account, Holders, find_loads, name_owner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dashtop.model.sample import Gpu, GpuProcess, ProcessInfo, Sample
    from dashtop.model.usage import StoredUsage

POWER: Final = "gpu.power.current_watts"
ENERGY: Final = "gpu.energy.total_wh"

_MIN_GAP_S: Final = 2.0
"""A gap up to here is measured however short the interval is."""
_PERIOD_S: Final = 25.0
"""A period is recorded after this time, once the energy counter has changed: it is read every ten seconds."""
_MAX_PERIOD_S: Final = 40.0
_MIN_BASE_MS: Final = 600_000.0
"""Time without a process from which on the mean power counts as the base power."""
_MAX_BASE_MS: Final = 6 * 3_600_000.0
"""Older readings of the base power lose weight beyond this."""
_BASE_HISTORY_MS: Final = 7 * DAY_MS
_MAX_BASES: Final = 256
_MAX_WATTS: Final = 20_000.0
"""Energy of a higher power cannot be true: the counter has jumped."""
_MJ_PER_WH: Final = 3_600_000.0
_THERMAL_BITS: Final = 0x20 | 0x40
_HARDWARE_BITS: Final = 0x08 | 0x80
_POWER_CAP_BIT: Final = 0x04


class _Period:
    """The sums of one GPU since its last record. Loads in percent × ms, power in W × ms = mJ.

    `uncounted_ms`, `uncounted_power`: time and power × time before the first value of the energy counter. `fresh_ms`,
    `fresh_power`: until the counter changed last; it is read every ten seconds.
    """

    __slots__ = (
        *("start_ms", "seen", "held", "unlisted", "split_held", "known", "busy", "idle"),
        *("power", "power_ms", "thermal", "hardware", "power_cap", "accounts", "can_split"),
        *("uncounted_ms", "uncounted_power", "fresh_ms", "fresh_power"),
    )

    def __init__(self, start_ms: int) -> None:
        self.start_ms = start_ms
        self.seen = self.held = self.unlisted = self.split_held = self.known = self.busy = self.idle = 0.0
        self.power = self.power_ms = self.thermal = self.hardware = self.power_cap = 0.0
        self.uncounted_ms = self.uncounted_power = self.fresh_ms = self.fresh_power = 0.0
        self.accounts: dict[tuple[int, int | None], Account] = {}
        self.can_split = True


class _GpuLedger:
    """The open period of one GPU, who holds it, and its base power."""

    def __init__(
        self,
        uuid: str,
        totals: dict[str, tuple[float, float]],
        base: tuple[float, float],
        counter: float | None,
        now_s: float,
    ) -> None:
        """Begin at a first reading. `base`: time and energy without a process. `counter`: the energy counter, in Wh."""
        self.base = base
        self.seen_s = now_s
        self._uuid = uuid
        self._totals = totals
        self._begin_s = self._counter_s = now_s
        self._begin_counter = self._last_counter = counter
        self._period: _Period | None = None
        self._identity: list[tuple[int, str, ProcessInfo]] = []
        self._holders: Holders | None = None

    def add(
        self, gpu: Gpu, elapsed_s: float, time_ms: int, now_s: float, *, is_split_held: bool
    ) -> UsageRecords | None:
        """Add the time until a reading, which ends at `time_ms`; return what is recorded. A record is of one bucket."""
        self.seen_s = now_s
        elapsed_ms, counter, records = 1000 * elapsed_s, gpu.values[ENERGY], list[UsageRecords]()
        begin_ms, after_edge_ms = time_ms - elapsed_ms, time_ms % BUCKET_MS
        if 0 < after_edge_ms < elapsed_ms:
            self._add(gpu, elapsed_ms - after_edge_ms, begin_ms, is_split_held=is_split_held)
            records.append(self.record(counter, now_s - after_edge_ms / 1000))
            elapsed_ms, begin_ms = after_edge_ms, time_ms - after_edge_ms
        elif self._period is not None and begin_ms // BUCKET_MS != self._period.start_ms // BUCKET_MS:
            records.append(self.record(counter, now_s - elapsed_s))
        self._add(gpu, elapsed_ms, begin_ms, is_split_held=is_split_held)
        if self._begin_counter is None and counter is not None:
            self._begin_counting(counter, now_s)
        age_s, has_changed = now_s - self._begin_s, counter != self._last_counter
        if has_changed and self._period is not None:
            self._period.fresh_ms, self._period.fresh_power = self._period.seen, self._period.power
        self._last_counter = counter
        if age_s >= (_PERIOD_S if has_changed else _MAX_PERIOD_S):
            records.append(self.record(counter, now_s))
        return _join(records) if records else None

    def _begin_counting(self, counter: float, now_s: float) -> None:
        """Note the first value of the counter, which the driver reports after the first reading of the GPU."""
        self._begin_counter, self._counter_s = counter, now_s
        if self._period is not None:
            self._period.uncounted_ms, self._period.uncounted_power = self._period.seen, self._period.power

    def _add(self, gpu: Gpu, elapsed_ms: float, begin_ms: float, *, is_split_held: bool) -> None:
        period = self._period
        if period is None:
            period = self._period = _Period(int(begin_ms))
            self._identity, self._holders = [], None
        period.seen += elapsed_ms
        values = gpu.values
        power, flags, load = values[POWER], values[EVENT_REASONS], values[UTILIZATION]
        if power is not None:
            period.power += power * elapsed_ms
            period.power_ms += elapsed_ms
        if flags:
            _add_throttling(period, int(flags), elapsed_ms)
        if load is not None:
            period.known += elapsed_ms
            period.busy += load * elapsed_ms
        elif gpu.unavailable.get(UTILIZATION) is UnavailableReason.MIG_PARENT:
            period.unlisted += elapsed_ms
            if is_split_held:
                period.split_held += elapsed_ms
            return
        processes = gpu.processes
        if not processes and PROCESSES in gpu.unavailable:
            period.unlisted += elapsed_ms
            return
        identity = [(process.pid, process.kind, process.info) for process in processes]
        if identity != self._identity:
            self._identity = identity
            self._set_holders(processes, period)
        holders = self._holders
        if holders is not None:
            self._add_holders(period, holders, processes, load, elapsed_ms)

    def _set_holders(self, processes: Sequence[GpuProcess], period: _Period) -> None:
        """Note which processes hold the GPU from now on."""
        if self._holders is not None:
            self._holders.finish()
        positions, accounts = [], []
        for position, process in enumerate(processes):
            if is_holding(process.kind):
                key = process.pid, process.info.started_ms
                account = period.accounts.get(key)
                if account is None:
                    account = period.accounts[key] = Account(process)
                account.process, account.owner = process, name_owner(process.info)
                positions.append(position)
                accounts.append(account)
        self._holders = Holders(positions, accounts, self._totals) if accounts else None

    def _add_holders(
        self,
        period: _Period,
        holders: Holders,
        processes: Sequence[GpuProcess],
        load: float | None,
        elapsed_ms: float,
    ) -> None:
        period.held += elapsed_ms
        if load is not None and load <= MAX_IDLE_PERCENT:
            period.idle += elapsed_ms
        owners, totals = holders.owners, self._totals
        sms = [processes[position].sm_percent for position in holders.positions]
        loads = find_loads(sms, load, is_alone=len(owners) == 1)
        if None in loads:
            period.can_split = False
        holders.add(processes, loads, elapsed_ms)
        share_s = elapsed_ms / len(owners) / 1000
        for label, positions in owners:
            busy = 0.0
            for position in positions:
                busy += loads[position] or 0.0
            held_s, busy_s = totals[label]
            totals[label] = (held_s + share_s, busy_s + busy * elapsed_ms / 100_000)

    def finish(self) -> UsageRecords:
        """End the period at the last reading. The energy since the counter changed last is power × time."""
        period = self._period
        if period is None:
            return NO_USAGE
        stale_ms = period.seen - period.fresh_ms
        period.uncounted_ms += stale_ms
        period.uncounted_power += period.power - period.fresh_power
        return self.record(self._last_counter, self.seen_s - stale_ms / 1000)

    def record(self, counter: float | None, now_s: float) -> UsageRecords:
        """End the period and return its records. `counter`: the energy counter at `now_s`, in Wh; None: no value."""
        period = self._period
        previous, counter_s = self._begin_counter, self._counter_s
        self._begin_counter, self._begin_s, self._counter_s, self._period = counter, now_s, now_s, None
        if period is None:
            return NO_USAGE
        if self._holders is not None:
            self._holders.finish()
            self._holders = None
        energy = integrated = period.power if period.power_ms else None
        if counter is not None and previous is not None and counter >= previous:
            # Energy of a gap in which nothing was measured counts for nobody.
            counted_ms = period.seen - period.uncounted_ms
            part = min(1.0, counted_ms / max(1000 * (now_s - counter_s), 1.0))
            counted = (counter - previous) * _MJ_PER_WH * part
            if counted <= _MAX_WATTS * counted_ms:
                integrated = period.uncounted_power
                energy = counted + integrated
        processes, unattributed = self._attribute(period, energy)
        if energy is not None and not (period.held or period.unlisted):
            self._add_base(period.seen, energy)
        gpu = GpuUsage(
            start_ms=period.start_ms,
            gpu_uuid=self._uuid,
            seen_ms=period.seen,
            held_ms=period.held,
            unlisted_ms=period.unlisted,
            known_ms=period.known,
            busy_ms=period.busy / 100,
            idle_ms=period.idle,
            energy_mj=energy,
            integrated_mj=integrated,
            unattributed_mj=unattributed,
            thermal_ms=period.thermal,
            hw_ms=period.hardware,
            power_cap_ms=period.power_cap,
        )
        return UsageRecords(processes, (gpu,))

    def _add_base(self, seen_ms: float, energy_mj: float) -> None:
        time_ms, energy = self.base[0] + seen_ms, self.base[1] + energy_mj
        self.base = (time_ms / 2, energy / 2) if time_ms > _MAX_BASE_MS else (time_ms, energy)

    def _attribute(self, period: _Period, energy: float | None) -> tuple[tuple[ProcessUsage, ...], float | None]:
        """Return the records of the processes with their energy, and the energy that is nobody's."""
        accounts = list(period.accounts.values())
        held = period.split_held or period.held
        if energy is None or not held:
            return tuple(_build_record(self._uuid, period, account, None, None) for account in accounts), energy
        base: float | None = None
        base_ms, base_mj = self.base
        if base_ms >= _MIN_BASE_MS:
            all_base = min(energy, base_mj / base_ms * period.seen)
            base, active = all_base * held / period.seen, energy - all_base
            unattributed = all_base - base
        else:
            active = energy * held / period.seen
            unattributed = energy - active
        if period.split_held:
            return (_build_shared(self._uuid, period, active, base),), unattributed
        busy = sum(account.busy for account in accounts)
        records = []
        for account in accounts:
            share = account.share / held
            own = active * (account.busy / busy if busy else share) if period.can_split else None
            own_base = base * share if base is not None else None
            records.append(_build_record(self._uuid, period, account, own, own_base))
        if not period.can_split:
            records.append(_build_shared(self._uuid, period, active, None))
        return tuple(records), unattributed


def _join(records: Sequence[UsageRecords]) -> UsageRecords:
    if len(records) <= 1:
        return records[0] if records else NO_USAGE
    return UsageRecords(*(tuple(chain.from_iterable(parts)) for parts in zip(*records, strict=True)))


def _add_throttling(period: _Period, flags: int, elapsed_ms: float) -> None:
    if flags & _THERMAL_BITS:
        period.thermal += elapsed_ms
    if flags & _HARDWARE_BITS:
        period.hardware += elapsed_ms
    if flags & _POWER_CAP_BIT:
        period.power_cap += elapsed_ms


def _build_record(
    uuid: str, period: _Period, account: Account, active_mj: float | None, base_mj: float | None
) -> ProcessUsage:
    process, info = account.process, account.process.info
    return ProcessUsage(
        start_ms=period.start_ms,
        gpu_uuid=uuid,
        pid=process.pid,
        started_ms=info.started_ms or 0,
        owner=account.owner,
        container=info.container or "",
        slurm_job=info.slurm_job or "",
        pod=info.kubernetes_pod or "",
        name=info.name or "",
        held_ms=account.held,
        share_ms=account.share,
        known_ms=account.known,
        busy_ms=account.busy / 100,
        idle_ms=account.idle,
        owner_held_ms=account.group_held[0],
        owner_idle_ms=account.group_idle[0],
        container_held_ms=account.group_held[1],
        container_idle_ms=account.group_idle[1],
        job_held_ms=account.group_held[2],
        job_idle_ms=account.group_idle[2],
        memory_byte_ms=account.memory,
        active_mj=active_mj,
        base_mj=base_mj,
    )


def _build_shared(uuid: str, period: _Period, active_mj: float, base_mj: float | None) -> ProcessUsage:
    return ProcessUsage(
        start_ms=period.start_ms,
        gpu_uuid=uuid,
        pid=0,
        started_ms=0,
        owner=SHARED,
        container="",
        slurm_job="",
        pod="",
        name="",
        active_mj=active_mj,
        base_mj=base_mj,
    )


class UsageLedger:
    """Integrates the usage of all GPUs, sample by sample. Not thread-safe."""

    def __init__(self, *, interval_s: float, read_usage: Callable[[int, int], StoredUsage] | None = None) -> None:
        """`interval_s`: between two samples. `read_usage`: reads the stored ledger, for the base power."""
        self._max_gap_s = max(2 * interval_s, _MIN_GAP_S)
        self._read_usage = read_usage
        self._gpus: dict[str, _GpuLedger] = {}
        self._bases: dict[str, tuple[float, float]] = {}
        self._totals: dict[str, tuple[float, float]] = {}

    def totals(self) -> dict[str, tuple[float, float]]:
        """Return the seconds that each user has held and computed so far: MAX_USERS users, UNKNOWN and OTHERS."""
        return dict(self._totals)

    def update(self, sample: Sample) -> UsageRecords:
        """Add the time until a sample; return what is to be recorded of it. Values that are not new add nothing."""
        if self._read_usage is not None:
            self._bases = _read_bases(self._read_usage(sample.time_ms - _BASE_HISTORY_MS, sample.time_ms))
            self._read_usage = None
        if sample.gpu_age_s:
            return NO_USAGE
        now_s, found = sample.monotonic_s, list[UsageRecords]()
        held_parents = _find_held_parents(sample.gpus)
        for gpu in sample.gpus:
            if gpu.state is not None:
                continue
            uuid = gpu.device.uuid
            ledger = self._gpus.get(uuid)
            if ledger is None:
                base = self._bases.get(uuid, (0.0, 0.0))
                self._gpus[uuid] = _GpuLedger(uuid, self._totals, base, gpu.values[ENERGY], now_s)
                continue
            elapsed_s = min(now_s - ledger.seen_s, self._max_gap_s)
            if elapsed_s > 0:
                recorded = ledger.add(gpu, elapsed_s, sample.time_ms, now_s, is_split_held=uuid in held_parents)
                if recorded is not None:
                    found.append(recorded)
        found += self._close_unread(now_s)
        return _join(found)

    def finish(self) -> UsageRecords:
        """Return what is to be recorded until the last sample. No sample is added after it."""
        found = [ledger.finish() for ledger in self._gpus.values()]
        self._gpus.clear()
        return _join(found)

    def _close_unread(self, now_s: float) -> list[UsageRecords]:
        """Return the records of GPUs that have not been read for a while."""
        unread = [uuid for uuid, ledger in self._gpus.items() if now_s - ledger.seen_s > _MAX_PERIOD_S]
        found = []
        for uuid in unread:
            ledger = self._gpus.pop(uuid)
            if len(self._bases) < _MAX_BASES:
                self._bases[uuid] = ledger.base
            found.append(ledger.record(None, ledger.seen_s))
        return found


def _find_held_parents(gpus: Sequence[Gpu]) -> set[str]:
    """Return the UUIDs of the GPUs with a MIG instance that is held."""
    return {
        parent
        for gpu in gpus
        if (parent := gpu.device.mig_parent_uuid) is not None
        and any(is_holding(process.kind) for process in gpu.processes)
    }


def _read_bases(stored: StoredUsage) -> dict[str, tuple[float, float]]:
    """Return time and energy without a process of each GPU, ms and mJ, which weigh as much as a few hours."""
    bases = {}
    for gpu in stored.records.gpus:
        if gpu.free_ms >= _MIN_BASE_MS and not gpu.unlisted_ms and gpu.unattributed_mj is not None:
            weight = min(1.0, _MAX_BASE_MS / gpu.free_ms)
            bases[gpu.gpu_uuid] = gpu.free_ms * weight, gpu.unattributed_mj * weight
    return bases
