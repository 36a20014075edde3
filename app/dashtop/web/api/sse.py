"""GET /stream: Server-Sent Events, a snapshot per collection.

A stream holds a thread of the server for as long as it is open, so there are fewer streams than threads. A client that
reads more slowly than snapshots come is dropped when no more may wait for it (UNSENT bytes in the kernel, before that
what the server holds), and one that does not read at all by the kernel after UNREAD_S: it comes back to the newest
snapshot instead of one that is ever older.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from flask import Response, request

from dashtop.model.errors import CollectionEndedError
from dashtop.web.api import serializers as bodies
from dashtop.web.api.context import shown_gpu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dashtop.model.sample import Sample
    from dashtop.web.api.context import Context
    from dashtop.web.api.params import GpuQuery

HEARTBEAT_S = 10.0
RETRY_MS = 2000
UNREAD_S = 20
UNSENT = 64 * 2**10
SLOW_S = 2.0
"""A snapshot that takes longer to hand over has found everything full."""


def stream(context: Context, query: GpuQuery) -> Response:
    """Answer with the latest snapshot and every one that follows, until the client or dashtop ends."""
    sample = context.sample()
    shown_gpu(sample, query.gpu_id)
    known = request.headers.get("Last-Event-ID") == _event_id(sample)
    environ = request.environ
    with suppress(OSError):  # closed meanwhile: then the first write finds out
        _hold_little_back(environ.get("gunicorn.socket") or environ.get("dashtop.socket"))
    context.places.take()
    response = Response(_events(context, query.gpu_id, sample, known=known), mimetype="text/event-stream")
    response.call_on_close(context.places.give_back)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would keep events back until it has a buffer full
    return response


def _events(context: Context, gpu_id: int, sample: Sample, *, known: bool) -> Iterator[bytes]:
    clock = context.services.clock
    yield b"retry: %d\n\n" % RETRY_MS
    if not known:
        yield _event(context, gpu_id, sample)
    while True:
        try:
            following = context.services.latest.wait(sample.sequence, HEARTBEAT_S)
        except CollectionEndedError:
            return
        sample = following or sample
        handed_over = clock.monotonic()
        yield _event(context, gpu_id, sample) if following is not None else b": nothing new\n\n"
        if clock.monotonic() - handed_over > SLOW_S:
            return


def _event(context: Context, gpu_id: int, sample: Sample) -> bytes:
    gpu = sample.gpu(gpu_id)
    key = ("monitoring_all", gpu.device.index if gpu is not None else None)
    body = context.cached.body(sample, key, lambda: bodies.monitoring_all(sample, gpu))
    return b"id: %s\ndata: %s\n\n" % (_event_id(sample).encode(), body)


def _event_id(sample: Sample) -> str:
    """Return the time of the sample: unlike its sequence it means the same after a restart."""
    return str(sample.time_ms)


def _hold_little_back(connection: socket.socket | None) -> None:
    """Have the kernel keep little for the client, and end a connection that is not read."""
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNSENT)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_S * 1000)
