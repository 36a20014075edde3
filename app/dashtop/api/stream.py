"""GET /stream: Server-Sent Events, a snapshot per collection.

A stream holds a thread of the server for as long as it is open, so there are fewer streams than threads. A client that
reads too slowly skips snapshots; one that does not read at all is dropped by the kernel after UNREAD_S.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from flask import Response, request

from dashtop.api import bodies
from dashtop.api.context import shown_gpu
from dashtop.domain.errors import CollectionEndedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dashtop.api.context import Context
    from dashtop.api.query import GpuQuery
    from dashtop.domain.sample import Sample

HEARTBEAT_S = 10.0
RETRY_MS = 2000
UNREAD_S = 20


def stream(context: Context, query: GpuQuery) -> Response:
    """Answer with the latest snapshot and every one that follows, until the client or dashtop ends."""
    sample = context.sample()
    shown_gpu(sample, query.gpu_id)
    known = request.headers.get("Last-Event-ID") == _event_id(sample)
    context.places.take()
    _drop_if_unread(request.environ.get("gunicorn.socket"))
    response = Response(_events(context, query.gpu_id, sample, known=known), mimetype="text/event-stream")
    response.call_on_close(context.places.give_back)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would keep events back until it has a buffer full
    return response


def _events(context: Context, gpu_id: int, sample: Sample, *, known: bool) -> Iterator[bytes]:
    yield b"retry: %d\n\n" % RETRY_MS
    if not known:
        yield _event(context, gpu_id, sample)
    while True:
        try:
            following = context.services.latest.wait(sample.sequence, HEARTBEAT_S)
        except CollectionEndedError:
            return
        if following is None:
            yield b": nothing new\n\n"
        else:
            sample = following
            yield _event(context, gpu_id, sample)


def _event(context: Context, gpu_id: int, sample: Sample) -> bytes:
    gpu = sample.gpu(gpu_id)
    key = ("monitoring_all", gpu.device.index if gpu is not None else None)
    body = context.cached.body(sample, key, lambda: bodies.monitoring_all(sample, gpu))
    return b"id: %s\ndata: %s\n\n" % (_event_id(sample).encode(), body)


def _event_id(sample: Sample) -> str:
    """Return the time of the sample: unlike its sequence it means the same after a restart."""
    return str(sample.time_ms)


def _drop_if_unread(connection: socket.socket | None) -> None:
    """Have the kernel end a connection that is not read. gunicorn passes it; server.py sees to waitress."""
    if connection is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_S * 1000)
