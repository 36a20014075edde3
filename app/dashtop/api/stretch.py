"""Which stretch of the past a call is about: a range by name that ends now, or two moments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from dashtop.api.query import Query
from dashtop.domain.timerange import RANGES, TimeRange

if TYPE_CHECKING:
    from dashtop.domain.ports import Clock

LATEST_MS = 253_402_300_799_999
"""The end of the year 9999."""


def _known_range(name: str) -> str:
    if name not in RANGES:
        raise ValueError(f"must be one of {', '.join(RANGES)}")
    return name


def _moment(value: object) -> object:
    if isinstance(value, str) and not (value.isascii() and value.isdigit() and len(value) <= len(str(LATEST_MS))):
        raise ValueError("must be a moment in milliseconds since 1970")
    return value


def _after_start(end: int, info: ValidationInfo) -> int:
    start = info.data.get("start")
    if start is None:
        raise ValueError("needs start beside it")
    if end <= start:
        raise ValueError(f"must be after start ({start})")
    return end


class StretchQuery(Query):
    """How far back from now, or from when to when."""

    range: Annotated[
        str,
        AfterValidator(_known_range),
        Field(description="How far back from now.", json_schema_extra={"enum": list(RANGES)}),
    ] = "1h"
    start: Annotated[
        int | None,
        BeforeValidator(_moment),
        Field(ge=0, le=LATEST_MS, description="In place of `range`: the first moment, in ms since 1970."),
    ] = None
    end: Annotated[
        int | None,
        BeforeValidator(_moment),
        AfterValidator(_after_start),
        Field(ge=0, le=LATEST_MS, description="The moment after the last; left out beside `start`, now."),
    ] = None

    def stretch(self, clock: Clock, points: int | None = None) -> tuple[int, int, int]:
        """Return start, end and step in milliseconds, with at most `points` buckets where that is given."""
        now_ms = clock.now_ms()
        if self.start is None:
            named = RANGES[self.range]
            return named.ending(now_ms, named.step_for(points) if points is not None else None)
        end_ms = self.end if self.end is not None else max(now_ms, self.start) + 1
        asked = TimeRange.spanning(end_ms - self.start)
        return self.start, end_ms, asked.step_for(points) if points is not None else asked.step_ms
