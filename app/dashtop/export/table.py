"""Stored history as a table in two layouts, and its formats: CSV, JSON, and Parquet if pyarrow is installed.

A table is read and written in pieces, so that its length does not matter.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from dashtop.metrics import METRICS
from dashtop.model.errors import ExportError
from dashtop.model.sample import StoredGpu
from dashtop.model.text import sanitize_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from dashtop.model.ports import History
    from dashtop.model.sample import SeriesKey

    Piece = list[NDArray[Any]]
    """Some rows: an array for each column. Missing is NaN in numbers, None in integers and text."""

STATISTICS = ("mean", "min", "max")
DIGITS = 4
MAX_TITLE_LENGTH = 200
MAX_CELLS = 200_000
"""Values of a piece: some MB as text."""
PIECES_PER_ROW_GROUP = 20
"""In Parquet, 32 MB of numbers: until its end, a file keeps some kB in memory for each column of each row group."""

# OWASP, "CSV injection": a spreadsheet runs a cell as a formula if it begins with one of these.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """A column of a table. `title`: its name in CSV and Parquet; `description`: what JSON says about it."""

    title: str
    kind: Literal["time", "integer", "text", "number"] = "number"
    description: object = None
    unit: str = ""


class Table:
    """Statistics of series over [start_ms, end_ms) in buckets of `step_ms` on the epoch's grid.

    Layout "wide": a row per bucket, columns for mean, minimum and maximum of each series, in the order of `keys`.
    Layout "long": a row per bucket and series, with the metric and the GPU in columns. Rows without a reading are left
    out. `gpus`: index and name of the GPUs; one that is missing, or has no index, is named by its UUID.
    """

    def __init__(
        self,
        history: History,
        keys: Sequence[SeriesKey],
        *,
        start_ms: int,
        end_ms: int,
        step_ms: int,
        gpus: Sequence[StoredGpu] = (),
        layout: str = "wide",
    ) -> None:
        self._history = history
        self._keys = keys
        self._start_ms = start_ms // step_ms * step_ms
        self._end_ms = end_ms
        self.step_ms = step_ms
        known = {gpu.uuid: gpu for gpu in gpus}
        self._gpus = [known.get(key.gpu_uuid or "") or StoredGpu(key.gpu_uuid or "", None, None) for key in keys]
        self._is_long = layout == "long"
        self.columns = LONG_COLUMNS if self._is_long else self._build_wide_columns()

    def pieces(self) -> Iterator[Piece]:
        """Yield the rows in ascending time."""
        if not self._keys:
            return
        arrange = self._arrange_long if self._is_long else _arrange_wide
        rows = max(1, MAX_CELLS // (len(self._keys) * len(STATISTICS)))
        for start_ms in range(self._start_ms, self._end_ms, rows * self.step_ms):
            end_ms = min(self._end_ms, start_ms + rows * self.step_ms)
            found = self._history.query(self._keys, start_ms, end_ms, self.step_ms, wait=True)
            values = np.stack(
                [np.stack((series.mean, series.minimum, series.maximum), axis=1) for series in found.series], axis=1
            )  # bucket, series, statistic
            times_ms = found.start_ms + found.step_ms * np.arange(found.count, dtype=np.int64)
            piece = arrange(times_ms, values.astype(np.float64).round(DIGITS))
            if len(piece[0]):
                yield piece

    def _build_wide_columns(self) -> tuple[Column, ...]:
        columns = [Column(title="time (UTC)", kind="time")]
        for key, gpu in zip(self._keys, self._gpus, strict=True):
            metric = METRICS.get(key.metric)
            unit = metric.unit.symbol if metric is not None else ""
            scope = "" if key.gpu_uuid is None else f" {key.gpu_uuid if gpu.index is None else f'GPU {gpu.index}'}"
            for statistic in STATISTICS:
                title = f"{key.metric} {statistic}{f' ({unit})' if unit else ''}{scope}"
                description = {
                    "metric": key.metric,
                    "statistic": statistic,
                    "unit": unit,
                    "gpu": gpu.index,
                    "gpu_name": gpu.name,
                    "gpu_uuid": key.gpu_uuid,
                }
                columns.append(Column(title=sanitize_text(title, MAX_TITLE_LENGTH), description=description, unit=unit))
        return tuple(columns)

    def _arrange_long(self, times_ms: NDArray[np.int64], values: NDArray[np.float64]) -> Piece:
        rows, series = np.nonzero(~np.isnan(values).all(axis=2))
        gpus = np.array([(gpu.index, gpu.name) for gpu in self._gpus], dtype=object)[series]
        metrics = np.array([sanitize_text(key.metric) for key in self._keys], dtype=object)[series]
        return [times_ms[rows], gpus[:, 0], gpus[:, 1], metrics, *values[rows, series].T]


LONG_COLUMNS: Final = (
    Column(title="time", kind="time", description="time"),
    Column(title="gpu", kind="integer", description="gpu"),
    Column(title="gpu_name", kind="text", description="gpu_name"),
    Column(title="metric", kind="text", description="metric"),
    *(Column(title=statistic, description=statistic) for statistic in STATISTICS),
)


def _arrange_wide(times_ms: NDArray[np.int64], values: NDArray[np.float64]) -> Piece:
    columns = values.reshape(len(times_ms), -1)
    has_reading = ~np.isnan(columns).all(axis=1)
    return [times_ms[has_reading], *columns[has_reading].T]


def _read_rows(piece: Piece) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a piece; None is missing."""
    return zip(*(_to_list(cells) for cells in piece), strict=True)


