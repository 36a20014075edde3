"""The routes: what is asked is checked here, what is answered is made in bodies.py."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from flask import Blueprint, Response, request
from werkzeug.exceptions import BadRequest, HTTPException, NotFound, ServiceUnavailable, UnprocessableEntity

from dashtop.api.bodies import monitoring_all, to_json

if TYPE_CHECKING:
    from flask import Flask

    from dashtop.domain.sample import Gpu, Sample
    from dashtop.domain.services import Services

log = logging.getLogger(__name__)

PREFIX = "/api/v1/system"
LARGEST_ID_DIGITS = 6


def register(server: Flask, services: Services) -> None:
    """Add every route of the API, health checks included, and JSON errors under /api."""
    server.register_blueprint(_system(services), url_prefix=PREFIX)
    server.register_blueprint(_health(services))
    server.register_blueprint(_unknown())
    server.register_error_handler(HTTPException, _http_error)
    server.register_error_handler(Exception, _crash)


def answer(body: object, status: int = 200) -> Response:
    """Answer with JSON that no cache keeps."""
    return _answer_bytes(to_json(body), status)


def _answer_bytes(body: bytes, status: int = 200) -> Response:
    response = Response(body, status=status, mimetype="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response


def _system(services: Services) -> Blueprint:
    routes = Blueprint("system", __name__)
    cached = _PerSample()

    @routes.get("/monitoring/all")
    def _monitoring_all() -> Response:
        sample, gpu = _asked_for(services, request.args.get("gpu_id"))
        return _answer_bytes(cached.body(sample, gpu))

    return routes


def _health(services: Services) -> Blueprint:
    routes = Blueprint("health", __name__)

    @routes.get("/healthz")
    def _healthz() -> Response:
        return answer({"status": "ok"})

    @routes.get("/readyz")
    def _readyz() -> Response:
        if services.latest.alive():
            return answer({"ready": True})
        detail = "The first reading is under way." if services.latest.latest() is None else "Collection has stopped."
        return answer({"ready": False, "detail": detail}, 503)

    return routes


def _unknown() -> Blueprint:
    """Answer 404 where Dash, which has a page for every path, would answer 200 with HTML."""
    routes = Blueprint("unknown", __name__, url_prefix="/api")

    @routes.route("/", defaults={"rest": ""}, strict_slashes=False)
    @routes.route("/<path:rest>")
    def _not_found(rest: str) -> Response:
        raise NotFound(f"There is nothing at /api/{rest[:200]}.")

    return routes


def _asked_for(services: Services, gpu_id: str | None) -> tuple[Sample, Gpu | None]:
    """Return the latest sample and the GPU that was asked for; None where the machine has no GPU at all."""
    index = _gpu_index(gpu_id)
    sample = services.latest.latest()
    if sample is None:
        raise ServiceUnavailable("The first reading is under way; ask again in a second.")
    gpu = sample.gpu(index)
    if gpu is None and sample.gpus:
        raise BadRequest("Invalid GPU ID")
    return sample, gpu


def _gpu_index(text: str | None) -> int:
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= LARGEST_ID_DIGITS):
        raise UnprocessableEntity("gpu_id must be a whole number, 0 or more.")
    return int(text)


class _PerSample:
    """Answers are made once for each sample and GPU, however many clients ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sequence = -1
        self._bodies: dict[int | None, bytes] = {}

    def body(self, sample: Sample, gpu: Gpu | None) -> bytes:
        key = gpu.device.index if gpu is not None else None
        with self._lock:
            if self._sequence != sample.sequence:
                self._sequence, self._bodies = sample.sequence, {}
            body = self._bodies.get(key)
            if body is None:
                body = self._bodies[key] = to_json(monitoring_all(sample, gpu))
            return body


def _http_error(error: HTTPException) -> Response | HTTPException:
    if not request.path.startswith("/api"):
        return error
    response = answer({"detail": error.description}, error.code or 500)
    for name, value in error.get_headers():
        if name not in {"Content-Type", "Content-Length"}:
            response.headers[name] = value
    return response


def _crash(error: Exception) -> Response:
    log.error("Answering %s failed", request.path, exc_info=error)
    return answer({"detail": "The server failed to answer; its log says why."}, 500)
