"""The thread that writes: a slow, full or broken disk keeps nobody waiting, and what is not written yet is kept."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
from collections import deque
from typing import TYPE_CHECKING

from dashtop.history import read
from dashtop.history.sqlite import Database, is_damage, set_aside

if TYPE_CHECKING:
    from pathlib import Path

    from dashtop.domain.ports import Clock
    from dashtop.history.record import Record

log = logging.getLogger(__name__)

LOCK = "history.lock"
RETRY_S = 1.0
MOST_WAITING = 3600
"""Records that wait for the disk at most; then the oldest go."""
MOST_AT_ONCE = 500
FOLLOWING = 30
"""Records that one who does not write keeps, to go on without a gap where the writer leaves off."""


class Writer:
    """Writes records to the database in the order given. `folder` None: nothing to lock, since nothing is shared."""

    def __init__(self, database: Database, *, folder: Path | None, clock: Clock) -> None:
        self.database = database
        self._folder = folder
        self._clock = clock
        self._waiting: deque[Record] = deque(maxlen=MOST_WAITING)
        self._batch: list[Record] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._opened = False
        self._doubted = False
        self._lock: int | None = None
        self._following = False
        self._trouble: str | None = None
        self._thread = threading.Thread(target=self._run, name="dashtop-history", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def put(self, record: Record) -> None:
        """Take a record to be written; returns at once."""
        with self._changed:
            self._waiting.append(record)
            while self._following and len(self._waiting) > FOLLOWING:
                self._waiting.popleft()
            self._changed.notify_all()

    def pending(self) -> tuple[Record, ...]:
        """Return what was taken and is not in the file; nothing where another dashtop writes it."""
        with self._changed:
            return () if self._following else (*self._batch, *self._waiting)

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
        if self._lock is not None:
            os.close(self._lock)

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
            self._say(None)
            self._changed.notify_all()
        return True

    def _open(self) -> bool:
        if self._folder is not None and self._lock is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _locked(self._folder / LOCK)
            if self._lock is None:
                self._following = True
                self._say(
                    f"Another dashtop writes the history in {self._folder}; this one shows it, and takes over when that"
                    " ends."
                )
                return False
        self.database.open()
        self._opened = True
        if self._following:
            with self.database.reading() as connection:
                newest = read.newest_ms(connection)
            with self._changed:
                kept = [record for record in self._waiting if record.time_ms > newest]
                self._waiting = deque(kept, maxlen=MOST_WAITING)
                self._following = False
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
            self._folder = None
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


def _locked(path: Path) -> int | None:
    """Return the open lock file, or None where another process holds it. It is let go when this process ends."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    except OSError:
        os.close(lock)
        raise
    return lock
