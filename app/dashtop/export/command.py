"""`dashtop export`: from what was asked to the file."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from dashtop.export.formats import FORMATS
from dashtop.export.table import Table
from dashtop.model.errors import ExportError, SettingsError
from dashtop.model.timerange import RANGES, SECOND_MS, TimeRange

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dashtop.export.request import Request
    from dashtop.model.ports import Clock, History


def run(request: Request, history: History, clock: Clock) -> None:
    """Write the file, whole or not at all. Raises ExportError and SettingsError."""
    pieces = FORMATS[request.format].write(asked(request, history, clock.now_ms()))
    if request.output is None:
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    try:
        _write(request.output, pieces)
    except OSError as error:
        raise ExportError(f"{request.output} cannot be written ({error.strerror}): name another with -o.") from error


def asked(request: Request, history: History, now_ms: int) -> Table:
    """Return the table that was asked for. Raises ExportError where nothing was kept of it."""
    kept = history.series()
    keys = [key for key in kept if request.metrics is None or key.metric in request.metrics]
    if not keys:
        if (message := history.status_message()) is not None:
            raise ExportError(message)
        of_it = " of these metrics" if kept else ""
        raise ExportError(f"There is no history{of_it} there; --data-dir or --history-url names another place.")
    step_ms = request.step_s * SECOND_MS if request.step_s is not None else None
    if request.start_ms is None:
        if request.end_ms is not None:
            raise SettingsError("--end goes with --start.")
        start_ms, end_ms, step_ms = RANGES[request.range].find_bounds(now_ms, step_ms)
    else:
        start_ms, end_ms = request.start_ms, now_ms if request.end_ms is None else request.end_ms
        if end_ms <= start_ms:
            raise SettingsError("--end must be later than --start.")
        step_ms = step_ms or TimeRange.from_span(end_ms - start_ms).step_ms
    return Table(history, keys, start_ms=start_ms, end_ms=end_ms, step_ms=step_ms)


def _write(output: Path, pieces: Iterator[bytes]) -> None:
    with tempfile.NamedTemporaryFile(dir=output.parent, prefix=f".{output.name}.", delete=False) as file:
        unfinished = Path(file.name)
        try:
            for piece in pieces:
                file.write(piece)
        except BaseException:
            unfinished.unlink()
            raise
    unfinished.replace(output)
