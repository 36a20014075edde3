"""The schedule, and a collector that outlives the failures of its parts."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from dashtop.collect.loop import Collector, next_tick
from dashtop.collect.sampler import Sampler
from dashtop.sources.clock import SystemClock
from tests.builders import make_history, make_sample

if TYPE_CHECKING:
    from dashtop.domain.sample import Sample


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


def test_collection_survives_a_failing_reader_and_ends_when_told() -> None:
    sampler = FlakySampler()
    history = make_history()
    collector = Collector(sampler=sampler, history=history, clock=SystemClock(), interval_s=0.01)
    assert not collector.alive()
    assert collector.latest() is None
    collector.start()
    assert sampler.enough.wait(10)
    collector.stop()
    latest = collector.latest()
    assert latest is not None
    assert latest.sequence >= 3
    assert sampler.closed
    assert not collector.alive()
