"""GET /stream: Server-Sent Events, a snapshot per collection and, on request, alerts.

An open stream occupies a thread, so there are fewer streams than threads. A stream ends if its client reads more slowly
than snapshots are sent (the kernel buffers MAX_UNSENT_BYTES, the server some more), and the kernel ends a connection
that is not read for UNREAD_TIMEOUT_S. The client reconnects and gets the newest snapshot instead of ever older ones.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from flask import Response, request

from dashtop.model.alert import Alert, AlertState
from dashtop.model.errors import CollectionEndedError
from dashtop.web.api import serializers
from dashtop.web.api.alerts import encode_alert, encode_watch
from dashtop.web.api.context import find_gpu

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator

    from dashtop.model.alert import Watch
    from dashtop.model.sample import Sample
    from dashtop.web.api.context import Context
    from dashtop.web.api.params import StreamParams

HEARTBEAT_INTERVAL_S = 10.0
RETRY_MS = 2000
UNREAD_TIMEOUT_S = 20
MAX_UNSENT_BYTES = 64 * 2**10
MAX_WRITE_S = 2.0
"""A write that takes longer means that all buffers are full."""


def stream(context: Context, params: StreamParams) -> Response:
    """Send the latest snapshot and each new one, until the client disconnects or dashtop ends."""
    sample = context.get_sample()
    find_gpu(sample, params.gpu_id)
    known = request.headers.get("Last-Event-ID") == _event_id(sample)
    environ = request.environ
    with suppress(OSError):  # already closed: the first write fails
        _limit_send_buffer(environ.get("gunicorn.socket") or environ.get("dashtop.socket"))
    context.stream_limiter.acquire()
    response = Response(_events(context, params, sample, known=known), mimetype="text/event-stream")
    response.call_on_close(context.stream_limiter.release)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would buffer the events
    return response


def _events(context: Context, params: StreamParams, sample: Sample, *, known: bool) -> Iterator[bytes]:
    clock, alerts = context.services.clock, AlertChanges()
    yield b"retry: %d\n\n" % RETRY_MS
    news = _describe(context, params, None if known else sample, alerts)
    sent_s = clock.monotonic()
    while True:
        started_s = clock.monotonic()
        if news or started_s - sent_s >= HEARTBEAT_INTERVAL_S:
            yield news or b": nothing new\n\n"
            sent_s = clock.monotonic()
            if sent_s - started_s > MAX_WRITE_S:
                return
        try:
            following = context.services.latest.wait(sample.sequence, HEARTBEAT_INTERVAL_S)
        except CollectionEndedError:
            return
        sample = following or sample
        news = _describe(context, params, following, alerts) or (b"" if following else b": nothing new\n\n")


def _describe(context: Context, params: StreamParams, sample: Sample | None, alerts: AlertChanges) -> bytes:
    """Return the events that the client wants, or nothing. `sample`: one that it does not have yet."""
    changed = alerts.update(context.services.alerts.current()) if params.alerts != "0" else ()
    events = [b"event: alert\ndata: %s\n\n" % serializers.to_json(encode_alert(alert)) for alert in changed]
    met = alerts.find_met(context.services.alerts.watches()) if params.alerts != "0" else ()
    events += [b"event: watch\ndata: %s\n\n" % serializers.to_json(encode_watch(watch)) for watch in met]
    if sample is not None and params.alerts != "only":
        events.append(_event(context, params.gpu_id, sample))
    return b"".join(events)


class AlertChanges:
    """Finds the alerts and watches that a client does not know yet as they are now. Pending alerts are left out."""

    def __init__(self) -> None:
        self._known: dict[str, Alert] = {}
        self._known_watches: set[str] = set()

    def update(self, alerts: Iterable[Alert]) -> list[Alert]:
        """Return the active alerts that have fired or changed since the last call, and as resolved those that ended."""
        active = {alert.id: alert for alert in alerts if alert.state.is_active}
        ended = [replace(alert, state=AlertState.RESOLVED) for name, alert in self._known.items() if name not in active]
        changed = [
            alert
            for name, alert in active.items()
            if name not in self._known or _find_state(alert) != _find_state(self._known[name])
        ]
        self._known = active
        return changed + ended

    def find_met(self, watches: Iterable[Watch]) -> list[Watch]:
        """Return the watches that were met since the last call."""
        met = [watch for watch in watches if watch.met_ms is not None]
        new = [watch for watch in met if watch.id not in self._known_watches]
        self._known_watches = {watch.id for watch in met}
        return new


def _find_state(alert: Alert) -> Hashable:
    """Return what of an alert is sent when it changes: not its value, which changes with every sample."""
    return alert.since_ms, alert.severity, alert.state, alert.acked_ms, alert.silenced_by, alert.inhibited_by


def _event(context: Context, gpu_id: int, sample: Sample) -> bytes:
    gpu = sample.gpu(gpu_id)
    key = ("monitoring_all", gpu.device.index if gpu is not None else None)
    body = context.cache.get_or_create(sample, key, lambda: serializers.monitoring_all(sample, gpu))
    return b"id: %s\ndata: %s\n\n" % (_event_id(sample).encode(), body)


def _event_id(sample: Sample) -> str:
    """Return the time of the sample. Unlike its sequence number it stays valid after a restart."""
    return str(sample.time_ms)


def _limit_send_buffer(connection: socket.socket | None) -> None:
    """Limit what the kernel buffers for the client, and have it end a connection that is not read."""
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_UNSENT_BYTES)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_TIMEOUT_S * 1000)
