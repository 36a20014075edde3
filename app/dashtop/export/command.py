"""`dashtop export`: its options, the selection of series, and the file."""

from __future__ import annotations

import sys
import tempfile
from argparse import ArgumentTypeError
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dashtop.metrics import METRICS
from dashtop.model.errors import ExportError, SettingsError
from dashtop.model.sample import StoredGpu
from dashtop.model.timerange import SECOND_MS, TimeRange, parse_duration

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from dashtop.export.table import Table
    from dashtop.model.ports import Clock, History
    from dashtop.model.sample import SeriesKey

FORMAT_NAMES: Final = ("csv", "json", "parquet")
LAYOUTS: Final = ("wide", "long")
MAX_QUOTED_LENGTH = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What to export. `start_ms` None: `range`, which ends now. `output` None: standard output.

    `gpus`: index or UUID of each GPU. `gpus` and `metrics` None: all that are stored.
    """

    format: str = "csv"
    layout: str = "wide"
    output: Path | None = None
    range: str = "24h"
    start_ms: int | None = None
    end_ms: int | None = None
    step_s: int | None = None
    gpus: tuple[str, ...] | None = None
    metrics: tuple[str, ...] | None = None


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `dashtop export`."""
    parser.add_argument(
        "--range",
        metavar="DURATION",
        type=_range,
        help="length of the time range that ends now: 90m, 24h, 7d (default 24h)",
    )
    parser.add_argument(
        "--start", dest="start_ms", metavar="TIME", type=_time, help="instead of --range: 2026-01-31T14:00"
    )
    parser.add_argument("--end", dest="end_ms", metavar="TIME", type=_time, help="with --start (default now)")
    parser.add_argument("--step", dest="step_s", metavar="SECONDS", type=_seconds, help="time between two rows")
    parser.add_argument("--gpu", dest="gpus", metavar="N", type=_gpus, help="index or UUID, several: 0,2 (default all)")
    parser.add_argument(
        "--metrics", metavar="KEYS", type=_metrics, help="metric keys, separated by commas (default all)"
    )
    parser.add_argument(
        "--layout", choices=LAYOUTS, help="wide: a column per series (default); long: a row per value, for SQL"
    )
    parser.add_argument("--format", choices=FORMAT_NAMES, help="default csv; parquet needs dashtop[parquet]")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, help="default standard output")


def _range(text: str) -> str:
    try:
        parse_duration(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{error}, not {text[:MAX_QUOTED_LENGTH]!r}") from None
    return text


def _time(text: str) -> int:
    """Return epoch milliseconds of an ISO 8601 time, which is local if it names no zone."""
    try:
        return round(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1000)
    except ValueError:
        message = f"must be a time such as 2026-01-31T14:00, not {text[:MAX_QUOTED_LENGTH]!r}"
        raise ArgumentTypeError(message) from None


def _seconds(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ArgumentTypeError(f"must be a whole number of at least 1, not {text[:MAX_QUOTED_LENGTH]!r}")
    return int(text)


def _list(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text.split(",")))


def _gpus(text: str) -> tuple[str, ...] | None:
    return None if text == "all" else _list(text)


def _metrics(text: str) -> tuple[str, ...]:
    keys = _list(text)
    for key in keys:
        if key not in METRICS:
            raise ArgumentTypeError(f"unknown metric {key[:MAX_QUOTED_LENGTH]!r}; docs/metrics.md lists them")
    return keys


def run(request: Request, history: History, clock: Clock) -> None:
    """Write the complete file, or none. Raises ExportError and SettingsError."""
    from dashtop.export.table import FORMATS  # noqa: PLC0415 - the command line is parsed without numpy

    chunks = FORMATS[request.format].write(build_table(request, history, clock.now_ms()))
    if request.output is None:
        for chunk in chunks:
            sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        return
    try:
        _write_file(request.output, chunks)
    except OSError as error:
        message = f"{request.output} cannot be written ({error.strerror}). Choose another file with -o."
        raise ExportError(message) from error


def build_table(request: Request, history: History, now_ms: int) -> Table:
    """Return the requested table. Raises ExportError if nothing is stored of it, SettingsError for impossible times."""
    from dashtop.export.table import Table  # noqa: PLC0415

    start_ms, end_ms, step_ms = _find_bounds(request, now_ms)
    stored = history.series()
    gpus = _find_gpus(request, history, stored)
    keys = _select_series(request, stored, gpus)
    if not keys:
        if (message := history.status_message()) is not None:
            raise ExportError(message)
        selection = " of these metrics" if stored else ""
        raise ExportError(
            f"No history{selection} is stored there. Set its place with --data-dir or --history-url (environment:"
            " DASHTOP_DATA_DIR, DASHTOP_HISTORY_URL)."
        )
    return Table(history, keys, start_ms=start_ms, end_ms=end_ms, step_ms=step_ms, gpus=gpus, layout=request.layout)


def _find_bounds(request: Request, now_ms: int) -> tuple[int, int, int]:
    """Return start, end and step in milliseconds."""
    step_ms = request.step_s * SECOND_MS if request.step_s is not None else None
    if request.start_ms is None:
        if request.end_ms is not None:
            raise SettingsError("--end needs --start.")
        return parse_duration(request.range).find_bounds(now_ms, step_ms)
    end_ms = now_ms if request.end_ms is None else request.end_ms
    if end_ms <= request.start_ms:
        raise SettingsError("--end must be later than --start.")
    return request.start_ms, end_ms, step_ms or TimeRange.from_span(end_ms - request.start_ms).step_ms


def _find_gpus(request: Request, history: History, stored: Sequence[SeriesKey]) -> list[StoredGpu]:
    """Return the requested GPUs in the order of their index. Raises ExportError for an unknown one."""
    gpus = list(history.gpus())
    unknown = {key.gpu_uuid for key in stored if key.gpu_uuid is not None} - {gpu.uuid for gpu in gpus}
    gpus += [StoredGpu(uuid, None, None) for uuid in sorted(unknown)]
    if request.gpus is None:
        return gpus
    names = {gpu.uuid if gpu.index is None else str(gpu.index): gpu for gpu in gpus}
    for wanted in request.gpus:
        if wanted not in names and not any(gpu.uuid == wanted for gpu in gpus):
            known = f"Stored are {', '.join(names)}" if names else "No GPU is stored"
            raise ExportError(f"GPU {wanted[:MAX_QUOTED_LENGTH]} is not in the history. {known}.")
    return [gpu for name, gpu in names.items() if not {name, gpu.uuid}.isdisjoint(request.gpus)]


def _select_series(request: Request, stored: Sequence[SeriesKey], gpus: Sequence[StoredGpu]) -> list[SeriesKey]:
    """Return the series of the host, then those of each GPU."""
    position: dict[str | None, int] = {None: 0, **{gpu.uuid: number for number, gpu in enumerate(gpus, 1)}}
    keys = [
        key for key in stored if key.gpu_uuid in position and (request.metrics is None or key.metric in request.metrics)
    ]
    return sorted(keys, key=lambda key: (position[key.gpu_uuid], key.metric))


def _write_file(path: Path, chunks: Iterator[bytes]) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        temporary = Path(file.name)
        try:
            for chunk in chunks:
                file.write(chunk)
        except BaseException:
            temporary.unlink()
            raise
    temporary.replace(path)
