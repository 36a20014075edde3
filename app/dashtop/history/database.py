"""The tables of the history and how samples are added to them, in whichever database they lie.

A sample is one row of `head`, 4 bytes a series. When a window of time is over, its rows are sealed (seal.py) into one
compressed `chunk` a series, with the times they share in `window`. The layout was measured: rows a value would take 15
times the room and 60 times the time to read. One writer, any number of readers.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from dashtop.history import compaction as seal
from dashtop.history.tiers import TIERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from dashtop.history.encoder import Layout, Record


class Cursor(Protocol):
    """The rows that a question gives."""

    def fetchone(self) -> Any:
        """Return the next row, or None."""

    def fetchall(self) -> list[Any]:
        """Return the rows that are left."""

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """What is asked of a connection, in the words of sqlite3; a `?` stands for each parameter."""

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Cursor:
        """Run a statement."""

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> object:
        """Run a statement for each row."""

    def close(self) -> None:
        """Let go of the database."""


class IncompatibleDatabaseError(Exception):
    """What lies there is not of this version of dashtop, or damaged."""


class DatabaseReadError(Exception):
    """The database does not answer. `damaged`: since it is broken. `lost`: since it is out of reach."""

    def __init__(self, message: str, *, damaged: bool = False, lost: bool = False) -> None:
        super().__init__(message)
        self.damaged = damaged
        self.lost = lost


class Database(ABC):
    """Holds the tables: one connection to write, others to read."""

    begin: ClassVar[str]
    """The statement that opens a transaction to write in."""
    retry_s: ClassVar[float]
    """Seconds between two tries where the database cannot be written."""

    def __init__(self, *, kept_ms: int, most_bytes: int) -> None:
        self._kept_ms = kept_ms
        self._most_bytes = most_bytes
        self._connection: Connection | None = None
        # Where there is but one connection, readers and the writer take turns.
        self._turn = threading.Lock()
        self.newest_ms = -1
        """Time of the newest sample when the database was opened; -1 if it was empty."""
        self._layouts: dict[Layout, int] = {}
        self._window = -1
        self._unsure = False

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the tables lie, to be told to a person; without any password."""

    @abstractmethod
    def engine(self) -> str:
        """Return the name and version of what keeps the tables. Raises DatabaseReadError."""

    @abstractmethod
    def recover(self, error: Exception, now_ms: int) -> tuple[Database, str | None]:
        """Do what can be done after writing failed; return where to go on, and what trouble to tell."""

    @abstractmethod
    def _connect(self) -> Connection:
        """Return a connection to write with; makes what is missing. Raises as `open` does."""

    @abstractmethod
    def _reading(self) -> AbstractContextManager[Connection]:
        """Give a connection to read from. Raises DatabaseReadError; its own errors are told by `_understood`."""

    @abstractmethod
    def _understood(self, error: Exception) -> DatabaseReadError | None:
        """Return what an error while reading means; None where it is none of the database's."""

    @abstractmethod
    def _used_bytes(self, connection: Connection) -> int:
        """Return how much room the history takes up."""

    @abstractmethod
    def _tidy(self, connection: Connection) -> None:
        """Give room back after a pruning, outside of a transaction."""

    def open(self) -> None:
        """Acquire the writer lock and open the database for writing.

        Raises IncompatibleDatabaseError, DatabaseLockedError, OSError and the database's own errors.
        """
        self._disconnect()
        connection = self._connect()
        self._layouts.clear()
        try:
            newest = _newest(connection)
        except BaseException:
            connection.close()
            raise
        self.newest_ms = newest[0] if newest else -1
        self._window = newest[0] // TIERS[0].window_ms if newest else -1
        self._unsure = True
        self._connection = connection

    def close(self) -> None:
        """Close the database and release the writer lock."""
        self._disconnect()

    def _disconnect(self) -> None:
        with self._turn:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection to read from, which sees one moment. Raises DatabaseReadError, also for damaged values."""
        try:
            with self._reading() as connection:
                yield connection
        except Exception as error:
            understood = self._understood(error)
            if understood is None:
                raise
            raise understood from error

    def write(self, records: Sequence[Record]) -> None:
        """Add records in one transaction; from then on they survive the process.

        After a failure, or where another process wrote before, those that did arrive are not written twice. Raises
        DatabaseReadError where it is closed, and the database's own errors.
        """
        with self._turn:
            connection = self._connection
            if connection is None:
                raise DatabaseReadError("the history is closed")
            if self._unsure:
                records = records[_arrived(connection, records) :]
            self._unsure = True
            connection.execute(self.begin)
            try:
                sealed = self._add(connection, records)
                connection.execute("COMMIT")
            except BaseException:
                self._layouts.clear()
                self._window = -1
                _undo(connection)
                raise
        if sealed:
            self._prune(connection)
        self._unsure = False

    def _add(self, connection: Connection, records: Sequence[Record]) -> bool:
        """Add records; return whether a window was sealed on the way."""
        sealed = False
        for window, run in groupby(records, key=lambda record: record.time_ms // TIERS[0].window_ms):
            of_window = list(run)
            if window != self._window:
                seal.seal(connection, of_window[0].time_ms)
                self._window, sealed = window, True
            self._insert(connection, of_window)
        return sealed

    def _insert(self, connection: Connection, records: list[Record]) -> None:
        connection.executemany(
            "INSERT INTO head (tier, time_ms, layout, data) VALUES (0, ?, ?, ?)",
            [
                (
                    record.time_ms,
                    self._layouts.get(record.layout) or self._layout(connection, record.layout),
                    record.values,
                )
                for record in records
            ],
        )
        events = [event for record in records for event in record.events]
        if events:
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
                    for event in events
                ],
            )
        spans = [span.row() for record in records for span in record.spans]
        if spans:
            connection.executemany(
                "INSERT INTO process (gpu, pid, start_ms, end_ms, memory, peak_memory, peak_sm, facts)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (gpu, pid, start_ms) DO UPDATE SET"
                " end_ms = excluded.end_ms, peak_memory = excluded.peak_memory, peak_sm = excluded.peak_sm,"
                " facts = excluded.facts",
                spans,
            )

    def _layout(self, connection: Connection, new: Layout) -> int:
        rows = [(key.metric, key.gpu_uuid or "") for key in new.keys]
        connection.executemany("INSERT INTO series (metric, gpu) VALUES (?, ?) ON CONFLICT DO NOTHING", rows)
        found = connection.execute("SELECT id, metric, gpu FROM series")
        numbers = {(metric, gpu): number for number, metric, gpu in found}
        layout = seal.layout_number(connection, np.array([numbers[row] for row in rows], dtype=np.int64))
        self._layouts[new] = layout
        return layout

    def _prune(self, connection: Connection) -> None:
        with self._turn:
            connection.execute(self.begin)
            try:
                seal.prune(connection, kept_ms=self._kept_ms, most_bytes=self._most_bytes, used_bytes=self._used_bytes)
                connection.execute("COMMIT")
            except BaseException:
                _undo(connection)
                raise
            self._tidy(connection)


def _undo(connection: Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _newest(connection: Connection) -> tuple[int, bytes] | None:
    """Return time and values of the sample that was written last."""
    found = connection.execute("SELECT time_ms, data FROM head WHERE tier = 0 ORDER BY id DESC LIMIT 1").fetchone()
    return None if found is None else (found[0], found[1])


def _arrived(connection: Connection, records: Sequence[Record]) -> int:
    """Return how many of the records were written after all: a connection may break with the answer on its way."""
    newest = _newest(connection)
    written = (number for number in range(len(records), 0, -1) if _row(records[number - 1]) == newest)
    return next(written, 0)


def _row(record: Record) -> tuple[int, bytes]:
    return record.time_ms, record.values
