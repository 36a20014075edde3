"""Security headers of every response."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flask import Response

SELF = "'self'"
JSON_POLICY = "default-src 'none'; frame-ancestors 'none'"
"""JSON is not a page. The short policy keeps responses that are sent every second small."""


def build_content_security_policy(*, script_hashes: Iterable[str], frame_ancestors: Iterable[str]) -> str:
    """Return the Content-Security-Policy for pages. `script_hashes` are those of Dash's inline scripts.

    plotly.js needs inline style attributes, data: and blob: images, and workers from blob: URLs.
    """
    directives = {
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
    return "; ".join(f"{name} {' '.join(values)}" for name, values in directives.items())


def add_security_headers(response: Response, policy: str) -> Response:
    """Add the headers. Responses without Cache-Control are live data and get `no-store`."""
    if response.mimetype == "application/json":
        response.headers["Content-Security-Policy"] = JSON_POLICY
    else:
        response.headers["Content-Security-Policy"] = policy
        response.headers["Permissions-Policy"] = "camera=(), microphone=(), geolocation=(), payment=()"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers.setdefault("Cache-Control", "no-store")
    return response
