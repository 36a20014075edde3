"""GET /stream: Server-Sent Events, a snapshot per collection.

An open stream occupies a thread, so there are fewer streams than threads. A stream ends if its client reads more slowly
than snapshots are sent (the kernel buffers MAX_UNSENT_BYTES, the server some more), and the kernel ends a connection
that is not read for UNREAD_TIMEOUT_S. The client reconnects and gets the newest snapshot instead of ever older ones.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from flask import Response, request

from dashtop.model.errors import CollectionEndedError
from dashtop.web.api import serializers
from dashtop.web.api.context import find_gpu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dashtop.model.sample import Sample
    from dashtop.web.api.context import Context
    from dashtop.web.api.params import GpuParams

HEARTBEAT_INTERVAL_S = 10.0
RETRY_MS = 2000
UNREAD_TIMEOUT_S = 20
MAX_UNSENT_BYTES = 64 * 2**10
MAX_WRITE_S = 2.0
"""A write that takes longer means that all buffers are full."""


def stream(context: Context, params: GpuParams) -> Response:
    """Send the latest snapshot and each new one, until the client disconnects or dashtop ends."""
    sample = context.get_sample()
    find_gpu(sample, params.gpu_id)
    known = request.headers.get("Last-Event-ID") == _event_id(sample)
    environ = request.environ
    with suppress(OSError):  # already closed: the first write fails
        _limit_send_buffer(environ.get("gunicorn.socket") or environ.get("dashtop.socket"))
    context.stream_limiter.acquire()
    response = Response(_events(context, params.gpu_id, sample, known=known), mimetype="text/event-stream")
    response.call_on_close(context.stream_limiter.release)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # nginx would buffer the events
    return response


def _events(context: Context, gpu_id: int, sample: Sample, *, known: bool) -> Iterator[bytes]:
    clock = context.services.clock
    yield b"retry: %d\n\n" % RETRY_MS
    if not known:
        yield _event(context, gpu_id, sample)
    while True:
        try:
            following = context.services.latest.wait(sample.sequence, HEARTBEAT_INTERVAL_S)
        except CollectionEndedError:
            return
        sample = following or sample
        written_at_s = clock.monotonic()
        yield _event(context, gpu_id, sample) if following is not None else b": nothing new\n\n"
        if clock.monotonic() - written_at_s > MAX_WRITE_S:
            return


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
