"""Query parameters of the endpoints, validated."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo
from werkzeug.exceptions import UnprocessableEntity

from dashtop.metrics import METRICS
from dashtop.model.alert import AlertState
from dashtop.model.metric import Severity
from dashtop.model.run import RUN_ID_PATTERN, RunStatus
from dashtop.model.sample import EVENT_KINDS, EventFilter
from dashtop.model.timerange import DURATION_PATTERN, RANGES, TimeRange, parse_duration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dashtop.model.ports import Clock

MAX_GPU_ID = 999_999
MAX_PID = 2**22
"""The kernel's PID_MAX_LIMIT."""
MAX_QUOTED_LENGTH = 80
GPUS_PATTERN = r"^(all|[0-9]{1,6}(,[0-9]{1,6}){0,63})$"


def _digits(value: object) -> object:
    """Accept ASCII digits only, not everything that int() accepts."""
    if isinstance(value, str) and not (value.isascii() and value.isdigit() and len(value) <= len(str(MAX_GPU_ID))):
        raise ValueError(f"must be a whole number from 0 to {MAX_GPU_ID}")
    return value


def _pid(value: object) -> object:
    if isinstance(value, str) and not (value.isascii() and value.isdigit() and len(value) <= len(str(MAX_PID))):
        raise ValueError(f"must be a whole number from 1 to {MAX_PID}")
    return value


WholeNumber = BeforeValidator(_digits)


class Params(BaseModel):
    """No parameters; base class of the others. An unknown parameter is an error, so that typos are noticed."""

    model_config = ConfigDict(extra="forbid")


class GpuParams(Params):
    """Select a GPU."""

    gpu_id: Annotated[
        int, WholeNumber, Field(ge=0, le=MAX_GPU_ID, description="Index of the GPU, from /gpu-list.", examples=[0])
    ] = 0


def known_metrics(text: object) -> object:
    """Check a list of metric keys, separated by commas."""
    if not isinstance(text, str):
        return text
    keys = tuple(dict.fromkeys(text.split(",")))
    for key in keys:
        if key not in METRICS:
            raise ValueError(
                f"unknown metric {key[:MAX_QUOTED_LENGTH]!r}; /api/v1/system/openapi.json lists them as x-metric"
            )
    return text


ParamsT = TypeVar("ParamsT", bound=Params)


def parse(model: type[ParamsT], given: Mapping[str, Sequence[str]]) -> ParamsT:
    """Return the validated parameters. Raise UnprocessableEntity with a message that names the parameter."""
    for name, values in given.items():
        if len(values) > 1:
            raise UnprocessableEntity(f"{name[:MAX_QUOTED_LENGTH]} is given {len(values)} times. Give it once.")
    flat: dict[str, Any] = {name: values[0] for name, values in given.items()}
    try:
        return model.model_validate(flat)
    except ValidationError as error:
        raise UnprocessableEntity(_sentence(model, error)) from None


def _sentence(model: type[Params], error: ValidationError) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0])[:MAX_QUOTED_LENGTH]
    if first["type"] == "extra_forbidden":
        known = ", ".join(model.model_fields) or "none"
        return f"Unknown parameter {name!r}. Parameters of this endpoint: {known}."
    said = first["msg"].removeprefix("Value error, ")
    return f"{name}: {said[0].lower()}{said[1:]}, not {str(first['input'])[:MAX_QUOTED_LENGTH]!r}."


MAX_TIME_MS = 253_402_300_799_999
"""The end of the year 9999."""


def _duration(text: str) -> str:
    parse_duration(text)
    return text


def _epoch_ms(value: object) -> object:
    if isinstance(value, str) and not (value.isascii() and value.isdigit() and len(value) <= len(str(MAX_TIME_MS))):
        raise ValueError("must be in milliseconds since 1970")
    return value


def _after_start(end: int, info: ValidationInfo) -> int:
    start = info.data.get("start")
    if start is None:
        raise ValueError("needs start")
    if end <= start:
        raise ValueError(f"must be after start ({start})")
    return end


