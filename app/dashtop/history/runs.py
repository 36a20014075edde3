"""The runs of a machine, in an SQLite file of their own, or in memory.

Not in the history's database: any process of the folder takes requests, and only one of them writes the history. Each
call opens the file, so that it also works after the folder was replaced.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from dashtop.history.sqlite import create_private_file, is_damage
from dashtop.model.errors import RunsError
from dashtop.model.run import MAX_MARKS, Run, RunMark, RunStatus
from dashtop.model.timerange import DAY_MS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

log = logging.getLogger(__name__)

FILE: Final = "runs.sqlite"
APPLICATION_ID: Final = 0x64747275  # "dtru": marks the file as dashtop's runs
VERSION: Final = 1
MAX_RUNS: Final = 5_000
"""Runs kept; of more, those that ended first are deleted."""
MAX_RUNNING: Final = 200
MAX_TOTAL_MARKS: Final = 500_000
"""Marks of all runs together: 50 MB. The marks of the oldest runs are deleted."""
KEPT_MS: Final = 730 * DAY_MS
BUSY_TIMEOUT_S: Final = 1.0
SETTLED_NS: Final = 1_000_000_000
"""A file that was changed longer ago shows the next change in its time."""

_FileState = tuple[tuple[int, int], ...]

_SCHEMA: Final = f"""
CREATE TABLE run (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, tags TEXT NOT NULL, owner TEXT, pid INTEGER, started_ms INTEGER,
    begin_ms INTEGER NOT NULL, end_ms INTEGER, status TEXT NOT NULL, beat_ms INTEGER NOT NULL,
    is_local INTEGER NOT NULL, is_simulated INTEGER NOT NULL, gpus TEXT NOT NULL, processes TEXT NOT NULL,
    mark_count INTEGER NOT NULL, has_report INTEGER NOT NULL, energy_wh REAL, energy_kind TEXT, peak_bytes INTEGER
);
CREATE INDEX run_by_begin ON run (begin_ms);
CREATE TABLE mark (run TEXT NOT NULL, time_ms INTEGER NOT NULL, text TEXT NOT NULL);
CREATE INDEX mark_by_run ON mark (run, time_ms);
CREATE TABLE run_report (run TEXT PRIMARY KEY, body TEXT NOT NULL);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
"""
_COLUMNS: Final = (
    *("id", "name", "tags", "owner", "pid", "started_ms", "begin_ms", "end_ms", "status", "beat_ms", "is_local"),
    *("is_simulated", "gpus", "processes", "mark_count", "has_report", "energy_wh", "energy_kind", "peak_bytes"),
)
_SELECT: Final = f"SELECT {', '.join(_COLUMNS)} FROM run"  # noqa: S608 - names of columns


class RunStore:
    """The file in `folder`; in memory if it is None. Every method blocks as long as the disk, and raises RunsError."""

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / FILE if folder is not None else None
        self._lock = threading.RLock()
        self._recent: tuple[_FileState, int, tuple[Run, ...]] | None = None
        self._memory: sqlite3.Connection | None = None
        if self._path is None:
            self._memory = _connect(":memory:")
            self._memory.executescript(_SCHEMA)

    def read_recent(self, limit: int) -> tuple[Run, ...]:
        """Return the newest runs, and all that are running, the newest first."""
        state = self._read_state()
        if self._recent is not None and state is not None and self._recent[:2] == (state, limit):
            return self._recent[2]
        is_newest = "id IN (SELECT id FROM run ORDER BY begin_ms DESC LIMIT ?)"
        query = f"{_SELECT} WHERE status = 'running' OR {is_newest} ORDER BY begin_ms DESC, id"
        with self._open() as connection:
            rows = connection.execute(query, (limit,)).fetchall()
        runs = tuple(_to_run(row) for row in rows)
        self._recent = (state, limit, runs) if state is not None else None
        return runs

    def _read_state(self) -> _FileState | None:
        """Return what differs after the next change; None if that is not certain, since the last one was just now.

        The times of files are a few milliseconds coarse.
        """
        if self._path is None:
            return ((self._memory.total_changes, 0),) if self._memory is not None else None
        found = []
        for suffix in ("", "-wal"):
            try:
                status = self._path.with_name(self._path.name + suffix).stat()
            except OSError:
                found.append((0, 0))
                continue
            if abs(time.time_ns() - status.st_mtime_ns) < SETTLED_NS:
                return None
            found.append((status.st_mtime_ns, status.st_size))
        return tuple(found)

    def find(self, run_id: str) -> Run | None:
        """Return the run with this id."""
        with self._open() as connection:
            return _find(connection, run_id)

    def add(self, run: Run) -> Run | None:
        """Store a run; return the one that is stored under its id. None: too many are running."""
        with self._open(is_writing=True) as connection:
            if (known := _find(connection, run.id)) is not None:
                return known
            (running,) = connection.execute("SELECT count(*) FROM run WHERE status = 'running'").fetchone()
            if running >= MAX_RUNNING:
                return None
            self._prune(connection, run.begin_ms)
            _put(connection, run)
        return run

    def change(self, run_id: str, *, only_running: bool = False, **changes: Any) -> Run | None:
        """Set fields of a run and return it; None if there is none. A report is deleted with `has_report` False.

        `only_running`: return it as it is if it has ended, as its client can say while others look at its process.
        """
        with self._open(is_writing=True) as connection:
            known = _find(connection, run_id)
            if known is None or (only_running and known.status is not RunStatus.RUNNING):
                return known
            run = replace(known, **changes)
            _put(connection, run)
            if known.has_report and not run.has_report:
                connection.execute("DELETE FROM run_report WHERE run = ?", (run_id,))
        return run

    def add_marks(self, run_id: str, marks: Sequence[RunMark], beat_ms: int) -> Run | None:
        """Store marks, as many as the limits allow, and return the run; None if there is none."""
        with self._open(is_writing=True) as connection:
            known = _find(connection, run_id)
            if known is None:
                return None
            fitting = marks[: max(0, MAX_MARKS - known.mark_count)]
            connection.executemany(
                "INSERT INTO mark VALUES (?, ?, ?)", [(run_id, mark.time_ms, mark.text) for mark in fitting]
            )
            run = replace(known, mark_count=known.mark_count + len(fitting), beat_ms=beat_ms)
            _put(connection, run)
        return run

    def read_marks(self, run_id: str, limit: int) -> tuple[RunMark, ...]:
        """Return the newest marks of a run, by time."""
        query = "SELECT time_ms, text FROM mark WHERE run = ? ORDER BY time_ms DESC, rowid DESC LIMIT ?"
        with self._open() as connection:
            return tuple(RunMark(*row) for row in connection.execute(query, (run_id, limit)).fetchall()[::-1])

    def read_report(self, run_id: str) -> dict[str, Any] | None:
        """Return the stored report of a run."""
        with self._open() as connection:
            row = connection.execute("SELECT body FROM run_report WHERE run = ?", (run_id,)).fetchone()
        report: dict[str, Any] | None = json.loads(row[0]) if row is not None else None
        return report

    def put_report(self, run_id: str, report: dict[str, Any], **summary: Any) -> Run | None:
        """Store a report and its summary, unless the run goes on again."""
        with self._open(is_writing=True) as connection:
            known = _find(connection, run_id)
            if known is None or known.end_ms is None:
                return known
            run = replace(known, **summary, has_report=True)
            _put(connection, run)
            connection.execute("INSERT OR REPLACE INTO run_report VALUES (?, ?)", (run_id, json.dumps(report)))
        return run

    @staticmethod
    def _prune(connection: sqlite3.Connection, now_ms: int) -> None:
        """Delete old runs, so that there is room for one more."""
        ended = "SELECT id FROM run WHERE status <> 'running'"
        old = [row[0] for row in connection.execute(f"{ended} AND begin_ms < ?", (now_ms - KEPT_MS,))]
        (count,) = connection.execute("SELECT count(*) FROM run").fetchone()
        excess = max(0, count + 1 - MAX_RUNS)
        old += [row[0] for row in connection.execute(f"{ended} ORDER BY begin_ms LIMIT ?", (excess,))]
        (marks,) = connection.execute("SELECT total(mark_count) FROM run").fetchone()
        for run_id in old:
            for table, column in (("run", "id"), ("mark", "run"), ("run_report", "run")):
                connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (run_id,))  # noqa: S608
        if marks > MAX_TOTAL_MARKS:
            oldest = f"{ended} AND mark_count > 0 ORDER BY begin_ms LIMIT ?"
            for (run_id,) in connection.execute(oldest, (max(1, count // 10),)).fetchall():
                connection.execute("DELETE FROM mark WHERE run = ?", (run_id,))
                connection.execute("UPDATE run SET mark_count = 0 WHERE id = ?", (run_id,))

    @contextmanager
    def _open(self, *, is_writing: bool = False) -> Iterator[sqlite3.Connection]:
        """Yield a connection in a transaction. A damaged file is set aside, and the next call begins a new one."""
        try:
            with self._lock, self._connect(is_writing=is_writing) as connection:
                connection.execute("BEGIN IMMEDIATE" if is_writing else "BEGIN")
                try:
                    yield connection
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            self._set_aside_if_damaged(error)
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise RunsError(f"Runs cannot be stored or read at present ({reason}).") from error

    @contextmanager
    def _connect(self, *, is_writing: bool) -> Iterator[sqlite3.Connection]:
        if self._memory is not None:
            yield self._memory
            return
        path = self._path
        assert path is not None  # noqa: S101 - else there is a database in memory
        if not is_writing and not path.exists():
            connection = _connect(":memory:")
            connection.executescript(_SCHEMA)
        else:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            create_private_file(path)
            connection = _connect(str(path))
        try:
            _prepare(connection)
            yield connection
        finally:
            connection.close()

    def _set_aside_if_damaged(self, error: Exception) -> None:
        path = self._path
        if path is None or not is_damage(error) or not path.exists():
            return
        aside = path.with_name(f"{path.name}.damaged")
        log.warning("%s cannot be used (%s). It is renamed to %s, and a new file begins.", path, error, aside.name)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        path.replace(aside)


def _connect(path: str) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)


def _prepare(connection: sqlite3.Connection) -> None:
    """Create the tables in an empty file. Raises DatabaseError if it is not of this version."""
    found = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
    if found == [APPLICATION_ID, VERSION]:
        connection.execute("PRAGMA synchronous = NORMAL")
        return
    if any(found):
        raise sqlite3.OperationalError(f"{FILE} is of another version of dashtop")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("BEGIN IMMEDIATE")
    if connection.execute("PRAGMA application_id").fetchone()[0] == 0:  # no other process was faster
        for statement in _SCHEMA.split(";"):
            connection.execute(statement)
    connection.execute("COMMIT")


def _find(connection: sqlite3.Connection, run_id: str) -> Run | None:
    row = connection.execute(f"{_SELECT} WHERE id = ?", (run_id,)).fetchone()
    return _to_run(row) if row is not None else None


def _put(connection: sqlite3.Connection, run: Run) -> None:
    values = (
        *(run.id, run.name, json.dumps(dict(run.tags)), run.user, run.pid, run.started_ms, run.begin_ms, run.end_ms),
        *(run.status.value, run.beat_ms, run.is_local, run.is_simulated, json.dumps(run.gpus)),
        *(json.dumps(run.processes), run.mark_count, run.has_report, run.energy_wh, run.energy_kind, run.peak_bytes),
    )
    connection.execute(f"INSERT OR REPLACE INTO run VALUES ({', '.join('?' * len(values))})", values)  # noqa: S608


def _to_run(row: tuple[Any, ...]) -> Run:
    values = dict(zip(_COLUMNS, row, strict=True))
    return Run(
        **{
            **{name: value for name, value in values.items() if name != "owner"},
            "user": values["owner"],
            "tags": json.loads(values["tags"]),
            "status": RunStatus(values["status"]),
            "is_local": bool(values["is_local"]),
            "is_simulated": bool(values["is_simulated"]),
            "has_report": bool(values["has_report"]),
            "gpus": tuple(json.loads(values["gpus"])),
            "processes": tuple((pid, started) for pid, started in json.loads(values["processes"])),
        }
    )
