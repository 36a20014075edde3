"""Since when processes have not used their GPU."""

from __future__ import annotations

from dashtop.collector.idle import IdleTracker
from dashtop.model.sample import GpuProcess
from tests.builders import make_gpu


def run(tracker: IdleTracker, second: int, sm_percent: float | None, *, index: int = 0) -> int | None:
    process = GpuProcess(pid=41, kind="C", gpu_memory_bytes=1, sm_percent=sm_percent)
    (gpu,) = tracker.add_idle_times((make_gpu(index, processes=(process,)),), second * 1000)
    (found,) = gpu.processes
    assert found.sm_percent == sm_percent
    return found.idle_since_ms


def test_idle_time_begins_with_the_first_reading_of_0_and_ends_with_any_other() -> None:
    tracker = IdleTracker()
    assert [run(tracker, second, sm) for second, sm in enumerate((5.0, 0.0, 0.0, 1.0, 0.0))] == [
        None, 1000, 1000, None, 4000
    ]  # fmt: skip


def test_an_unknown_utilization_is_not_idle() -> None:
    tracker = IdleTracker()
    assert [run(tracker, second, sm) for second, sm in enumerate((0.0, None, 0.0))] == [0, None, 2000]


def test_each_gpu_counts_for_itself_and_absent_processes_are_forgotten() -> None:
    tracker = IdleTracker()
    assert run(tracker, 1, 0.0) == 1000
    assert run(tracker, 2, 0.0, index=1) == 2000
    assert tracker.add_idle_times((make_gpu(),), 3000)[0].processes == ()
    assert run(tracker, 4, 0.0) == 4000


def test_idle_time_does_not_begin_in_the_future_of_a_clock_that_was_set_back() -> None:
    tracker = IdleTracker()
    run(tracker, 100, 0.0)
    assert run(tracker, 50, 0.0) == 50_000
