"""The thread that writes the history: a slow, full or broken disk delays nobody, and unwritten samples are kept."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING

from dashtop.history.lock import DatabaseLockedError
from dashtop.history.usage import drop_before
from dashtop.model.metric import Severity
from dashtop.model.sample import Event

if TYPE_CHECKING:
    from dashtop.history.database import Database
    from dashtop.history.encoder import Record
    from dashtop.history.past import Past
    from dashtop.model.ports import Clock

log = logging.getLogger(__name__)

MAX_PENDING = 3600
"""Records that wait to be written; beyond it the oldest are dropped."""
MAX_BATCH = 500
MAX_RETRY_INTERVAL_S = 10.0
"""The time between attempts doubles with each failure up to this."""
NOTICE_S = 600.0
"""How long the page shows that the history was damaged or replaced; the event stays."""
STALL_TIMEOUT_S = 5.0
"""A write that takes longer is reported while it lasts."""
WRITE_INTERVAL_MS = 5000
"""Samples of this much time are written in one transaction: it costs more than its content, and wears the disk. A
sample with an event is written at once, with all that are pending."""


class Writer:
    """Writes records to the database in the order given. While another process holds the writer lock, it retries."""

    def __init__(self, database: Database, *, clock: Clock, write_interval_ms: int = WRITE_INTERVAL_MS) -> None:
        self.database = database
        self._clock = clock
        self._write_interval_ms = write_interval_ms
        self._pending: deque[Record] = deque(maxlen=MAX_PENDING)
        self._batch: list[Record] = []
        self._changed = threading.Condition()
        self._started_s = 0.0
        self._is_due = False
        self._is_stopping = False
        self._is_open = False
        self._is_check_requested = False
        self._is_locked_out = False
        self._is_in_memory = False
        self._failures = 0
        self._written_s = -math.inf
        self._answered_s = -math.inf
        self._step_started_s: float | None = None
        self._events: list[Event] = []
        self._notice = ""
        self._notice_until_s = -math.inf
        self._status: str | None = None
        self._past: Past | None = None
        self._is_past_written = threading.Event()
        self._is_past_written.set()
        self._thread = threading.Thread(target=self._run, name="dashtop-history", daemon=True)

    def start(self, past: Past | None = None) -> None:
        """Start the thread. It writes `past` to the empty database first; `wait_for_past` waits for that."""
        self._past = past
        self._started_s = self._clock.monotonic()
        if past is not None:
            self._is_past_written.clear()
        self._thread.start()

    def wait_for_past(self) -> None:
        """Wait until the past is written, or could not be."""
        self._is_past_written.wait()

    def _write_past(self) -> None:
        past, self._past = self._past, None
        try:
            if past is not None and self._open():
                blocks = takewhile(lambda _: not self._is_stopping, past.blocks)
                self.database.write_past(past._replace(blocks=blocks))
        except Exception:
            log.exception("The past of the history was not written")
        finally:
            self._is_past_written.set()

    @property
    def is_locked_out(self) -> bool:
        """Whether another process writes the history."""
        return self._is_locked_out

    def put(self, record: Record) -> None:
        """Queue a record to be written soon; returns at once."""
        with self._changed:
            self._pending.append(record)
            span_ms = abs(record.time_ms - self._pending[0].time_ms)
            if record.events or span_ms >= self._write_interval_ms or not self._is_open:
                self._is_due = True
                self._changed.notify_all()

    def pending(self) -> tuple[Record, ...]:
        """Return the records that are not in the database yet; none while another process writes it."""
        with self._changed:
            return () if self._is_locked_out else (*self._batch, *self._pending)

    def request_check(self) -> None:
        """Check the database for damage: a reader found some."""
        with self._changed:
            self._is_check_requested = True
            self._changed.notify_all()

    def status_message(self) -> str | None:
        """Return a sentence that says why this process does not write the history, or None."""
        now_s, step_started_s = self._clock.monotonic(), self._step_started_s
        if step_started_s is not None and now_s - step_started_s > STALL_TIMEOUT_S:
            return (
                f"The history has not been written for {now_s - max(self._written_s, self._started_s):.0f} s:"
                f" {self.database.location} does not answer. It is kept in memory meanwhile."
            )
        return self._status or (self._notice if now_s < self._notice_until_s else None)

    def take_events(self) -> list[Event]:
        """Return and forget the events about the database since the last call, to be stored with a sample."""
        with self._changed:
            events, self._events = self._events, []
            return events

    def _add_events(self) -> None:
        """Turn the notices of the database into events, and show them for a time."""
        for notice in self.database.take_notices():
            event = Event(
                time_ms=self._clock.now_ms(),
                kind=notice.kind,
                severity=Severity.WARNING,
                text=notice.text,
                advice=notice.advice,
            )
            with self._changed:
                self._events.append(event)
            self._notice = f"{notice.text} {notice.advice}"
            self._notice_until_s = self._clock.monotonic() + NOTICE_S

    @property
    def answered_s(self) -> float:
        """Time at which the database last took a write or reported another writer, on the monotonic clock; or -inf."""
        return self._answered_s

    def close(self, timeout_s: float = 1.0) -> None:
        """Write what is pending and end the thread; what cannot be written in time is lost."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        else:
            self.database.close()  # it may have been read without the thread

    def _run(self) -> None:
        self._write_past()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_due or self._is_stopping or self._is_check_requested)
                if self._is_stopping and not self._pending and not self._batch:
                    break
            if not self._step():
                with self._changed:
                    if self._changed.wait_for(lambda: self._is_stopping, self._retry_interval_s()):
                        break
        self.database.close()

    def _retry_interval_s(self) -> float:
        """Return the seconds until the next attempt. The lock of another process is free at any time: no backoff."""
        interval_s = self.database.retry_interval_s
        return max(interval_s, min(MAX_RETRY_INTERVAL_S, interval_s * 2.0 ** min(self._failures - 1, 10)))

    def _step(self) -> bool:
        """Write one batch. Returns False on failure: wait before the next attempt."""
        self._step_started_s = self._clock.monotonic()
        try:
            return self._write_batch()
        finally:
            self._step_started_s = None
            self._add_events()

    def _write_batch(self) -> bool:
        try:
            if self._is_check_requested:
                self._is_open, self._is_check_requested = False, False
            if not self._is_open and not self._open():
                return False
            with self._changed:
                while self._pending and len(self._batch) < MAX_BATCH:
                    self._batch.append(self._pending.popleft())
            if self._batch:
                self.database.write(self._batch)
                self._written_s = self._answered_s = self._clock.monotonic()
        except Exception as error:  # noqa: BLE001 - the thread must go on after any failure
            self._is_open = False
            self._failures += 1
            return self._recover(error)
        self._failures = 0
        with self._changed:
            self._batch = []
            self._is_due = bool(self._pending)
            self._set_status(None)
            self._changed.notify_all()
        return True

    def _open(self) -> bool:
        try:
            self.database.open()
        except DatabaseLockedError as error:
            self._is_locked_out, self._answered_s = True, self._clock.monotonic()
            holder = f"Process {error.holder}" if error.holder is not None else "Another process"
            self._set_status(
                f"{holder} writes the history in {self.database.location}. This process only reads it and takes over"
                " when that process ends."
            )
            return False
        if self._is_locked_out:
            newest_ms = self.database.newest_ms
            with self._changed:
                unwritten = (
                    replace(record, usage=drop_before(record.usage, newest_ms))
                    for record in (*self._batch, *self._pending)
                    if record.time_ms > newest_ms
                )
                self._pending, self._batch = deque(unwritten, maxlen=MAX_PENDING), []
                self._is_locked_out = False
        self._is_open = True
        return True

    def _recover(self, error: Exception) -> bool:
        failed = self.database
        self.database, message = failed.recover(error, self._clock.now_ms())
        if message is not None:
            self._set_status(message)
        if self.database is failed:
            return False
        failed.close()
        self._is_in_memory = True
        return True

    def _set_status(self, message: str | None) -> None:
        if self._is_in_memory and message is None:
            return  # that the history is kept in memory only stays true
        if message is not None and message != self._status:
            log.warning("%s", message)
        elif message is None and self._status is not None:
            log.warning("This process writes the history again.")
        self._status = message
