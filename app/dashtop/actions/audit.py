"""The audit log of process actions: JSON lines in the data folder, in one file what was sent, in one what was refused.

Each file is renamed when it is full and the one before it is deleted: what refusals fill never replaces sent signals.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import threading
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, Final

from dashtop.model.action import SENT, ActionRecord

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SENT_FILE, REFUSED_FILE = "actions.log", "actions-refused.log"
MAX_BYTES: Final = 4_000_000
"""Of a file, about 15,000 records; the renamed one before it is as large."""
MAX_READ_BYTES: Final = 100_000
MAX_RECORDS: Final = 200


class AuditLog:
    """Appends and reads records. Thread-safe; several processes may write to the same folder."""

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self.path = folder / SENT_FILE
        self._refused = folder / REFUSED_FILE
        self._max_bytes = max_bytes
        self._lock = threading.Lock()

    def append(self, record: ActionRecord) -> None:
        """Write a record, of a signal to the disk itself. Raise OSError, also if the file is a link or not private."""
        line = json.dumps(asdict(record)).encode() + b"\n"
        is_sent = record.outcome == SENT
        path = self.path if is_sent else self._refused
        with self._lock:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _open_locked(path, self._max_bytes - len(line)) as descriptor:
                size = os.fstat(descriptor).st_size
                if os.write(descriptor, line) != len(line):
                    os.ftruncate(descriptor, size)
                    raise OSError("the disk is full")
                if is_sent:  # a flood of refusals would keep the disk busy
                    os.fsync(descriptor)

    def check(self) -> None:
        """Raise OSError if records cannot be written."""
        with self._lock:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in (self.path, self._refused):
                with _open_locked(path, self._max_bytes):
                    pass

    def read_newest(self) -> list[ActionRecord]:
        """Return the newest records of both files, the newest first. Raise OSError if a file cannot be read."""
        records = [record for path in (self.path, self._refused) for record in _read_records(path)]
        records.reverse()  # records of the same millisecond keep this order
        return sorted(records, key=lambda record: -record.time_ms)[:MAX_RECORDS]


@contextmanager
def _open_locked(path: Path, max_bytes: int) -> Iterator[int]:
    """Open the file to append to it, under a lock; begin a new one if it has more than `max_bytes`."""
    while True:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
                raise PermissionError("must be a file owned by this user with mode 0600")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_renamed(path, descriptor):
                continue
            if os.fstat(descriptor).st_size > max_bytes:
                path.replace(path.with_name(f"{path.name}.1"))
                continue
            yield descriptor
            return
        finally:
            os.close(descriptor)


def _is_renamed(path: Path, descriptor: int) -> bool:
    """Return whether another process has renamed the file since it was opened."""
    try:
        return path.stat().st_ino != os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return True


def _read_records(path: Path) -> list[ActionRecord]:
    """Return the records at the end of a file, or of the one before it while it is new."""
    text = _read_end(path)
    if len(text) < MAX_READ_BYTES:
        text = _read_end(path.with_name(f"{path.name}.1")) + text
    found = (_parse(line) for line in text.splitlines()[-MAX_RECORDS:])
    return [record for record in found if record is not None]


def _read_end(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return b""
    with os.fdopen(descriptor, "rb") as file:
        start = max(0, os.fstat(descriptor).st_size - MAX_READ_BYTES)
        file.seek(start)
        return file.read() if start == 0 else file.read().partition(b"\n")[2]


def _parse(line: bytes) -> ActionRecord | None:
    """Return the record of a line; None for one that was cut when the machine failed."""
    try:
        given: dict[str, Any] = json.loads(line)
        return ActionRecord(**{each.name: given[each.name] for each in fields(ActionRecord)})
    except (ValueError, TypeError, KeyError):
        return None