class TimeRangeParams(Params):
    """Select a time range: one of a length that ends now, or from `start` to `end`."""

    range: Annotated[
        str,
        AfterValidator(_duration),
        Field(
            description="Length of a time range that ends now: a number with a unit (s, m, h, d, w, y).",
            examples=list(RANGES),
            json_schema_extra={"pattern": DURATION_PATTERN},
        ),
    ] = "1h"
    start: Annotated[
        int | None,
        BeforeValidator(_epoch_ms),
        Field(ge=0, le=MAX_TIME_MS, description="First moment in ms since 1970, instead of `range`."),
    ] = None
    end: Annotated[
        int | None,
        BeforeValidator(_epoch_ms),
        AfterValidator(_after_start),
        Field(ge=0, le=MAX_TIME_MS, description="End (exclusive) in ms since 1970; default: now."),
    ] = None

    def resolve(self, clock: Clock, points: int | None = None) -> tuple[int, int, int]:
        """Return start, end and step in milliseconds, with at most `points` buckets if given."""
        now_ms = clock.now_ms()
        if self.start is None:
            last = parse_duration(self.range)
            return last.find_bounds(now_ms, last.find_step(points) if points is not None else None)
        end_ms = self.end if self.end is not None else max(now_ms, self.start) + 1
        time_range = TimeRange.from_span(end_ms - self.start)
        return self.start, end_ms, time_range.find_step(points) if points is not None else time_range.step_ms


DEFAULT_POINTS_OF_ALL = 300
"""Default of `points` if `metrics` is not given: all metrics in steps of 1 s are megabytes."""


class HistoryParams(TimeRangeParams, GpuParams):
    """Select series, time range and resolution."""

    points: Annotated[
        int | None,
        WholeNumber,
        Field(
            ge=2,
            le=5000,
            description=f"Maximum number of buckets; default: finest useful, {DEFAULT_POINTS_OF_ALL} for all metrics.",
            examples=[300],
        ),
    ] = None
    metrics: Annotated[
        str | None,
        AfterValidator(known_metrics),
        Field(
            description="Metric keys, separated by commas; default: all.",
            examples=["gpu.utilization.gpu,system.cpu.usage_percent"],
        ),
    ] = None


def _gpu_indices(text: str) -> str:
    if re.fullmatch(GPUS_PATTERN, text) is None:
        raise ValueError("must be all, or indices from /gpu-list separated by commas")
    return text


def _without_gpu_id(text: str, info: ValidationInfo) -> str:
    if info.data.get("gpu_id"):
        raise ValueError("cannot be combined with gpu_id")
    return text


class ExportParams(HistoryParams):
    """Select series, time range, resolution, layout and file format."""

    gpu: Annotated[
        str | None,
        AfterValidator(_gpu_indices),
        AfterValidator(_without_gpu_id),
        Field(
            description="Indices of several GPUs, separated by commas, or all; instead of `gpu_id`.",
            examples=["0,2", "all"],
            json_schema_extra={"pattern": GPUS_PATTERN},
        ),
    ] = None
    layout: Annotated[
        Literal["wide", "long"],
        Field(description="wide: a row per bucket; long: a row per bucket, GPU and metric."),
    ] = "wide"

    format: Annotated[Literal["csv", "json", "parquet"], Field(description="Parquet needs pyarrow on the server.")] = (
        "csv"
    )
    step: Annotated[
        int | None,
        WholeNumber,
        Field(ge=1, le=86_400, description="Seconds for each row, instead of `points`.", examples=[60]),
    ] = None


def _check_list(text: str, allowed: Sequence[str]) -> str:
    """Check a list of names, separated by commas."""
    for name in text.split(","):
        if name not in allowed:
            raise ValueError(f"{name[:MAX_QUOTED_LENGTH]!r} is unknown; allowed are {', '.join(allowed)}")
    return text


def _list_pattern(allowed: Sequence[str]) -> str:
    names = "|".join(allowed)
    return f"^({names})(,({names}))*$"


SEVERITIES = tuple(severity.value for severity in Severity)


class EventsParams(TimeRangeParams):
    """Select a time range, and events of it."""

    kind: Annotated[
        str | None,
        AfterValidator(lambda text: _check_list(text, EVENT_KINDS)),
        Field(
            description="Kinds of events, separated by commas; default: all.",
            examples=["xid,gpu_lost"],
            json_schema_extra={"pattern": _list_pattern(EVENT_KINDS)},
        ),
    ] = None
    severity: Annotated[
        str | None,
        AfterValidator(lambda text: _check_list(text, SEVERITIES)),
        Field(
            description="Severities, separated by commas; default: all.",
            examples=["warning,critical"],
            json_schema_extra={"pattern": _list_pattern(SEVERITIES)},
        ),
    ] = None
    gpu_id: Annotated[
        int | None,
        WholeNumber,
        Field(ge=0, le=MAX_GPU_ID, description="Index of one GPU; default: all events.", examples=[0]),
    ] = None

    def to_filter(self, gpu_uuid: str | None) -> EventFilter:
        """Return the filter of the history. `gpu_uuid`: that of `gpu_id`."""
        return EventFilter(
            kinds=tuple(dict.fromkeys(self.kind.split(","))) if self.kind else (),
            severities=tuple(Severity(name) for name in dict.fromkeys(self.severity.split(",")))
            if self.severity
            else (),
            gpu_uuid=gpu_uuid,
        )


