"""The thread that writes: a slow, full or broken disk keeps nobody waiting, and what is not written yet is kept."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING

from dashtop.history.database import DatabaseLockedError

if TYPE_CHECKING:
    from dashtop.history.database import Database
    from dashtop.history.encoder import Record
    from dashtop.model.ports import Clock

log = logging.getLogger(__name__)

MOST_WAITING = 3600
"""Records that wait for the disk at most; then the oldest go."""
MOST_AT_ONCE = 500
GROUP_MS = 5000
"""Samples of so much time are written together: a transaction costs more than what is in it, and wears the disk. One
with an event is written at once, with all that wait."""
MOST_WHILE_FOLLOWING = 30
"""Records that wait while another dashtop writes, to go on without a gap where it leaves off."""


class Writer:
    """Writes records to the database in the order given. Where another dashtop does, it waits for that to end."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self.database = database
        self._clock = clock
        self._waiting: deque[Record] = deque(maxlen=MOST_WAITING)
        self._batch: list[Record] = []
        self._changed = threading.Condition()
        self._due = False
        self._stopping = False
        self._opened = False
        self._doubted = False
        self._following = False
        self._gave_up = False
        self._trouble: str | None = None
        self._thread = threading.Thread(target=self._run, name="dashtop-history", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def put(self, record: Record) -> None:
        """Take a record to be written soon; returns at once."""
        with self._changed:
            self._waiting.append(record)
            while self._following and len(self._waiting) > MOST_WHILE_FOLLOWING:
                self._waiting.popleft()
            span_ms = abs(record.time_ms - self._waiting[0].time_ms)
            if record.events or span_ms >= GROUP_MS or not self._opened:
                self._wake()

    def pending(self) -> tuple[Record, ...]:
        """Return what was taken and is not in the database; nothing where another dashtop writes it."""
        with self._changed:
            return () if self._following else (*self._batch, *self._waiting)

    def flush(self, timeout_s: float) -> bool:
        """Have everything taken written, and wait for it. False where that takes too long."""
        with self._changed:
            if self._waiting:
                self._wake()
            return self._changed.wait_for(lambda: not self._waiting and not self._batch, timeout_s)

    def doubt(self) -> None:
        """Have the file examined: a reader found it damaged."""
        with self._changed:
            self._doubted = True
            self._changed.notify_all()

    def trouble(self) -> str | None:
        """Say why nothing is written, or None."""
        return self._trouble

    def close(self, timeout_s: float = 1.0) -> None:
        """Write what waits and end; what cannot be written in time is lost."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        else:
            self.database.close()  # others read from it all the same

    def _wake(self) -> None:
        self._due = True
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._due or self._stopping or self._doubted)
                if self._stopping and not self._waiting and not self._batch:
                    break
            if not self._step():
                with self._changed:
                    if self._changed.wait_for(lambda: self._stopping, self.database.retry_s):
                        break
        self.database.close()

    def _step(self) -> bool:
        """Write once. False: it failed, so wait before the next try."""
        try:
            if self._doubted:
                self._opened, self._doubted = False, False
            if not self._opened and not self._open():
                return False
            with self._changed:
                while self._waiting and len(self._batch) < MOST_AT_ONCE:
                    self._batch.append(self._waiting.popleft())
            if self._batch:
                self.database.write(self._batch)
        except Exception as error:  # noqa: BLE001 - a writer that ends would end the history with it
            self._opened = False
            return self._failed(error)
        with self._changed:
            self._batch = []
            self._due = bool(self._waiting)
            self._say(None)
            self._changed.notify_all()
        return True

    def _open(self) -> bool:
        try:
            self.database.open()
        except DatabaseLockedError:
            self._following = True
            self._say(
                f"Another dashtop writes the history in {self.database.place}; this one shows it, and takes over when"
                " that ends."
            )
            return False
        self._opened, self._following = True, False
        return True

    def _failed(self, error: Exception) -> bool:
        before = self.database
        self.database, trouble = before.recover(error, self._clock.now_ms())
        if trouble is not None:
            self._say(trouble)
        if self.database is before:
            return False
        self._gave_up = True
        return True

    def _say(self, trouble: str | None) -> None:
        if self._gave_up and trouble is None:
            return  # that it is in memory only stays true
        if trouble is not None and trouble != self._trouble:
            log.warning("%s", trouble)
        elif trouble is None and self._trouble is not None:
            log.warning("The history is written again.")
        self._trouble = trouble
