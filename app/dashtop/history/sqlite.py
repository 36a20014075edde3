"""The history in an SQLite file, or in an SQLite database in memory. Page size and journal mode were measured."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import sqlite3
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dashtop.history.database import (
    Connection,
    Database,
    DatabaseReadError,
    DatabaseReplacedError,
    IncompatibleDatabaseError,
    Notice,
)
from dashtop.history.events import EVENT_INDEX
from dashtop.history.lock import FileLock, is_at
from dashtop.history.salvage import salvage
from dashtop.history.schema import GPU_TABLE, VERSION, build_schema
from dashtop.history.usage import USAGE_TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from dashtop.history.encoder import Record

log = logging.getLogger(__name__)

FILE = "history.sqlite"
LOCK_FILE = "history.lock"
APPLICATION_ID = 0x64746F70  # "dtop": marks the file as dashtop's
CHECK_TIMEOUT_S = 1.0
BUSY_TIMEOUT_S = 2.0
VACUUM_PAGES = 1000
UNSALVAGED, SALVAGED = ".damaged-", ".unusable-"
"""Behind the name of a file that was set aside: before, and after what is readable was copied into the new file."""
COMPANIONS = ("-wal", "-shm")
UNUSABLE_PATH_ERRORS = frozenset(
    {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
)
"""Errors at the start that no waiting ends: missing permission, or a path that cannot be a folder or file. Any other
error (a full, read-only or unmounted disk, no memory or descriptors left) can end at any time."""
OTHERS_CAN_WRITE = 0o002
"""Not the group: Kubernetes lets the group of a volume (fsGroup) write its files."""
MAX_MEMORY_BYTES = 128_000_000
"""Of a history in memory: `--keep-mb` is meant for a disk."""

SCHEMA = build_schema(key="INTEGER PRIMARY KEY", integer="INTEGER", real="REAL", blob="BLOB", layout_series="series")


class SqliteDatabase(Database):
    """A file, or the same tables in memory if `path` is None."""

    begin_statement = "BEGIN IMMEDIATE"
    retry_interval_s = 1.0

    def __init__(self, path: Path | None, *, kept_ms: int, max_bytes: int) -> None:
        super().__init__(kept_ms=kept_ms, max_bytes=max_bytes if path is not None else min(max_bytes, MAX_MEMORY_BYTES))
        self._path = path
        self._was_opened = False
        self._file_status: os.stat_result | None = None
        self._lock = FileLock(path.with_name(LOCK_FILE)) if path is not None else None

    @property
    def location(self) -> str:
        """The folder of the file."""
        return "memory" if self._path is None else str(self._path.parent)

    def describe(self) -> str:
        """Return SQLite's version."""
        return f"SQLite {sqlite3.sqlite_version}"

    def recover(self, error: Exception, now_ms: int) -> tuple[Database, str | None]:
        """Set a damaged file aside; go on in memory if the path is unusable from the start. Else keep trying."""
        path = self._path
        if path is None:
            return self, f"The history in memory failed ({error})."
        if isinstance(error, DatabaseReplacedError):
            self._abandon(path)
            return self, None
        if is_damage(error):
            return self, self._set_aside(path, error, now_ms)
        if isinstance(error, OSError) and error.errno in UNUSABLE_PATH_ERRORS and not self._was_opened:
            memory = SqliteDatabase(None, kept_ms=self._kept_ms, max_bytes=self._max_bytes)
            return memory, (
                f"The history is kept in memory only, until dashtop ends: {path.parent} cannot be written"
                f" ({error.strerror}). Set a folder that can be written with --data-dir."
            )
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or "out of memory"
        return self, (
            f"The history cannot be written to {path.parent} ({reason}) and is kept in memory meanwhile, to be"
            " written as soon as that is possible. Free some space there, or give this user write access."
        )

    def _set_aside(self, path: Path, error: Exception, now_ms: int) -> str | None:
        self._disconnect()
        try:
            aside = set_aside(path, now_ms)
        except OSError as failure:
            return f"{path} cannot be used ({error}) or renamed ({failure.strerror}): move it away by hand."
        log.warning("%s cannot be used (%s). It was renamed to %s, and a new history begins.", path, error, aside.name)
        return None

    def _salvage_all(self, connection: Connection) -> None:
        """Copy every file that was set aside and not copied yet, also by a process that was killed meanwhile.

        A file has its final name once it is copied. If that fails, the history is not written: copied again later, rows
        that were compacted meanwhile would be in it twice. Copied again at once, they have the ids of the first time.
        """
        for damaged in self._find_unsalvaged():
            copied = damaged.with_name(damaged.name.replace(UNSALVAGED, SALVAGED))
            self._salvage(connection, damaged, copied.name)
            _rename(damaged, copied)

    def _find_unsalvaged(self) -> list[Path]:
        """Return the files that were set aside and not copied yet, the oldest first."""
        path = self._path
        return [] if path is None else sorted(path.parent.glob(f"{path.name}{UNSALVAGED}*[0-9]"))

    def _finish_set_aside(self, path: Path) -> None:
        """Finish what a killed process has begun: a log (-wal) without its file belongs to the file set aside last."""
        unsalvaged = self._find_unsalvaged()
        if unsalvaged and not path.exists():
            _rename_companions(path, unsalvaged[-1])

    def _salvage(self, connection: Connection, damaged: Path, final_name: str) -> None:
        """Copy what is readable of a file that was set aside into the new one."""
        reason = "nothing could be read of it"
        connection.execute(self.begin_statement)
        try:
            salvaged = salvage(damaged, connection, APPLICATION_ID)
            connection.execute("COMMIT")
        except Exception as error:  # a damaged file must not keep the new one from being written
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if is_disk_full(error):
                raise  # copied when there is space
            log.warning("%s could not be copied: %s", damaged, error)
        else:
            if salvaged is None:
                reason = "it is not a history of this version of dashtop"
            elif any(salvaged):
                reason = f"{salvaged.windows} time windows and the newest {salvaged.rows} rows of it were copied"
        text = f"The history file was unusable and was renamed to {final_name}; {reason}."
        log.warning("%s", text)
        advice = "What could not be copied is a gap. Delete the renamed file once you do not need it."
        self._notices.append(Notice("history_damaged", text, advice))

    def _find_set_aside(self) -> list[Path]:
        """Return the files that were set aside and are histories, the oldest first."""
        if self._path is None:
            return []
        found = sorted(self._path.parent.glob(f"{self._path.name}{SALVAGED}*[0-9]"))
        return [path for path in found if _has_application_id(path)]

    def _prune(self, connection: Connection) -> None:
        """Delete files that were set aside before readings, if they take more than the limit together."""
        for path in self._find_set_aside():
            if self._read_used_bytes(connection) <= self._max_bytes:
                break
            log.warning("%s is deleted: the history is larger than --keep-mb.", path)
            for suffix in ("", *COMPANIONS):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
        super()._prune(connection)

    def write(self, records: Sequence[Record]) -> None:
        """Write records; see Database. Raises DatabaseReplacedError if the file is no longer at its path."""
        if self._path is not None and self._connection is not None and not self._is_in_place(self._path):
            raise DatabaseReplacedError(str(self._path))
        super().write(records)

    def _is_in_place(self, path: Path) -> bool:
        is_locked = self._lock is None or self._lock.is_in_place()
        return is_locked and self._file_status is not None and is_at(path, self._file_status)

    def _abandon(self, path: Path) -> None:
        """Give up a file that is no longer at its path, and its lock."""
        connection = self._connection
        if path.exists() and connection is not None:
            # SQLite deletes PATH-wal by name when it closes the last connection: it can belong to another process now.
            with self._connection_lock:
                self._connection = None
            if (configure := getattr(connection, "setconfig", None)) is not None:  # Python 3.12
                configure(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE)  # type: ignore[attr-defined, unused-ignore]
                connection.close()
            else:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))  # never closed, not even when the process ends
        self.close()
        text = f"The history file {path} was deleted or replaced while dashtop ran. A new history begins."
        log.warning("%s", text)
        advice = "Stop dashtop before you delete, move or restore its data folder."
        self._notices.append(Notice("history_replaced", text, advice))

    def close(self) -> None:
        """Close the file and release the writer lock."""
        super().close()
        if self._lock is not None:
            self._lock.release()

    def _connect(self) -> Connection:
        if self._path is not None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._lock is not None:
                self._lock.acquire()
            self._finish_set_aside(self._path)
            self._file_status = create_private_file(self._path)
        connection = sqlite3.connect(
            ":memory:" if self._path is None else self._path,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            _prepare(connection)
            self._salvage_all(connection)
            self._was_opened = True
        except sqlite3.DatabaseError as error:
            connection.close()
            if _is_damage_message(error):
                raise IncompatibleDatabaseError(str(error)) from error
            raise
        except (IncompatibleDatabaseError, OSError):
            connection.close()
            raise
        return connection

    @contextmanager
    def _connect_reader(self) -> Iterator[Connection]:
        if self._path is None:
            with self._connection_lock:
                if self._connection is None:
                    raise DatabaseReadError("the history is closed")
                yield self._connection
            return
        connection = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)
        try:
            connection.execute("BEGIN")
            yield connection
        finally:
            connection.close()

    def _to_read_error(self, error: Exception) -> DatabaseReadError | None:
        if not isinstance(error, (sqlite3.Error, ValueError, OSError)):
            return None
        if is_damage(error):
            return DatabaseReadError(str(error), is_damaged=True)
        if self._path is not None and _is_absent(self._path):
            return DatabaseReadError(str(error))  # nothing was stored yet
        return DatabaseReadError(f"The history in {self.location} cannot be read ({error}).", is_unreachable=True)

    def _read_used_bytes(self, connection: Connection) -> int:
        pages, free, size = (
            int(connection.execute(f"PRAGMA {name}").fetchone()[0])
            for name in ("page_count", "freelist_count", "page_size")
        )
        return (pages - free) * size + sum(path.stat().st_size for path in self._find_set_aside())

    def _reclaim_space(self, connection: Connection) -> None:
        connection.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()


