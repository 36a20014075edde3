"""WSGI middleware for reverse proxies: the URL prefix, and forwarded headers of trusted proxies."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from werkzeug.middleware.proxy_fix import ProxyFix

from dashtop.model.text import sanitize_text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from flask import Request

MAX_VIEWER_LENGTH = 80
_PATH = re.compile(r"/([\w.~@%+-]+/)*[\w.~@%+-]+/?", re.ASCII)


def wrap_proxy(application: WSGIApplication, *, url_prefix: str, trusted_proxies: int) -> WSGIApplication:
    """Return the application served under `url_prefix`, trusting that many proxies in front of it.

    Their X-Forwarded-For gives the client's address. X-Forwarded-Proto only decides the attributes of the cookie that
    the same client receives, so a forged one harms nobody else. X-Forwarded-Host never replaces Host: nginx passes on
    what a client sends there unless it is configured to set it (see `get_forwarded_hosts`).
    """
    if url_prefix != "/":
        application = _PrefixMiddleware(application, url_prefix)
    if trusted_proxies:
        number = trusted_proxies
        application = ProxyFix(application, x_for=number, x_proto=number, x_host=0, x_port=0, x_prefix=0)
    return application


def find_public_path(request: Request) -> str | None:
    """Return the path below which a proxy says it serves dashtop, None if it says nothing.

    Only for the path of a cookie: a forged header gives the client that forged it a cookie that is sent nowhere else.
    jupyter-server-proxy sends it.
    """
    prefix = request.headers.get("X-Forwarded-Prefix", "")
    return prefix if _PATH.fullmatch(prefix) else None


def get_forwarded_hosts(request: Request) -> list[str]:
    """Return every name in X-Forwarded-Host: those that proxies add and those that the client may have forged.

    Apache replaces Host by the address of dashtop and appends the client's Host here, so both must be checked.
    """
    headers = request.headers.getlist("X-Forwarded-Host")
    return [name.strip() for header in headers for name in header.split(",") if name.strip()]


def find_viewer(request: Request, header: str | None) -> str | None:
    """Return the user named in a header that the trusted proxy sets, as printable text. None: no user, no header."""
    if header is None:
        return None
    return sanitize_text(request.headers.get(header, "").strip(), MAX_VIEWER_LENGTH) or None


class _PrefixMiddleware:
    """Restore the prefix if a proxy or a mounting application has removed it.

    JupyterHub keeps the prefix, jupyter-server-proxy and most mounts remove it. Both work, and so does a health check
    sent directly to the server.
    """

    def __init__(self, application: WSGIApplication, url_prefix: str) -> None:
        self._application = application
        self._prefix = url_prefix

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if not path.startswith(self._prefix) and path + "/" != self._prefix:
            environ["PATH_INFO"] = self._prefix + path.lstrip("/")
        environ["SCRIPT_NAME"] = ""
        return self._application(environ, start_response)
