"""Handlers of the endpoints about actions: a signal to a process, and the audit log."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING

from flask import Response, request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import ServiceUnavailable, TooManyRequests, Unauthorized, default_exceptions

from dashtop.model.action import ActionRefusedError, ActionRequest, ActionScope, ActionSignal, Refusal
from dashtop.web.api.context import json_response
from dashtop.web.security.proxy import find_viewer

if TYPE_CHECKING:
    from werkzeug.exceptions import HTTPException

    from dashtop.web.api.bodies import SignalBody
    from dashtop.web.api.context import Context
    from dashtop.web.api.params import Params, ProcessParams

log = logging.getLogger(__name__)


def send_signal(context: Context, params: ProcessParams, body: SignalBody) -> Response:
    """Send a signal to a process."""
    actions = context.services.actions
    action = ActionRequest(
        pid=params.pid,
        started_ms=body.started_ms,
        gpu_uuid=body.gpu_uuid,
        signal=ActionSignal(body.signal),
        client=request.remote_addr or "",
        viewer=find_viewer(request, context.viewer_header),
    )
    try:
        found = context.action_token.find_refusal(request) if actions.scope is not ActionScope.OFF else None
        if found is not None:
            raise actions.refuse(action, *found)
        actions.send(action)
    except ActionRefusedError as error:
        raise _build_http_error(error) from None
    return json_response({"pid": action.pid, "signal": action.signal.value}, 202)


def get_records(context: Context, _params: Params) -> Response:
    """Return the newest records of the audit log."""
    actions = context.services.actions
    if actions.scope is ActionScope.OFF:
        raise _build_http_error(ActionRefusedError(Refusal.DISABLED))
    found = context.action_token.find_refusal(request)
    if found is not None:
        raise _build_http_error(ActionRefusedError(*found))
    try:
        records = actions.records()
    except OSError as error:
        log.warning("The audit log cannot be read: %s", error.strerror or error)
        raise ServiceUnavailable("The audit log cannot be read. See dashtop's log.") from None
    return json_response([asdict(record) for record in records])


def _build_http_error(error: ActionRefusedError) -> HTTPException:
    if error.refusal.status == Unauthorized.code:
        return Unauthorized(str(error), www_authenticate=WWWAuthenticate("dashtop-action-token"))
    if error.refusal.status == TooManyRequests.code:
        return TooManyRequests(str(error), retry_after=error.left_s)
    return default_exceptions[error.refusal.status](str(error))