def _is_absent(path: Path) -> bool:
    """Return whether there is no such file; False if the disk does not tell, where `Path.exists` raises."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def create_private_file(path: Path) -> os.stat_result:
    """Create the file, which only this user can read, if there is none; return its status.

    The names of processes and users are private. Raises PermissionError for a file that another user can write, or may
    have planted in a folder that others can write.
    """
    is_shared = bool(path.parent.stat().st_mode & OTHERS_CAN_WRITE)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | (os.O_NOFOLLOW if is_shared else 0), 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise PermissionError(errno.EPERM, f"{path.name} is a symbolic link in a shared folder") from None
        raise
    status = os.fstat(descriptor)
    os.close(descriptor)
    if status.st_mode & OTHERS_CAN_WRITE:
        raise PermissionError(errno.EPERM, f"other users can write {path.name}")
    if is_shared and status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"{path.name} belongs to another user and is in a shared folder")
    return status


def _prepare(connection: sqlite3.Connection) -> None:
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if (application_id, version) == (APPLICATION_ID, VERSION):
        _check(connection)
        connection.execute(GPU_TABLE)  # version 0.1 had none
        connection.execute(EVENT_INDEX)
        connection.executescript(USAGE_TABLES)
    elif tables or application_id:
        raise IncompatibleDatabaseError("it is not a history of this version of dashtop")
    else:
        connection.execute("PRAGMA page_size = 8192")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    if not application_id:
        marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};"
        connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} {marks} COMMIT;")


def set_aside(path: Path, now_ms: int) -> Path:
    """Rename an unusable file and the files that SQLite keeps beside it; return the new path. Raises OSError.

    The name says that it is to be copied into the new file.
    """
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now_ms / 1000))
    number, name = 1, stamp
    while any(path.with_name(f"{path.name}{kind}{name}").exists() for kind in (UNSALVAGED, SALVAGED)):
        number += 1
        name = f"{stamp}-{number}"
    aside = path.with_name(f"{path.name}{UNSALVAGED}{name}")
    path.rename(aside)  # first: see `_finish_set_aside`
    _rename_companions(path, aside)
    return aside


def _rename(path: Path, new: Path) -> None:
    """Rename a database and the files that SQLite keeps beside it, which come first: without it they mean nothing."""
    _rename_companions(path, new)
    path.rename(new)


def _rename_companions(path: Path, new: Path) -> None:
    for suffix in COMPANIONS:
        file = path.with_name(path.name + suffix)
        if file.exists():
            file.rename(new.with_name(new.name + suffix))


def _has_application_id(path: Path) -> bool:
    """Return whether a file begins as a history does (SQLite's file format, 1.3)."""
    with path.open("rb") as file:
        header = file.read(72)
    return header.startswith(b"SQLite format 3\0") and header[68:72] == APPLICATION_ID.to_bytes(4, "big")


def _is_damage_message(error: sqlite3.Error) -> bool:
    # Python 3.10 does not expose SQLite's error code. These are SQLite's own messages (sqlite3ErrStr).
    return any(message in str(error) for message in ("malformed", "not a database", "unsupported file format"))


def is_damage(error: Exception) -> bool:
    """Return whether the file is damaged, and not the disk full or busy."""
    if isinstance(error, (IncompatibleDatabaseError, ValueError)):
        return True
    return isinstance(error, sqlite3.Error) and (_is_damage_message(error) or "no such table" in str(error))


def is_disk_full(error: Exception) -> bool:
    """Return whether there is no space left for the database."""
    return isinstance(error, sqlite3.OperationalError) and "disk is full" in str(error)


def _check(connection: sqlite3.Connection) -> None:
    """Check for damage, for a second at most: a large file must not delay the start."""
    until = time.monotonic() + CHECK_TIMEOUT_S
    connection.set_progress_handler(lambda: time.monotonic() > until, 10_000)
    try:
        (result,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError:
        if time.monotonic() <= until:
            raise
        return
    finally:
        connection.set_progress_handler(None, 0)
    if result != "ok":
        raise IncompatibleDatabaseError(result)
