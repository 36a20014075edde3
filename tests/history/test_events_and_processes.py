"""Events and spans of processes are stored with their owners and read after a restart."""

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
    from tests.history.conftest import Storage

GIB = 2**30
PROCESS = GpuProcess(
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


def test_processes_of_a_time_range(storage: Storage) -> None:
    history = storage.history()
    run(history, range(10))
    run(history, range(10, 100), PROCESS)
    run(history, range(100, 200), replace(PROCESS, gpu_memory_bytes=20 * GIB, sm_percent=90.0))
    run(history, range(200, 210))
    wait_until_written(history)
    history.close()
    history = storage.history()
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
def test_span_continues_after_processes_are_unavailable_for_a_moment(
    seconds: int, spans: int, storage: Storage
) -> None:
    history = storage.history()
    run(history, range(60), PROCESS)
    for second in range(60, 60 + seconds):
        gpu = make_gpu(3)
        unavailable_gpu = replace(gpu, unavailable={**gpu.unavailable, PROCESSES: UnavailableReason.DRIVER_SILENT})
        history.append(make_sample(second, time_ms=NOON_MS + second * 1000, gpus=(unavailable_gpu,)))
    run(history, range(60 + seconds, 120), PROCESS)
    run(history, range(120, 122))
    assert len(history.processes(make_device(3).uuid, NOON_MS, NOON_MS + 122_000)) == spans
    history.close()


def test_running_span_is_at_most_15_s_behind_and_includes_small_changes(storage: Storage) -> None:
    history = storage.history()
    for second in range(60):
        grown = replace(PROCESS, gpu_memory_bytes=4 * GIB + second * 1_000_000)
        run(history, range(second, second + 1), grown)
    (span,) = history.processes(make_device(3).uuid, NOON_MS, NOON_MS + 60_000)
    assert 45_000 <= span.end_ms - NOON_MS <= 59_000
    assert span.peak_gpu_memory_bytes is not None
    assert span.peak_gpu_memory_bytes > 4 * GIB + 40_000_000
    history.close()


def test_events_are_read_complete_and_in_order(storage: Storage) -> None:
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
    history = storage.history()
    for event in events:
        history.append(make_sample(time_ms=event.time_ms, events=(event,)))
    assert history.events(NOON_MS, NOON_MS + 5000) == events
    wait_until_written(history)
    history.close()
    history = storage.history()
    assert history.events(NOON_MS + 1000, NOON_MS + 4000) == events[1:4]
    history.close()
