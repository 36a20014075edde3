"""The production server of the `dashtop` command: waitress, many threads in one process."""

from __future__ import annotations

import errno
import signal
from typing import TYPE_CHECKING

import waitress
from waitress.server import MultiSocketServer

from dashtop.domain.errors import ServerStartError

if TYPE_CHECKING:
    from types import FrameType
    from wsgiref.types import WSGIApplication

THREADS = 8


class Server:
    """Listens from the moment it is made, answers while `run` runs."""

    def __init__(self, application: WSGIApplication, *, host: str, port: int) -> None:
        """Listen on `host`:`port` (0: a free one). Raises ServerStartError, which names a way out."""
        try:
            self._server = waitress.create_server(
                application, host=host, port=port, threads=THREADS, ident=None, clear_untrusted_proxy_headers=True
            )
        except OSError as error:
            raise ServerStartError(_way_out(error, host, port)) from error
        except ValueError as error:
            raise ServerStartError(f"{host} is not an address of this machine; try --host 127.0.0.1.") from error

    @property
    def address(self) -> str:
        """The address to open in a browser."""
        listening = self._server.effective_listen if isinstance(self._server, MultiSocketServer) else None
        host, port = listening[0] if listening else (self._server.effective_host, self._server.effective_port)
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
        return f"http://{host}:{port}/"

    def run(self) -> None:
        """Answer until SIGTERM or Ctrl-C."""
        signal.signal(signal.SIGTERM, _exit)
        try:
            self._server.run()
        finally:
            self._server.close()


def _exit(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def _way_out(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} is in use: choose another with --port, or --port 0 for a free one."
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"Port {port} needs more rights than this user has: choose one above 1023 with --port."
    return f"Cannot listen on {host}:{port} ({error.strerror or error}); choose another with --host and --port."
