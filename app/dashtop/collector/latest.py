"""What pages and API see of collection: the newest sample, whoever took it, and how often somebody looks."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from dashtop.model.errors import CollectionEndedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dashtop.model.ports import Clock
    from dashtop.model.sample import Sample

DEAD_AFTER_S = 10.0
FOLLOWED_S = 10.0
"""How long collection keeps up with a viewer who has not asked again."""
RENEWED_S = 2.0
"""How often the same wish is noted anew, however many viewers have it."""


class LatestSample:
    """Implements Latest. Thread-safe."""

    def __init__(self, *, clock: Clock, interval_s: float) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._latest: Sample | None = None
        self._followed: dict[float, float] = {}  # when somebody last looked, by how often they look
        self._ended = False
        self._changed = threading.Condition()
        self.wished: Callable[[float], object] = lambda _interval_s: None
        """Told how often somebody wants to look; set by whoever can do something about it."""

    @property
    def interval_s(self) -> float:
        """Seconds between two collections while nobody looks more often."""
        return self._interval_s

    def follow(self, interval_s: float) -> float:
        """Collect as often as this viewer looks, for the next ten seconds; see the Latest port."""
        recent, now = self._recent(), self._clock.monotonic()
        if now - recent.get(interval_s, now - RENEWED_S) >= RENEWED_S:
            # A new dict each time: the loop reads while requests write.
            self._followed = {**recent, interval_s: now}
            self.wished(interval_s)
        return self.period_s()

    def period_s(self) -> float:
        """Return the seconds between two collections that those who look at present wish for."""
        return min((self._interval_s, *self._recent()))

    def _recent(self) -> dict[float, float]:
        now = self._clock.monotonic()
        return {interval: seen for interval, seen in self._followed.items() if now - seen < FOLLOWED_S}

    def latest(self) -> Sample | None:
        """Return the newest sample; None before the first."""
        return self._latest

    def alive(self) -> bool:
        """Tell whether samples are coming: the newest is not old."""
        sample = self._latest
        if sample is None or self._ended:
            return False
        return self._clock.monotonic() - sample.monotonic_s < max(DEAD_AFTER_S, 3 * self._interval_s)

    def wait(self, after_sequence: int, timeout_s: float) -> Sample | None:
        """Return the next sample, None when the time is over; see the Latest port."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._is_new(after_sequence), timeout_s)
            if self._ended:
                raise CollectionEndedError("dashtop is ending.")
            return self._latest if self._is_new(after_sequence) else None

    def _is_new(self, after_sequence: int) -> bool:
        return self._latest is not None and self._latest.sequence != after_sequence

    def show(self, sample: Sample, *, interval_s: float) -> None:
        """Make this the newest sample, of a collection with that interval."""
        with self._changed:
            self._latest, self._interval_s = sample, interval_s
            self._changed.notify_all()

    def end(self) -> None:
        """Tell everybody who waits that no sample will follow."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
