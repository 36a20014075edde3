"""The schedule, the board that shows what was collected, and a collector that outlives the failures of its parts."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from dashtop.collector.collection import Collection
from dashtop.collector.latest import LatestSample
from dashtop.collector.loop import Collector, next_tick
from dashtop.collector.sampler import Sampler
from dashtop.model.clock import SystemClock
from tests.builders import make_history, make_sample
from tests.clock import FakeClock

if TYPE_CHECKING:
    from dashtop.model.ports import Clock
    from dashtop.model.sample import Sample


@pytest.mark.parametrize(
    ("now", "expected"),
    [(10.2, (11.0, 0)), (10.999, (11.0, 0)), (11.0, (12.0, 1)), (11.5, (12.0, 1)), (15.3, (16.0, 5))],
)
def test_late_ticks_are_skipped_counted_and_stay_on_the_grid(now: float, expected: tuple[float, int]) -> None:
    assert next_tick(10.0, now, 1.0) == expected


class FlakySampler(Sampler):
    """Fails every second time."""

    def __init__(self) -> None:
        self.taken = 0
        self.closed = False
        self.enough = threading.Event()

    def sample(self, gpu_timeout_s: float) -> Sample:
        self.taken += 1
        if self.taken >= 5:
            self.enough.set()
        if self.taken % 2 == 0:
            raise RuntimeError("no reading today")
        return make_sample(self.taken, time_ms=self.taken * 1000)

    def close(self) -> None:
        self.closed = True


def alone(sampler: Sampler, *, interval_s: float, clock: Clock | None = None) -> tuple[LatestSample, Collection]:
    """One that collects and shares with nobody."""
    clock, history = clock or SystemClock(), make_history(leads=False)
    board = LatestSample(clock=clock, interval_s=interval_s)
    collector = Collector(sampler=sampler, history=history, board=board, clock=clock, interval_s=interval_s)
    return board, Collection(board=board, collector=collector, history=history)


def test_collection_survives_a_failing_reader_and_ends_when_told() -> None:
    sampler = FlakySampler()
    board, collection = alone(sampler, interval_s=0.01)
    assert not board.alive()
    assert board.latest() is None
    collection.start()
    assert sampler.enough.wait(10)
    collection.stop()
    latest = board.latest()
    assert latest is not None
    assert latest.sequence >= 3
    assert sampler.closed
    assert not board.alive()


class CountingSampler(Sampler):
    """Lets a test wait for the n-th sample."""

    def __init__(self) -> None:
        self.taken = threading.Semaphore(0)

    def sample(self, gpu_timeout_s: float) -> Sample:
        self.taken.release()
        return make_sample(1)

    def close(self) -> None:
        pass


def test_collection_keeps_up_with_the_fastest_viewer_and_falls_back_ten_seconds_later() -> None:
    clock = FakeClock()
    board = LatestSample(clock=clock, interval_s=5.0)
    assert board.follow(2.0) == 2.0
    assert board.follow(0.5) == 0.5
    assert board.follow(60.0) == 0.5
    clock.advance(9.9)
    assert board.follow(2.0) == 0.5
    clock.advance(0.2)
    assert board.follow(60.0) == 2.0
    clock.advance(10)
    assert board.follow(60.0) == 5.0


def test_a_wish_is_passed_on_once_in_two_seconds_however_many_have_it() -> None:
    clock, passed = FakeClock(), list[float]()
    board = LatestSample(clock=clock, interval_s=5.0)
    board.wished = passed.append
    for _ in range(4):
        board.follow(1.0)
        board.follow(2.0)
        clock.advance(0.6)
    assert passed == [1.0, 2.0]
    board.follow(1.0)
    assert passed == [1.0, 2.0, 1.0]


def test_what_is_shown_is_dead_when_it_is_old() -> None:
    clock = FakeClock()
    board = LatestSample(clock=clock, interval_s=1.0)
    board.show(replace(make_sample(), monotonic_s=clock.monotonic()), interval_s=5.0)
    assert board.interval_s == 5.0
    clock.advance(14.9)
    assert board.alive()
    clock.advance(0.2)
    assert not board.alive()


def test_a_fast_viewer_is_not_kept_waiting_for_the_slow_schedule() -> None:
    sampler = CountingSampler()
    board, collection = alone(sampler, interval_s=3600.0)
    collection.start()
    assert sampler.taken.acquire(timeout=10)
    board.follow(0.01)
    assert all(sampler.taken.acquire(timeout=10) for _ in range(3))
    collection.stop()
