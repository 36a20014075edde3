"""The writer lock: at most one process writes a history, and the others can tell which one."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)

MAX_HOLDER_BYTES = 300


@dataclass(frozen=True, slots=True)
class LockHolder:
    """A process that writes a history."""

    pid: int
    host: str

    @classmethod
    def current(cls) -> LockHolder:
        """Return this process."""
        return cls(os.getpid(), socket.gethostname())

    @classmethod
    def parse(cls, text: str) -> LockHolder | None:
        """Return the holder that `str(holder)` names; None for any other text."""
        pid, _, host = text.partition(" on ")
        return cls(int(pid), host) if pid.isascii() and pid.isdigit() and host else None

    def __str__(self) -> str:
        return f"{self.pid} on {self.host}"


class DatabaseLockedError(Exception):
    """Another process writes the history. `holder` is None if it cannot be found out which."""

    def __init__(self, holder: LockHolder | None) -> None:
        super().__init__(f"process {holder}" if holder is not None else "another process")
        self.holder = holder


def is_at(path: Path, status: os.stat_result) -> bool:
    """Return whether the file with this status is at `path`. Raises OSError, but not if there is no file."""
    try:
        return os.path.samestat(path.stat(), status)
    except (FileNotFoundError, NotADirectoryError):
        return False


class FileLock:
    """An flock on a file that names its holder. The kernel releases it when the process ends, in whichever way."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._is_unsupported = False

    def acquire(self) -> None:
        """Acquire the lock unless this object holds it.

        Raises DatabaseLockedError while another process holds it, and OSError if the file cannot be opened. A file
        system without locks gives one warning, and every process gets the lock.
        """
        if self._descriptor is not None:
            return
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            self._lock(descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{LockHolder.current()}\n".encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            content = os.pread(descriptor, MAX_HOLDER_BYTES, 0).decode(errors="replace")
            raise DatabaseLockedError(LockHolder.parse(content.strip())) from None
        except OSError as error:
            if not self._is_unsupported:
                log.warning(
                    "%s cannot be locked (%s). Make sure that only one dashtop writes the history there.",
                    self._path,
                    error.strerror,
                )
            self._is_unsupported = True

    def is_in_place(self) -> bool:
        """Return whether the file that this object has locked is still the one at its path. Raises OSError."""
        return self._descriptor is not None and is_at(self._path, os.fstat(self._descriptor))

    def release(self) -> None:
        """Release the lock if this object holds it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
