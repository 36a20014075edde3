"""The latest sample and the collection interval, shared by the collector thread and the request threads."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from dashtop.model.errors import CollectionEndedError

if TYPE_CHECKING:
    from dashtop.model.ports import Clock
    from dashtop.model.sample import Sample

MIN_ALIVE_TIMEOUT_S = 10.0
"""Collection counts as alive for this long after a sample, or for three intervals if that is longer."""
REQUEST_TIMEOUT_S = 10.0
"""A requested interval applies for this long after the last request for it."""
REQUEST_RENEWAL_S = 2.0
"""A request for an interval that applies already is recorded this often at most, however many viewers make it."""


class LatestSample:
    """Implements the Latest port. Thread-safe."""

    def __init__(self, *, clock: Clock, interval_s: float) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._sample: Sample | None = None
        self._requests: dict[float, float] = {}  # time of the last request, by requested interval
        self._closed = False
        self._changed = threading.Condition()
        self._wake = threading.Event()

    @property
    def interval_s(self) -> float:
        """Seconds between two collections while no viewer requests a shorter interval."""
        return self._interval_s

    def request_interval(self, interval_s: float) -> float:
        """Collect at least this often for the next ten seconds; see the Latest port."""
        requests, now = self._current_requests(), self._clock.monotonic()
        if now - requests.get(interval_s, now - REQUEST_RENEWAL_S) >= REQUEST_RENEWAL_S:
            # A new dict instead of a change in place: the collector reads it without a lock.
            self._requests = {**requests, interval_s: now}
            self._wake.set()
        return self.effective_interval_s()

    def effective_interval_s(self) -> float:
        """Return the shortest interval that is configured or requested at present."""
        return min((self._interval_s, *self._current_requests()))

    def _current_requests(self) -> dict[float, float]:
        now = self._clock.monotonic()
        return {
            interval: requested for interval, requested in self._requests.items() if now - requested < REQUEST_TIMEOUT_S
        }

    def latest(self) -> Sample | None:
        """Return the newest sample; None before the first."""
        return self._sample

    def alive(self) -> bool:
        """Return whether samples arrive: the newest one is recent."""
        sample = self._sample
        if sample is None or self._closed:
            return False
        return self._clock.monotonic() - sample.monotonic_s < max(MIN_ALIVE_TIMEOUT_S, 3 * self._interval_s)

    def wait(self, after_sequence: int, timeout_s: float) -> Sample | None:
        """Return the next sample, None after the timeout; see the Latest port."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._is_new(after_sequence), timeout_s)
            if self._closed:
                raise CollectionEndedError("dashtop is shutting down.")
            return self._sample if self._is_new(after_sequence) else None

    def _is_new(self, after_sequence: int) -> bool:
        return self._sample is not None and self._sample.sequence != after_sequence

    def publish(self, sample: Sample) -> None:
        """Make this the newest sample and wake the threads that wait for one."""
        with self._changed:
            self._sample = sample
            self._changed.notify_all()

    def wait_for_request(self, timeout_s: float) -> bool:
        """Block the collector for `timeout_s`; return True early if an interval is requested or `close` is called."""
        is_woken = self._wake.wait(timeout_s)
        self._wake.clear()
        return is_woken

    def close(self) -> None:
        """Wake all waiting threads: no sample will follow."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._wake.set()
