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
FOLLOWED_S = 10.0
"""How long collection keeps up with a viewer who has not asked again."""


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
        self._followed: dict[float, float] = {}  # when somebody last looked, by how often they look
        self._stop = threading.Event()
        self._woken = threading.Event()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="dashtop-collect", daemon=True)

    @property
    def interval_s(self) -> float:
        """Seconds between two collections while nobody looks more often."""
        return self._interval_s

    def follow(self, interval_s: float) -> float:
        """Collect as often as this viewer looks, for the next ten seconds; see the Latest port."""
        faster = interval_s < self._period_s()
        # A new dict each time: the loop reads while requests write.
        self._followed = {**self._recent(), interval_s: self._clock.monotonic()}
        if faster:
            self._woken.set()
        return self._period_s()

    def _period_s(self) -> float:
        return min((self._interval_s, *self._recent()))

    def _recent(self) -> dict[float, float]:
        now = self._clock.monotonic()
        return {interval: seen for interval, seen in self._followed.items() if now - seen < FOLLOWED_S}

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
        self._woken.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(1.0)
        self._sampler.close()

    def collect(self) -> Sample:
        """Take one sample, publish it and keep it."""
        sample = self._sampler.sample(min(GPU_TIMEOUT_S, self._period_s() / 2))
        events = (*sample.events, *between(self._latest, sample))
        sample = replace(sample, skipped_ticks=self._skipped, events=events)
        with self._changed:
            self._latest = sample
            self._changed.notify_all()
        self._history.append(sample)
        return sample

    def _run(self) -> None:
        before = due = self._clock.monotonic()
        while True:
            if self._woken.wait(max(0.0, due - self._clock.monotonic())):
                self._woken.clear()
                if self._stop.is_set():
                    return
                due = min(due, max(before + self._period_s(), self._clock.monotonic()))
                continue
            try:
                self.collect()
            except Exception:
                log.exception("A collection failed; the next one comes in %g s", self._period_s())
            before = due
            due, skipped = next_tick(due, self._clock.monotonic(), self._period_s())
            self._skipped += skipped
