"""The file: its tables, how it is opened, and how samples are added to it. One writer, any number of readers.

A sample is one row of `head`, 4 bytes a series. When a window of time is over, its rows are sealed (seal.py) into one
compressed `chunk` a series, with the times they share in `window`. Layout and page size were measured: rows a value
would take 15 times the room and 60 times the time to read.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from dashtop.history import seal
from dashtop.history.tiers import TIERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from dashtop.history.record import Layout, Record

log = logging.getLogger(__name__)

APPLICATION_ID = 0x64746F70  # "dtop": tells our file from another program's
VERSION = 1
CHECK_S = 1.0
BUSY_S = 2.0

SCHEMA = """
CREATE TABLE series (id INTEGER PRIMARY KEY, metric TEXT NOT NULL, gpu TEXT NOT NULL, UNIQUE (metric, gpu));
CREATE TABLE layout (id INTEGER PRIMARY KEY, series BLOB NOT NULL UNIQUE);
CREATE TABLE head (id INTEGER PRIMARY KEY, tier INTEGER NOT NULL, time_ms INTEGER NOT NULL, layout INTEGER NOT NULL,
    data BLOB NOT NULL);
CREATE INDEX head_time ON head (tier, time_ms);
CREATE TABLE window (id INTEGER PRIMARY KEY, tier INTEGER NOT NULL, start_ms INTEGER NOT NULL, times BLOB NOT NULL);
CREATE INDEX window_start ON window (tier, start_ms);
CREATE TABLE chunk (id INTEGER PRIMARY KEY, series INTEGER NOT NULL, window INTEGER NOT NULL, data BLOB NOT NULL);
CREATE UNIQUE INDEX chunk_place ON chunk (series, window);
CREATE TABLE event (id INTEGER PRIMARY KEY, time_ms INTEGER NOT NULL, kind TEXT NOT NULL, severity TEXT NOT NULL,
    text TEXT NOT NULL, gpu TEXT, advice TEXT NOT NULL, code INTEGER);
CREATE INDEX event_time ON event (time_ms);
CREATE TABLE process (id INTEGER PRIMARY KEY, gpu TEXT NOT NULL, pid INTEGER NOT NULL, start_ms INTEGER NOT NULL,
    end_ms INTEGER NOT NULL, memory INTEGER, peak_memory INTEGER, peak_sm REAL, facts TEXT NOT NULL,
    UNIQUE (gpu, pid, start_ms));
