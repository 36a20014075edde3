"""JSON bodies of the requests that write, validated."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from werkzeug.exceptions import UnprocessableEntity

from dashtop.model.run import MAX_MARK_CHARS, MAX_MARKS_PER_REQUEST, MAX_NAME_CHARS, MAX_TAG_CHARS, MAX_TAGS
from dashtop.web.api.params import MAX_QUOTED_LENGTH, MAX_TIME_MS, RunId

_Name = Annotated[str, Field(max_length=100)]
_Moment = Annotated[int, Field(ge=0, le=MAX_TIME_MS, json_schema_extra={"x-unit": "milliseconds since 1970"})]


class Body(BaseModel):
    """The JSON body of a request that writes."""

    model_config = ConfigDict(extra="forbid", strict=True)


BodyT = TypeVar("BodyT", bound=Body)


def parse_body(model: type[BodyT], data: object) -> BodyT:
    """Return the validated body. Raise UnprocessableEntity with a message that names the field."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])[:MAX_QUOTED_LENGTH] if first["loc"] else "The body"
        raise UnprocessableEntity(f"{name}: {first['msg']}.") from None


class ProcessBody(Body):
    """A process that holds GPU memory now."""

    pid: Annotated[int, Field(ge=1, le=2**31, description="Its PID.", examples=[4711])]
    started: Annotated[
        int | None, Field(description="When it started, in ms since 1970: it must still be the same process.")
    ] = None
    by: Annotated[_Name, Field(description="Who says so.", examples=["ada"])] = ""


class SignalBody(Body):
    """A signal to a process that holds memory of a GPU."""

    started_ms: Annotated[
        int,
        Field(ge=0, le=2**53, description="When it started: `started` in /processes; it must be the same process."),
    ]
    gpu_uuid: Annotated[
        str,
        Field(
            min_length=12,
            max_length=100,
            description="UUID of a GPU that it uses, or the beginning of one.",
            examples=["GPU-12345678"],
        ),
    ]
    signal: Annotated[
        Literal["INT", "TERM", "KILL", "STOP", "CONT"],
        Field(description="STOP pauses it, and CONT resumes it; KILL needs a TERM 10 s earlier."),
    ]


class WatchBody(Body):
    """What to wait for, and which channel to tell."""

    kind: Annotated[Literal["gpu_free", "process_end"], Field(description="What is waited for.")]
    gpu_uuid: Annotated[
        str | None, Field(max_length=100, description="UUID of the GPU, or its beginning, for gpu_free.")
    ] = None
    pid: Annotated[int | None, Field(ge=1, le=2**31, description="The process, for process_end.")] = None
    started: Annotated[int | None, Field(description="When the process started, in ms since 1970.")] = None
    channel: Annotated[
        _Name | None, Field(description="Channel of the settings file that is notified; null: only browsers.")
    ] = None
    by: Annotated[_Name, Field(description="Who waits.", examples=["ada"])] = ""


class AckBody(Body):
    """Somebody has seen an alert."""

    by: Annotated[_Name, Field(description="Who has seen it.", examples=["ada"])] = ""


class ChannelBody(Body):
    """A channel."""

    channel: Annotated[_Name, Field(description="Its name in the settings file.", examples=["team"])]


class SilenceBody(Body):
    """What to silence, and until when."""

    rule: Annotated[
        str, Field(pattern=r"^[a-z_*?]{1,60}$", description="Rule, or a pattern of rules.", examples=["gpu_*"])
    ] = "*"
    gpu_uuid: Annotated[str | None, Field(max_length=100, description="Only of this GPU; null: of any.")] = None
    user: Annotated[_Name | None, Field(description="Only of processes of this user; null: of any.")] = None
    until: Annotated[int, Field(description="When it ends: ms since 1970, at most 30 days from now.")]
    reason: Annotated[str, Field(max_length=500, description="Why.", examples=["known; new card ordered"])] = ""
    by: Annotated[_Name, Field(description="Who silences it.", examples=["ada"])] = ""


class RunBody(Body):
    """A run that begins."""

    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS, description="Its name.", examples=["resnet-a"])]
    pid: Annotated[
        int | None,
        Field(ge=1, le=2**31, description="Its process. GPUs that it or its children hold are those of the run."),
    ] = None
    started_ms: Annotated[
        _Moment | None, Field(description="When that process started: it must be the same one on this machine.")
    ] = None
    tags: Annotated[
        dict[Annotated[str, Field(max_length=MAX_NAME_CHARS)], Annotated[str, Field(max_length=MAX_TAG_CHARS)]],
        Field(max_length=MAX_TAGS, description="Names and values to tell runs apart by.", examples=[{"lr": "3e-4"}]),
    ] = {}
    boot_id: Annotated[
        str | None,
        Field(
            pattern=r"^[0-9a-f-]{36}$",
            description="/proc/sys/kernel/random/boot_id: says which machine it runs on, so that a process in a"
            " container is found.",
        ),
    ] = None
    user: Annotated[_Name | None, Field(description="Who runs it, if the process is not known on this machine.")] = None
    begin: Annotated[_Moment | None, Field(description="When it began; default: now.")] = None
    id: Annotated[RunId | None, Field(description="Chosen by the client, which can so repeat the request.")] = None


class MarkBody(Body):
    """Something that happened in a run."""

    text: Annotated[str, Field(min_length=1, max_length=MAX_MARK_CHARS, examples=["epoch 3"])]
    time: Annotated[_Moment | None, Field(description="When; default: now.")] = None


class RunChangeBody(Body):
    """How a run goes on. Without a status it is a heartbeat, which a run needs every 90 s."""

    status: Annotated[
        Literal["running", "finished", "failed"] | None, Field(description="How it has ended; null: it goes on.")
    ] = None
    end: Annotated[_Moment | None, Field(description="When it ended; default: now.")] = None
    marks: Annotated[
        list[MarkBody], Field(max_length=MAX_MARKS_PER_REQUEST, description="Marks that are not sent yet.")
    ] = []


class MarksBody(Body):
    """A mark, or several at once."""

    text: Annotated[
        str | None, Field(min_length=1, max_length=MAX_MARK_CHARS, description="The mark.", examples=["epoch 3"])
    ] = None
    time: Annotated[_Moment | None, Field(description="When; default: now.")] = None
    marks: Annotated[list[MarkBody], Field(max_length=MAX_MARKS_PER_REQUEST, description="Further marks.")] = []
