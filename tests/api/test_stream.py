"""Server-Sent Events of the real server: one snapshot per sample, the limit of streams, slow clients, shutdown."""

from __future__ import annotations

import json
import re
import socket
import sys
import time
from contextlib import ExitStack
from itertools import pairwise
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from dashtop import server
from dashtop.model.errors import CollectionEndedError
from dashtop.model.ports import Services, SystemClock
from dashtop.web.api import sse as stream
from dashtop.web.api.context import MAX_STREAMS, Context
from dashtop.web.api.params import StreamParams
from tests.builders import NOON_MS, FixedSample, make_alerts, make_gpu, make_history, make_sample
from tests.clock import FakeClock
from tests.processes import ROOT, Running, eventually, running
from tests.streams import STREAM, open_stream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flask.testing import FlaskClient

    from dashtop.alerts.service import AlertService
    from dashtop.model.sample import Sample

OPTIONS = ("--demo", "2", "--interval", "0.5", "--rate-limit", "1000/second")


@pytest.fixture(scope="module")
def dashtop() -> Iterator[Running]:
    with running(*OPTIONS) as server:
        yield server


def test_stream_sends_a_snapshot_per_sample(dashtop: Running) -> None:
    with open_stream(dashtop, "?gpu_id=1", Accept_Encoding="gzip, br, zstd") as stream:
        assert stream.status == 200
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert "content-encoding" not in stream.headers
        events = [stream.read_event() for _ in range(4)]
    times = [data["timestamp"] for _, data in events]
    assert [int(event_id) for event_id, _ in events] == times
    assert all(later > earlier for earlier, later in pairwise(times))
    assert {data["gpu_metrics"]["gpu_id"] for _, data in events} == {1}


def test_last_event_id_skips_known_samples(dashtop: Running) -> None:
    with open_stream(dashtop) as stream:
        known, _ = stream.read_event()
    with open_stream(dashtop, Last_Event_ID=known) as stream:
        assert int(stream.read_event()[0]) > int(known)
    with open_stream(dashtop, Last_Event_ID="a line from elsewhere") as stream:
        assert stream.read_event()[1]["gpu_available"]


def test_unknown_gpu_is_400(dashtop: Running) -> None:
    with open_stream(dashtop, "?gpu_id=7") as stream:
        assert stream.status == 400


def test_streams_over_the_limit_are_503_and_other_requests_work() -> None:
    with running(*OPTIONS) as dashtop:
        with ExitStack() as stack:
            streams = [stack.enter_context(open_stream(dashtop)) for _ in range(MAX_STREAMS + 3)]
            assert [each.status for each in streams] == [200] * MAX_STREAMS + [503] * 3
            assert dashtop.status("/healthz") == (200, {"status": "ok"})
            assert dashtop.json("/api/v1/system/monitoring/all")["gpu_available"]

        def accepted() -> bool:
            with open_stream(dashtop) as stream:
                return stream.status == 200

        eventually(accepted, timeout_s=15)


def test_stream_limit_leaves_threads_for_other_requests() -> None:
    threads = re.search(r"--threads (\d+)", (ROOT / "Procfile").read_text())
    assert threads is not None
    assert min(int(threads[1]), server.THREADS) >= MAX_STREAMS + 8


def test_open_streams_end_when_the_server_stops() -> None:
    with running(*OPTIONS) as dashtop, ExitStack() as stack:
        streams = [stack.enter_context(open_stream(dashtop)) for _ in range(10)]
        for each in streams:
            each.read_event()
        started = time.monotonic()
        assert dashtop.stop() == 0
        assert time.monotonic() - started < 2
        for each in streams:
            each.read_rest()


def test_head_request_uses_no_stream(two_gpus: FlaskClient) -> None:
    for _ in range(MAX_STREAMS + 1):
        assert two_gpus.head(STREAM, buffered=True).status_code == 200


class NoNewSamples(FixedSample):
    """Have no new sample for two heartbeats, then end."""

    waits = 0

    def wait(self, after_sequence: int, timeout_s: float) -> Sample | None:
        self.waits += 1
        if self.waits > 2:
            raise CollectionEndedError("over")
        return None


