"""The production server of the `dashtop` command: waitress, many threads in one process."""

from __future__ import annotations

import errno
import json
import signal
import socket
from typing import TYPE_CHECKING, Any

import waitress
from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer, MultiSocketServer
from waitress.task import ErrorTask, WSGITask

from dashtop.model.errors import ServerStartError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from wsgiref.types import WSGIApplication

THREADS = 32
"""Streams hold one each (api.context.MOST_STREAMS); the rest answer pages and calls."""
CONNECTIONS = 500
LARGEST_BODY = 8 * 2**20
LARGEST_HEADERS = 32 * 2**10
MOST_UNSENT = 256 * 2**10
"""Beyond it the thread that answers waits for the client."""
UNREAD_MS = 20_000


class Server:
    """Listens from the moment it is made, answers while `run` runs."""

    def __init__(self, application: WSGIApplication, *, host: str, port: int) -> None:
        """Listen on `host`:`port` (0: a free one). Raises ServerStartError, which names a way out."""
        try:
            self._server = waitress.create_server(
                application,
                host=host,
                port=port,
                threads=THREADS,
                ident=None,
                connection_limit=CONNECTIONS,
                asyncore_use_poll=True,
                max_request_body_size=LARGEST_BODY,
                max_request_header_size=LARGEST_HEADERS,
                outbuf_high_watermark=MOST_UNSENT,
                clear_untrusted_proxy_headers=False,  # security.proxy decides whom to trust
            )
        except OSError as error:
            raise ServerStartError(_way_out(error, host, port)) from error
        except ValueError as error:
            raise ServerStartError(f"{host} is not an address of this machine; try --host 127.0.0.1.") from error

        _prepare(self._server)

    @property
    def address(self) -> str:
        """The address to open in a browser."""
        listening = self._server.effective_listen if isinstance(self._server, MultiSocketServer) else None
        host, port = listening[0] if listening else (self._server.effective_host, self._server.effective_port)
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
        return f"http://{host}:{port}/"

    def run(self, on_end: Callable[[], None]) -> None:
        """Answer until SIGTERM or Ctrl-C; then `on_end` ends open streams, and what is being sent is finished."""

        def end(_signal: int, _frame: FrameType | None) -> None:
            on_end()
            raise SystemExit(0)

        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
        try:
            self._server.run()
        finally:
            self._server.close()


class _Task(WSGITask):  # type: ignore[misc]
    """Passes the connection on, as gunicorn does, for streams that must not run ahead of their reader."""

    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ["dashtop.socket"] = self.channel.socket
        return environ


class _Refusal(ErrorTask):  # type: ignore[misc]
    """A request that is no HTTP, or too large to be read, is answered as the API answers errors."""

    def execute(self) -> None:
        error = self.request.error
        body = json.dumps({"detail": f"{error.reason}: {error.body}"}).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers += [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)


class _Channel(HTTPChannel):  # type: ignore[misc]
    task_class = _Task
    error_task_class = _Refusal


def _prepare(server: BaseWSGIServer | MultiSocketServer) -> None:
    """Have connections answer as above, and the kernel end one that is not read, so that nothing piles up."""
    listening = server.map.values() if isinstance(server, MultiSocketServer) else [server]
    for each in listening:
        if isinstance(each, BaseWSGIServer):
            each.channel_class = _Channel
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # inherited by its connections
                each.socket.setsockopt(socket.SOL_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS)


def _way_out(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} is in use: choose another with --port, or --port 0 for a free one."
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"Port {port} needs more rights than this user has: choose one above 1023 with --port."
    return f"Cannot listen on {host}:{port} ({error.strerror or error}); choose another with --host and --port."