CREATE INDEX process_time ON process (gpu, end_ms);
"""


MOST_IN_MEMORY_BYTES = 128_000_000


class ForeignFileError(Exception):
    """The file is not one of ours, or damaged."""


class Database:
    """One file, or the same tables in memory where `path` is None."""

    def __init__(self, path: Path | None, *, kept_ms: int, most_bytes: int) -> None:
        self.path = path
        self._kept_ms = kept_ms
        # Nobody who keeps nothing on disk means to give gigabytes of RAM instead.
        self._most_bytes = most_bytes if path is not None else min(most_bytes, MOST_IN_MEMORY_BYTES)
        self._connection: sqlite3.Connection | None = None
        # In memory there is but one connection, so readers and the writer take turns.
        self._turn = threading.Lock()
        self._layouts: dict[Layout, int] = {}
        self._window = -1

    def in_memory(self) -> Database:
        """Return the same without a file."""
        return Database(None, kept_ms=self._kept_ms, most_bytes=self._most_bytes)

    def open(self) -> None:
        """Open for writing; makes what is missing. Raises ForeignFileError, sqlite3.Error, OSError."""
        self.close()
        if self.path is not None:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))  # names and owners of processes are private
        connection = sqlite3.connect(
            ":memory:" if self.path is None else self.path,
            timeout=BUSY_S,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            self._prepare(connection)
        except sqlite3.DatabaseError as error:
            connection.close()
            if _is_damage(error):
                raise ForeignFileError(str(error)) from error
            raise
        except ForeignFileError:
            connection.close()
            raise
        self._layouts.clear()
        newest = connection.execute("SELECT time_ms FROM head WHERE tier = 0 ORDER BY id DESC LIMIT 1").fetchone()
        self._window = newest[0] // TIERS[0].window_ms if newest else -1
        self._connection = connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (ours,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if (ours, version) == (APPLICATION_ID, VERSION):
            _check(connection)
        elif tables or ours:
            raise ForeignFileError("it is not a history of this version of dashtop")
        else:
            connection.execute("PRAGMA page_size = 8192")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if not ours:
            stamp = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {VERSION};"
            connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} {stamp} COMMIT;")

    def close(self) -> None:
        """Let go of the file."""
        with self._turn:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def write(self, records: Sequence[Record]) -> None:
        """Add records in one transaction; from then on they survive the process. Raises sqlite3.Error."""
        with self._turn:
            connection = self._connection
            if connection is None:
                raise sqlite3.OperationalError("the history is closed")
            connection.execute("BEGIN IMMEDIATE")
            try:
                sealed = [self._add(connection, record) for record in records]
                connection.execute("COMMIT")
            except BaseException:
                self._layouts.clear()
                self._window = -1
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        if any(sealed):
            self._prune(connection)

    def _add(self, connection: sqlite3.Connection, record: Record) -> bool:
        window = record.time_ms // TIERS[0].window_ms
        turned = window != self._window
        if turned:
            seal.seal(connection, record.time_ms)
            self._window = window
        layout = self._layouts.get(record.layout) or self._layout(connection, record.layout)
        connection.execute(
            "INSERT INTO head (tier, time_ms, layout, data) VALUES (0, ?, ?, ?)",
            (record.time_ms, layout, record.values),
        )
        if record.events:
            connection.executemany(
                "INSERT INTO event (time_ms, kind, severity, text, gpu, advice, code) VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        event.time_ms,
                        event.kind,
                        event.severity.value,
                        event.text,
                        event.gpu_uuid,
                        event.advice,
                        event.code,
                    )
                    for event in record.events
                ],
            )
        if record.spans:
            connection.executemany(
                "INSERT INTO process (gpu, pid, start_ms, end_ms, memory, peak_memory, peak_sm, facts)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (gpu, pid, start_ms) DO UPDATE SET"
                " end_ms = excluded.end_ms, peak_memory = excluded.peak_memory, peak_sm = excluded.peak_sm,"
                " facts = excluded.facts",
                [span.row() for span in record.spans],
            )
        return turned

    def _layout(self, connection: sqlite3.Connection, new: Layout) -> int:
        rows = [(key.metric, key.gpu_uuid or "") for key in new.keys]
        connection.executemany("INSERT OR IGNORE INTO series (metric, gpu) VALUES (?, ?)", rows)
        numbers = {(metric, gpu): number for number, metric, gpu in connection.execute("SELECT * FROM series")}
        layout = seal.layout_number(connection, np.array([numbers[row] for row in rows], dtype=np.int64))
        self._layouts[new] = layout
        return layout

    def _prune(self, connection: sqlite3.Connection) -> None:
        with self._turn:
            connection.execute("BEGIN IMMEDIATE")
            try:
                seal.prune(connection, kept_ms=self._kept_ms, most_bytes=self._most_bytes)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            connection.execute(f"PRAGMA incremental_vacuum({seal.VACUUM_PAGES})").fetchall()

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give a connection to read from, which sees one moment. Raises sqlite3.Error."""
        if self.path is None:
            with self._turn:
                if self._connection is None:
                    raise sqlite3.OperationalError("the history is closed")
                yield self._connection
            return
        connection = sqlite3.connect(f"{self.path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_S)
        try:
            connection.execute("BEGIN")
            yield connection
        finally:
            connection.close()


def set_aside(path: Path, now_ms: int) -> Path:
    """Rename a file that is of no use, and what belongs to it; return the new name. Raises OSError."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now_ms / 1000))
    aside = path.with_name(f"{path.name}.unusable-{stamp}")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.unusable-{stamp}-{number}")
    path.rename(aside)
    for ending in ("-wal", "-shm"):
        beside = path.with_name(path.name + ending)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + ending))
    return aside


def _is_damage(error: sqlite3.Error) -> bool:
    # Python 3.10 does not tell SQLite's error code: these words are SQLite's own (sqlite3ErrStr).
    return any(words in str(error) for words in ("malformed", "not a database", "unsupported file format"))


def is_damage(error: Exception) -> bool:
    """Tell whether the file itself is broken, rather than the disk full or busy."""
    if isinstance(error, (ForeignFileError, ValueError)):
        return True
    return isinstance(error, sqlite3.Error) and (_is_damage(error) or "no such table" in str(error))


def _check(connection: sqlite3.Connection) -> None:
    """Look for damage, for a second at most: a large file must not hold up the start."""
    until = time.monotonic() + CHECK_S
    connection.set_progress_handler(lambda: time.monotonic() > until, 10_000)
    try:
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError:
        if time.monotonic() <= until:
            raise
        return
    finally:
        connection.set_progress_handler(None, 0)
    if found != "ok":
        raise ForeignFileError(found)
