"""The web server of the `dashtop` command: waitress, with many threads in one process."""

from __future__ import annotations

import errno
import json
import platform
import signal
import socket
from typing import TYPE_CHECKING, Any

import waitress
from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer, MultiSocketServer
from waitress.task import ErrorTask, WSGITask

from dashtop.addresses import find_addresses, format_address
from dashtop.model.errors import ServerStartError
from dashtop.web.security.guard import MAX_BODY_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from wsgiref.types import WSGIApplication

THREADS = 32
"""A stream occupies one thread (see web.api.context for their limit); the others answer requests."""
MAX_CONNECTIONS = 500
MAX_HEADER_BYTES = 32 * 2**10
MAX_UNSENT_BYTES = 256 * 2**10
"""With more than this unsent, the answering thread waits for the client."""
UNREAD_TIMEOUT_MS = 20_000


class Server:
    """Listens from its creation on, and answers while `run` runs."""

    def __init__(self, application: WSGIApplication, *, host: str, port: int) -> None:
        """Listen on `host`:`port` (0: a free one). Raises ServerStartError, which says how to fix it."""
        try:
            self._server = waitress.create_server(
                application,
                **_choose_listeners(host, port),
                threads=THREADS,
                ident=None,
                connection_limit=MAX_CONNECTIONS,
                asyncore_use_poll=True,
                max_request_body_size=8 * MAX_BODY_BYTES,
                max_request_header_size=MAX_HEADER_BYTES,
                outbuf_high_watermark=MAX_UNSENT_BYTES,
                clear_untrusted_proxy_headers=False,  # security.proxy decides which headers to trust
            )
        except (ValueError, socket.gaierror) as error:
            raise ServerStartError(f"--host {host}: not an address of this machine. Use --host 127.0.0.1.") from error
        except OSError as error:
            raise ServerStartError(_format_error(error, host, port)) from error

        _configure(self._server)

    @property
    def address(self) -> str:
        """The address to open in a browser: with the machine's name if the server listens on all addresses."""
        listening = self._server.effective_listen if isinstance(self._server, MultiSocketServer) else None
        host, port = listening[0] if listening else (self._server.effective_host, self._server.effective_port)
        if host in {"0.0.0.0", "::"}:  # noqa: S104
            host = platform.node() or "127.0.0.1"
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{port}/"

    def run(self, on_end: Callable[[], None]) -> None:
        """Answer until SIGTERM or Ctrl-C; then call `on_end`, which ends open streams, and finish other responses."""

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
    """Passes the socket to the application, as gunicorn does: a stream waits for its client."""

    def get_environment(self) -> dict[str, Any]:
        environ: dict[str, Any] = super().get_environment()
        environ["dashtop.socket"] = self.channel.socket
        return environ


class _ErrorTask(ErrorTask):  # type: ignore[misc]
    """Answers a request that is invalid or too large to read with the JSON errors of the API."""

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
    error_task_class = _ErrorTask


def _configure(server: BaseWSGIServer | MultiSocketServer) -> None:
    """Set the tasks above, and have the kernel close connections whose client does not read."""
    listening = server.map.values() if isinstance(server, MultiSocketServer) else [server]
    for each in listening:
        if isinstance(each, BaseWSGIServer):
            each.channel_class = _Channel
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # its connections inherit it
                each.socket.setsockopt(socket.SOL_TCP, socket.TCP_USER_TIMEOUT, UNREAD_TIMEOUT_MS)


def _choose_listeners(host: str, port: int) -> dict[str, Any]:
    """Return waitress's parameters: the name, or those of its addresses that this machine has. Raises OSError."""
    addresses, are_all = find_addresses(host, port)
    if are_all:
        return {"host": host, "port": port}
    return {"listen": " ".join(format_address(*address[:2]) for _, address in addresses)}


def _format_error(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} is in use. Choose another with --port, or --port 0 for a free one."
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"Port {port} needs more privileges than this user has. Choose one above 1023 with --port."
    return f"Cannot listen on {host}:{port} ({error.strerror or error}). Choose another address with --host and --port."
