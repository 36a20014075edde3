"""The web server of the `dashtop` command: waitress, with many threads in one process."""

from __future__ import annotations

import errno
import platform
import signal
import socket
from typing import TYPE_CHECKING, Any

from waitress.adjustments import Adjustments

from dashtop.addresses import find_addresses, format_address
from dashtop.model.errors import ServerStartError
from dashtop.web import connections
from dashtop.web.security.guard import MAX_BODY_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from wsgiref.types import WSGIApplication

THREADS = 32
"""A stream occupies one thread (see web.api.context for their limit); the others answer requests."""
MAX_HEADER_BYTES = 32 * 2**10
MAX_UNSENT_BYTES = 256 * 2**10
"""With more than this unsent, the answering thread waits for the client."""


class Server:
    """Listens from its creation on, and answers while `run` runs."""

    def __init__(self, application: WSGIApplication, *, host: str, port: int, has_proxy: bool = False) -> None:
        """Listen on `host`:`port` (0: a free one). Raises ServerStartError, which says how to fix it.

        `has_proxy`: clients connect through proxies.
        """
        try:
            adjustments = Adjustments(
                **_choose_listeners(host, port),
                threads=THREADS,
                ident=None,
                connection_limit=connections.compute_max_connections() + connections.ACCEPT_MARGIN,
                cleanup_interval=connections.CLEANUP_INTERVAL_S,
                asyncore_use_poll=True,
                max_request_body_size=MAX_BODY_BYTES + 1,  # larger ones are refused before they are read
                max_request_header_size=MAX_HEADER_BYTES,
                outbuf_high_watermark=MAX_UNSENT_BYTES,
                clear_untrusted_proxy_headers=False,  # security.proxy decides which headers to trust
            )
            self._server = connections.listen(application, adjustments, has_proxy=has_proxy)
        except (ValueError, socket.gaierror) as error:
            raise ServerStartError(f"--host {host}: not an address of this machine. Use --host 127.0.0.1.") from error
        except OSError as error:
            raise ServerStartError(_format_error(error, host, port)) from error

    @property
    def address(self) -> str:
        """The address to open in a browser: with the machine's name if the server listens on all addresses."""
        host, port = self._server.effective_listen[0]
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
