"""Behind proxies: the prefix of every address, and forwarded headers from proxies that are trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from werkzeug.middleware.proxy_fix import ProxyFix

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment


def behind(application: WSGIApplication, *, url_prefix: str, trusted_proxies: int) -> WSGIApplication:
    """Return the application as it answers under `url_prefix` and behind that many proxies."""
    if url_prefix != "/":
        application = _Prefixed(application, url_prefix)
    if trusted_proxies:
        number = trusted_proxies
        application = ProxyFix(application, x_for=number, x_proto=number, x_host=number, x_port=0, x_prefix=0)
    return application


class _Prefixed:
    """Puts the prefix back where a proxy, or the application that this one is mounted in, has cut it off.

    JupyterHub passes addresses on whole, jupyter-server-proxy and most mounts cut: both work, and a health check can
    ask the server directly.
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
