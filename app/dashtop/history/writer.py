"""The thread that writes: a slow, full or broken disk keeps nobody waiting, and what is not written yet is kept."""

from __future__ import annotations

import errno
import logging
import threading
from collections import deque
from typing import TYPE_CHECKING

from dashtop.history.sqlite import Database, is_damage, set_aside

if TYPE_CHECKING:
    from pathlib import Path

    from dashtop.domain.ports import Clock
    from dashtop.history.record import Record

log = logging.getLogger(__name__)

RETRY_S = 1.0
MOST_WAITING = 3600
"""Records that wait for the disk at most; then the oldest go."""
MOST_AT_ONCE = 500


class Writer:
    """Writes records to the database in the order given. No other process may write to it meanwhile."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        self.database = database
        self._clock = clock
        self._waiting: deque[Record] = deque(maxlen=MOST_WAITING)
        self._batch: list[Record] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._opened = False
        self._doubted = False
        self._trouble: str | None = None
        self._thread = threading.Thread(target=self._run, name="dashtop-history", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def put(self, record: Record) -> None:
        """Take a record to be written; returns at once."""
        with self._changed:
            self._waiting.append(record)
            self._changed.notify_all()

    def pending(self) -> tuple[Record, ...]:
        """Return what was taken and is not in the file."""
        with self._changed:
            return (*self._batch, *self._waiting)

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything taken is written. False where that takes too long."""
        with self._changed:
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

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting or self._batch) or self._stopping or self._doubted)
                if self._stopping and not self._waiting and not self._batch:
                    break
            if not self._step():
                with self._changed:
                    if self._changed.wait_for(lambda: self._stopping, RETRY_S):
                        break
        self.database.close()

    def _step(self) -> bool:
        """Write once. False: it failed, so wait before the next try."""
        try:
            if self._doubted:
                self._opened, self._doubted = False, False
            if not self._opened:
                self.database.open()
                self._opened = True
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
            self._say(None)
            self._changed.notify_all()
        return True

    def _failed(self, error: Exception) -> bool:
        path = self.database.path
        if path is None:
            self._say(f"The history in memory failed ({error}).")
        elif is_damage(error):
            self._set_aside(path, error)
        elif isinstance(error, OSError) and error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}:
            self._say(
                f"The history is kept in memory only, until dashtop ends: {path.parent} cannot be written"
                f" ({error.strerror}). Name a folder of your own with --data-dir."
            )
            self.database = self.database.in_memory()
            return True
        else:
            self._say(
                f"The history cannot be written to {path.parent} ({error}); it goes on in memory."
                " Free some space there and it is written again."
            )
        return False

    def _set_aside(self, path: Path, error: Exception) -> None:
        self.database.close()
        try:
            aside = set_aside(path, self._clock.now_ms())
        except OSError as failure:
            self._say(f"{path} cannot be used ({error}), nor renamed ({failure.strerror}): move it away by hand.")
        else:
            log.warning("%s cannot be used (%s): it is now %s, and a new history begins.", path, error, aside.name)

    def _say(self, trouble: str | None) -> None:
        if self.database.path is None and trouble is None:
            return  # that it is in memory only stays true
        if trouble is not None and trouble != self._trouble:
            log.warning("%s", trouble)
        elif trouble is None and self._trouble is not None:
            log.warning("The history is written again.")
        self._trouble = trouble