def _to_list(cells: NDArray[Any]) -> list[Any]:
    if cells.dtype == np.float64:
        cells = np.where(np.isnan(cells), None, cells)  # type: ignore[call-overload]
    values: list[Any] = cells.tolist()
    return values


def escape_formula(text: str | None) -> str | None:
    """Return the text of a cell so that no spreadsheet runs it as a formula."""
    return f"'{text}" if text is not None and text.startswith(_FORMULA) else text


def write_csv(table: Table) -> Iterator[bytes]:
    """Yield CSV. Times are ISO 8601 in UTC; an empty cell is missing."""
    yield _format_csv([[escape_formula(column.title) for column in table.columns]])
    for piece in table.pieces():
        times = np.datetime_as_string(piece[0].view("datetime64[ms]"), unit="s", timezone="UTC")
        texts = [
            np.array([escape_formula(text) for text in cells], dtype=object) if column.kind == "text" else cells
            for column, cells in zip(table.columns[1:], piece[1:], strict=True)
        ]
        yield _format_csv(_read_rows([times, *texts]))


def _format_csv(rows: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()


def write_json(table: Table) -> Iterator[bytes]:
    """Yield an object with step, columns, and rows that begin with their time (epoch ms); null is missing.

    Wide: `columns` describes what follows the time of each row. Long: `columns` names everything in a row.
    """
    columns = [column.description for column in table.columns if column.description is not None]
    yield f'{{"step_ms": {table.step_ms}, "columns": {json.dumps(columns)}, "rows": ['.encode()
    separator = "\n"
    for piece in table.pieces():
        yield (separator + ",\n".join(map(json.dumps, _read_rows(piece)))).encode()
        separator = ",\n"
    yield b"\n]}\n"


def write_parquet(table: Table) -> Iterator[bytes]:
    """Yield Parquet. Times are timestamps in UTC, numbers doubles with their unit in the field's metadata."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - optional
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise ExportError("Parquet needs pyarrow: pip install 'dashtop[parquet]', or choose csv or json.") from None
    types = {"time": pa.timestamp("ms", tz="UTC"), "integer": pa.int32(), "text": pa.string(), "number": pa.float64()}
    fields = [
        pa.field("time" if column.kind == "time" else column.title, types[column.kind], metadata={"unit": column.unit})
        for column in table.columns
    ]
    schema = pa.schema(fields)
    buffer = _Buffer()
    with parquet.ParquetWriter(buffer, schema, write_statistics=False) as writer:
        pieces = table.pieces()
        while group := list(islice(pieces, PIECES_PER_ROW_GROUP)):
            arrays = [
                pa.array(np.concatenate(parts), type=field.type, from_pandas=True)  # NaN becomes null
                for field, *parts in zip(fields, *group, strict=True)
            ]
            writer.write_table(pa.table(arrays, schema=schema), row_group_size=len(arrays[0]))
            yield buffer.take()
    yield buffer.take()


class _Buffer(io.RawIOBase):
    """A file that keeps what is written to it until it is taken."""

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

    def take(self) -> bytes:
        """Return and forget what was written since the last call."""
        parts, self._parts = self._parts, []
        return b"".join(parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """A file format. `write` yields a table as bytes; it raises ExportError before the first if it cannot."""

    media_type: str
    suffix: str
    write: Callable[[Table], Iterator[bytes]]


FORMATS: Final = {
    "csv": Format(media_type="text/csv; charset=utf-8", suffix=".csv", write=write_csv),
    "json": Format(media_type="application/json", suffix=".json", write=write_json),
    "parquet": Format(media_type="application/vnd.apache.parquet", suffix=".parquet", write=write_parquet),
}


def list_formats() -> tuple[str, ...]:
    """Return the names of the formats that can be written here: Parquet only if pyarrow is installed."""
    return tuple(name for name in FORMATS if name != "parquet" or find_spec("pyarrow") is not None)
