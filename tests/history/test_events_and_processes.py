"""Who filled which GPU, and what happened: kept with their owners over a restart."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from dashtop.model.metric import Severity
from dashtop.model.sample import PROCESSES, Event, GpuProcess, ProcessInfo
from dashtop.model.unavailable import UnavailableReason
from tests.builders import NOON_MS, make_device, make_gpu, make_sample, wait_until_written

if TYPE_CHECKING:
    from dashtop.history.store import HistoryStore
    from tests.history.conftest import Place

GIB = 2**30
HOLDER = GpuProcess(
    pid=41,
    kind="C",
    gpu_memory_bytes=4 * GIB,
    sm_percent=10.0,
    info=ProcessInfo(name="train.py", started_ms=5, username="ada"),
)


def run(history: HistoryStore, seconds: range, *processes: GpuProcess, index: int = 3) -> None:
    for second in seconds:
        gpu = make_gpu(index, processes=processes)
        history.append(make_sample(second, time_ms=NOON_MS + second * 1000, gpus=(gpu,)))


def test_who_filled_the_gpu_at_a_moment(place: Place) -> None:
    history = place.history()
    run(history, range(10))
    run(history, range(10, 100), HOLDER)
    run(history, range(100, 200), replace(HOLDER, gpu_memory_bytes=20 * GIB, sm_percent=90.0))
    run(history, range(200, 210))
    wait_until_written(history)
    history.close()
    history = place.history()
    gpu = make_device(3).uuid
    (at_150,) = history.processes(gpu, NOON_MS + 150_000, NOON_MS + 151_000)
    assert (at_150.pid, at_150.info) == (41, ProcessInfo(name="train.py", username="ada", started_ms=5))
    assert (at_150.gpu_memory_bytes, at_150.peak_sm_percent) == (20 * GIB, 90.0)
    spans = history.processes(gpu, NOON_MS, NOON_MS + 210_000)
    assert [(span.start_ms - NOON_MS, span.end_ms - NOON_MS) for span in spans] == [
        (10_000, 99_000),
        (100_000, 199_000),
    ]
    assert history.processes(gpu, NOON_MS + 201_000, NOON_MS + 210_000) == ()
    assert history.processes(make_device(0).uuid, NOON_MS, NOON_MS + 210_000) == ()
    history.close()


@pytest.mark.parametrize(("seconds", "spans"), [(10, 1), (30, 2)])
def test_processes_that_are_not_told_for_a_moment_have_not_ended(seconds: int, spans: int, place: Place) -> None:
    history = place.history()
    run(history, range(60), HOLDER)
    for second in range(60, 60 + seconds):
        gpu = make_gpu(3)
        untold = replace(gpu, unavailable={**gpu.unavailable, PROCESSES: UnavailableReason.DRIVER_SILENT})
        history.append(make_sample(second, time_ms=NOON_MS + second * 1000, gpus=(untold,)))
    run(history, range(60 + seconds, 120), HOLDER)
    run(history, range(120, 122))
    assert len(history.processes(make_device(3).uuid, NOON_MS, NOON_MS + 122_000)) == spans
    history.close()


def test_a_span_that_goes_on_is_at_most_15_s_behind_and_grows_with_small_changes(place: Place) -> None:
    history = place.history()
    for second in range(60):
        grown = replace(HOLDER, gpu_memory_bytes=4 * GIB + second * 1_000_000)
        run(history, range(second, second + 1), grown)
    (span,) = history.processes(make_device(3).uuid, NOON_MS, NOON_MS + 60_000)
    assert 45_000 <= span.end_ms - NOON_MS <= 59_000
    assert span.peak_gpu_memory_bytes is not None
    assert span.peak_gpu_memory_bytes > 4 * GIB + 40_000_000
    history.close()


def test_events_come_back_in_order_and_whole(place: Place) -> None:
    events = tuple(
        Event(
            time_ms=NOON_MS + second * 1000,
            kind="xid",
            severity=Severity.CRITICAL,
            text='=HYPERLINK("x") \'; DROP TABLE event',
            gpu_uuid=make_device(1).uuid if second % 2 else None,
            advice="Reset it.",
            code=second,
        )
        for second in range(5)
    )
    history = place.history()
    for event in events:
        history.append(make_sample(time_ms=event.time_ms, events=(event,)))
    assert history.events(NOON_MS, NOON_MS + 5000) == events
    wait_until_written(history)
    history.close()
    history = place.history()
    assert history.events(NOON_MS + 1000, NOON_MS + 4000) == events[1:4]
    history.close()
