"""When BackgroundPoller runs its queries: together with a tick if there is one, else by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.nvml import background_poller
from dashtop.sources.nvml.background_poller import BackgroundPoller
from dashtop.sources.nvml.call_marker import CallMarker, open_memory
from tests.processes import eventually, refuse_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class CountingQuery:
    """A query that counts its calls and returns their number."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> int:
        self.calls += 1
        return self.calls


class Owner:
    """The device whose queries run."""

    gpu_index = 0


OWNER = Owner()


@pytest.fixture
def poller() -> Iterator[BackgroundPoller]:
    poller = BackgroundPoller(CallMarker(open_memory(None), "background"))
    yield poller
    poller.close()


def wait_for_result(poller: BackgroundPoller, query: Callable[[], int], interval_s: float) -> int:
    """Schedule a query and wait for its first result."""

    def get() -> int | None:
        try:
            return poller.get(OWNER, query, interval_s)
        except Unavailable:
            return None

    result: int = eventually(get)
    return result


class ReadingMarker(CallMarker):
    """Reads the result of QUERY at the end of the call, as the other thread can do at any time."""

    poller: BackgroundPoller
    reason: UnavailableReason | None = None

    def end(self) -> None:
        super().end()
        try:
            self.poller.get(OWNER, QUERY, 60.0)
        except Unavailable as missing:
            self.reason = missing.reason


QUERY = CountingQuery()


def test_first_result_is_never_stale() -> None:
    marker = ReadingMarker(open_memory(None), "background")
    marker.poller = BackgroundPoller(marker)
    try:
        assert wait_for_result(marker.poller, QUERY, 60.0) == 1
    finally:
        marker.poller.close()
    assert marker.reason is UnavailableReason.FIRST_READING


def test_due_query_runs_after_a_tick(poller: BackgroundPoller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_poller, "SCHEDULE_TOLERANCE_S", 30.0)  # the poller waits a minute for a tick
    query = CountingQuery()
    assert wait_for_result(poller, query, 1.0) == 1

    def has_run_again() -> bool:
        poller.run_due()
        return query.calls == 2

    eventually(has_run_again)


def test_query_does_not_run_before_it_is_due(poller: BackgroundPoller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_poller, "SCHEDULE_TOLERANCE_S", 0.1)
    query = CountingQuery()
    assert wait_for_result(poller, query, 60.0) == 1
    poller.run_due()
    assert wait_for_result(poller, CountingQuery(), 60.0) == 1, "by now the thread has checked what is due"
    assert query.calls == 1


def test_query_runs_without_a_tick_if_ticks_are_rare(poller: BackgroundPoller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_poller, "SCHEDULE_TOLERANCE_S", 0.01)
    query = CountingQuery()
    wait_for_result(poller, query, 0.05)
    eventually(lambda: query.calls > 3)


def test_queries_run_once_a_thread_can_be_started(poller: BackgroundPoller, monkeypatch: pytest.MonkeyPatch) -> None:
    query = CountingQuery()
    with monkeypatch.context() as limited:
        refuse_threads(limited)
        for _ in range(2):
            with pytest.raises(Unavailable) as missing:
                poller.get(OWNER, query, 60.0)
            assert missing.value.reason is UnavailableReason.FIRST_READING
    assert wait_for_result(poller, query, 60.0) == 1
