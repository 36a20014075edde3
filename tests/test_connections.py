"""Clients that keep connections silent, send or read slowly do not lock others out of the real server."""

from __future__ import annotations

import http.client
import select
import socket
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from dashtop.server import THREADS, Server
from dashtop.web.connections import (
    MAX_CONNECTIONS,
    MAX_LOG_RECORDS,
    RateLimitFilter,
    compute_max_connections,
)
from tests.processes import DASHTOP, Running, eventually, running

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from wsgiref.types import StartResponse, WSGIEnvironment

ALL = "/api/v1/system/monitoring/all"
REQUEST_TIMEOUT_S = 4
"""Of the servers of these tests; shorter than in reality."""
PROGRAM = f"""#!{sys.executable}
from dashtop.cli import main
from dashtop.web import connections
assert connections.REQUEST_TIMEOUT_S > {REQUEST_TIMEOUT_S}
connections.REQUEST_TIMEOUT_S = {REQUEST_TIMEOUT_S}
main()
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    program = tmp_path_factory.mktemp("program") / "dashtop"
    program.write_text(PROGRAM)
    program.chmod(0o700)
    with running("--no-gpu", command=program) as server:
        yield server


@contextmanager
def connected(server: Running, count: int, source: str = "127.0.0.1") -> Iterator[list[socket.socket]]:
    """Yield connections from an address of this machine, nothing sent yet."""
    address = urlsplit(server.url)
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                socket.create_connection((address.hostname, address.port or 0), timeout=10, source_address=(source, 0))
            )
            for _ in range(count)
        ]


def get_status(server: Running, path: str, source: str) -> int:
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=3, source_address=(source, 0))
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("sources", [1, 8])
def test_silent_connections_lock_nobody_out_and_are_closed(served: Running, sources: int) -> None:
    with ExitStack() as stack:
        silent = []
        for number in range(sources):
            count = 560 // sources
            silent += stack.enter_context(connected(served, count, f"127.0.0.{number + 1}"))
            assert get_status(served, "/healthz", "127.0.0.99") == 200
        assert get_status(served, ALL, "127.0.0.1") == 200
        eventually(lambda: all(is_closed(each) for each in silent), timeout_s=REQUEST_TIMEOUT_S + 10, every_s=0.5)
    assert len("".join(served.lines)) < 10_000


def test_request_that_trickles_in_is_closed(served: Running) -> None:
    def trickle(connection: socket.socket) -> None:
        for byte in b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100:
            connection.sendall(bytes([byte]))
            time.sleep(0.3)

    with connected(served, 1) as (connection,):
        begun_s = time.monotonic()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            trickle(connection)
        assert REQUEST_TIMEOUT_S - 1 < time.monotonic() - begun_s < REQUEST_TIMEOUT_S + 5


def test_connection_that_has_been_answered_stays_open(served: Running) -> None:
    with connected(served, 1) as (connection,):
        for wait_s in (REQUEST_TIMEOUT_S + 2, 0):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            response = http.client.HTTPResponse(connection)
            response.begin()
            assert response.read() == b'{"status":"ok"}'
            time.sleep(wait_s)  # longer than a request may take


@pytest.mark.long
def test_slow_readers_do_not_occupy_all_threads() -> None:
    request = b"GET /api/v1/system/export?range=7d&gpu=all&format=csv&layout=long HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with running("--demo", "2") as server, connected(server, 40) as slow:
        for connection in slow:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(request)
        assert select.select(slow, [], [], 10)[0]
        for path in ("/healthz", "/readyz", "/docs", ALL):
            assert get_status(server, path, "127.0.0.2") == 200, path


def test_health_checks_have_threads_of_their_own() -> None:
    released = threading.Event()

    def respond(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not environ["PATH_INFO"].endswith("z"):
            released.wait()
        start_response("200 OK", [("Content-Length", "0")])
        return [b""]

    server = Server(respond, host="127.0.0.1", port=0)
    thread = threading.Thread(target=server._server.run, daemon=True)
    thread.start()
    running_server = Running(None, server.address)  # type: ignore[arg-type]
    try:
        with connected(running_server, 2 * THREADS) as waiting:
            for connection in waiting:
                connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with pytest.raises(TimeoutError):
                get_status(running_server, "/", "127.0.0.2")
            for path in ("/healthz", "/gpu/readyz"):
                assert get_status(running_server, path, "127.0.0.2") == 200
            released.set()
            assert get_status(running_server, "/", "127.0.0.2") == 200
    finally:
        released.set()
        server._server.close()
        thread.join(10)
    assert not thread.is_alive()


def test_few_descriptors_leave_enough_to_collect(tmp_path: Path) -> None:
    limited = tmp_path / "limited"
    limited.write_text(f'#!/bin/sh\nulimit -n 40\nexec {DASHTOP} "$@"\n')
    limited.chmod(0o700)
    with running("--no-gpu", "--interval", "0.5", command=limited) as server:
        with connected(server, 100):
            samples = {}

            def has_collected() -> bool:
                body = server.json(ALL)
                samples[body["timestamp"]] = body
                return len(samples) > 6

            eventually(has_collected, timeout_s=20)
            for body in list(samples.values())[1:]:  # the first has no rates
                assert body["storage"]
                assert body["system_metrics"]["cpu"]["usage_percent"] is not None
                assert body["system_metrics"]["memory"]["used_gb"] is not None
        assert len("".join(server.lines)) < 20_000


def test_limit_of_connections_is_half_of_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft, expected in ((40, 20), (1024, MAX_CONNECTIONS), (-1, MAX_CONNECTIONS)):
        monkeypatch.setattr("resource.getrlimit", lambda _which, soft=soft: (soft, soft))
        assert compute_max_connections() == expected


def test_repeated_records_are_limited(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    log, limit = logging.getLogger("dashtop.tests.limited"), RateLimitFilter()
    log.addFilter(limit)
    for number in range(100):
        log.warning("many %d", number)
    log.warning("other")
    assert len(caplog.records) == MAX_LOG_RECORDS + 1
    assert "Not logged again" in caplog.messages[MAX_LOG_RECORDS - 1]
    limit._ends_at_s = 0.0
    log.warning("many %d", 100)
    assert caplog.messages[-1] == "many 100"


def test_server_writes_no_core_dump_which_would_hold_the_token(served: Running) -> None:
    limits = Path(f"/proc/{served.process.pid}/limits").read_text().splitlines()
    (core,) = [line for line in limits if line.startswith("Max core file size")]
    assert core.split()[4] == "0"
