"""Headers of every answer: what a browser may do with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flask import Response

SELF = "'self'"


def content_policy(*, script_hashes: Iterable[str], frame_ancestors: Iterable[str]) -> str:
    """Return the content security policy that Dash and plotly.js run under; `script_hashes` are Dash's inline scripts.

    Plotly writes style attributes, draws pictures into data: and blob: addresses and works in blob: workers.
    """
    rules = {
        "default-src": [SELF],
        "script-src": [SELF, *script_hashes],
        "style-src": [SELF, "'unsafe-inline'"],
        "img-src": [SELF, "data:", "blob:"],
        "font-src": [SELF, "data:"],
        "worker-src": [SELF, "blob:"],
        "object-src": ["'none'"],
        "base-uri": ["'none'"],
        "form-action": [SELF],
        "frame-ancestors": list(frame_ancestors),
    }
    return "; ".join(f"{name} {' '.join(values)}" for name, values in rules.items())


def secured(response: Response, policy: str) -> Response:
    """Add the headers; an answer that says nothing of caching is live data.

    JSON is no page, and may do nothing at all: saying so is shorter, in answers that are sent every second.
    """
    if response.mimetype == "application/json":
        response.headers["Content-Security-Policy"] = "default-src 'none'; frame-ancestors 'none'"
    else:
        response.headers["Content-Security-Policy"] = policy
        response.headers["Permissions-Policy"] = "camera=(), microphone=(), geolocation=(), payment=()"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers.setdefault("Cache-Control", "no-store")
    return response
