"""Handlers of the endpoints about alerts: state, log, rules, acknowledgements, silences, services and watches."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from flask import Response
from werkzeug.exceptions import Conflict, NotFound, UnprocessableEntity

from dashtop.alerts.watches import describe
from dashtop.model.alert import Alert, ServiceMark, Silence, Watch, WatchKind
from dashtop.model.metric import Severity
from dashtop.model.sample import ALERT_KINDS, EventFilter
from dashtop.model.text import sanitize_text
from dashtop.model.timerange import DAY_MS
from dashtop.web.api import serializers
from dashtop.web.api.context import json_response

if TYPE_CHECKING:
    from dashtop.model.sample import Gpu, GpuProcess
    from dashtop.web.api.bodies import AckBody, ChannelBody, ProcessBody, SilenceBody, WatchBody
    from dashtop.web.api.context import Context
    from dashtop.web.api.params import (
        AlertParams,
        AlertsParams,
        Params,
        ServiceParams,
        SilenceParams,
        TimeRangeParams,
        WatchParams,
    )

MAX_SILENCE_MS: Final = 30 * DAY_MS
MAX_WATCH_MS: Final = 7 * DAY_MS
MAX_NAME_CHARS, MAX_REASON_CHARS = 100, 500
_LOG: Final = EventFilter(kinds=ALERT_KINDS)
_ORDER: Final = {Severity.CRITICAL: 0, Severity.WARNING: 1, Severity.INFO: 2}


def get_alerts(context: Context, params: AlertsParams) -> Response:
    """Return the alerts, the most severe and then the oldest first."""
    context.get_sample()  # before the first one nothing is known
    states = params.state.split(",") if params.state else None
    found = [alert for alert in context.services.alerts.current() if states is None or alert.state.value in states]
    found.sort(key=lambda alert: (_ORDER[alert.severity], alert.pending_ms, alert.id))
    return json_response([encode_alert(alert) for alert in found])


def get_log(context: Context, params: TimeRangeParams) -> Response:
    """Return the events of alerts in a time range."""
    start_ms, end_ms, _ = params.resolve(context.services.clock)
    indices = {gpu.device.uuid: gpu.device.index for gpu in context.get_sample().gpus}
    found = context.services.history.events(start_ms, end_ms, _LOG)
    return json_response([serializers.event(event, indices) for event in found])


def get_rules(context: Context, _params: Params) -> Response:
    """Return the rules as they apply, in the order of the table."""
    return json_response([asdict(rule) for rule in context.services.alerts.rules()])


def acknowledge(context: Context, params: AlertParams, body: AckBody) -> Response:
    """Mark an alert as seen."""
    alert = context.services.alerts.acknowledge(params.alert_id, sanitize_text(body.by, MAX_NAME_CHARS))
    if alert is None:
        raise NotFound("There is no active alert with this id.")
    return json_response(encode_alert(alert))


def get_silences(context: Context, _params: Params) -> Response:
    """Return the silences."""
    return json_response([_encode_silence(silence) for silence in context.services.alerts.silences()])


def add_silence(context: Context, _params: Params, body: SilenceBody) -> Response:
    """Add a silence that begins now."""
    now_ms = context.services.clock.now_ms()
    if not now_ms < body.until <= now_ms + MAX_SILENCE_MS:
        raise UnprocessableEntity("until: must be in the future, at most 30 days from now, in ms since 1970.")
    silence = Silence(
        id="",
        rule=body.rule,
        gpu_uuid=body.gpu_uuid,
        user=body.user,
        from_ms=now_ms,
        until_ms=body.until,
        reason=sanitize_text(body.reason, MAX_REASON_CHARS),
        author=sanitize_text(body.by, MAX_NAME_CHARS),
    )
    kept = context.services.alerts.add_silence(silence)
    if kept is None:
        raise Conflict("There are too many silences. Remove one first.")
    return json_response(_encode_silence(kept), 201)


def remove_silence(context: Context, params: SilenceParams) -> Response:
    """End a silence."""
    if not context.services.alerts.remove_silence(params.silence_id):
        raise NotFound("There is no silence with this id.")
    return Response(status=204)


def send_test(context: Context, _params: Params, body: ChannelBody) -> Response:
    """Send a test notice."""
    try:
        error = context.services.alerts.test_channel(body.channel)
    except KeyError:
        raise NotFound("There is no channel with this name.") from None
    return json_response({"ok": error is None, "error": error})


def get_services(context: Context, _params: Params) -> Response:
    """Return the processes that may hold GPU memory without computing."""
    return json_response([_encode_service(service) for service in context.services.alerts.services()])


def add_service(context: Context, _params: Params, body: ProcessBody) -> Response:
    """Mark a process, and those like it, as a service."""
    process, _ = _find_process(context, body.pid, body.started)
    if process.info.name is None and process.info.username is None:
        raise Conflict("Neither name nor owner of this process is known.")
    service = context.services.alerts.add_service(process.info, sanitize_text(body.by, MAX_NAME_CHARS))
    if service is None:
        raise Conflict("There are too many services. Remove one first.")
    return json_response(_encode_service(service), 201)


def remove_service(context: Context, params: ServiceParams) -> Response:
    """Forget a service."""
    if not context.services.alerts.remove_service(params.service_id):
        raise NotFound("There is no service with this id.")
    return Response(status=204)


def get_watches(context: Context, _params: Params) -> Response:
    """Return the watches that are open, or were met in the last hour."""
    return json_response([encode_watch(watch) for watch in context.services.alerts.watches()])


def add_watch(context: Context, _params: Params, body: WatchBody) -> Response:
    """Wait for a GPU, or for the end of a process."""
    if body.channel not in {None, *(channel.name for channel in context.services.alerts.channels())}:
        raise NotFound("There is no channel with this name.")
    kind, now_ms = WatchKind(body.kind), context.services.clock.now_ms()
    started_ms: int | None = None
    if kind is WatchKind.GPU_FREE:
        gpu = _find_gpu(context, body.gpu_uuid or "")
        subject = f"GPU {gpu.device.index} ({gpu.device.name})"
    else:
        if body.pid is None:
            raise UnprocessableEntity("pid: is required for process_end.")
        process, gpu = _find_process(context, body.pid, body.started)
        owner = f" of {process.info.username}" if process.info.username else ""
        subject = f"{process.info.name or 'The process'}{owner} (pid {process.pid})"
        started_ms = process.info.started_ms
    watch = Watch(
        id="",
        kind=kind,
        subject=sanitize_text(subject, MAX_REASON_CHARS),
        gpu_uuid=gpu.device.uuid,
        pid=body.pid if kind is WatchKind.PROCESS_END else None,
        started_ms=started_ms,
        channel=body.channel,
        from_ms=now_ms,
        until_ms=now_ms + MAX_WATCH_MS,
        author=sanitize_text(body.by, MAX_NAME_CHARS),
    )
    kept = context.services.alerts.add_watch(watch)
    if kept is None:
        raise Conflict("There are too many watches. Remove one first.")
    return json_response(encode_watch(kept), 201)


def remove_watch(context: Context, params: WatchParams) -> Response:
    """Remove a watch."""
    if not context.services.alerts.remove_watch(params.watch_id):
        raise NotFound("There is no watch with this id.")
    return Response(status=204)


def _find_gpu(context: Context, uuid: str) -> Gpu:
    """Return the GPU whose UUID begins so. Raise NotFound unless there is exactly one."""
    found = [gpu for gpu in context.get_sample().gpus if uuid and gpu.device.uuid.startswith(uuid)]
    if len(found) != 1:
        raise NotFound("There is no GPU with this UUID.")
    return found[0]


def _find_process(context: Context, pid: int, started_ms: int | None) -> tuple[GpuProcess, Gpu]:
    """Return the process and a GPU whose memory it holds. Raise NotFound if it has ended."""
    for gpu in context.get_sample().gpus:
        for process in gpu.processes:
            if process.pid == pid and started_ms in {None, process.info.started_ms}:
                return process, gpu
    raise NotFound("There is no such process on a GPU.")


def _encode_service(service: ServiceMark) -> dict[str, Any]:
    return {
        "id": service.id,
        "username": service.owner,
        "process_name": service.name,
        "container": service.container,
        "since": service.time_ms,
        "by": service.author,
    }


def encode_watch(watch: Watch) -> dict[str, Any]:
    """Return a watch as the API describes it (schemas.Watch)."""
    return {
        "id": watch.id,
        "kind": watch.kind.value,
        "subject": watch.subject,
        "gpu_uuid": watch.gpu_uuid,
        "pid": watch.pid,
        "channel": watch.channel,
        "from": watch.from_ms,
        "until": watch.until_ms,
        "by": watch.author,
        "met": watch.met_ms,
        "text": None if watch.met_ms is None else describe(watch),
    }


def encode_alert(alert: Alert) -> dict[str, Any]:
    """Return an alert as the API describes it (schemas.Alert)."""
    return {
        "id": alert.id,
        "rule": alert.rule,
        "severity": alert.severity.value,
        "state": alert.state.value,
        "gpu_uuid": alert.gpu_uuid,
        "gpu_id": alert.gpu_id,
        "subject": alert.subject,
        "user": alert.user,
        "text": alert.text,
        "advice": alert.advice,
        "value": alert.value,
        "threshold": alert.threshold,
        "pending": alert.pending_ms,
        "since": alert.since_ms,
        "acked": alert.acked_ms,
        "acked_by": alert.acked_by,
        "silenced_by": alert.silenced_by,
        "inhibited_by": alert.inhibited_by,
    }


def _encode_silence(silence: Silence) -> dict[str, Any]:
    return {
        "id": silence.id,
        "rule": silence.rule,
        "gpu_uuid": silence.gpu_uuid,
        "user": silence.user,
        "from": silence.from_ms,
        "until": silence.until_ms,
        "reason": silence.reason,
        "by": silence.author,
    }
