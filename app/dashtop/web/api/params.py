"""Which stretch of the past a call is about: a range by name that ends now, or two moments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo
from werkzeug.exceptions import UnprocessableEntity

from dashtop.metrics import METRICS
from dashtop.model.timerange import RANGES, TimeRange

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dashtop.model.ports import Clock

LARGEST_GPU_ID = 999_999
SHOWN = 80


def _digits(value: object) -> object:
    """Let through what is written as a whole number, and nothing else that Python would take for one."""
    if isinstance(value, str) and not (value.isascii() and value.isdigit() and len(value) <= len(str(LARGEST_GPU_ID))):
        raise ValueError(f"must be a whole number from 0 to {LARGEST_GPU_ID}")
    return value


WholeNumber = BeforeValidator(_digits)


class Query(BaseModel):
    """No parameters; base of those with some. An unknown parameter is an error, so that no typo goes unseen."""

    model_config = ConfigDict(extra="forbid")


class GpuQuery(Query):
    """Which GPU."""

    gpu_id: Annotated[
        int, WholeNumber, Field(ge=0, le=LARGEST_GPU_ID, description="Index of the GPU, from /gpu-list.", examples=[0])
    ] = 0


def known_metrics(text: object) -> object:
    """Check a list of metric keys, separated by commas."""
    if not isinstance(text, str):
        return text
    keys = tuple(dict.fromkeys(text.split(",")))
    for key in keys:
        if key not in METRICS:
            raise ValueError(f"there is no metric {key[:SHOWN]!r}; /api/v1/system/openapi.json lists them as x-metric")
    return text


QueryT = TypeVar("QueryT", bound=Query)


def parse(model: type[QueryT], given: Mapping[str, Sequence[str]]) -> QueryT:
    """Return the parameters, checked. Raises UnprocessableEntity with a sentence that names the parameter."""
    for name, values in given.items():
        if len(values) > 1:
            raise UnprocessableEntity(f"{name[:SHOWN]} is given {len(values)} times; give it once.")
    flat: dict[str, Any] = {name: values[0] for name, values in given.items()}
    try:
        return model.model_validate(flat)
    except ValidationError as error:
        raise UnprocessableEntity(_sentence(model, error)) from None


def _sentence(model: type[Query], error: ValidationError) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0])[:SHOWN]
    if first["type"] == "extra_forbidden":
        known = ", ".join(model.model_fields) or "none"
        return f"There is no parameter {name!r}; this call knows: {known}."
    said = first["msg"].removeprefix("Value error, ")
    return f"{name}: {said[0].lower()}{said[1:]}, not {str(first['input'])[:SHOWN]!r}."


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


class TimeRangeParams(Query):
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
