"""The state of a GPU: which one it is, whether it counts as free, since when, how severe, and what to do."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dashtop.metrics.gpu_state import (
    MIN_IDLE_MS,
    Condition,
    GpuCounts,
    GpuState,
    StateSpan,
    classify_gpus,
    count_gpus,
    describe_state,
    is_free,
)
from dashtop.metrics.throttle_reasons import THROTTLE_REASONS
from dashtop.metrics.xid import XIDS
from dashtop.model.metric import Severity
from dashtop.model.sample import (
    PROCESSES,
    Gpu,
    GpuProcess,
    Occupancy,
    ProcessInfo,
    ProcessSpan,
    Series,
    SeriesKey,
    SeriesSet,
)
from dashtop.model.timerange import DAY_MS, HOUR_MS, MINUTE_MS
from dashtop.model.unavailable import UnavailableReason
from dashtop.ui.gpu_state import find_idle_spans, find_last_holders, read_state, read_states
from dashtop.ui.overview_data import build_overview
from dashtop.ui.panels.gpu_status import heading_data
from tests.builders import NOON_MS, FixedSample, make_device, make_gpu, make_sample
from tests.ui.worlds import Recorded, make_context, world

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

IDLE = {
    "gpu.utilization.gpu": 0.0,
    "gpu.memory.used_gb": 0.4,
    "gpu.memory.total_gb": 24.0,
    "gpu.memory.used_percent": 1.7,
    "gpu.temperature": 31.0,
}
PROCESS = GpuProcess(pid=77, kind="C", gpu_memory_bytes=3 * 2**30, info=ProcessInfo(name="python", username="alice"))
THROTTLES = {reason.name: reason for reason in THROTTLE_REASONS}


def idle(index: int = 0, **changes: float | None) -> Gpu:
    values = {key.replace("__", "."): value for key, value in changes.items()}
    return make_gpu(index, values={key: value for key, value in {**IDLE, **values}.items() if value is not None})


def lost(reason: UnavailableReason, since_ms: int | None = None) -> Gpu:
    gpu = make_gpu()
    reasons = dict.fromkeys([*gpu.values, PROCESSES], reason)
    return dataclasses.replace(gpu, state=reason, unavailable=reasons, state_since_ms=since_ms)


def classify(gpu: Gpu, idle_span: StateSpan | None = None) -> GpuState:
    spans = {} if idle_span is None else {gpu.device.uuid: idle_span}
    return classify_gpus(make_sample(gpus=(gpu,), time_ms=NOON_MS), spans)[gpu.device.uuid]


# --- free -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "free"),
    [
        ({}, True),
        ({"gpu__utilization__gpu": 1.0}, True),
        ({"gpu__utilization__gpu": 2.0}, False),
        ({"gpu__utilization__gpu": None}, False),
        ({"gpu__memory__used_percent": 6.0}, False),
        ({"gpu__memory__used_percent": None}, False),
    ],
)
def test_a_gpu_is_free_if_it_is_known_to_be_empty_and_idle(changes: dict[str, float | None], free: bool) -> None:
    assert is_free(idle(0, **changes)) is free
    assert (classify(idle(0, **changes)).condition is Condition.FREE) is free


def test_a_gpu_with_a_process_or_without_values_is_not_free() -> None:
    assert not is_free(dataclasses.replace(idle(), processes=(PROCESS,)))
    assert not is_free(dataclasses.replace(idle(), state=UnavailableReason.ASLEEP))


def test_an_empty_mig_instance_is_free_although_its_load_is_unknown() -> None:
    part = dataclasses.replace(
        idle(gpu__utilization__gpu=None), device=make_device(mig_parent_uuid="GPU-x", mig_profile="3g.40gb")
    )
    assert is_free(part)
    assert describe_state(part) == "MIG instance 3g.40gb"


def test_memory_shared_with_the_host_does_not_make_a_gpu_busy() -> None:
    shares = dataclasses.replace(idle(gpu__memory__used_percent=40.0), device=make_device(shares_host_memory=True))
    assert is_free(shares)
    assert not is_free(dataclasses.replace(shares, processes=(PROCESS,)))


def test_it_is_not_known_whether_a_gpu_with_unknown_processes_is_free() -> None:
    unknown = idle()
    reasons = {**unknown.unavailable, PROCESSES: UnavailableReason.NO_PERMISSION}
    unknown = dataclasses.replace(unknown, unavailable=reasons)
    assert not is_free(unknown)
    state = classify(unknown)
    assert (state.condition, state.severity, state.is_counted) == (Condition.UNAVAILABLE, None, False)
    assert state.detail == "Processes: no permission"
    loaded = dataclasses.replace(unknown, values={**unknown.values, "gpu.utilization.gpu": 50.0})
    assert classify(loaded).condition is Condition.BUSY


# --- held -------------------------------------------------------------------------------------------------------------


def held(**info: Any) -> Gpu:
    process = dataclasses.replace(PROCESS, info=dataclasses.replace(PROCESS.info, **info))
    return dataclasses.replace(idle(gpu__memory__used_percent=40.0), processes=(process,))


def test_a_gpu_with_a_process_that_computes_nothing_is_held() -> None:
    since = NOON_MS - 2 * HOUR_MS
    state = classify(held(), StateSpan(since, is_exact=True))
    assert (state.condition, state.occupancy, state.severity) == (Condition.IDLE_HELD, Occupancy.IDLE_HELD, None)
    assert (state.since_ms, state.is_since_exact, state.holders) == (since, True, ("alice",))
    assert classify(held(), StateSpan(since, is_exact=False)).is_since_exact is False
    assert (classify(held()).condition, classify(held()).since_ms) == (Condition.IDLE_HELD, None)


def test_a_gpu_is_held_since_the_first_of_its_processes_started() -> None:
    started = NOON_MS - HOUR_MS
    other = dataclasses.replace(PROCESS, pid=78, info=ProcessInfo(name="late", started_ms=NOON_MS - MINUTE_MS))
    gpu = held(started_ms=started)
    gpu = dataclasses.replace(gpu, processes=(other, *gpu.processes))
    state = classify(gpu, StateSpan(NOON_MS - DAY_MS, is_exact=False))
    assert (state.since_ms, state.is_since_exact) == (started, True)


def test_a_gpu_that_has_just_computed_is_busy() -> None:
    assert classify(held(), StateSpan(NOON_MS - MIN_IDLE_MS + 1, is_exact=True)).condition is Condition.BUSY
    assert classify(held(), StateSpan(NOON_MS - MIN_IDLE_MS, is_exact=True)).condition is Condition.IDLE_HELD
    # Readings began a moment ago: it is not known to have computed.
    assert classify(held(), StateSpan(NOON_MS - 1000, is_exact=False)).condition is Condition.IDLE_HELD


def test_the_noise_of_an_idle_gpu_is_no_work() -> None:
    long_idle = StateSpan(NOON_MS - HOUR_MS, is_exact=True)
    gpu = held()
    quiet, noisy, working = (
        dataclasses.replace(gpu, values={**gpu.values, "gpu.utilization.gpu": load}) for load in (3.0, 8.0, 12.0)
    )
    assert classify(noisy, long_idle).condition is Condition.IDLE_HELD
    assert classify(working, long_idle).condition is Condition.BUSY
    # Without a minute of the history, one reading is all that is known.
    assert classify(quiet).condition is Condition.IDLE_HELD
    assert classify(noisy).condition is Condition.BUSY


def test_memory_in_use_without_a_known_process_holds_a_gpu() -> None:
    state = classify(idle(gpu__memory__used_percent=40.0))
    assert (state.condition, state.holders) == (Condition.IDLE_HELD, ())


def test_holders_are_listed_by_the_memory_of_all_their_processes() -> None:
    def process(pid: int, user: str | None, gib: int | None) -> GpuProcess:
        size = None if gib is None else gib * 2**30
        return GpuProcess(pid=pid, kind="C", gpu_memory_bytes=size, info=ProcessInfo(username=user))

    processes = (process(1, "carol", None), process(2, "bob", 3), process(3, "alice", 2), process(4, "alice", 2))
    gpu = dataclasses.replace(idle(), processes=(*processes, process(5, None, 9)))
    assert classify(gpu).holders == ("alice", "bob", "carol")


# --- problems ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "name", "severity"),
    [
        (0x20, "SW Thermal Slowdown", Severity.WARNING),
        (0x48, "HW Thermal Slowdown", Severity.CRITICAL),
        (0x88, "HW Power Brake", Severity.CRITICAL),
        (0x08, "HW Slowdown", Severity.CRITICAL),
        (0x24, "SW Thermal Slowdown", Severity.WARNING),
        (0x60, "HW Thermal Slowdown, SW Thermal Slowdown", Severity.CRITICAL),
    ],
)
def test_a_throttled_gpu_is_busy_and_has_a_problem(flags: int, name: str, severity: Severity) -> None:
    state = classify(idle(gpu__utilization__gpu=90.0, gpu__clocks__event_reasons=float(flags)))
    assert (state.condition, state.occupancy, state.severity) == (Condition.THROTTLED, Occupancy.BUSY, severity)
    assert (state.detail, state.problems[0].advice) == (name, THROTTLES[name.split(",", maxsplit=1)[0]].meaning)


@pytest.mark.parametrize("flags", [0x000, 0x001, 0x002, 0x004, 0x010, 0x100, 0x200, 0x400])
def test_a_power_cap_and_other_normal_limits_are_no_problem(flags: int) -> None:
    state = classify(idle(gpu__utilization__gpu=90.0, gpu__clocks__event_reasons=float(flags)))
    assert (state.condition, state.problems) == (Condition.BUSY, ())


@pytest.mark.parametrize(
    ("key", "value", "text", "severity", "xid"),
    [
        ("gpu.ecc.volatile_uncorrected", 3.0, "ECC uncorrected (since reload): 3", Severity.CRITICAL, 48),
        ("gpu.remapped_rows.pending", 1.0, "Row remapping pending", Severity.WARNING, 63),
        ("gpu.retired_pages.pending", 1.0, "Page retirement pending", Severity.WARNING, 63),
        ("gpu.remapped_rows.failure", 1.0, "Row remapping failed", Severity.CRITICAL, 64),
    ],
)
def test_a_gpu_with_faulty_memory_is_not_offered_as_free(
    key: str, value: float, text: str, severity: Severity, xid: int
) -> None:
    gpu = make_gpu(values={**IDLE, key: value})
    state = classify(gpu)
    assert (state.condition, state.occupancy) == (Condition.UNHEALTHY, Occupancy.UNAVAILABLE)
    assert (state.severity, state.detail, state.problems[0].advice) == (severity, text, XIDS[xid].advice)
    assert describe_state(gpu) == text
    working = dataclasses.replace(gpu, values={**gpu.values, "gpu.utilization.gpu": 90.0})
    assert classify(working).occupancy is Occupancy.BUSY


def test_the_worst_problem_comes_first() -> None:
    values = {**IDLE, "gpu.remapped_rows.pending": 1.0, "gpu.clocks.event_reasons": float(0x40)}
    state = classify(make_gpu(values=values))
    assert [problem.condition for problem in state.problems] == [Condition.THROTTLED, Condition.UNHEALTHY]
    assert (state.condition, state.severity) == (Condition.THROTTLED, Severity.CRITICAL)


@pytest.mark.parametrize(
    ("reason", "condition", "severity"),
    [
        (UnavailableReason.GPU_LOST, Condition.LOST, Severity.CRITICAL),
        (UnavailableReason.GPU_RESET_REQUIRED, Condition.LOST, Severity.CRITICAL),
        (UnavailableReason.NOT_RESPONDING, Condition.NOT_RESPONDING, Severity.CRITICAL),
        (UnavailableReason.DRIVER_SILENT, Condition.UNAVAILABLE, Severity.CRITICAL),
        (UnavailableReason.ASLEEP, Condition.ASLEEP, None),
        (UnavailableReason.IDLE, Condition.ASLEEP, None),
        (UnavailableReason.INITIALIZING, Condition.UNAVAILABLE, None),
    ],
)
def test_a_gpu_that_cannot_be_read_does_not_count(
    reason: UnavailableReason, condition: Condition, severity: Severity | None
) -> None:
    state = classify(lost(reason, since_ms=NOON_MS - 5000))
    assert (state.condition, state.severity, state.is_counted) == (condition, severity, False)
    assert (state.since_ms, state.detail.lower()) == (NOON_MS - 5000, reason.text.lower())
    assert [problem.advice for problem in state.problems] == ([reason.advice] if severity else [])


def test_states_are_described_in_words() -> None:
    assert describe_state(idle()) == ""
    assert describe_state(lost(UnavailableReason.GPU_LOST)) == "the GPU has fallen off the bus"


# --- MIG and counts ---------------------------------------------------------------------------------------------------


def split_gpu() -> tuple[Gpu, ...]:
    parent = idle(8, gpu__utilization__gpu=None)
    reasons = {**parent.unavailable, "gpu.utilization.gpu": UnavailableReason.MIG_PARENT}
    parent = dataclasses.replace(parent, unavailable=reasons)
    empty, used = (
        dataclasses.replace(
            idle(index, gpu__utilization__gpu=None),
            device=make_device(index, mig_parent_uuid=parent.device.uuid, mig_profile="3g.20gb"),
        )
        for index in (9, 10)
    )
    return parent, empty, dataclasses.replace(used, processes=(PROCESS,))


def test_mig_instances_count_instead_of_their_gpu() -> None:
    parent, empty, used = split_gpu()
    assert describe_state(parent) == UnavailableReason.MIG_PARENT.text
    states = list(classify_gpus(make_sample(gpus=(parent, empty, used))).values())
    assert [state.name for state in states] == ["GPU 8", "GPU 8 · MIG 3g.20gb", "GPU 8 · MIG 3g.20gb"]
    assert [state.condition for state in states] == [Condition.SPLIT, Condition.FREE, Condition.BUSY]
    assert count_gpus(states) == GpuCounts(free=1, idle_held=0, busy=1, unavailable=0)


def test_lost_and_sleeping_gpus_are_not_among_those_that_could_be_free() -> None:
    gpus = [
        idle(0),
        dataclasses.replace(held(), device=make_device(1)),
        idle(2, gpu__utilization__gpu=90.0),
        dataclasses.replace(lost(UnavailableReason.GPU_LOST), device=make_device(3)),
        dataclasses.replace(lost(UnavailableReason.ASLEEP), device=make_device(4)),
    ]
    counts = count_gpus(classify_gpus(make_sample(gpus=tuple(gpus))).values())
    assert counts == GpuCounts(free=1, idle_held=1, busy=1, unavailable=2)
    assert counts.usable == 3


# --- history ----------------------------------------------------------------------------------------------------------


class Loads(Recorded):
    """A history of loads: by GPU, the minutes before noon at which it computed; idle since `first_ms` otherwise."""

    def __init__(self, loaded_at: Mapping[str, float], first_ms: int = NOON_MS - 30 * DAY_MS) -> None:
        super().__init__(first_ms=first_ms, last_ms=NOON_MS)
        self.loaded_at = loaded_at

    def query(
        self, keys: Sequence[SeriesKey], start_ms: int, end_ms: int, step_ms: int, *, wait: bool = False
    ) -> SeriesSet:
        empty = super().query(keys, start_ms, end_ms, step_ms, wait=wait)
        series = []
        for key in keys:
            loads = np.where(np.isfinite(empty.series[0].mean), 0, np.nan).astype(np.float32)
            minutes = self.loaded_at.get(key.gpu_uuid or "")
            bucket = -1 if minutes is None else int((NOON_MS - minutes * MINUTE_MS - start_ms) // step_ms)
            if 0 <= bucket < empty.count:
                loads[bucket] = 80
            series.append(Series(key=key, mean=loads, minimum=loads, maximum=loads))
        return dataclasses.replace(empty, series=tuple(series))


class Noisy(Recorded):
    """Loads with the noise of idle GPUs: up to 4 %, and a mean of more than 2 % in every second minute."""

    def __init__(self, loads: Loads) -> None:
        super().__init__(first_ms=loads.first_ms, last_ms=loads.last_ms + HOUR_MS)
        loads.last_ms = self.last_ms
        self.loads = loads

    def query(
        self, keys: Sequence[SeriesKey], start_ms: int, end_ms: int, step_ms: int, *, wait: bool = False
    ) -> SeriesSet:
        data = self.loads.query(keys, start_ms, end_ms, step_ms, wait=wait)
        noise = np.where(np.arange(data.count) % 2, 2.6, 0.4).astype(np.float32)
        series = tuple(
            dataclasses.replace(each, mean=np.maximum(each.mean, noise), maximum=np.maximum(each.maximum, 4))
            for each in data.series
        )
        return dataclasses.replace(data, series=series)


def test_the_last_load_is_found_within_an_hour_or_a_week() -> None:
    history = Loads({"recent": 20.5, "old": 3000, "older": 20_000})
    spans = find_idle_spans(history.query, ["recent", "old", "older"], NOON_MS)
    assert spans["recent"] == StateSpan(NOON_MS - 20 * MINUTE_MS, is_exact=True)
    old = spans["old"]
    assert old.is_exact
    assert 2990 * MINUTE_MS <= NOON_MS - old.since_ms <= 3000 * MINUTE_MS
    assert spans["older"].is_exact is False
    assert NOON_MS - spans["older"].since_ms >= 7 * DAY_MS - 10 * MINUTE_MS
    assert history.queries == 2


def test_the_noise_of_an_idle_gpu_does_not_end_its_idle_time() -> None:
    gpu = held()
    services, _, _ = world(gpus=(gpu,))
    services = dataclasses.replace(services, history=Noisy(Loads({gpu.device.uuid: 30})))
    states = set()
    for second in range(0, 180, 7):
        values = {**gpu.values, "gpu.utilization.gpu": float(second % 5)}
        sample = make_sample(second, gpus=(dataclasses.replace(gpu, values=values),), time_ms=NOON_MS + 1000 * second)
        state = read_states(make_context(sample=sample, services=services))[gpu.device.uuid]
        states.add((state.condition, state.since_ms))
    assert states == {(Condition.IDLE_HELD, NOON_MS - 29 * MINUTE_MS)}


def test_what_follows_a_moment_in_the_past_does_not_change_its_state() -> None:
    history = Loads({"later": -2, "at once": -0.5})
    spans = find_idle_spans(history.query, ["later", "at once"], NOON_MS)
    assert [span.is_exact for span in spans.values()] == [False, False]


def test_a_short_history_tells_for_how_long_at_least_a_gpu_has_been_idle() -> None:
    spans = find_idle_spans(Loads({}, first_ms=NOON_MS - 30 * MINUTE_MS).query, ["idle"], NOON_MS)
    assert not spans["idle"].is_exact
    assert 20 * MINUTE_MS <= NOON_MS - spans["idle"].since_ms <= 40 * MINUTE_MS
    assert find_idle_spans(Loads({}, first_ms=NOON_MS + DAY_MS).query, ["unknown"], NOON_MS) == {}


def test_all_viewers_share_the_states_of_a_sample_and_one_query_a_minute() -> None:
    gpu = held()
    services, _, _ = world(gpus=(gpu,))
    history = Loads({gpu.device.uuid: 20})
    context = make_context(
        sample=make_sample(gpus=(gpu,), time_ms=NOON_MS), services=dataclasses.replace(services, history=history)
    )
    first = read_states(context)
    assert read_states(context) == first
    later = [dataclasses.replace(context.sample, sequence=number, time_ms=NOON_MS + number) for number in (2, 3)]
    states = [read_states(dataclasses.replace(context, sample=sample)) for sample in later]
    assert history.queries == 1
    assert states[0] == first
    assert first[gpu.device.uuid].since_ms == NOON_MS - 19 * MINUTE_MS
    next_minute = dataclasses.replace(context.sample, sequence=9, time_ms=NOON_MS + MINUTE_MS)
    read_states(dataclasses.replace(context, sample=next_minute))
    assert history.queries == 2


def test_the_week_before_is_searched_once_in_ten_minutes() -> None:
    gpu = held()
    services, _, _ = world(gpus=(gpu,))
    history = Loads({gpu.device.uuid: 3000})
    context = make_context(
        sample=make_sample(gpus=(gpu,), time_ms=NOON_MS), services=dataclasses.replace(services, history=history)
    )
    since = set()
    for minute in range(10):
        sample = dataclasses.replace(context.sample, sequence=minute, time_ms=NOON_MS + minute * MINUTE_MS)
        since.add(read_states(dataclasses.replace(context, sample=sample))[gpu.device.uuid].since_ms)
    assert history.queries == 10 + 1, "an hour each minute, and the week"
    assert len(since) == 1
    later = dataclasses.replace(context.sample, sequence=20, time_ms=NOON_MS + 10 * MINUTE_MS)
    read_states(dataclasses.replace(context, sample=later))
    assert history.queries == 13


# --- last holders -----------------------------------------------------------------------------------------------------


class LostHistory(Recorded):
    """A history of a GPU that was read last at `last_ms`, with processes as (pid, MiB, start and end before that)."""

    spans: Sequence[tuple[int, int, int, int]] = ()

    def processes(self, gpu_uuid: str | tuple[str, ...], start_ms: int, end_ms: int) -> tuple[ProcessSpan, ...]:
        found = [
            ProcessSpan(
                gpu_uuid=str(gpu_uuid),
                pid=pid,
                start_ms=self.last_ms - begin * 1000,
                end_ms=self.last_ms - end * 1000,
                gpu_memory_bytes=size * 2**20,
                peak_gpu_memory_bytes=None,
                peak_sm_percent=None,
                kind="C",
                info=ProcessInfo(username=f"user{pid}", name="python"),
            )
            for pid, size, begin, end in self.spans
        ]
        return tuple(span for span in found if span.end_ms >= start_ms and span.start_ms < end_ms)


@pytest.mark.parametrize("lost_ms", [0, 20 * MINUTE_MS, 3 * DAY_MS])
def test_lost_gpu_was_held_by_the_processes_of_its_last_reading(lost_ms: int) -> None:
    history = LostHistory(first_ms=NOON_MS - 6 * DAY_MS, last_ms=NOON_MS - lost_ms)
    history.spans = ((1, 10, 9000, 5000), (2, 10, 5000, 0), (3, 40, 50, 10), (2, 20, 9000, 5001))
    uuid = make_gpu().device.uuid
    found = find_last_holders(history, [uuid], NOON_MS)
    assert [span.pid for span in found[uuid]] == [3, 2]
    history.spans = ((1, 10, 9000, 5000),)
    assert find_last_holders(history, [uuid], NOON_MS) == {uuid: ()}, "it was free when it was lost"
    assert find_last_holders(Recorded(first_ms=0, last_ms=0), [uuid], NOON_MS) == {}


def test_last_holder_is_on_the_overview_and_in_the_head_of_the_gpu() -> None:
    history = LostHistory(first_ms=NOON_MS - DAY_MS, last_ms=NOON_MS - 5 * MINUTE_MS)
    history.spans = ((2, 10, 5000, 0), (3, 40, 50, 10))
    gpu = lost(UnavailableReason.GPU_LOST)
    services, _, _ = world()
    sample = make_sample(gpus=(gpu,), time_ms=NOON_MS)
    services = dataclasses.replace(services, latest=FixedSample(sample), history=history)
    context = make_context(gpu, sample=sample, services=services)
    (facts,) = build_overview(context)["gpu_facts"]
    assert facts["last_holder"] == {"user": "user3", "process": "python", "process_count": 2}
    assert heading_data(context)["texts"]["gpu.holder"] == "Last held by user3 · python · 1 more"


def test_the_state_of_one_gpu_is_that_among_all() -> None:
    loads = Loads({make_device(0).uuid: 30, make_device(1).uuid: 0})
    kinds = (held(), held(), idle(), lost(UnavailableReason.GPU_LOST), lost(UnavailableReason.ASLEEP))
    gpus = tuple(dataclasses.replace(gpu, device=make_device(index)) for index, gpu in enumerate(kinds))
    services = dataclasses.replace(world()[0], history=loads)
    context = make_context(sample=make_sample(gpus=gpus, time_ms=NOON_MS), services=services)
    states = read_states(context)
    assert len({state.condition for state in states.values()}) > 3
    for gpu in gpus:
        assert read_state(context, gpu) == states[gpu.device.uuid]


@pytest.mark.parametrize("reason", [UnavailableReason.GPU_LOST, UnavailableReason.ASLEEP])
def test_a_gpu_with_mig_instances_that_cannot_be_read_is_not_counted_itself(reason: UnavailableReason) -> None:
    gpus = tuple(
        dataclasses.replace(
            gpu, state=reason, processes=(), unavailable=dict.fromkeys([*gpu.values, PROCESSES], reason)
        )
        for gpu in split_gpu()
    )
    states = classify_gpus(make_sample(gpus=(*gpus, idle(0))))
    assert count_gpus(states.values()) == (1, 0, 0, 2)
    assert len({state.condition for uuid, state in states.items() if uuid != idle(0).device.uuid}) == 1
