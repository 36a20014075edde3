"""Routes of the endpoint table, health checks, documentation, and JSON errors."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, redirect, render_template, request
from werkzeug.exceptions import BadRequest, HTTPException, NotFound, UnsupportedMediaType
from werkzeug.routing import BaseConverter

from dashtop.web.api import bodies, openapi, params
from dashtop.web.api.context import Context, json_response
from dashtop.web.api.endpoints import ENDPOINTS, ERRORS, Endpoint
from dashtop.web.api.serializers import to_json
from dashtop.web.security.action_token import ActionTokenAuth

if TYPE_CHECKING:
    from flask import Flask
    from werkzeug.wrappers import Response as BaseResponse

    from dashtop.model.ports import Services

log = logging.getLogger(__name__)

PREFIX = "api/v1/system"
MAX_QUOTED_LENGTH = 200
IGNORED_PARAMETER = "token"
"""No endpoint has it: it is dashtop's access token, or that of Jupyter, whose proxy passes its own on."""


def register(
    server: Flask,
    services: Services,
    *,
    url_prefix: str = "/",
    viewer_header: str | None = None,
    action_token: str | None = None,
) -> None:
    """Add every route of the API, health checks and documentation included, and JSON errors everywhere."""
    server.url_map.converters["anything"] = _Anything
    context = Context(services=services, viewer_header=viewer_header, action_token=ActionTokenAuth(action_token))
    server.register_blueprint(_system(context), url_prefix=url_prefix + PREFIX)
    server.register_blueprint(_root(services), url_prefix=url_prefix)
    server.register_error_handler(HTTPException, _http_error)
    server.register_error_handler(Exception, _internal_error)


class _Anything(BaseConverter):
    """Matches the rest of an address, nothing and doubled slashes too."""

    regex = ".*"
    part_isolating = False


def _system(context: Context) -> Blueprint:
    routes = Blueprint("system", __name__)
    for endpoint in ENDPOINTS:
        routes.add_url_rule(_rule(endpoint), endpoint.name, _view(endpoint, context), methods=[endpoint.method])
    return routes


def _rule(endpoint: Endpoint) -> str:
    return endpoint.path.replace("{", "<").replace("}", ">")


def _view(endpoint: Endpoint, context: Context) -> Any:
    def view(**in_path: str) -> Response:
        given = dict(request.args.lists())
        given.pop(IGNORED_PARAMETER, None)
        for name, value in in_path.items():
            given[name] = [value, *given.get(name, [])]
        parsed = params.parse(endpoint.params, given)
        if endpoint.body is None:
            return endpoint.handler(context, parsed)
        return endpoint.handler(context, parsed, bodies.parse_body(endpoint.body, _read_json()))

    return view


def _read_json() -> object:
    if not request.is_json:
        raise UnsupportedMediaType("The body must be application/json.")
    try:
        return request.get_json()
    except (BadRequest, RecursionError):
        raise BadRequest("The body is not JSON, or is nested too deeply.") from None


def _root(services: Services) -> Blueprint:
    """Return health checks, the API's description, and a 404 where Dash would answer any path with its page."""
    routes = Blueprint("root", __name__, template_folder="templates")
    document = openapi.document()
    described = to_json(document)

    @routes.get("/healthz")
    def _healthz() -> Response:
        return json_response({"status": "ok"})

    @routes.get("/readyz")
    def _readyz() -> Response:
        if services.latest.alive():
            message = services.history.status_message()
            return json_response({"ready": True} | ({"detail": message} if message is not None else {}))
        detail = "The first sample is under way." if services.latest.latest() is None else "Collection has stopped."
        return json_response({"ready": False, "detail": detail}, 503)

    @routes.get(f"/{PREFIX}/openapi.json")
    def _openapi() -> Response:
        return json_response(described)

    @routes.get("/docs")
    def _docs() -> str:
        return render_template("docs.html", document=document, base=PREFIX, errors=ERRORS)

    @routes.get(f"/{PREFIX}/docs")
    def _redirect_to_docs() -> BaseResponse:
        return redirect("../../../docs")  # relative: a proxy may serve dashtop below another path

    @routes.route("/api")
    @routes.route("/api/<anything:_rest>")
    @routes.route("/<path:_before>/api/<anything:_rest>")
    def _not_found(**_parts: str) -> Response:
        raise NotFound(f"There is nothing at {request.path[:MAX_QUOTED_LENGTH]}.")

    return routes


def _http_error(error: HTTPException) -> Response:
    response = json_response({"detail": error.description}, error.code or 500)
    for name, value in error.get_headers():
        if name not in {"Content-Type", "Content-Length"}:
            response.headers[name] = value
    return response


def _internal_error(error: Exception) -> Response:
    log.error("Request %s failed", request.path, exc_info=error)
    return json_response({"detail": "Internal error. See the server's log."}, 500)
