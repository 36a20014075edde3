"""The OpenAPI 3.1 document, built from the endpoint table and the response models.

By hand, since Pydantic makes the schemas and the rest is one loop: it lists exactly the API's calls and costs nothing a
request. The Flask extensions tried cost more than they give: flask-openapi validates each answer (1.2 ms), spectree
lists Dash's own routes, apiflask and flask-smorest bring a second model library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from dashtop.version import __version__
from dashtop.web.api.endpoints import COMMON_ERRORS, ENDPOINTS, ERRORS, JSON
from dashtop.web.api.schemas import Error

if TYPE_CHECKING:
    from dashtop.web.api.endpoints import Endpoint

JSON_SCHEMA = "https://json-schema.org/draft/2020-12/schema"
TEMPLATE = "#/components/schemas/{model}"
ABOUT = """Readings of the GPUs and the machine that dashtop runs on.

`null` means not available, never a made-up 0; `unavailable` says why. Numbers are never NaN or Infinity. `x-unit` is a
field's unit, `x-metric` its key in `metrics=`, `unavailable` and exported columns. Errors are `{"detail": "…"}`."""


def document() -> dict[str, Any]:
    """Return the document of the API. The server's address in it is relative to that of the document."""
    answers = [endpoint for endpoint in ENDPOINTS if endpoint.response is not None]
    adapters = [(endpoint.name, "serialization", TypeAdapter(endpoint.response)) for endpoint in answers]
    adapters.append(("error", "serialization", TypeAdapter(Error)))
    for endpoint in ENDPOINTS:
        if endpoint.body is not None:
            adapters.append((f"{endpoint.name}_body", "validation", TypeAdapter(endpoint.body)))  # noqa: PERF401
    schemas, definitions = TypeAdapter.json_schemas(adapters, ref_template=TEMPLATE)  # type: ignore[arg-type]
    by_name: dict[str, Any] = {name: schema for (name, _mode), schema in schemas.items()}
    return {
        "openapi": "3.1.0",
        "jsonSchemaDialect": JSON_SCHEMA,
        "info": {"title": "dashtop", "version": __version__, "description": ABOUT},
        "servers": [{"url": "../system"}],
        "security": [{}, {"token": []}],
        "paths": _paths(by_name),
        "components": {
            "schemas": definitions.get("$defs", {}),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _paths(schemas: dict[str, Any]) -> dict[str, Any]:
    paths: dict[str, Any] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schemas)
    return paths


def _operation(endpoint: Endpoint, schemas: dict[str, Any]) -> dict[str, Any]:
    content = {
        kind: {"schema": schemas[endpoint.name] if kind == JSON else {"type": "string"}}
        for kind in endpoint.media_types
    }
    answer: dict[str, Any] = {"description": endpoint.summary, **({"content": content} if content else {})}
    responses: dict[str, Any] = {str(endpoint.status): answer}
    for status in sorted(COMMON_ERRORS | endpoint.errors):
        responses[str(status)] = {
            "description": ERRORS[status],
            "content": {JSON: {"schema": schemas["error"]}},
        }
    responses["429"]["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
    return {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "parameters": _parameters(endpoint),
        **_request_body(endpoint, schemas),
        "responses": responses,
    }


def _request_body(endpoint: Endpoint, schemas: dict[str, Any]) -> dict[str, Any]:
    if endpoint.body is None:
        return {}
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schemas[f"{endpoint.name}_body"]}}}}


def _parameters(endpoint: Endpoint) -> list[dict[str, Any]]:
    found = []
    for name, schema in endpoint.params.model_json_schema(mode="validation").get("properties", {}).items():
        in_path = f"{{{name}}}" in endpoint.path
        described = {key: value for key, value in schema.items() if key not in {"title", "description"}}
        if in_path:
            described.pop("default", None)
        if schema.get("default", ...) is None:  # left out, not null: an address has no null
            described = next(each for each in described.pop("anyOf") if each["type"] != "null") | {
                key: value for key, value in described.items() if key != "default"
            }
        found.append(
            {
                "name": name,
                "in": "path" if in_path else "query",
                "required": in_path,
                "description": schema.get("description", ""),
                "schema": described,
            }
        )
    return found
