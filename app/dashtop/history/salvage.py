"""Copies what can still be read of a damaged SQLite file into a new one."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dashtop.history.compaction import ROLLUP_COLUMNS
from dashtop.history.schema import TIERS, VERSION, decompress, decompress_times
from dashtop.history.usage import TABLE_NAMES as USAGE_TABLE_NAMES
from dashtop.history.usage import list_columns
from dashtop.model.metric import Severity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dashtop.history.database import Connection

MAX_ID = 2**62
TEXT, INTEGER, BLOB, NUMBER, NULL = str, int, bytes, (int, float), type(None)


def _list_usage_types(table: str) -> Iterator[Any]:
    kinds = {"TEXT": (TEXT,), "BIGINT": (INTEGER,), "DOUBLE PRECISION": NUMBER}
    for _, kind, is_optional in list_columns(table):
        yield (*kinds[kind], NULL) if is_optional else kinds[kind]


_TYPES: dict[str, tuple[Any, ...]] = {
    "series": (INTEGER, TEXT, TEXT),
    "layout": (INTEGER, BLOB),
    "head": (INTEGER, INTEGER, INTEGER, INTEGER, BLOB),
    '"window"': (INTEGER, INTEGER, INTEGER, BLOB),
    "chunk": (INTEGER, INTEGER, INTEGER, BLOB),
    "event": (INTEGER, INTEGER, TEXT, TEXT, TEXT, (TEXT, NULL), TEXT, (INTEGER, NULL)),
    "process": (
        *(INTEGER, TEXT, INTEGER, INTEGER, INTEGER),
        *((INTEGER, NULL), (INTEGER, NULL), (*NUMBER, NULL), TEXT),
    ),
    "gpu": (INTEGER, TEXT, INTEGER, TEXT, INTEGER),
    **{table: (INTEGER, *_list_usage_types(table)) for table in USAGE_TABLE_NAMES},
}
"""The columns of each table, the row's id first; tables that others refer to come before those."""
_WITHOUT_ID = frozenset({"gpu", *USAGE_TABLE_NAMES})
"""Tables whose rows have an implicit id."""


class Salvaged(NamedTuple):
    """What was copied: windows of readings, their chunks, and rows that are not compacted yet."""

    windows: int
    chunks: int
    rows: int


def salvage(damaged: Path, connection: Connection, application_id: int) -> Salvaged | None:
    """Copy every row that is readable and consistent, with its id, in the caller's transaction.

    Returns None if the file is not a history of this version. Raises sqlite3.DatabaseError if nothing can be read.
    """
    has_wal = damaged.with_name(damaged.name + "-wal").exists()
    options = "mode=ro" if has_wal else "mode=ro&immutable=1"
    with closing(sqlite3.connect(f"{damaged.absolute().as_uri()}?{options}", uri=True)) as source:
        source.execute("PRAGMA writable_schema = ON")  # without it, SQLite reads nothing of a file that was cut off
        marks = [source.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        if marks != [application_id, VERSION]:
            return None
        checks = _Checks()
        counts = {table: _copy(source, connection, table, checks) for table in _TYPES}
    return Salvaged(counts['"window"'], counts["chunk"], counts["head"])


def _copy(source: sqlite3.Connection, target: Connection, table: str, checks: _Checks) -> int:
    types, check = _TYPES[table], checks.by_table.get(table)
    columns = types[1:] if table in _WITHOUT_ID else types
    insert = f"INSERT OR IGNORE INTO {table} VALUES ({', '.join('?' * len(columns))})"  # noqa: S608
    count = 0
    for row in _read_rows(source, table):
        is_typed = len(row) == len(types) and all(map(isinstance, row, types))
        if is_typed and (check is None or check(row)):
            target.execute(insert, row[len(types) - len(columns) :])
            count += 1
    return count


def _read_rows(source: sqlite3.Connection, table: str) -> Iterator[tuple[Any, ...]]:
    """Yield the rows in ascending id. Behind a damaged page, go on at the next id that can be read."""
    columns = "rowid, *" if table in _WITHOUT_ID else "*"
    query = f"SELECT {columns} FROM {table} WHERE rowid >= ? ORDER BY rowid"  # noqa: S608
    first: int | None = 0
    while first is not None:
        try:
            for row in source.execute(query, (first,)):
                if not isinstance(row[0], int) or row[0] < first:
                    break  # the pages are in disorder
                yield row
                first = row[0] + 1
            else:
                return
        except sqlite3.DatabaseError:
            pass  # rows follow behind this place
        first = _find_readable(source, query, first)


def _find_readable(source: sqlite3.Connection, query: str, unreadable: int) -> int | None:
    """Return the lowest id behind an unreadable one from which rows can be read, None if there is none."""
    step = 1
    while not _is_readable(source, query, unreadable + step):
        unreadable, step = unreadable + step, 2 * step
        if unreadable > MAX_ID:
            return None
    readable = unreadable + step
    while readable - unreadable > 1:
        middle = (readable + unreadable) // 2
        if _is_readable(source, query, middle):
            readable = middle
        else:
            unreadable = middle
    return readable


def _is_readable(source: sqlite3.Connection, query: str, first: int) -> bool:
    try:
        row = source.execute(query, (first,)).fetchone()
    except sqlite3.DatabaseError:
        return False
    return row is None or (isinstance(row[0], int) and row[0] >= first)


class _Checks:
    """Conditions of the rows of each table, for which the rows they refer to were copied before."""

    def __init__(self) -> None:
        self._series: set[int] = set()
        self._layouts: dict[int, int] = {}
        self._windows: dict[int, tuple[int, int]] = {}
        self.by_table: dict[str, Callable[[tuple[Any, ...]], bool]] = {
            "series": self._check_series,
            "layout": self._check_layout,
            "head": self._check_head,
            '"window"': self._check_window,
            "chunk": self._check_chunk,
            "event": self._check_event,
        }

    def _check_series(self, row: tuple[Any, ...]) -> bool:
        self._series.add(row[0])
        return True

    def _check_layout(self, row: tuple[Any, ...]) -> bool:
        number, blob = row
        if len(blob) % 8 or not self._series.issuperset(np.frombuffer(blob, dtype=np.int64).tolist()):
            return False
        self._layouts[number] = len(blob) // 8
        return True

    def _check_head(self, row: tuple[Any, ...]) -> bool:
        _, tier, _, layout, data = row
        return layout in self._layouts and len(data) == 4 * _count_columns(tier) * self._layouts[layout]

    def _check_window(self, row: tuple[Any, ...]) -> bool:
        number, tier, start_ms, blob = row
        try:
            times = decompress_times(blob)
        except ValueError:
            return False
        if not len(times) or tier not in range(len(TIERS)) or not 0 <= times[0] - start_ms < TIERS[tier].window_ms:
            return False
        self._windows[number] = tier, len(times)
        return True

    def _check_chunk(self, row: tuple[Any, ...]) -> bool:
        _, series, window, blob = row
        if series not in self._series or window not in self._windows:
            return False
        tier, length = self._windows[window]
        try:
            return len(decompress(blob, np.float32)) == _count_columns(tier) * length  # zlib's checksum finds damage
        except ValueError:
            return False

    @staticmethod
    def _check_event(row: tuple[Any, ...]) -> bool:
        return row[3] in {severity.value for severity in Severity}


def _count_columns(tier: int) -> int:
    return 1 if tier == 0 else ROLLUP_COLUMNS
