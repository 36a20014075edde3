"""What every handler receives, and how handlers select GPUs of a sample."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

from flask import Response
from werkzeug.exceptions import BadRequest, InternalServerError, ServiceUnavailable

from dashtop.web.api.serializers import to_json
from dashtop.web.security.action_token import ActionTokenAuth

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, Sample

MAX_STREAMS = 24
"""Each stream occupies a thread. Fewer than server.THREADS and the Procfile's, so that other requests find one."""
MAX_LARGE_QUERIES = 2
NO_GPU = "GPU monitoring not available on this system"


class ResponseCache:
    """JSON bodies of the latest sample, each created once for all clients. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sequence = -1
        self._bodies: dict[Hashable, bytes] = {}

    def get_or_create(self, sample: Sample, key: Hashable, create: Callable[[], object]) -> bytes:
        """Return the JSON of what `create` returns. It is called at most once for a sample and key."""
        with self._lock:
            if self._sequence != sample.sequence:
                self._sequence, self._bodies = sample.sequence, {}
            body = self._bodies.get(key)
            if body is None:
                body = self._bodies[key] = to_json(create())
            return body


class StreamLimiter:
    """Limits the number of open streams. Thread-safe. `retry_after_s`: what a refused client is told to wait."""

    def __init__(
        self, max_streams: int = MAX_STREAMS, *, advice: str = "Poll, or try again later.", retry_after_s: int = 5
    ) -> None:
        self._detail = f"Too many open streams (at most {max_streams}). {advice}"
        self._retry_after_s = retry_after_s
        self._free = threading.BoundedSemaphore(max_streams)

    def acquire(self) -> None:
        """Count one more open stream. Raise ServiceUnavailable if the limit is reached."""
        if not self._free.acquire(blocking=False):
            raise ServiceUnavailable(self._detail, retry_after=self._retry_after_s)

    def release(self) -> None:
        """Count one open stream less."""
        self._free.release()


def build_large_query_limiter() -> StreamLimiter:
    """Return the limiter of large queries of the history, which take memory and CPU time for seconds."""
    advice = "This one is a large query of the history: ask for fewer points or metrics, or try again later."
    return StreamLimiter(MAX_LARGE_QUERIES, advice=advice, retry_after_s=2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """The services, and what handlers share. `viewer_header`: in which a trusted proxy names the user."""

    services: Services
    viewer_header: str | None = None
    action_token: ActionTokenAuth = field(default_factory=lambda: ActionTokenAuth(None))
    cache: ResponseCache = field(default_factory=ResponseCache)
    stream_limiter: StreamLimiter = field(default_factory=StreamLimiter)
    large_query_limiter: StreamLimiter = field(default_factory=build_large_query_limiter)

    def get_sample(self) -> Sample:
        """Return the latest sample. Raise ServiceUnavailable before the first."""
        sample = self.services.latest.latest()
        if sample is None:
            raise ServiceUnavailable("The first sample is under way. Try again in a second.")
        return sample


def json_response(body: object, status: int = 200) -> Response:
    """Return a JSON response that is not cached. Bytes are already JSON."""
    data = body if isinstance(body, bytes) else to_json(body)
    return Response(data, status=status, mimetype="application/json", headers={"Cache-Control": "no-store"})


def find_gpu(sample: Sample, index: int) -> Gpu | None:
    """Return the GPU, None if the machine has no GPUs. Raise BadRequest if it has others only."""
    gpu = sample.gpu(index)
    if gpu is None and sample.gpus:
        raise BadRequest("Invalid GPU ID")
    return gpu


def get_gpus(sample: Sample) -> tuple[Gpu, ...]:
    """Return all GPUs of the machine. Raise InternalServerError if NVML failed."""
    error = sample.gpu_error
    if not sample.gpus and error is not None:
        if error.http_status == HTTPStatus.INTERNAL_SERVER_ERROR:
            raise InternalServerError(f"Failed to collect GPU metrics: {error.text}")
        if error.is_pending:
            raise ServiceUnavailable(f"No sample of the GPUs yet: {error.text}. Try again in a second.")
    return sample.gpus


def get_gpu(sample: Sample, index: int) -> Gpu:
    """Return the GPU. Raise ServiceUnavailable if the machine has no GPUs, BadRequest if it has others only."""
    if not get_gpus(sample):
        raise ServiceUnavailable(NO_GPU)
    gpu = find_gpu(sample, index)
    if gpu is None:
        raise BadRequest("Invalid GPU ID")
    return gpu


def get_readable_gpu(sample: Sample, index: int) -> Gpu:
    """Return the GPU. Raise as `get_gpu` does, and InternalServerError if NVML fails for this GPU."""
    gpu = get_gpu(sample, index)
    if gpu.state is not None and gpu.state.http_status == HTTPStatus.INTERNAL_SERVER_ERROR:
        raise InternalServerError(f"Failed to collect GPU metrics: {gpu.state.text}")
    return gpu
