"""The database of the history: the interface of its two backends, and how records are written to its tables.

A sample is one row of the buffer (table `head`), 4 bytes a series. When a time window is over, compaction.py turns its
rows into one compressed `chunk` per series, with the times they share in `window`. The layout was measured: a row per
value would take 15 times the space and 60 times the time to read. One process writes, any number read.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np

from dashtop.history.compaction import compact, get_layout_id, prune
from dashtop.history.encoder import MAX_LAYOUTS, NO_SERIES
from dashtop.history.past import insert_readings
from dashtop.history.schema import RAW
from dashtop.history.usage import add_usage
from dashtop.model.usage import NO_USAGE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from dashtop.history.encoder import Layout, Record
    from dashtop.history.past import Past
    from dashtop.model.sample import SeriesKey


class Cursor(Protocol):
    """The rows of a query."""

    def fetchone(self) -> Any:
        """Return the next row, or None."""

    def fetchall(self) -> list[Any]:
        """Return the remaining rows."""

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """A database connection, with the methods of sqlite3; a `?` stands for each parameter."""

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Cursor:
        """Run a statement."""

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]], /) -> object:
        """Run a statement for each row."""

    def close(self) -> None:
        """Close the connection."""


class IncompatibleDatabaseError(Exception):
    """The database is damaged, or not of this version of dashtop."""


class DatabaseReplacedError(Exception):
    """Another file is at the path of the database, or none: what would be written now is lost."""


class Notice(NamedTuple):
    """Something that happened to the database, to be stored as an event. `kind`: one of EVENT_KINDS."""

    kind: str
    text: str
    advice: str


class DatabaseReadError(Exception):
    """The database cannot be read: `is_damaged`, or `is_unreachable`."""

    def __init__(self, message: str, *, is_damaged: bool = False, is_unreachable: bool = False) -> None:
        super().__init__(message)
        self.is_damaged = is_damaged
        self.is_unreachable = is_unreachable


class Database(ABC):
    """The tables of the history: one connection writes, others read."""

    begin_statement: ClassVar[str]
    """Opens a transaction that writes."""
    retry_interval_s: ClassVar[float]
    """Seconds between two attempts to write."""

    def __init__(self, *, kept_ms: int, max_bytes: int) -> None:
        self.newest_ms = -1
        """Time of the newest sample when the database was opened; -1 if it was empty."""
        self._kept_ms = kept_ms
        self._max_bytes = max_bytes
        self._connection: Connection | None = None
        # A database in memory has only this connection, which readers and the writer then share.
        self._connection_lock = threading.Lock()
        self._layout_ids: dict[Layout, int] = {}
        self._last_layout: Layout | None = None
        self._window = -1
        self._is_last_write_uncertain = False
        self._notices: list[Notice] = []

    @property
    @abstractmethod
    def location(self) -> str:
        """The folder or URL, without a password, for messages."""

    @abstractmethod
    def describe(self) -> str:
        """Return the name and version of the database. Raises DatabaseReadError."""

    @abstractmethod
    def recover(self, error: Exception, now_ms: int) -> tuple[Database, str | None]:
        """Handle a failed write: return the database to go on with, and a status message."""

    @abstractmethod
    def _connect(self) -> Connection:
        """Return a connection that writes; create what is missing. Raises as `open` does."""

    @abstractmethod
    def _connect_reader(self) -> AbstractContextManager[Connection]:
        """Open a connection that reads. Raises DatabaseReadError and errors that `_to_read_error` converts."""

    @abstractmethod
    def _to_read_error(self, error: Exception) -> DatabaseReadError | None:
        """Return what an error while reading means; None if it does not come from the database."""

    @abstractmethod
    def _read_used_bytes(self, connection: Connection) -> int:
        """Return the size of the history."""

    @abstractmethod
    def _reclaim_space(self, connection: Connection) -> None:
        """Return free space to the system after pruning, outside a transaction."""

    def take_notices(self) -> list[Notice]:
        """Return and forget what happened since the last call. For the thread that writes."""
        notices, self._notices = self._notices, []
        return notices

    def open(self) -> None:
        """Acquire the writer lock and open the database for writing.

        Raises IncompatibleDatabaseError, DatabaseLockedError, OSError and the database's own errors.
        """
        self._disconnect()
        connection = self._connect()
        self._layout_ids.clear()
        self._last_layout = None
        try:
            newest = _read_newest_row(connection)
        except BaseException:
            connection.close()
            raise
        self.newest_ms = newest[0] if newest else -1
        self._window = newest[0] // RAW.window_ms if newest else -1
        self._is_last_write_uncertain = True
        self._connection = connection

    def close(self) -> None:
        """Close the database and release the writer lock."""
        self._disconnect()

    def _disconnect(self) -> None:
        with self._connection_lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextmanager
    def open_reader(self) -> Iterator[Connection]:
        """Open a connection that reads one consistent snapshot. Raises DatabaseReadError, also for damaged values."""
        try:
            with self._connect_reader() as connection:
                yield connection
        except Exception as error:
            read_error = self._to_read_error(error)
            if read_error is None:
                raise
            raise read_error from error

    def write(self, records: Sequence[Record]) -> None:
        """Write records in one transaction; from then on they survive the process.

        After a failed write, records that did arrive are not written again. Raises DatabaseReadError if the database
        is closed, and the database's own errors.
        """
        with self._connection_lock:
            connection = self._connection
            if connection is None:
                raise DatabaseReadError("the history is closed")
            if self._is_last_write_uncertain:
                records = records[_count_written(connection, records) :]
            self._is_last_write_uncertain = True
            connection.execute(self.begin_statement)
            try:
                is_compacted = self._write_windows(connection, records)
                connection.execute("COMMIT")
            except BaseException:
                self._layout_ids.clear()
                self._last_layout = None
                self._window = -1
                _roll_back(connection)
                raise
        if is_compacted:
            self._prune(connection)
        self._is_last_write_uncertain = False

    def write_past(self, past: Past) -> None:
        """Write a past into an empty database, in one transaction. Raises as `write` does."""
        with self._connection_lock:
            connection = self._connection
            if connection is None:
                raise DatabaseReadError("the history is closed")
            connection.execute(self.begin_statement)
            try:
                insert_readings(connection, past, self._insert_series(connection, past.keys))
                records = list(past.records)
                self._insert_gpus(connection, records)
                self._insert_events_spans_and_usage(connection, records)
                connection.execute("COMMIT")
            except BaseException:
                _roll_back(connection)
                raise

    def _write_windows(self, connection: Connection, records: Sequence[Record]) -> bool:
        """Insert records and compact the windows that end before them; return whether there was one."""
        is_compacted = False
        for window, group in groupby(records, key=lambda record: record.time_ms // RAW.window_ms):
            of_window = list(group)
            if window != self._window:
                compact(connection, of_window[0].time_ms)
                self._window, is_compacted = window, True
            self._insert(connection, of_window)
        return is_compacted

    def _insert(self, connection: Connection, records: list[Record]) -> None:
        connection.executemany(
            "INSERT INTO head (tier, time_ms, layout, data) VALUES (0, ?, ?, ?)",
            [
                (
                    record.time_ms,
                    self._layout_ids.get(record.layout) or self._insert_layout(connection, record.layout),
                    record.values,
                )
                for record in records
                if record.layout is not NO_SERIES
            ],
        )
        self._insert_gpus(connection, records)
        self._insert_events_spans_and_usage(connection, records)

    def _insert_gpus(self, connection: Connection, records: Sequence[Record]) -> None:
        """Store index and name of the GPUs if the set of devices has changed."""
        for record in records:
            if record.layout is self._last_layout:
                continue
            self._last_layout = record.layout
            connection.executemany(
                "INSERT INTO gpu (uuid, position, name, time_ms) VALUES (?, ?, ?, ?) ON CONFLICT (uuid) DO UPDATE SET"
                " position = excluded.position, name = excluded.name, time_ms = excluded.time_ms",
                [(gpu.uuid, gpu.index, gpu.name, record.time_ms) for gpu in record.layout.gpus],
            )

    @staticmethod
    def _insert_events_spans_and_usage(connection: Connection, records: Sequence[Record]) -> None:
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
        spans = [span.to_row() for record in records for span in record.spans]
        if spans:
            connection.executemany(
                "INSERT INTO process (gpu, pid, start_ms, end_ms, memory, peak_memory, peak_sm, facts)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (gpu, pid, start_ms) DO UPDATE SET"
                " end_ms = excluded.end_ms, peak_memory = excluded.peak_memory, peak_sm = excluded.peak_sm,"
                " facts = excluded.facts",
                spans,
            )
        add_usage(connection, [record.usage for record in records if record.usage is not NO_USAGE])

    def _insert_layout(self, connection: Connection, layout: Layout) -> int:
        layout_id = get_layout_id(connection, self._insert_series(connection, layout.keys))
        if len(self._layout_ids) >= MAX_LAYOUTS:
            self._layout_ids.clear()
        self._layout_ids[layout] = layout_id
        return layout_id

    @staticmethod
    def _insert_series(connection: Connection, keys: Sequence[SeriesKey]) -> NDArray[np.int64]:
        """Return the ids of these series, which are inserted if they are new."""
        rows = [(key.metric, key.gpu_uuid or "") for key in keys]
        connection.executemany("INSERT INTO series (metric, gpu) VALUES (?, ?) ON CONFLICT DO NOTHING", rows)
        series_ids = {
            (metric, gpu): series_id
            for series_id, metric, gpu in connection.execute("SELECT id, metric, gpu FROM series")
        }
        return np.array([series_ids[row] for row in rows], dtype=np.int64)

    def _prune(self, connection: Connection) -> None:
        with self._connection_lock:
            connection.execute(self.begin_statement)
            try:
                prune(connection, kept_ms=self._kept_ms, max_bytes=self._max_bytes, used_bytes=self._read_used_bytes)
                connection.execute("COMMIT")
            except BaseException:
                _roll_back(connection)
                raise
            self._reclaim_space(connection)


def _roll_back(connection: Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _read_newest_row(connection: Connection) -> tuple[int, bytes] | None:
    """Return time and values of the sample that was written last."""
    row = connection.execute("SELECT time_ms, data FROM head WHERE tier = 0 ORDER BY id DESC LIMIT 1").fetchone()
    return None if row is None else (row[0], row[1])


def _count_written(connection: Connection, records: Sequence[Record]) -> int:
    """Return how many of the records were written although the write failed: the connection broke after the commit."""
    newest = _read_newest_row(connection)
    counts = range(len(records), 0, -1)
    return next((count for count in counts if (records[count - 1].time_ms, records[count - 1].values) == newest), 0)
