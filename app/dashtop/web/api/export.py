"""GET /export: what /history answers, as a file that is made while it is sent."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Annotated, Literal

from flask import Response
from pydantic import Field
from werkzeug.exceptions import UnprocessableEntity

from dashtop.export.formats import FORMATS
from dashtop.export.table import Table
from dashtop.model.errors import ExportError
from dashtop.model.timerange import SECOND_MS
from dashtop.web.api.history import HistoryQuery, series_keys
from dashtop.web.api.params import WholeNumber

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from dashtop.web.api.context import Context, Places


MOST_ROWS = 5_000_000
"""Two years in steps of 15 s, a month in seconds. Thousands of empty years would be looked through for hours."""


class ExportQuery(HistoryQuery):
    """Which series, how far back, how fine, and as what."""

    format: Annotated[
        Literal["csv", "json", "parquet"], Field(description="Parquet is there where the server has pyarrow.")
    ] = "csv"
    step: Annotated[
        int | None,
        WholeNumber,
        Field(ge=1, le=86_400, description="Seconds that a row stands for, in place of `points`.", examples=[60]),
    ] = None


def export(context: Context, query: ExportQuery) -> Response:
    """Answer with a file, a piece at a time. A download holds a thread as a stream does, so it takes such a place."""
    services = context.services
    kept = set(services.history.series())
    keys = [key for key in series_keys(context.sample(), query).values() if query.metrics is not None or key in kept]
    start_ms, end_ms, step_ms = query.stretch(services.clock, query.points)
    if query.step is not None:
        step_ms = query.step * SECOND_MS
        if (end_ms - start_ms) // step_ms > MOST_ROWS:
            raise UnprocessableEntity(f"step: that is more than {MOST_ROWS} rows; take a larger one, or less time.")
    chosen = FORMATS[query.format]
    pieces = chosen.write(Table(services.history, keys, start_ms=start_ms, end_ms=end_ms, step_ms=step_ms))
    sent = _in_place(context.places, pieces)
    try:
        first = next(sent)
    except ExportError as error:
        raise UnprocessableEntity(str(error)) from None
    response = Response(chain((first,), sent), content_type=chosen.media_type)
    response.call_on_close(sent.close)
    response.headers["Cache-Control"] = "no-store"
    name = query.range if query.start is None else f"{start_ms}-{end_ms}"
    response.headers["Content-Disposition"] = f'attachment; filename="dashtop-{name}{chosen.suffix}"'
    return response


def _in_place(places: Places, pieces: Iterator[bytes]) -> Generator[bytes, None, None]:
    """Pass the pieces on; the place is given back after the last, or when this generator is closed."""
    places.take()
    try:
        yield from pieces
    finally:
        places.give_back()
