"""The one sampling loop of the server: a thread on a monotonic schedule that skips late ticks and never queues them."""

from __future__ import annotations

import logging
import math
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from dashtop.collect.events import between
from dashtop.domain.errors import CollectionEndedError

if TYPE_CHECKING:
    from dashtop.collect.sampler import Sampler
    from dashtop.domain.ports import Clock, History
    from dashtop.domain.sample import Sample

log = logging.getLogger(__name__)

GPU_TIMEOUT_S = 0.25
DEAD_AFTER_S = 10.0


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
    """Implements Latest. Started and stopped once; readers are closed when it stops."""

    def __init__(self, *, sampler: Sampler, history: History, clock: Clock, interval_s: float) -> None:
        self._sampler = sampler
        self._history = history
        self._clock = clock
        self._interval_s = interval_s
        self._latest: Sample | None = None
        self._skipped = 0
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="dashtop-collect", daemon=True)

    @property
    def interval_s(self) -> float:
        """Seconds between two collections."""
        return self._interval_s

    def latest(self) -> Sample | None:
        """Return the newest sample; None before the first."""
        return self._latest

    def alive(self) -> bool:
        """Tell whether samples are coming: the thread runs and the newest is not old."""
        sample = self._latest
        if sample is None or not self._thread.is_alive():
            return False
        return self._clock.monotonic() - sample.monotonic_s < max(DEAD_AFTER_S, 3 * self._interval_s)

    def wait(self, after_sequence: int, timeout_s: float) -> Sample | None:
        """Return the next sample, None when the time is over; see the Latest port."""
        with self._changed:
            self._changed.wait_for(lambda: self._stop.is_set() or self._is_new(after_sequence), timeout_s)
            if self._stop.is_set():
                raise CollectionEndedError("dashtop is ending.")
            return self._latest if self._is_new(after_sequence) else None

    def _is_new(self, after_sequence: int) -> bool:
        return self._latest is not None and self._latest.sequence != after_sequence

    def start(self) -> None:
        """Begin to collect."""
        self._thread.start()

    def stop(self) -> None:
        """End collection, those who wait for it, and the readers; returns within two seconds. Once is enough."""
        if self._stop.is_set():
            return
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(1.0)
        self._sampler.close()

    def collect(self) -> Sample:
        """Take one sample, publish it and keep it."""
        sample = self._sampler.sample(min(GPU_TIMEOUT_S, self._interval_s / 2))
        events = (*sample.events, *between(self._latest, sample))
        sample = replace(sample, skipped_ticks=self._skipped, events=events)
        with self._changed:
            self._latest = sample
            self._changed.notify_all()
        self._history.append(sample)
        return sample

    def _run(self) -> None:
        due = self._clock.monotonic()
        while not self._stop.wait(max(0.0, due - self._clock.monotonic())):
            try:
                self.collect()
            except Exception:
                log.exception("A collection failed; the next one comes in %g s", self._interval_s)
            due, skipped = next_tick(due, self._clock.monotonic(), self._interval_s)
            self._skipped += skipped
