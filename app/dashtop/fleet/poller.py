"""Asks a fleet's source in one thread, only while somebody looks, and gives all viewers the same answer."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from dashtop.model.fleet import FleetError, FleetFailure, FleetReading
from dashtop.model.threads import try_start_thread

if TYPE_CHECKING:
    from dashtop.model.fleet import FleetQuery, FleetSeries
    from dashtop.model.ports import Clock, FleetSource

LOOK_S: Final = 60.0
"""How long a viewer counts as looking after it has asked."""
TIMEOUT_S: Final = 10.0
BACKOFF_S: Final = (15.0, 30.0, 60.0)
MAX_INTERVAL_S: Final = 600.0
MAX_KEPT_SERIES: Final = 32
MIN_SERIES_AGE_S: Final = 15.0
FAILED_SERIES_AGE_S: Final = 15.0
CLOSE_TIMEOUT_S: Final = 1.0
MAX_BACKGROUND_READS: Final = 3

STARTING: Final = FleetReading(error=FleetError(FleetFailure.STARTING, "Waiting for the first answer."))

log = logging.getLogger(__name__)


class FleetPoller:
    """A Fleet. Thread-safe. The thread starts at the first look."""

    def __init__(self, source: FleetSource, clock: Clock) -> None:
        self._source, self._clock = source, clock
        self.engine = source.engine
        self._changed = threading.Condition()
        self._reading = STARTING
        self._looked_s: float | None = None
        self._read_s: float | None = None
        self._thread: threading.Thread | None = None
        self._is_closing = False
        self._failures = 0
        self._interval_s = self.engine.interval_s
        self._series_lock = threading.Lock()
        self._series: dict[FleetQuery, tuple[float, FleetSeries]] = {}
        self._series_locks: dict[FleetQuery, threading.Lock] = {}
        self._reading_series: set[FleetQuery] = set()

    def latest(self, wait_s: float = 0.0) -> FleetReading:
        """Return the last reading, and keep reading for the next minute. Wait for one that is not older than that."""
        with self._changed:
            self._looked_s = self._clock.monotonic()
            if self._thread is None and not self._is_closing:
                self._thread = try_start_thread(self._run, name="dashtop-fleet")
            self._changed.notify_all()
            if wait_s > 0:
                self._changed.wait_for(lambda: self._is_recent() or self._is_closing, wait_s)
            return self._reading

    def history(self, query: FleetQuery) -> FleetSeries:
        """Return series of the past. Viewers who ask the same at the same time wait for one answer."""
        with self._series_lock:
            lock = self._series_locks.setdefault(query, threading.Lock())
        with lock:
            with self._series_lock:
                kept = self._series.get(query)
            now_s = self._clock.monotonic()
            if kept is not None and now_s < kept[0]:
                return kept[1]
            series = self._source.history(query)
            age_s = max(MIN_SERIES_AGE_S, series.step_s / 2) if series.error is None else FAILED_SERIES_AGE_S
            with self._series_lock:
                self._series.pop(query, None)
                self._series[query] = now_s + min(age_s, MAX_INTERVAL_S), series
                while len(self._series) > MAX_KEPT_SERIES:
                    oldest = next(iter(self._series))
                    del self._series[oldest]
                    self._series_locks.pop(oldest, None)
            return series

    def peek_history(self, query: FleetQuery) -> FleetSeries | None:
        """Return series of the past as they were read last, None before; have them read in the background if due."""
        with self._series_lock:
            kept = self._series.get(query)
            is_due = kept is None or self._clock.monotonic() >= kept[0]
            if is_due and query not in self._reading_series and len(self._reading_series) < MAX_BACKGROUND_READS:
                thread = try_start_thread(self._read_series, query, name="dashtop-fleet-history")
                if thread is not None:
                    self._reading_series.add(query)
        return None if kept is None else kept[1]

    def _read_series(self, query: FleetQuery) -> None:
        try:
            self.history(query)
        finally:
            with self._series_lock:
                self._reading_series.discard(query)

    def close(self) -> None:
        """Stop the thread and close the source."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(CLOSE_TIMEOUT_S)
        self._source.close()

    def _run(self) -> None:
        while self._wait_for_viewers():
            started_s = self._clock.monotonic()
            try:
                reading = self._source.current(TIMEOUT_S)
            except Exception:
                log.exception("The fleet could not be read; trying again.")
                error = FleetError(FleetFailure.BAD_ANSWER, "Internal error of dashtop, see its log.")
                reading = FleetReading(error=error)
            pause_s = self._find_pause(reading.error)
            with self._changed:
                self._reading, self._read_s = self._keep_last(reading), self._clock.monotonic()
                self._changed.notify_all()
                elapsed_s = self._clock.monotonic() - started_s
                self._changed.wait_for(lambda: self._is_closing, max(0.0, pause_s - elapsed_s))

    def _wait_for_viewers(self) -> bool:
        """Wait until somebody looks. Return False when it is time to end."""
        with self._changed:
            self._changed.wait_for(self._has_work)
            return not self._is_closing

    def _is_recent(self) -> bool:
        return self._read_s is not None and self._clock.monotonic() - self._read_s < LOOK_S

    def _has_work(self) -> bool:
        is_watched = self._looked_s is not None and self._clock.monotonic() - self._looked_s < LOOK_S
        return self._is_closing or is_watched

    def _keep_last(self, reading: FleetReading) -> FleetReading:
        """Return the reading; with an error, the last good one with the error."""
        if reading.error is None or self._reading.as_of_ms is None:
            return reading
        return replace(self._reading, error=reading.error)

    def _find_pause(self, error: FleetError | None) -> float:
        """Return the seconds until the next reading."""
        if error is None:
            if self._failures:
                log.info("The fleet answers again.")
            self._failures, self._interval_s = 0, self.engine.interval_s
            return self._interval_s
        if self._failures == 0:
            log.warning("The fleet cannot be read: %s", error.sentence)
        self._failures += 1
        if error.retry_after_s is not None:
            return min(max(error.retry_after_s, self._interval_s), MAX_INTERVAL_S)
        if error.failure.is_busy:
            self._interval_s = min(self._interval_s * 2, MAX_INTERVAL_S)
            return self._interval_s
        return max(self.engine.interval_s, BACKOFF_S[min(self._failures, len(BACKOFF_S)) - 1])