class UsageParams(TimeRangeParams):
    """Select a time range and what the rows are."""

    by: Annotated[
        Literal["user", "container", "slurm_job", "process", "gpu"], Field(description="What the rows are.")
    ] = "user"
    format: Annotated[Literal["json", "csv"], Field(description="csv: only the rows, as a file.")] = "json"


class ProcessHistoryParams(TimeRangeParams, GpuParams):
    """Select a GPU and a time range."""


class StreamParams(GpuParams):
    """Select a GPU, and what is sent."""

    alerts: Annotated[
        Literal["0", "1", "only"],
        Field(
            description="1: also an event `alert` for each alert that fires, changes or ends, and `watch` for each"
            " watch that is met; only: nothing else."
        ),
    ] = "0"


# --- alerts -----------------------------------------------------------------------------------------------------------

ALERT_STATES = tuple(state.value for state in AlertState if state is not AlertState.RESOLVED)
_ID = Field(pattern=r"^[0-9a-f]{8,32}$", examples=["9f86d081884c7d65"])


class AlertsParams(Params):
    """Select alerts."""

    state: Annotated[
        str | None,
        AfterValidator(lambda text: _check_list(text, ALERT_STATES)),
        Field(
            description="States, separated by commas; default: all.",
            examples=["firing,recovering"],
            json_schema_extra={"pattern": _list_pattern(ALERT_STATES)},
        ),
    ] = None


class AlertParams(Params):
    """Select an alert."""

    alert_id: Annotated[str, _ID, Field(description="Id of the alert.")]


class SilenceParams(Params):
    """Select a silence."""

    silence_id: Annotated[str, _ID, Field(description="Id of the silence.")]


class ServiceParams(Params):
    """Select a service."""

    service_id: Annotated[str, _ID, Field(description="Id of the service.")]


class WatchParams(Params):
    """Select a watch."""

    watch_id: Annotated[str, _ID, Field(description="Id of the watch.")]


class ProcessParams(Params):
    """Select a process."""

    pid: Annotated[
        int, BeforeValidator(_pid), Field(ge=1, le=MAX_PID, description="PID of the process.", examples=[4711])
    ]


# --- runs -------------------------------------------------------------------------------------------------------------

RUN_STATES = tuple(status.value for status in RunStatus)
RunId = Annotated[str, Field(pattern=RUN_ID_PATTERN, examples=["5f3a9c01b2d4e6f8"])]


class RunsParams(Params):
    """Select runs."""

    status: Annotated[
        Literal["running", "finished", "failed", "lost"] | None,
        Field(description="Only runs with this status; default: all.", examples=["running"]),
    ] = None
    limit: Annotated[int, WholeNumber, Field(ge=1, le=300, description="Only so many of the newest.")] = 100


class RunParams(Params):
    """Select a run."""

    run_id: Annotated[RunId, Field(description="Id of the run.")]


_NAME = Field(min_length=1, max_length=256, description="Only this type of GPU.", examples=["NVIDIA H100 80GB HBM3"])
_NODE = Field(min_length=1, max_length=256, description="Only this node.", examples=["gpu1"])


class FleetParams(Params):
    """Select GPUs of the fleet."""

    name: Annotated[str | None, _NAME] = None
    node: Annotated[str | None, _NODE] = None
    user: Annotated[
        str | None, Field(min_length=1, max_length=256, description="Only what this user, job or namespace holds.")
    ] = None


class FreeParams(Params):
    """What is needed."""

    count: Annotated[
        int,
        WholeNumber,
        Field(ge=1, le=64, description="Number of free GPUs that the node must have.", examples=[4]),
    ] = 1
    memory_gb: Annotated[
        float,
        Field(
            ge=0,
            le=10_000,
            allow_inf_nan=False,
            description="Memory of each GPU in GB (10^9 bytes), at least.",
            examples=[40],
        ),
    ] = 0.0
    name: Annotated[str | None, _NAME] = None
    node: Annotated[str | None, _NODE] = None
