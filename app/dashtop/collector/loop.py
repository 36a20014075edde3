"""The sampling loop: on a monotonic schedule, which skips late ticks and never queues them."""

from __future__ import annotations

import logging
import math
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from dashtop.collector.events import between, taken_over

if TYPE_CHECKING:
    from collections.abc import Callable

    from dashtop.collector.latest import LatestSample
    from dashtop.collector.sampler import Sampler
    from dashtop.model.ports import Clock, History
    from dashtop.model.sample import Sample

log = logging.getLogger(__name__)

GPU_TIMEOUT_S = 0.25
TAKING_OVER_S = 2.0
"""How long the GPUs may take for the first sample after another process: its last one is shown meanwhile."""
LEAP = 1000
"""Sequence numbers left out on taking over: the other process may have used some that were not heard here."""


def next_tick(due: float, now: float, interval: float) -> tuple[float, int]:
    """Return when the tick after the one due at `due` comes, and how many ticks before it are skipped.

    Ticks stay on the grid that the first one began, in monotonic seconds.
    """
    following = due + interval
    if now < following:
        return following, 0
    skipped = math.floor((now - following) / interval) + 1
    return following + skipped * interval, skipped


class Collector:
    """Takes samples, shows them on the board and keeps them."""

    def __init__(
        self, *, sampler: Sampler, history: History, board: LatestSample, clock: Clock, interval_s: float
    ) -> None:
        self._sampler = sampler
        self._history = history
        self._board = board
        self._clock = clock
        self._interval_s = interval_s
        self._last: Sample | None = None
        self._skipped = 0
        self._stopping = False
        self._woken = threading.Event()

    def collect(self) -> Sample:
        """Take one sample, show it and keep it."""
        heard = self._board.latest() if self._last is None else None
        before = self._last or heard
        timeout_s = TAKING_OVER_S if heard else min(GPU_TIMEOUT_S, self._board.period_s() / 2)
        sample = self._sampler.sample(timeout_s)
        events = (*sample.events, *((taken_over(sample),) if heard else ()), *between(before, sample))
        sequence = before.sequence + (LEAP if heard else 1) if before is not None else 1
        sample = replace(sample, sequence=sequence, skipped_ticks=self._skipped, events=events)
        self._last = sample
        self._board.show(sample, interval_s=self._interval_s)
        self._history.append(sample)
        return sample

    def run(self, taken: Callable[[], object]) -> None:
        """Collect until `stop` is called; tell `taken` of each sample."""
        self._board.wished = lambda _interval_s: self._woken.set()
        before = due = self._clock.monotonic()
        while not self._stopping:
            if self._woken.wait(max(0.0, due - self._clock.monotonic())):
                self._woken.clear()
                due = min(due, max(before + self._board.period_s(), self._clock.monotonic()))
                continue
            try:
                self.collect()
                taken()
            except Exception:
                log.exception("A collection failed; the next one comes in %g s", self._board.period_s())
            before = due
            due, skipped = next_tick(due, self._clock.monotonic(), self._board.period_s())
            self._skipped += skipped

    def stop(self) -> None:
        """Have `run` return."""
        self._stopping = True
        self._woken.set()

    def close(self) -> None:
        """Close the readers, once `run` has returned or will not be called."""
        self._sampler.close()
