"""The Procfile's server: its very command line answers, streams, and ends."""

from __future__ import annotations

import http.client
import os
import shlex
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager, suppress
from itertools import count, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dashtop.web.api.context import MAX_STREAMS
from tests.processes import ROOT, UNHURRIED, Running, eventually
from tests.streams import EventStream, open_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

ALL = "/api/v1/system/monitoring/all"
MORE_THAN_ENOUGH = 16 * MAX_STREAMS


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = (ROOT / "Procfile").read_text().partition("web: ")[2].strip().replace("${PORT:-8050}", str(port))
    command = command.replace("0.0.0.0", "127.0.0.1")
    settings = {"DASHTOP_DEMO": "2", "DASHTOP_INTERVAL": "0.5", "DASHTOP_RATE_LIMIT": UNHURRIED}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    process = subprocess.Popen(
        shlex.split(command),
        env={**os.environ, **settings, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    server = Running(process, f"http://127.0.0.1:{port}/")
    try:
        eventually(lambda: server.status("/readyz")[0] == 200, timeout_s=30)
        yield server
    finally:
        process.kill()
        print(process.communicate()[0])


@contextmanager
def accepted(served: Running) -> Iterator[EventStream]:
    """Open a stream as soon as there is a place: those that clients have left end with their next snapshot."""
    with ExitStack() as stack:

        def ask() -> EventStream | None:
            stream = stack.enter_context(open_stream(served))
            return stream if stream.status == 200 else None

        yield eventually(ask, timeout_s=15, every_s=0.2)


def test_it_answers(served: Running) -> None:
    assert served.json(ALL)["simulated"] is True
    assert b"_dash-config" in served.get("/")


def test_it_streams(served: Running) -> None:
    with open_stream(served, "?gpu_id=1") as stream:
        assert stream.status == 200
        times = [int(stream.read_event()[0]) for _ in range(4)]
    assert all(later > earlier for earlier, later in pairwise(times))
    with open_stream(served, Last_Event_ID=str(times[-1])) as stream:
        assert int(stream.read_event()[0]) > times[-1]


def test_streams_at_their_limit_leave_page_and_calls_answering(served: Running) -> None:
    with ExitStack() as stack:
        for number in count():
            assert number < MORE_THAN_ENOUGH, "no limit"
            stream = stack.enter_context(open_stream(served))
            if stream.status != 200:
                break
            stream.read_event()
        assert stream.status == 503
        assert number >= MAX_STREAMS - 2, "those of the test before may still be ending"
        for _ in range(5):
            assert served.json(ALL)["gpu_available"]
            assert b"_dash-config" in served.get("/")
            assert served.status("/healthz") == (200, {"status": "ok"})
    with accepted(served) as stream:
        assert stream.read_event()


def test_an_address_that_is_too_long_is_told_as_everywhere(served: Running) -> None:
    status, body = served.status(f"{ALL}?{'a' * 5000}")
    assert status == 414
    assert set(body) == {"detail"}


def test_open_streams_end_with_it(served: Running) -> None:
    with accepted(served) as stream:
        stream.read_event()
        assert served.stop() == 0
        with suppress(http.client.IncompleteRead):  # gunicorn cuts it off
            stream.read_rest()
