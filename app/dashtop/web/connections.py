"""Connections of the `dashtop` command: waitress with limits, so that clients cannot lock each other out."""

from __future__ import annotations

import errno
import json
import logging
import resource
import socket
import time
from typing import TYPE_CHECKING, Any

from waitress.channel import HTTPChannel
from waitress.server import MultiSocketServer, TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher, WSGITask

from dashtop.web.api import sse
from dashtop.web.security.guesses import group_address

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import WSGIApplication

    from waitress.adjustments import Adjustments

MAX_CONNECTIONS = 500
MIN_CONNECTIONS_PER_CLIENT = 10
ACCEPT_MARGIN = 16
"""Connections above the limit that are accepted while others are being closed for them."""
REQUEST_TIMEOUT_S = 10
"""Time in which a request must arrive completely, from the connection or from its first byte on."""
CLEANUP_INTERVAL_S = 1
ACCEPT_RETRY_INTERVAL_S = 1.0
HEALTH_THREADS = 2
"""Further threads that answer health checks only, while slow clients occupy the others."""
HEALTH_PATHS = ("/healthz", "/readyz")
NO_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
MAX_LOG_RECORDS = 5
LOG_INTERVAL_S = 60.0

log = logging.getLogger(__name__)


def compute_max_connections() -> int:
    """Return how many connections to keep: half of the file descriptors, since collecting needs some, at most 500."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if descriptors == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, descriptors // 2)


def listen(application: WSGIApplication, adjustments: Adjustments, *, has_proxy: bool) -> MultiSocketServer:
    """Listen on each address of the host, as waitress.create_server does. Raises OSError.

    `has_proxy`: connections come from a few proxies, so they are limited together only, not by address.
    """
    for logger in (logging.getLogger("waitress"), log):
        if not any(isinstance(each, RateLimitFilter) for each in logger.filters):
            logger.addFilter(RateLimitFilter())
    channels: dict[int, Any] = {}
    dispatcher = _Dispatcher()
    dispatcher.set_thread_count(adjustments.threads)
    addresses = []
    for address in adjustments.listen:
        listener = _Listener(
            application, channels, dispatcher=dispatcher, adj=adjustments, sockinfo=address, has_proxy=has_proxy
        )
        addresses.append((listener.effective_host, listener.effective_port))
    return MultiSocketServer(channels, adjustments, addresses, dispatcher, listener.log_info)


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
    """One connection. It is closed if a request does not arrive in time, or to make room for others."""

    task_class = _Task
    error_task_class = _ErrorTask
    waiting_since_s: float | None = None
    """Since when a request is expected or incomplete."""

    def __init__(self, server: _Listener, sock: socket.socket, addr: Any, adj: Adjustments, **options: Any) -> None:
        super().__init__(server, sock, addr, adj, **options)
        self.client = group_address(addr[0])
        self.waiting_since_s = self.creation_time
        server.limit_connections(self)

    def received(self, data: bytes) -> bool:
        """Take bytes of a request, and note when it began if it is not complete."""
        received: bool = super().received(data)
        if self.request is not None and self.waiting_since_s is None:
            self.waiting_since_s = time.time()
        return received

    @property
    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return not (self.requests or self.total_outbufs_len or self.will_close)


class _Listener(TcpWSGIServer):  # type: ignore[misc]
    """Accepts connections on one address. Its limits count those of all addresses."""

    channel_class = _Channel

    def __init__(self, *arguments: Any, has_proxy: bool, **options: Any) -> None:
        self._accept_after_s = 0.0
        super().__init__(*arguments, **options)
        self._max_connections = self.adj.connection_limit - ACCEPT_MARGIN
        self._max_per_client = (
            self._max_connections if has_proxy else max(self._max_connections // 4, MIN_CONNECTIONS_PER_CLIENT)
        )
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # the kernel closes connections whose client does not read
            self.socket.setsockopt(socket.SOL_TCP, socket.TCP_USER_TIMEOUT, 1000 * sse.UNREAD_TIMEOUT_S)

    def limit_connections(self, new: _Channel) -> None:
        """If there are too many, close the connection that has been idle for longest, or the new one if none is."""
        channels = [each for each in self._map.values() if isinstance(each, _Channel) and not each.will_close]
        of_client = [each for each in channels if each.client == new.client]
        if len(of_client) > self._max_per_client:
            log.warning(
                "%s has more than %d connections. Its oldest idle one is closed.", new.client, self._max_per_client
            )
            _close_oldest(of_client, new)
        elif len(channels) > self._max_connections:
            log.warning("There are more than %d connections. The oldest idle one is closed.", self._max_connections)
            _close_oldest(channels, new)

    def add_task(self, task: _Channel) -> None:
        """Have a complete request answered."""
        task.waiting_since_s = None
        super().add_task(task)

    def maintenance(self, now: float) -> None:
        """Close connections that are idle for too long, or whose request does not arrive."""
        super().maintenance(now)
        for channel in self.active_channels.values():
            since_s = channel.waiting_since_s
            if channel.is_idle and since_s is not None and now - since_s > REQUEST_TIMEOUT_S:
                channel.will_close = True

    def readable(self) -> bool:
        """Return whether to accept connections now."""
        is_accepting: bool = super().readable()
        return is_accepting and time.monotonic() >= self._accept_after_s

    def accept(self) -> Any:
        """Accept a connection. Without a free file descriptor it stays in the kernel's queue for a second."""
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in NO_DESCRIPTORS:
                raise
            log.warning("Cannot accept a connection (%s). Raise the limit with ulimit -n.", error.strerror)
            self._accept_after_s = time.monotonic() + ACCEPT_RETRY_INTERVAL_S
            return None


class _Dispatcher(ThreadedTaskDispatcher):  # type: ignore[misc]
    """Threads that answer requests, and a reserve for health checks."""

    def __init__(self) -> None:
        super().__init__()
        self._reserve = ThreadedTaskDispatcher()
        self._reserve.set_thread_count(HEALTH_THREADS)

    def add_task(self, task: _Channel) -> None:
        """Queue a request. A health check on a connection with unsent data would wait for its client."""
        if not task.requests[0].error and task.requests[0].path.endswith(HEALTH_PATHS) and not task.total_outbufs_len:
            self._reserve.add_task(task)
        else:
            super().add_task(task)

    def shutdown(self, cancel_pending: bool = True, timeout: int = 5) -> bool:
        """End the threads."""
        self._reserve.shutdown(cancel_pending, timeout)
        return bool(super().shutdown(cancel_pending, timeout))


class RateLimitFilter(logging.Filter):
    """Passes a few records of each message a minute: a client can cause as many as it likes."""

    def __init__(self) -> None:
        super().__init__()
        self._counts: dict[str, int] = {}
        self._ends_at_s = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log the record."""
        now_s = time.monotonic()
        if now_s >= self._ends_at_s:
            self._counts, self._ends_at_s = {}, now_s + LOG_INTERVAL_S
        message = str(record.msg)
        self._counts[message] = count = self._counts.get(message, 0) + 1
        if count == MAX_LOG_RECORDS:
            record.msg = f"{message} (Not logged again for up to {LOG_INTERVAL_S:.0f} s.)"
        return count <= MAX_LOG_RECORDS


def _close_oldest(channels: Iterable[_Channel], new: _Channel) -> None:
    idle = [each for each in channels if each.is_idle and each is not new]
    min(idle, key=lambda each: each.last_activity, default=new).will_close = True
