"""The usage ledger: sums equal wall time and the energy counter; gaps, restarts, reused pids, MIG, shared GPUs."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from dashtop.model.sample import PROCESSES, Gpu, GpuProcess, ProcessInfo, Sample
from dashtop.model.unavailable import UnavailableReason
from dashtop.model.usage import (
    BUCKET_MS,
    FOREIGN,
    OTHERS,
    SHARED,
    UNKNOWN,
    GpuUsage,
    ProcessUsage,
    StoredUsage,
    UsageRecords,
    list_sums,
)
from dashtop.usage.holders import MAX_USERS, find_loads
from dashtop.usage.ledger import ENERGY, POWER, UsageLedger
from tests.builders import NOON_MS, make_device, make_gpu, make_sample

GIB = 2**30
UTILIZATION = "gpu.utilization.gpu"
REASONS = "gpu.clocks.event_reasons"
MINUTE_S = 60
HOUR_S = 3600


def process(pid: int = 1, owner: str | None = "ada", **changes: Any) -> GpuProcess:
    facts: dict[str, Any] = {"started_ms": 5, "container": None, "slurm_job": None, "foreign": False, "name": "train"}
    info = ProcessInfo(username=owner, **{name: changes.pop(name, default) for name, default in facts.items()})
    return GpuProcess(**{"pid": pid, "kind": "C", "gpu_memory_bytes": GIB, "info": info, **changes})


def gpu(
    *processes: GpuProcess, index: int = 0, load: float | None = 50.0, power: float | None = 100.0, **changes: Any
) -> Gpu:
    values = {
        UTILIZATION: load,
        POWER: power,
        ENERGY: changes.pop("counter", None),
        REASONS: changes.pop("flags", None),
    }
    made = make_gpu(
        index, values={key: value for key, value in values.items() if value is not None}, processes=processes
    )
    return replace(made, **changes)


def sum_up(records: list[UsageRecords]) -> tuple[dict[tuple[str, int, int, str], ProcessUsage], dict[str, GpuUsage]]:
    """Return the sums of each process and GPU."""
    processes: dict[tuple[str, int, int, str], ProcessUsage] = {}
    gpus: dict[str, GpuUsage] = {}
    for each in records:
        for row in each.processes:
            key = row.gpu_uuid, row.pid, row.started_ms, row.owner
            processes[key] = add(processes[key], row) if key in processes else row
        for part in each.gpus:
            gpus[part.gpu_uuid] = add(gpus[part.gpu_uuid], part) if part.gpu_uuid in gpus else part
    return processes, gpus


def add(one: Any, other: Any) -> Any:
    def total(name: str) -> float | None:
        values = [value for value in (getattr(one, name), getattr(other, name)) if value is not None]
        return sum(values) if values else None

    return replace(one, **{name: total(name) for name in list_sums(type(one))})


def run(
    *phases: tuple[int, tuple[Gpu, ...]], ledger: UsageLedger | None = None, first_s: int = 0
) -> list[UsageRecords]:
    """Return the records of phases of so many seconds each, and of a last second in which all GPUs are gone."""
    ledger = ledger or UsageLedger(interval_s=1.0)
    second, records = first_s, []
    for seconds, gpus in phases:
        for _ in range(seconds):
            records.append(ledger.update(make_sample(second, gpus=gpus)))
            second += 1
    records.append(ledger.update(make_sample(second + 100)))
    return [each for each in records if each.gpus]


def total_of(*phases: tuple[int, tuple[Gpu, ...]]) -> tuple[list[ProcessUsage], list[GpuUsage]]:
    processes, gpus = sum_up(run(*phases))
    return list(processes.values()), list(gpus.values())


def test_the_only_owner_has_the_utilization_of_the_gpu() -> None:
    ((row,), (total,)) = total_of((3601, (gpu(process(sm_percent=3.0), load=50.0, flags=0x44),)))
    assert (row.held_ms, row.share_ms, row.owner_held_ms, row.known_ms) == pytest.approx((3.6e6,) * 4)
    assert (row.busy_ms, row.idle_ms) == pytest.approx((1.8e6, 0))
    assert row.memory_byte_ms == pytest.approx(GIB * 3.6e6)
    assert (total.seen_ms, total.held_ms, total.busy_ms, total.free_ms) == pytest.approx((3.6e6, 3.6e6, 1.8e6, 0))
    assert (total.thermal_ms, total.power_cap_ms, total.hw_ms) == pytest.approx((3.6e6, 3.6e6, 0))
    assert total.energy_mj == total.integrated_mj == pytest.approx(100 * 3.6e6), "power × time without a counter"
    assert row.active_mj == pytest.approx(100 * 3.6e6)
    assert row.base_mj is None, "the base power is not known"


def test_two_owners_share_the_time_and_have_their_own_load() -> None:
    rows, (total,) = total_of((
        1801,
        (gpu(process(1, sm_percent=60.0), process(2, "grace", sm_percent=None), process(3, "grace", sm_percent=0.0)),),
    ))  # fmt: skip
    by_pid = {row.pid: row for row in rows}
    assert {pid: row.share_ms for pid, row in by_pid.items()} == pytest.approx({1: 9e5, 2: 4.5e5, 3: 4.5e5})
    assert {pid: row.owner_held_ms for pid, row in by_pid.items()} == pytest.approx({1: 1.8e6, 2: 9e5, 3: 9e5})
    assert by_pid[1].busy_ms == pytest.approx(0.6 * 1.8e6)
    assert (by_pid[2].busy_ms, by_pid[2].idle_ms, by_pid[2].owner_idle_ms) == pytest.approx((0, 1.8e6, 9e5))
    assert total.energy_mj == pytest.approx(by_pid[1].active_mj), "who computed has the energy"


@pytest.mark.parametrize(
    ("sms", "load", "is_alone", "expected"),
    [
        ([7.0], 40.0, False, [40.0]),
        ([7.0], None, True, [7.0]),
        ([30.0, 10.0], 80.0, True, [60.0, 20.0]),
        ([None, 0.0], 80.0, True, [40.0, 40.0]),
        ([None, 10.0], 80.0, False, [0.0, 10.0]),
        ([None, None], 80.0, False, [None, None]),
        ([None, None], 1.0, False, [0.0, 0.0]),
        ([None, None], None, True, [None, None]),
    ],
)
def test_load_of_the_processes_that_hold_a_gpu(
    sms: list[float | None], load: float | None, is_alone: bool, expected: list[float | None]
) -> None:
    assert list(find_loads(sms, load, is_alone=is_alone)) == expected


def test_energy_that_cannot_be_split_is_one_row_and_busy_time_is_unknown() -> None:
    rows, (total,) = total_of((601, (gpu(process(1), process(2, "grace")),)))
    shared = next(row for row in rows if row.owner == SHARED)
    assert shared.active_mj == pytest.approx(total.energy_mj)
    assert (shared.pid, shared.held_ms, shared.share_ms) == (0, 0, 0)
    others = [row for row in rows if row.owner != SHARED]
    assert [(row.active_mj, row.known_ms) for row in others] == [(None, 0), (None, 0)]
    assert sum(row.share_ms for row in others) == pytest.approx(total.held_ms)


def test_base_power_is_that_without_a_process_after_ten_minutes() -> None:
    rows, (total,) = total_of(
        (901, (gpu(load=0.0, power=50.0),)),
        (900, (gpu(process(1), load=90.0, power=350.0),)),
    )
    (row,) = rows
    assert row.base_mj == pytest.approx(50 * 9e5, rel=0.05)
    assert row.active_mj == pytest.approx(300 * 9e5, rel=0.05)
    assert total.unattributed_mj == pytest.approx(50 * 9e5, rel=0.05)
    assert sum(part or 0.0 for part in (row.base_mj, row.active_mj, total.unattributed_mj)) == total.energy_mj


def test_base_power_is_read_from_the_stored_ledger() -> None:
    stored = GpuUsage(
        start_ms=0, gpu_uuid=make_device(0).uuid, seen_ms=8e7, held_ms=2e7, unattributed_mj=40 * 6e7, energy_mj=1e10
    )
    asked = []

    def read(start_ms: int, end_ms: int) -> StoredUsage:
        asked.append((start_ms, end_ms))
        return StoredUsage(start_ms=start_ms, end_ms=end_ms, began_ms=0, records=UsageRecords((), (stored,)))

    ledger = UsageLedger(interval_s=1.0, read_usage=read)
    processes, _ = sum_up(run((601, (gpu(process(1), power=300.0),)), ledger=ledger))
    (row,) = processes.values()
    assert row.base_mj == pytest.approx(40 * 6e5)
    assert len(asked) == 1


def test_energy_is_the_difference_of_the_counter_and_goes_on_where_it_is_reset() -> None:
    ledger = UsageLedger(interval_s=1.0)
    records = [
        ledger.update(make_sample(second, gpus=(gpu(process(), power=1.0, counter=10.0 + second // 10 * 1.0),)))
        for second in range(601)
    ]
    _, gpus = sum_up(records)
    (total,) = gpus.values()
    assert total.integrated_mj == 0
    assert total.energy_mj == pytest.approx(60 * 3.6e6, rel=0.07)
    ledger.update(make_sample(602, gpus=(gpu(process(), power=1.0, counter=0.5),)))
    (after,) = [
        each
        for second in range(603, 650)
        for each in ledger.update(make_sample(second, gpus=(gpu(process(), power=7.0, counter=0.5),))).gpus
    ]
    assert after.integrated_mj == after.energy_mj, "power × time where the counter was reset"
    jumped = [
        each
        for second in range(650, 700)
        for each in ledger.update(make_sample(second, gpus=(gpu(process(), power=7.0, counter=9e9),))).gpus
    ]
    assert jumped[0].integrated_mj == jumped[0].energy_mj, "power × time where the counter jumped"


def test_only_the_time_before_the_first_value_of_the_counter_is_integrated() -> None:
    ledger = UsageLedger(interval_s=1.0)
    records = [
        ledger.update(
            make_sample(second, gpus=(gpu(process(), power=90.0, counter=5.0 + second / 36 if second else None),))
        )
        for second in range(121)
    ]
    _, gpus = sum_up(records)
    (total,) = gpus.values()
    assert total.integrated_mj == pytest.approx(90 * 1000), "the first second"
    assert total.energy_mj == pytest.approx(90 * 1000 + 100 * (total.seen_ms - 1000)), "the counter's 100 W"


def test_what_is_not_recorded_yet_is_recorded_at_the_end() -> None:
    ledger = UsageLedger(interval_s=1.0)
    for second in range(16):
        counter = 5.0 + second // 10 * 10 / 36 if second else None
        ledger.update(make_sample(second, gpus=(gpu(process(), power=90.0, counter=counter),)))
    records = ledger.finish()
    (row,), (total,) = records
    assert (row.held_ms, total.seen_ms) == pytest.approx((15_000, 15_000))
    assert total.energy_mj == pytest.approx(90 * 1000 + 1_000_000 + 90 * 5000), "the counter changed in second 10"
    assert total.integrated_mj == pytest.approx(90 * 6000), "before its first value and after its last one"
    assert ledger.finish() == UsageRecords(), "nothing is recorded twice"


def test_gaps_are_not_measured_beyond_two_intervals() -> None:
    ledger = UsageLedger(interval_s=1.0)
    one = (gpu(process()),)
    times = [*range(60), *range(500, 560)]
    records = [ledger.update(make_sample(second, gpus=one)) for second in times]
    records.append(ledger.update(make_sample(1000)))
    _, gpus = sum_up(records)
    (total,) = gpus.values()
    assert total.seen_ms == pytest.approx(1000 * (59 + 2 + 59))


def test_a_late_driver_and_a_gpu_that_is_lost_for_a_moment_lose_nothing() -> None:
    ledger = UsageLedger(interval_s=1.0)
    lost = gpu(state=UnavailableReason.NOT_RESPONDING, load=None)
    records = []
    for second in range(61):
        late = second % 10 == 5
        gpus = (lost if second % 10 == 8 else gpu(process()),)
        records.append(ledger.update(make_sample(second, gpus=gpus, gpu_age_s=1.5 if late else 0.0)))
    records.append(ledger.update(make_sample(200)))
    _, gpus_by_uuid = sum_up(records)
    (total,) = gpus_by_uuid.values()
    assert total.held_ms == pytest.approx(60_000)


def test_desktop_and_unlisted_processes_hold_nothing() -> None:
    rows, (total,) = total_of((601, (gpu(process(kind="G")),)))
    assert rows == []
    assert total.free_ms == pytest.approx(6e5)
    silent = gpu()
    silent = replace(silent, unavailable={**silent.unavailable, PROCESSES: UnavailableReason.NO_PERMISSION})
    rows, (total,) = total_of((601, (silent,)))
    assert rows == []
    assert (total.unlisted_ms, total.free_ms) == pytest.approx((6e5, 0))


def test_a_reused_pid_is_another_process() -> None:
    rows, _ = total_of((300, (gpu(process(9, started_ms=1)),)), (300, (gpu(process(9, "grace", started_ms=2)),)))
    assert {(row.pid, row.started_ms, row.owner) for row in rows} == {(9, 1, "ada"), (9, 2, "grace")}


def test_owners_that_cannot_be_read() -> None:
    rows, _ = total_of((100, (gpu(process(1, None), process(2, None, foreign=True)),)))
    assert {row.owner for row in rows} >= {UNKNOWN, FOREIGN}
    ledger = UsageLedger(interval_s=1.0)
    run((100, (gpu(process(1, None), process(2, None, foreign=True)),)), ledger=ledger)
    assert set(ledger.totals()) == {UNKNOWN}, "both are unknown users to Prometheus"


def test_totals_of_users_equal_held_time_and_are_limited() -> None:
    ledger = UsageLedger(interval_s=1.0)
    holders = tuple(process(number + 1, f"user{number}", sm_percent=1.0) for number in range(MAX_USERS + 5))
    before: dict[str, tuple[float, float]] = {}
    for second in range(100):
        ledger.update(make_sample(second, gpus=(gpu(*holders), gpu(process(500), index=1))))
        totals = ledger.totals()
        assert all(totals[user] >= value for user, value in before.items()), "counters never go down"
        before = totals
    assert len(totals) == MAX_USERS + 1
    assert sum(held for held, _ in totals.values()) == pytest.approx(2 * 99)
    assert totals[OTHERS][0] == pytest.approx(99 + 99 * 5 / (MAX_USERS + 5)), "ada came last"


def test_records_stay_within_their_bucket() -> None:
    records = run((1500, (gpu(process()),)), first_s=590)
    for each in records:
        times = [(row.start_ms, row.held_ms) for row in each.processes] + [
            (row.start_ms, row.held_ms) for row in each.gpus
        ]
        for start_ms, held_ms in times:
            assert start_ms // BUCKET_MS == int(start_ms + held_ms - 1) // BUCKET_MS
    longest = max(each.gpus[0].seen_ms for each in records)
    assert longest <= 41_000, "a killed process loses less than a minute"


# --- a simulated day --------------------------------------------------------------------------------------------------

INTERVAL_S = 40
DAY_S = 86_400
EMPTY = make_sample()


@dataclass
class Truth:
    """What was really used, in ms and mJ."""

    seen: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    held: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    energy: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    groups: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))


@dataclass(frozen=True)
class Job:
    """A process on one GPU between two times of the day."""

    gpu: int
    start_s: int
    end_s: int
    process: GpuProcess


def make_jobs(draw: random.Random) -> list[Job]:
    jobs = []
    for _ in range(60):
        start_s = draw.randrange(DAY_S)
        pid = draw.randrange(1, 12)  # so few that they are reused
        info = ProcessInfo(
            name="job",
            username=draw.choice(["ada", "grace", None]),
            container=draw.choice([None, "c1", "c2"]),
            slurm_job=draw.choice([None, "7"]),
            started_ms=start_s,
        )
        if draw.random() < 0.15:
            info = ProcessInfo(foreign=draw.random() < 0.5)  # nothing is known of it
        sm = draw.choice([None, 0.0, 30.0])
        jobs.append(
            Job(
                gpu=draw.randrange(5),
                start_s=start_s,
                end_s=start_s + draw.choice([30, 600, 7200, 20_000]),
                process=GpuProcess(
                    pid=pid,
                    kind=draw.choice(["C", "C", "M", "C+G", "G"]),
                    gpu_memory_bytes=draw.choice([None, GIB]),
                    sm_percent=sm,
                    info=info,
                ),
            )
        )
    return jobs


class Machine:
    """Two whole GPUs, one of them without an energy counter, one in MIG mode with two instances."""

    def __init__(self, draw: random.Random) -> None:
        self.jobs = make_jobs(draw)
        self.devices = [make_device(index) for index in range(3)]
        parent = self.devices[2].uuid
        self.devices += [make_device(3 + n, uuid=f"MIG-{n}", mig_parent_uuid=parent) for n in range(2)]
        self.watts = [[draw.choice([60.0, 300.0]) for _ in range(97)] for _ in range(3)]

    def power(self, index: int, second: int) -> float:
        return self.watts[index][second // 900 % 97]

    def list_processes(self, index: int, second: int) -> tuple[GpuProcess, ...]:
        found = {
            job.process.pid: job.process for job in self.jobs if job.gpu == index and job.start_s <= second < job.end_s
        }
        return tuple(found.values())

    def read(self, second: int, counters: list[float]) -> tuple[Gpu, ...]:
        gpus = []
        for index, device in enumerate(self.devices):
            is_instance, is_parent = index > 2, index == 2
            reason = UnavailableReason.MIG_PARENT if is_parent else UnavailableReason.MIG_INSTANCE
            gpus.append(
                Gpu(
                    device=device,
                    values={
                        UTILIZATION: None if is_instance or is_parent else float(second // 600 % 100),
                        POWER: None if is_instance else self.power(index, second),
                        ENERGY: None if is_instance or index == 1 else counters[index],
                        REASONS: None,
                    },
                    unavailable={UTILIZATION: reason} if is_parent or is_instance else {},
                    processes=() if is_parent else self.list_processes(index, second),
                )
            )
        return tuple(gpus)


def owner_of(process: GpuProcess) -> str:
    return FOREIGN if process.info.foreign else process.info.username or UNKNOWN


def simulate(seed: int) -> tuple[Truth, list[UsageRecords]]:
    draw = random.Random(seed)
    machine, truth, records = Machine(draw), Truth(), list[UsageRecords]()
    restarts = {draw.randrange(DAY_S) // INTERVAL_S for _ in range(3)}
    gaps = {draw.randrange(DAY_S) // INTERVAL_S: draw.randrange(3, 60) for _ in range(4)}
    ledger = UsageLedger(interval_s=INTERVAL_S)
    counters, shown = [0.0] * 3, [0.0] * 3
    skip, before_s = 0, None
    for tick in range(DAY_S // INTERVAL_S):
        second = tick * INTERVAL_S + draw.randrange(3)
        for index in range(3):
            counters[index] += machine.power(index, tick * INTERVAL_S) * INTERVAL_S / 3600
            if draw.random() < 0.8:
                shown[index] = counters[index]  # the driver is asked at times of its own
        if tick in restarts:
            ledger, before_s = UsageLedger(interval_s=INTERVAL_S), None
        skip = gaps.get(tick, skip)
        if skip:
            skip -= 1
            continue
        gpus = machine.read(second, shown)
        sample = replace(EMPTY, time_ms=NOON_MS + 1000 * second, monotonic_s=float(second), gpus=gpus)
        records.append(ledger.update(sample))
        if before_s is not None:
            observe(truth, gpus, machine, second, min(second - before_s, 2 * INTERVAL_S) * 1000.0)
        before_s = second
    records.append(ledger.update(replace(EMPTY, time_ms=NOON_MS + 1000 * (DAY_S + 1000), monotonic_s=DAY_S + 1000.0)))
    return truth, records


def observe(truth: Truth, gpus: tuple[Gpu, ...], machine: Machine, second: int, elapsed_ms: float) -> None:
    for index, each in enumerate(gpus):
        uuid = each.device.uuid
        holders = [found for found in each.processes if found.kind != "G"]
        truth.seen[uuid] += elapsed_ms
        truth.held[uuid] += elapsed_ms if holders else 0.0
        if index < 3:
            truth.energy[uuid] += machine.power(index, second) * elapsed_ms
        for kind, names in (
            ("owner", {owner_of(found) for found in holders}),
            ("container", {found.info.container or "" for found in holders}),
            ("job", {found.info.slurm_job or "" for found in holders}),
        ):
            for name in names:
                truth.groups[kind, name] += elapsed_ms


EXAMPLES = 25 if os.environ.get("ALL_TESTS") else 2


@settings(max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.explicit, Phase.generate])
@given(st.integers(0, 2**32))
def test_sums_of_a_day_equal_wall_time_and_the_energy_counter(seed: int) -> None:
    truth, records = simulate(seed)
    rows, gpus = sum_up(records)
    tolerance = 0.01 * DAY_S * 1000
    for uuid, total in gpus.items():
        assert total.seen_ms == pytest.approx(truth.seen[uuid], abs=tolerance)
        assert total.held_ms == pytest.approx(truth.held[uuid], abs=tolerance)
        own = [row for row in rows.values() if row.gpu_uuid == uuid]
        assert sum(row.share_ms for row in own) == pytest.approx(total.held_ms), "shares are the wall time"
        assert total.held_ms + total.unlisted_ms + total.free_ms == pytest.approx(total.seen_ms)
        if total.energy_mj is None:
            assert uuid.startswith("MIG"), "only instances have neither energy nor power"
            assert all(row.active_mj is None for row in own)
            continue
        assert total.energy_mj == pytest.approx(truth.energy[uuid], rel=0.01)
        split = sum((row.active_mj or 0.0) + (row.base_mj or 0.0) for row in own) + (total.unattributed_mj or 0.0)
        assert split == pytest.approx(total.energy_mj), "no energy is lost or counted twice"
    kinds = {"owner": "owner_held_ms", "container": "container_held_ms", "job": "job_held_ms"}
    names = {"owner": "owner", "container": "container", "job": "slurm_job"}
    for (kind, name), held_ms in truth.groups.items():
        found = sum(
            getattr(row, kinds[kind])
            for row in rows.values()
            if getattr(row, names[kind]) == name and row.owner != SHARED
        )
        assert found == pytest.approx(held_ms, abs=len(gpus) * tolerance), (kind, name)
    for kind_of_row, found_rows in ((ProcessUsage, rows.values()), (GpuUsage, gpus.values())):
        assert all((getattr(row, name) or 0) >= 0 for name in list_sums(kind_of_row) for row in found_rows)


def test_a_sample_without_a_ledger_has_no_usage() -> None:
    sample: Sample = make_sample(1)
    assert sample.usage == UsageRecords()
    assert sample.user_totals == {}
