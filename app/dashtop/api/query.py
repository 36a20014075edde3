"""What may be asked. Everything in an address comes from outside: what is not described here is refused with 422."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from werkzeug.exceptions import UnprocessableEntity

from dashtop.catalog import METRICS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
