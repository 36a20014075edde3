"""The routes: what is asked is checked here (query.py), what is answered is made by the calls (calls.py)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, redirect, render_template, request, url_for
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.routing import BaseConverter

from dashtop.web.api import openapi
from dashtop.web.api import params as query
from dashtop.web.api.context import Context, answer
from dashtop.web.api.endpoints import ENDPOINTS, ERRORS, Endpoint
from dashtop.web.api.serializers import to_json

if TYPE_CHECKING:
    from flask import Flask
    from werkzeug.wrappers import Response as BaseResponse

    from dashtop.model.ports import Services

log = logging.getLogger(__name__)

PREFIX = "api/v1/system"
SHOWN = 200


def register(server: Flask, services: Services, *, url_prefix: str = "/") -> None:
    """Add every route of the API, health checks and documentation included, and JSON errors everywhere."""
    server.url_map.converters["anything"] = _Anything
    server.register_blueprint(_system(Context(services=services)), url_prefix=url_prefix + PREFIX)
    server.register_blueprint(_root(services, url_prefix), url_prefix=url_prefix)
    server.register_error_handler(HTTPException, _http_error)
    server.register_error_handler(Exception, _crash)


class _Anything(BaseConverter):
    """Matches the rest of an address, nothing and doubled slashes too."""

    regex = ".*"
    part_isolating = False


def _system(context: Context) -> Blueprint:
    routes = Blueprint("system", __name__)
    for call in ENDPOINTS:
        routes.add_url_rule(_rule(call), call.name, _view(call, context), methods=["GET"])
    return routes


def _rule(call: Endpoint) -> str:
    return call.path.replace("{", "<").replace("}", ">")


def _view(call: Endpoint, context: Context) -> Any:
    def view(**in_path: str) -> Response:
        given = dict(request.args.lists())
        for name, value in in_path.items():
            given[name] = [value, *given.get(name, [])]
        return call.run(context, query.parse(call.query, given))

    return view


def _root(services: Services, url_prefix: str) -> Blueprint:
    """Return health checks, the API's description, and a 404 where Dash would answer any path with its page."""
    routes = Blueprint("root", __name__, template_folder="templates")
    document = openapi.document(url_prefix + PREFIX)
    described = to_json(document)

    @routes.get("/healthz")
    def _healthz() -> Response:
        return answer({"status": "ok"})

    @routes.get("/readyz")
    def _readyz() -> Response:
        if services.latest.alive():
            message = services.history.status_message()
            return answer({"ready": True} | ({"detail": message} if message is not None else {}))
        detail = "The first reading is under way." if services.latest.latest() is None else "Collection has stopped."
        return answer({"ready": False, "detail": detail}, 503)

    @routes.get(f"/{PREFIX}/openapi.json")
    def _openapi() -> Response:
        return answer(described)

    @routes.get("/docs")
    def _docs() -> str:
        return render_template("docs.html", document=document, errors=ERRORS)

    @routes.get(f"/{PREFIX}/docs")
    def _docs_beside_the_calls() -> BaseResponse:
        return redirect(url_for("root._docs"))

    @routes.route("/api")
    @routes.route("/api/<anything:_rest>")
    @routes.route("/<path:_before>/api/<anything:_rest>")
    def _not_found(**_parts: str) -> Response:
        raise NotFound(f"There is nothing at {request.path[:SHOWN]}.")

    return routes


def _http_error(error: HTTPException) -> Response:
    response = answer({"detail": error.description}, error.code or 500)
    for name, value in error.get_headers():
        if name not in {"Content-Type", "Content-Length"}:
            response.headers[name] = value
    return response


def _crash(error: Exception) -> Response:
    log.error("Answering %s failed", request.path, exc_info=error)
    return answer({"detail": "The server failed to answer; its log says why."}, 500)
