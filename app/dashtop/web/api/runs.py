"""Handlers of the endpoints about runs: begin, heartbeat, end, marks, list and report."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final, NoReturn

from werkzeug.exceptions import Conflict, NotFound, ServiceUnavailable, UnprocessableEntity

from dashtop.model.errors import RunsError
from dashtop.model.run import MAX_MARK_CHARS, MAX_NAME_CHARS, MAX_TAG_CHARS, MAX_TAGS, Run, RunMark, RunStatus
from dashtop.model.text import sanitize_text
from dashtop.model.timerange import DAY_MS
from dashtop.web.api.bodies import MarkBody
from dashtop.web.api.context import json_response

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flask import Response

    from dashtop.web.api.bodies import MarksBody, RunBody, RunChangeBody
    from dashtop.web.api.context import Context
    from dashtop.web.api.params import RunParams, RunsParams

MAX_SHOWN_MARKS: Final = 1_000
MAX_TAG_NAME_CHARS: Final = 40
NOT_VISIBLE: Final = " \N{REPLACEMENT CHARACTER}"
"""What a name must not consist of: characters that cannot be printed were replaced."""
MAX_LATE_MS: Final = DAY_MS
"""How long ago a run may have begun, or a mark may have been set, when its client gets through."""


def get_runs(context: Context, params: RunsParams) -> Response:
    """Return the newest runs, the newest first."""
    found = [run for run in context.services.runs.recent() if params.status in {None, run.status.value}]
    return json_response([run.to_json() for run in found[: params.limit]])


def add_run(context: Context, _params: object, body: RunBody) -> Response:
    """Begin a run."""
    if len(body.tags) > MAX_TAGS:
        raise UnprocessableEntity(f"tags: at most {MAX_TAGS} are allowed.")
    name = sanitize_text(body.name, MAX_NAME_CHARS).strip()
    if not name.strip(NOT_VISIBLE):
        raise UnprocessableEntity("name: must have a visible character.")
    now_ms = context.services.clock.now_ms()
    tags = {
        sanitize_text(name, MAX_TAG_NAME_CHARS): sanitize_text(value, MAX_TAG_CHARS)
        for name, value in body.tags.items()
    }
    run = Run(
        id=body.id or secrets.token_hex(8),
        name=name,
        tags=tags,
        user=sanitize_text(body.user) if body.user else None,
        pid=body.pid,
        started_ms=body.started_ms,
        begin_ms=_limit_time(body.begin, now_ms),
        beat_ms=now_ms,
    )
    try:
        stored = context.services.runs.add(run, body.boot_id)
    except RunsError as error:
        _refuse(error)
    if stored is None:
        raise Conflict("Too many runs are running. End one first.")
    return json_response({"id": stored.id, "url": f"?page=runs&run={stored.id}"}, 201)


def change_run(context: Context, params: RunParams, body: RunChangeBody) -> Response:
    """Note that a run goes on, or how it has ended."""
    status = RunStatus(body.status) if body.status is not None else None
    runs = context.services.runs
    try:
        if body.marks:
            _require(runs.add_marks(params.run_id, _read_marks(body.marks, context.services.clock.now_ms())))
        return json_response(_require(runs.update(params.run_id, status, body.end)).to_json())
    except RunsError as error:
        _refuse(error)


def add_marks(context: Context, params: RunParams, body: MarksBody) -> Response:
    """Add marks to a run."""
    given = list(body.marks)
    if body.text is not None:
        given.append(MarkBody(text=body.text, time=body.time))
    if not given:
        raise UnprocessableEntity("Give text, or marks.")
    marks = _read_marks(given, context.services.clock.now_ms())
    try:
        return json_response(_require(context.services.runs.add_marks(params.run_id, marks)).to_json(), 201)
    except RunsError as error:
        _refuse(error)


def get_report(context: Context, params: RunParams) -> Response:
    """Return a run, its newest marks, and its report."""
    runs = context.services.runs
    try:
        run = _require(runs.find(params.run_id))
        marks = runs.marks(run.id, MAX_SHOWN_MARKS)
        body: dict[str, Any] = {
            "run": run.to_json(),
            "marks": [{"time": mark.time_ms, "text": mark.text} for mark in marks],
            "report": dict(runs.report(run)),
        }
    except RunsError as error:
        _refuse(error)
    return json_response(body)


def _read_marks(given: Sequence[MarkBody], now_ms: int) -> list[RunMark]:
    return [RunMark(_limit_time(mark.time, now_ms), sanitize_text(mark.text, MAX_MARK_CHARS)) for mark in given]


def _limit_time(time_ms: int | None, now_ms: int) -> int:
    """Return a time that a client states; now if it is impossible, as where its clock is wrong."""
    return time_ms if time_ms is not None and now_ms - MAX_LATE_MS <= time_ms <= now_ms else now_ms


def _require(run: Run | None) -> Run:
    if run is None:
        raise NotFound("There is no run with this id.")
    return run


def _refuse(error: RunsError) -> NoReturn:
    raise ServiceUnavailable(str(error), retry_after=5) from None