def test_stream_sends_heartbeats_without_new_samples() -> None:
    from flask import Flask

    latest = NoNewSamples(make_sample(gpus=(make_gpu(0),)))
    services = Services(latest=latest, history=make_history(), alerts=make_alerts(), clock=SystemClock())
    context = Context(services=services)
    with Flask("test").test_request_context():
        response = stream.stream(context, StreamParams())
        parts = list(response.response)
        response.close()
    assert [part[:2] for part in parts] == [b"re", b"id", b": ", b": "]
    for _ in range(MAX_STREAMS):
        context.stream_limiter.acquire()


class FailingRows(FixedSample):
    """GPU 1 fails with the second sample, and has recovered in the last one."""

    def __init__(self, alerts: AlertService) -> None:
        super().__init__(self._build(1, failed=0.0))
        self._alerts = alerts
        self._failed = iter((1.0, 1.0, 0.0, 0.0))

    @staticmethod
    def _build(sequence: int, failed: float) -> Sample:
        return make_sample(sequence, gpus=(make_gpu(1, values={"gpu.remapped_rows.failure": failed}),))

    def wait(self, after_sequence: int, timeout_s: float) -> Sample | None:
        failed = next(self._failed, None)
        if failed is None:
            raise CollectionEndedError("over")
        sample = self._build(after_sequence + 1, failed)
        self._alerts.update(sample)
        return sample


@pytest.mark.parametrize(("alerts", "snapshots"), [("0", 5), ("1", 5), ("only", 0)])
def test_alerts_are_sent_when_they_fire_and_end_if_wanted(alerts: str, snapshots: int) -> None:
    from flask import Flask

    service = make_alerts()
    service.start()
    services = Services(latest=FailingRows(service), history=make_history(), alerts=service, clock=SystemClock())
    with Flask("test").test_request_context():
        response = stream.stream(
            Context(services=services), StreamParams.model_validate({"gpu_id": 1, "alerts": alerts})
        )
        events = b"".join(response.response).decode().split("\n\n")  # type: ignore[arg-type]
        response.close()
    found = [json.loads(event.partition("data: ")[2]) for event in events if event.startswith("event: alert")]
    expected = [] if alerts == "0" else [("remap_failed", "firing"), ("remap_failed", "resolved")]
    assert [(each["rule"], each["state"]) for each in found] == expected
    assert sum(event.startswith("id: ") for event in events) == snapshots


class ManySamples(FixedSample):
    """Have a new sample at every call."""

    def wait(self, after_sequence: int, timeout_s: float) -> Sample | None:
        return make_sample(after_sequence + 1, gpus=(make_gpu(0),))


def test_slow_client_is_disconnected() -> None:
    from flask import Flask

    clock = FakeClock(now_ms=NOON_MS)
    services = Services(
        latest=ManySamples(make_sample(gpus=(make_gpu(0),))), history=make_history(), alerts=make_alerts(), clock=clock
    )
    with Flask("test").test_request_context():
        parts = iter(stream.stream(Context(services=services), StreamParams()).response)
    for taken_s in (0.0, 0.0, 0.5, 1.9):
        assert next(parts)
        clock.advance(taken_s)
    assert next(parts)
    clock.advance(stream.MAX_WRITE_S + 0.1)
    assert next(parts, None) is None


SHORT_TIMEOUTS = """#!{python}
from dashtop import cli
from dashtop.web.api import sse

sse.UNREAD_TIMEOUT_S = 2
cli.main()
"""


@pytest.mark.long
def test_client_that_does_not_read_is_disconnected(tmp_path: Path) -> None:
    command = tmp_path / "impatient"
    command.write_text(SHORT_TIMEOUTS.format(python=sys.executable))
    command.chmod(0o755)
    with running(*OPTIONS, command=command) as dashtop, ExitStack() as stack:
        address = urlsplit(dashtop.url)
        for _ in range(MAX_STREAMS):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect((address.hostname, address.port))
            client.sendall(f"GET {STREAM} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

        def status() -> int:
            with open_stream(dashtop) as another:
                return another.status

        eventually(lambda: status() == 503)
        eventually(lambda: status() == 200, timeout_s=30)
