"""GPU-hours, energy and peaks: gaps, reused pids, shared GPUs, MIG, and processes across the edges of the window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dashtop.model.sample import GpuProcess, ProcessInfo, ProcessSpan
from dashtop.model.usage import FOREIGN, UNKNOWN
from dashtop.usage.calculation import (
    Buckets,
    Energy,
    GpuRecord,
    calculate_usage,
    fill_distances,
    find_covering,
    find_intervals,
    find_peak,
    measure_cover,
    measure_energy,
)
from tests.builders import NOON_MS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dashtop.usage.calculation import Usage

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
GIB = 2**30
NAN = float("nan")
# Two hours in buckets of ten minutes.
BUCKETS = Buckets(NOON_MS, 10 * MINUTE_MS, 12)


def span(start: float, end: float, user: str | None = "ada", **changes: Any) -> ProcessSpan:
    """A span from minute `start` to `end` of the window. Its last sample is a second before its end."""
    facts: dict[str, Any] = {"pid": 1, "kind": "C", "peak": GIB, "gpu": "GPU-0", "started": 1000, "foreign": False}
    facts |= changes
    return ProcessSpan(
        gpu_uuid=facts["gpu"],
        pid=facts["pid"],
        start_ms=round(NOON_MS + start * MINUTE_MS),
        end_ms=round(NOON_MS + end * MINUTE_MS) - 1000,
        gpu_memory_bytes=facts["peak"],
        peak_gpu_memory_bytes=facts["peak"],
        peak_sm_percent=None,
        kind=facts["kind"],
        info=ProcessInfo(name="train", username=user, started_ms=facts["started"], foreign=facts["foreign"]),
    )


def record(
    load: float | Sequence[float],
    *spans: ProcessSpan,
    uuid: str = "GPU-0",
    power: float = NAN,
    energy: Sequence[float] | None = None,
    lists_processes: bool = True,
    running: Sequence[GpuProcess] = (),
    is_recorded: Sequence[bool] | None = None,
) -> GpuRecord:
    values = np.broadcast_to(np.array(load, dtype=np.float64), (BUCKETS.count,)).copy()
    return GpuRecord(
        uuid=uuid,
        is_recorded=np.isfinite(values) if is_recorded is None else np.array(is_recorded),
        utilization=values,
        power=np.where(np.isfinite(values), power, NAN),
        energy=np.full(BUCKETS.count, NAN) if energy is None else np.array(energy, dtype=np.float64),
        processes=spans if lists_processes else None,
        running=running,
    )


def calculate(*records: GpuRecord) -> Usage:
    return calculate_usage(records, BUCKETS, 1000)


def hours_of(usage: Usage) -> dict[str, tuple[float, float | None, float | None, bool]]:
    def round_up(value: float | None) -> float | None:
        return None if value is None else round(value, 3)

    return {
        user.key[0]: (round(user.held_h, 3), round_up(user.utilized_h), round_up(user.idle_h), user.is_estimated)
        for user in usage.groups
    }


def test_the_only_user_of_a_gpu_has_its_utilization() -> None:
    usage = calculate(record(50.0, span(0, 120)))
    assert hours_of(usage) == {"ada": (2.0, 1.0, 0.0, False)}
    (gpu,) = usage.gpus
    assert (gpu.recorded_h, gpu.held_h, gpu.utilized_h, gpu.idle_h, gpu.free_h) == pytest.approx((2, 2, 1, 0, 0))


def test_idle_is_held_without_load_and_free_is_neither() -> None:
    load = [0.0] * 6 + [90.0] * 3 + [0.0] * 3
    usage = calculate(record(load, span(30, 90)))
    assert hours_of(usage) == {"ada": (1.0, 0.45, 0.5, False)}
    (gpu,) = usage.gpus
    assert (gpu.held_h, gpu.idle_h, gpu.free_h) == pytest.approx((1.0, 0.5, 1.0))
    assert gpu.active.tolist() == [0] * 6 + [1] * 3 + [0] * 3
    assert gpu.idle.tolist() == [0] * 3 + [1] * 3 + [0] * 6
    assert gpu.free.tolist() == [1] * 3 + [0] * 6 + [1] * 3


@pytest.mark.parametrize("width", [1, 2, 6, 12])
def test_held_and_free_are_the_recorded_time_in_buckets_of_any_width(width: int) -> None:
    """A desktop uses 3 % now and then, and a process computes for a part of the time."""
    buckets = Buckets(NOON_MS, width * 10 * MINUTE_MS, 12 // width)
    load = np.array([0.0, 3.0] * 3 + [90.0] * 2 + [0.0] * 4).reshape(-1, width).mean(axis=1)
    spans = [span(60, 85)]
    there = GpuRecord(
        uuid="GPU-0",
        is_recorded=np.isfinite(load),
        utilization=load,
        power=load,
        energy=load,
        processes=spans,
    )
    (gpu,) = calculate_usage([there], buckets, 1000).gpus
    assert (gpu.recorded_h, gpu.held_h, gpu.free_h) == pytest.approx((2, 25 / 60, 95 / 60))
    assert (gpu.active + gpu.idle + gpu.free).tolist() == pytest.approx([1.0] * buckets.count)


def test_a_process_that_spans_the_edges_counts_within_the_window() -> None:
    usage = calculate(record(100.0, span(-600, 30), span(110, 500, pid=2, user="grace")))
    assert hours_of(usage) == {"ada": (0.5, 0.5, 0.0, False), "grace": (0.167, 0.167, 0.0, False)}
    outside = calculate(record(100.0, span(-600, -10), span(130, 500, pid=2)))
    assert outside.groups == ()


def test_a_process_within_one_bucket_counts_exactly() -> None:
    assert hours_of(calculate(record(10.0, span(62, 65)))) == {"ada": (0.05, 0.017, 0.0, False)}, (
        "the load of the bucket is that of the process, which was alone"
    )
    assert hours_of(calculate(record(90.0, span(62, 65)))) == {"ada": (0.05, 0.05, 0.0, False)}, "at most all the time"


def test_several_processes_of_a_user_hold_a_gpu_once_and_several_gpus_each() -> None:
    usage = calculate(
        record(50.0, span(0, 60), span(30, 90, pid=2)),
        record(100.0, span(0, 120, pid=3, gpu="GPU-1"), uuid="GPU-1"),
    )
    assert hours_of(usage) == {"ada": (3.5, 2.75, 0.0, False)}
    assert usage.groups[0].gpus == ["GPU-0", "GPU-1"]
    assert len(usage.groups[0].processes) == 3


def test_a_shared_gpu_is_split_by_held_time_and_said_to_be_estimated() -> None:
    usage = calculate(record(80.0, span(0, 120), span(60, 120, pid=2, user="grace")))
    assert hours_of(usage) == {"ada": (2.0, 1.2, 0.0, True), "grace": (1.0, 0.4, 0.0, True)}
    assert sum(user.utilized_h or 0.0 for user in usage.groups) == pytest.approx(usage.gpus[0].utilized_h)
    assert usage.gpus[0].held_h == pytest.approx(2.0), "a GPU is held once"


def test_users_after_each_other_in_one_bucket_share_it_but_not_the_others() -> None:
    usage = calculate(record(100.0, span(0, 64), span(64, 120, pid=2, user="grace")))
    held = {user.key[0]: (round(user.held_h, 3), round(user.utilized_h or 0, 3)) for user in usage.groups}
    assert held == {"ada": (1.067, 1.067), "grace": (0.933, 0.933)}
    assert not any(user.is_estimated for user in usage.groups)


def test_gaps_count_for_nothing() -> None:
    load = [60.0] * 3 + [NAN] * 6 + [60.0] * 3
    usage = calculate(record(load, span(0, 120), power=100.0))
    assert hours_of(usage) == {"ada": (1.0, 0.6, 0.0, False)}
    (gpu,) = usage.gpus
    assert (gpu.recorded_h, gpu.free_h) == pytest.approx((1.0, 0.0))
    assert gpu.energy == pytest.approx(Energy(100.0, is_counted=False))


def place(*distances: int, first: int = 0, count: int | None = None) -> list[bool]:
    """Buckets of which those at these distances have a reading."""
    positions = np.cumsum([first, *distances])
    present = np.zeros(count or int(positions[-1]) + 1, dtype=np.bool_)
    present[positions] = True
    return present.tolist()


@pytest.mark.parametrize(
    ("present", "step_ms", "expected"),
    [
        (place(*[30] * 59, count=1800), 2000, 1800),  # a reading a minute
        (place(*[30] * 59, first=29, count=1800), 2000, 1800),  # the one before is outside of the window
        (place(*[7, 8] * 100), 2000, 1501),  # every 15 seconds
        (place(*[1, 1, 1, 1, 2] * 20), 2000, 121),  # an interval a little longer than the bucket
        (place(*[30] * 20, *[1] * 20), 2000, 621),  # another interval from then on
        (place(*[1] * 20, 300, *[1] * 20), 2000, 42),  # a gap stays one
        (place(*[30] * 10, 600, *[30] * 10), 2000, 2 * 300 + 30 + 1),  # after it as well; each reading covers a minute
        (place(*[1] * 9, 4, *[1] * 9), 600_000, 20),  # buckets of ten minutes
        (place(*[300] * 9), 2000, 9 * 60 + 1),  # a reading in ten minutes covers two
        (place(1, 1, 300, *[1] * 5, 300, 1, 1, first=100), 2000, 12 + 3),  # several gaps: at most a bucket more
        ([True], 2000, 1),
        (place(30), 2000, 31),
        ([False] * 9, 2000, 0),
    ],
)
def test_a_reading_covers_the_distance_of_readings(present: list[bool], step_ms: int, expected: int) -> None:
    covering = find_covering(np.array(present), step_ms)
    covered = covering[covering >= 0]
    assert len(covered) == expected
    assert np.array(present)[covered].all()


def test_readings_that_are_further_apart_than_buckets_count_until_the_next_one() -> None:
    buckets = Buckets(NOON_MS, 2000, 3600)
    load = np.full(3600, NAN)
    load[::30] = 50.0
    load[1800:2400] = NAN
    sparse = GpuRecord(
        uuid="GPU-0",
        is_recorded=np.isfinite(load),
        utilization=load,
        power=2 * load,
        energy=np.full(3600, NAN),
        processes=[span(0, 120)],
    )
    (gpu,) = calculate_usage([fill_distances(sparse, 2000)], buckets, 1000).gpus
    assert (gpu.recorded_h, gpu.held_h, gpu.utilized_h) == pytest.approx((5 / 3, 5 / 3, 5 / 6))
    assert gpu.energy == pytest.approx(Energy(500 / 3, is_counted=False))


def test_a_gpu_that_was_never_read_has_no_hours() -> None:
    (gpu,) = calculate(record(NAN)).gpus
    assert (gpu.recorded_h, gpu.held_h, gpu.utilized_h, gpu.idle_h, gpu.free_h, gpu.energy) == (
        0,
        None,
        None,
        None,
        None,
        None,
    )


def test_a_reused_pid_is_another_process() -> None:
    spans = span(0, 30), span(30, 60, started=2000, user="grace"), span(60, 90, started=3000)
    usage = calculate(record(100.0, *spans))
    assert hours_of(usage) == {"ada": (1.0, 1.0, 0.0, False), "grace": (0.5, 0.5, 0.0, False)}
    assert {user.key[0]: len(user.processes) for user in usage.groups} == {"ada": 2, "grace": 1}


def test_a_running_process_holds_its_gpu_until_the_end_of_the_window() -> None:
    process = GpuProcess(pid=1, kind="C", gpu_memory_bytes=GIB, info=ProcessInfo(started_ms=1000))
    assert hours_of(calculate(record(0.0, span(0, 100), running=[process])))["ada"][0] == 2.0
    other = GpuProcess(pid=1, kind="C", gpu_memory_bytes=GIB, info=ProcessInfo(started_ms=5000))
    assert hours_of(calculate(record(0.0, span(0, 100), running=[other])))["ada"][0] == 1.667
    first, second = find_intervals([span(0, 50), span(50, 100)], [process], BUCKETS, 1000)
    assert (first.end_ms, second.end_ms) == (NOON_MS + 50 * MINUTE_MS, BUCKETS.end_ms), "only its last span goes on"


def test_a_span_ends_where_the_next_one_of_its_process_begins() -> None:
    early = span(0, 60), span(59.99, 90)
    first, second = find_intervals(early, (), BUCKETS, 1000)
    assert first.end_ms == second.start_ms
    assert find_peak([first, second]) == GIB


def test_graphics_processes_hold_nothing_and_mps_clients_do() -> None:
    usage = calculate(
        record(0.0, span(0, 120, kind="G", user="root"), span(0, 60, pid=2, kind="M"), span(60, 120, pid=3, kind="C+G"))
    )
    assert hours_of(usage) == {"ada": (2.0, 0.0, 2.0, False)}


def test_users_that_are_not_known_have_a_name() -> None:
    usage = calculate(record(0.0, span(0, 60, user=None), span(60, 90, user=None, pid=2, foreign=True)))
    assert [user.key[0] for user in usage.groups] == [UNKNOWN, FOREIGN]


def test_mig_instances_have_held_hours_but_no_utilized_ones() -> None:
    instance = record([NAN] * 12, span(0, 60), is_recorded=[True] * 12)
    usage = calculate(instance)
    assert hours_of(usage) == {"ada": (1.0, None, None, False)}
    (gpu,) = usage.gpus
    assert (gpu.held_h, gpu.utilized_h, gpu.idle_h, gpu.free_h) == (1.0, None, None, 1.0)
    both = calculate(instance, record(100.0, span(0, 60, gpu="GPU-1"), uuid="GPU-1")).groups[0]
    assert (both.held_h, both.known_h, both.utilized_h) == (2.0, 1.0, 1.0)


def test_without_a_list_of_processes_hours_are_not_known() -> None:
    (gpu,) = calculate(record(30.0, lists_processes=False)).gpus
    assert (gpu.held_h, gpu.idle_h, gpu.free_h) == (None, None, None)
    assert gpu.utilized_h == pytest.approx(0.6)


def test_energy_is_counted_or_integrated() -> None:
    counter = [1000.0, NAN, 1040.0, 1040.0, 20.0, 50.0, NAN, NAN, NAN, NAN, NAN, 80.0]
    (gpu,) = calculate(record(10.0, power=300.0, energy=counter)).gpus
    assert gpu.energy == Energy(40.0 + 20.0 + 30.0 + 30.0, is_counted=True), "a counter that fell was reset"
    (gpu,) = calculate(record(10.0, power=300.0)).gpus
    assert gpu.energy == pytest.approx(Energy(600.0, is_counted=False))
    assert measure_energy(np.array([NAN, 5.0]), np.array([NAN, NAN]), np.array([True, True]), 1000) is None


def test_the_peak_is_of_all_processes_at_one_time() -> None:
    usage = calculate(
        record(0.0, span(0, 60, peak=3 * GIB), span(60, 120, peak=5 * GIB), span(30, 70, pid=2, peak=2 * GIB)),
        record(0.0, span(65, 66, pid=3, peak=GIB, gpu="GPU-1"), uuid="GPU-1"),
    )
    assert usage.groups[0].peak_bytes == 8 * GIB
    assert calculate(record(0.0, span(0, 60, peak=None))).groups[0].peak_bytes is None


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], [0.0] * 12),
        ([(0, 120)], [1.0] * 12),
        ([(5, 15)], [0.5, 0.5] + [0.0] * 10),
        ([(5, 15), (12, 20), (19, 20)], [0.5, 1.0] + [0.0] * 10),
        ([(2, 4), (6, 7)], [0.3] + [0.0] * 11),
    ],
)
def test_cover_is_the_share_of_each_bucket(spans: list[tuple[float, float]], expected: list[float]) -> None:
    intervals = [
        interval
        for pid, (start, end) in enumerate(spans)
        for interval in find_intervals([span(start, end, pid=pid)], (), BUCKETS, 1000)
    ]
    assert measure_cover(intervals, BUCKETS).tolist() == pytest.approx(expected)


def test_no_gpu_has_no_usage() -> None:
    usage = calculate()
    assert (usage.gpus, usage.groups) == ((), ())
