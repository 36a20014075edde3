"""The formats of an export: CSV, JSON, and Parquet where pyarrow is installed. Each is a generator of bytes."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.util import find_spec
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dashtop.export.table import Piece
from dashtop.model.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dashtop.export.table import Table

# OWASP, "CSV injection": what makes a spreadsheet take a cell for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


PIECES_TOGETHER = 20
"""In Parquet: 32 MB of numbers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """One format. `write` gives a table as bytes; it raises ExportError, before the first, where it cannot."""

    media_type: str
    suffix: str
    write: Callable[[Table], Iterator[bytes]]


def harmless(text: str) -> str:
    """Return a cell's text so that no spreadsheet runs it as a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _csv(table: Table) -> Iterator[bytes]:
    """Times are ISO 8601 in UTC; an empty cell is no reading."""
    yield _lines([["time (UTC)", *(harmless(column.title) for column in table.columns)]])
    for piece in table.pieces():
        times = (_iso(time_ms) for time_ms in piece.times_ms.tolist())
        yield _lines([time, *row] for time, row in zip(times, _numbers(piece), strict=True))


def _lines(rows: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()


def _json(table: Table) -> Iterator[bytes]:
    """An object with step, columns, and rows that begin with their time (epoch ms); null is no reading."""
    columns = [
        {
            "metric": column.key.metric,
            "statistic": column.statistic,
            "unit": column.unit,
            "gpu_uuid": column.key.gpu_uuid,
        }
        for column in table.columns
    ]
    yield f'{{"step_ms": {table.step_ms}, "columns": {json.dumps(columns)}, "rows": ['.encode()
    between = "\n"
    for piece in table.pieces():
        rows = [
            json.dumps([time_ms, *row]) for time_ms, row in zip(piece.times_ms.tolist(), _numbers(piece), strict=True)
        ]
        yield (between + ",\n".join(rows)).encode()
        between = ",\n"
    yield b"\n]}\n"


def _parquet(table: Table) -> Iterator[bytes]:
    """A column of timestamps in UTC, and one of doubles for each statistic, with its unit in the field's metadata."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - an extra
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise ExportError("Parquet needs pyarrow: pip install 'dashtop[parquet]', or choose csv or json.") from None
    fields = [pa.field("time", pa.timestamp("ms", tz="UTC"))]
    fields += [pa.field(column.title, pa.float64(), metadata={"unit": column.unit}) for column in table.columns]
    schema = pa.schema(fields)
    written = _Drained()
    with parquet.ParquetWriter(written, schema, write_statistics=False) as writer:
        for piece in _larger(table.pieces()):
            numbers = [pa.array(column, from_pandas=True) for column in piece.values.T]  # NaN becomes null
            writer.write_table(pa.table([pa.array(piece.times_ms, type=fields[0].type), *numbers], schema=schema))
            yield written.drained()
    yield written.drained()


def _larger(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Put pieces together: Parquet remembers, until the end, some kB of each column of each piece that it was given."""
    for _, group in groupby(enumerate(pieces), lambda numbered: numbered[0] // PIECES_TOGETHER):
        times, values = zip(*(piece for _, piece in group), strict=True)
        yield Piece(np.concatenate(times), np.concatenate(values))


class _Drained(io.RawIOBase):
    """A file that holds only what was written since it was last drained."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        self._position += len(self._parts[-1])
        return len(self._parts[-1])

    def tell(self) -> int:
        return self._position

    def drained(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def _numbers(piece: Piece) -> list[list[float | None]]:
    rows: list[list[float | None]] = np.where(np.isnan(piece.values), None, piece.values).tolist()  # type: ignore[call-overload]
    return rows


def _iso(time_ms: int) -> str:
    moment = datetime.fromtimestamp(time_ms / 1000, tz=timezone.utc)
    return moment.isoformat(timespec="milliseconds" if time_ms % 1000 else "seconds").replace("+00:00", "Z")


FORMATS: Final = {
    "csv": Format(media_type="text/csv; charset=utf-8", suffix=".csv", write=_csv),
    "json": Format(media_type="application/json", suffix=".json", write=_json),
    "parquet": Format(media_type="application/vnd.apache.parquet", suffix=".parquet", write=_parquet),
}


def offered() -> tuple[str, ...]:
    """Return the names of the formats that can be written here: all of FORMATS where pyarrow is installed."""
    return tuple(name for name in FORMATS if name != "parquet" or find_spec("pyarrow") is not None)
