"""The schedule, the latest sample, and a collector that survives the failures of its parts."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from dashtop.collector.latest import LatestSample
from dashtop.collector.loop import Collector, next_tick
from dashtop.collector.sampler import Sampler
from dashtop.model.errors import CollectionEndedError
from dashtop.model.ports import SystemClock
from tests.builders import make_history, make_sample
from tests.clock import FakeClock

if TYPE_CHECKING:
    from dashtop.model.sample import Sample


@pytest.mark.parametrize(
    ("now", "expected"),
    [(10.2, (11.0, 0)), (10.999, (11.0, 0)), (11.0, (12.0, 1)), (11.5, (12.0, 1)), (15.3, (16.0, 5))],
)
def test_late_ticks_are_skipped_counted_and_aligned(now: float, expected: tuple[float, int]) -> None:
    assert next_tick(10.0, now, 1.0) == expected


class FlakySampler(Sampler):
    """Fails every second time."""

    def __init__(self) -> None:
        self.count = 0
        self.is_closed = False
        self.reached_five = threading.Event()

    def sample(self, gpu_timeout_s: float) -> Sample:
        self.count += 1
        if self.count >= 5:
            self.reached_five.set()
        if self.count % 2 == 0:
            raise RuntimeError("no reading today")
        return make_sample(self.count, time_ms=self.count * 1000)

    def close(self) -> None:
        self.is_closed = True


def build_collector(sampler: Sampler, *, interval_s: float) -> tuple[LatestSample, Collector]:
    clock = SystemClock()
    latest = LatestSample(clock=clock, interval_s=interval_s)
    return latest, Collector(sampler=sampler, history=make_history(starts=False), latest=latest, clock=clock)


def test_collection_survives_a_failing_reader_and_ends_on_close() -> None:
    sampler = FlakySampler()
    latest, collector = build_collector(sampler, interval_s=0.01)
    assert not latest.alive()
    assert latest.latest() is None
    collector.start()
    assert sampler.reached_five.wait(10)
    collector.close()
    sample = latest.latest()
    assert sample is not None
    assert sample.sequence >= 3
    assert sampler.is_closed
    assert not latest.alive()


class CountingSampler(Sampler):
    """Lets a test wait for the n-th sample."""

    def __init__(self) -> None:
        self.samples = threading.Semaphore(0)

    def sample(self, gpu_timeout_s: float) -> Sample:
        self.samples.release()
        return make_sample(1)

    def close(self) -> None:
        pass


def test_shortest_requested_interval_applies_for_ten_seconds() -> None:
    clock = FakeClock()
    latest = LatestSample(clock=clock, interval_s=5.0)
    assert latest.request_interval(2.0) == 2.0
    assert latest.request_interval(0.5) == 0.5
    assert latest.request_interval(60.0) == 0.5
    clock.advance(9.9)
    assert latest.request_interval(2.0) == 0.5
    clock.advance(0.2)
    assert latest.request_interval(60.0) == 2.0
    clock.advance(10)
    assert latest.request_interval(60.0) == 5.0


def test_repeated_request_wakes_the_collector_once_in_two_seconds() -> None:
    clock = FakeClock()
    latest = LatestSample(clock=clock, interval_s=5.0)
    woken = []
    for _ in range(5):
        latest.request_interval(1.0)
        woken.append(latest.wait_for_request(0))
        clock.advance(0.6)
    assert woken == [True, False, False, False, True]


def test_old_sample_means_that_collection_has_stopped() -> None:
    clock = FakeClock()
    latest = LatestSample(clock=clock, interval_s=5.0)
    latest.publish(replace(make_sample(), monotonic_s=clock.monotonic()))
    clock.advance(14.9)
    assert latest.alive()
    clock.advance(0.2)
    assert not latest.alive()


def test_short_requested_interval_applies_at_once() -> None:
    sampler = CountingSampler()
    latest, collector = build_collector(sampler, interval_s=3600.0)
    collector.start()
    assert sampler.samples.acquire(timeout=10)
    latest.request_interval(0.01)
    assert all(sampler.samples.acquire(timeout=10) for _ in range(3))
    collector.close()


class HangingSampler(CountingSampler):
    """Never returns."""

    def sample(self, gpu_timeout_s: float) -> Sample:
        super().sample(gpu_timeout_s)
        threading.Event().wait()
        raise AssertionError


def test_close_returns_within_two_seconds_and_wakes_waiting_requests() -> None:
    sampler = HangingSampler()
    latest, collector = build_collector(sampler, interval_s=1.0)
    collector.start()
    assert sampler.samples.acquire(timeout=10)
    errors = []

    def wait() -> None:
        try:
            latest.wait(0, 30)
        except CollectionEndedError as error:
            errors.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    started = time.monotonic()
    collector.close()
    waiting.join(2)
    assert time.monotonic() - started < 2
    assert len(errors) == 1
