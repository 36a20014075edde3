"""What every call is given, and the questions several of them ask of a sample."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

from flask import Response
from werkzeug.exceptions import BadRequest, InternalServerError, ServiceUnavailable

from dashtop.web.api.serializers import to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, Sample

MOST_STREAMS = 24
"""Each holds a thread: fewer than server.THREADS and the Procfile's, so that pages and calls always find one."""
NO_GPU = "GPU monitoring not available on this system"


class PerSample:
    """Answers are made once for each sample and question, however many clients ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sequence = -1
        self._bodies: dict[Hashable, bytes] = {}

    def body(self, sample: Sample, question: Hashable, make: Callable[[], object]) -> bytes:
        """Return the JSON of what `make` returns, made at most once for this sample and question."""
        with self._lock:
            if self._sequence != sample.sequence:
                self._sequence, self._bodies = sample.sequence, {}
            body = self._bodies.get(question)
            if body is None:
                body = self._bodies[question] = to_json(make())
            return body


class Places:
    """How many streams may be open at once. Thread-safe."""

    def __init__(self, most: int = MOST_STREAMS) -> None:
        self._most = most
        self._free = threading.BoundedSemaphore(most)

    def take(self) -> None:
        """Take a place. Raises ServiceUnavailable where there is none."""
        if not self._free.acquire(blocking=False):
            raise ServiceUnavailable(f"{self._most} streams are open, which is all there may be; poll, or ask later.")

    def give_back(self) -> None:
        """Give the place back."""
        self._free.release()


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """The services, and what calls share."""

    services: Services
    cached: PerSample = field(default_factory=PerSample)
    places: Places = field(default_factory=Places)

    def sample(self) -> Sample:
        """Return the latest sample. Raises ServiceUnavailable before the first."""
        sample = self.services.latest.latest()
        if sample is None:
            raise ServiceUnavailable("The first reading is under way; ask again in a second.")
        return sample


def answer(body: object, status: int = 200) -> Response:
    """Answer with JSON that no cache keeps; bytes are JSON already."""
    data = body if isinstance(body, bytes) else to_json(body)
    return Response(data, status=status, mimetype="application/json", headers={"Cache-Control": "no-store"})


def shown_gpu(sample: Sample, index: int) -> Gpu | None:
    """Return that GPU, or None where the machine has none at all. Raises BadRequest where it has others."""
    gpu = sample.gpu(index)
    if gpu is None and sample.gpus:
        raise BadRequest("Invalid GPU ID")
    return gpu


def gpus(sample: Sample) -> tuple[Gpu, ...]:
    """Return every GPU, none where there are none. Raises InternalServerError where NVML failed to tell."""
    error = sample.gpu_error
    if not sample.gpus and error is not None:
        if error.http_status == HTTPStatus.INTERNAL_SERVER_ERROR:
            raise InternalServerError(f"Failed to collect GPU metrics: {error.text}")
        if error.is_pending:
            raise ServiceUnavailable("The first reading of the GPUs is under way; try again in a second.")
    return sample.gpus


def one_gpu(sample: Sample, index: int) -> Gpu:
    """Return that GPU. Raises ServiceUnavailable where there is none at all, BadRequest where it is not this one."""
    if not gpus(sample):
        raise ServiceUnavailable(NO_GPU)
    gpu = shown_gpu(sample, index)
    if gpu is None:
        raise BadRequest("Invalid GPU ID")
    return gpu


def readable_gpu(sample: Sample, index: int) -> Gpu:
    """Return that GPU. Raises InternalServerError too where NVML fails for it."""
    gpu = one_gpu(sample, index)
    if gpu.state is not None and gpu.state.http_status == HTTPStatus.INTERNAL_SERVER_ERROR:
        raise InternalServerError(f"Failed to collect GPU metrics: {gpu.state.text}")
    return gpu
