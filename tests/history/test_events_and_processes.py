"""Events and spans of processes are stored with their owners and read after a restart."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from dashtop.history import events as events_module
from dashtop.history.events import MAX_RESULTS
from dashtop.model.metric import Severity
from dashtop.model.sample import PROCESSES, Event, EventFilter, GpuProcess, ProcessInfo
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
    other = make_device(0).uuid
    assert history.processes(other, NOON_MS, NOON_MS + 210_000) == ()
    assert history.processes((other, gpu), NOON_MS, NOON_MS + 210_000) == spans
    assert history.processes((), NOON_MS, NOON_MS + 210_000) == ()
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


def make_event(number: int, kind: str, severity: Severity) -> Event:
    return Event(time_ms=NOON_MS + number, kind=kind, severity=severity, text=f"{number}")


def write_storm(history: HistoryStore, count: int, *rare: Event) -> None:
    """Write rare events, then many of processes that start and end."""
    history.append(make_sample(0, events=rare))
    kinds = ("process_start", "process_end")
    for first in range(0, count, 1000):
        storm = tuple(make_event(1000 + n, kinds[n % 2], Severity.INFO) for n in range(first, first + 1000))
        history.append(make_sample(1 + first // 1000, events=storm))
    wait_until_written(history)


def test_frequent_events_do_not_push_out_rare_and_severe_ones(storage: Storage) -> None:
    rare = (
        make_event(0, "xid", Severity.CRITICAL),
        make_event(1, "xid", Severity.WARNING),
        make_event(2, "gpu_back", Severity.INFO),
    )
    history = storage.history()
    write_storm(history, 12_000, *rare)

    found = history.events(NOON_MS, NOON_MS + 60_000)
    assert found[:3] == rare
    assert len(found) == MAX_RESULTS + 3
    assert [event.time_ms for event in found[3:]] == list(range(NOON_MS + 3000, NOON_MS + 13_000))
    assert len(set(found)) == len(found)

    wanted = EventFilter(severities=(Severity.CRITICAL, Severity.WARNING))
    assert history.events(NOON_MS, NOON_MS + 60_000, wanted) == rare[:2]
    assert history.events(NOON_MS + 1, NOON_MS + 60_000, EventFilter(kinds=("xid",))) == rare[1:2]
    history.close()


def test_pending_events_are_selected_too(storage: Storage) -> None:
    history = storage.history(starts=False)
    events = (make_event(0, "xid", Severity.CRITICAL), make_event(1, "gpu_back", Severity.INFO))
    history.append(make_sample(0, events=events))
    assert history.events(NOON_MS, NOON_MS + 10, EventFilter(kinds=("gpu_back",))) == events[1:]
    history.close()


def test_limit_selects_the_newest_events_written_or_pending(storage: Storage) -> None:
    history = storage.history()
    texts = [f"event {number}" for number in range(6)]
    for number, text in enumerate(texts[:4]):
        event = Event(time_ms=NOON_MS + number, kind="xid", severity=Severity.INFO, text=text)
        history.append(make_sample(number, time_ms=NOON_MS + 1000 * number, events=(event,)))
    wait_until_written(history)
    late = tuple(
        Event(time_ms=NOON_MS + 4 + n, kind="ecc", severity=Severity.INFO, text=texts[4 + n]) for n in range(2)
    )
    history.append(make_sample(9, time_ms=NOON_MS + 9000, events=late))

    def read(limit: int, *kinds: str) -> list[str]:
        found = history.events(NOON_MS, NOON_MS + 9000, EventFilter(kinds=kinds, limit=limit))
        return [event.text for event in found]

    for _ in ("pending", "written"):
        assert read(3) == texts[3:]
        assert read(2, "xid") == texts[2:4]
        assert read(100) == texts
        assert read(0) == []
        wait_until_written(history)
    history.close()


def test_oldest_frequent_events_are_deleted_and_rare_ones_kept(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "MAX_EVENTS", 2000)
    monkeypatch.setattr(events_module, "MIN_EVENTS_OF_A_KIND", 50)
    rare = make_event(0, "xid", Severity.CRITICAL)
    history = storage.history()
    write_storm(history, 4000, rare)
    # The next window compacts this one, and prunes.
    history.append(make_sample(time_ms=NOON_MS + 3_600_000, events=(make_event(60_000, "restart", Severity.INFO),)))
    wait_until_written(history)

    found = history.events(NOON_MS, NOON_MS + 4_000_000)
    assert found[0] == rare
    assert len(found) == 2001
    assert found[1].time_ms == NOON_MS + 1000 + 4000 - 1999
    history.close()
