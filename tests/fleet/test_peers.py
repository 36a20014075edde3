"""A fleet of other dashtops: each has its own deadline and state."""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from dashtop.fleet.addresses import parse_address
from dashtop.fleet.client import Credentials
from dashtop.fleet.peers import BACKOFF_S, KEEP_S, PeersSource, find_interval
from dashtop.model.fleet import FleetFailure, FleetQuery, HolderKind, NodeState, SeriesKind
from dashtop.model.ports import SystemClock
from dashtop.model.sample import GpuProcess, Occupancy, ProcessInfo
from dashtop.web.api.serializers import gpu_metrics_with_reasons, system_metrics_with_reasons
from tests.builders import make_gpu, make_sample
from tests.clock import FakeClock
from tests.fleet.engines import _Quiet, serving
from tests.processes import eventually, find_free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dashtop.model.fleet import FleetNode, FleetReading

GPUS, HOST = "/api/v1/system/gpu-metrics/all", "/api/v1/system/metrics"
IDLE = {"gpu.utilization.gpu": 0.0, "gpu.memory.used_gb": 0.0, "gpu.memory.total_gb": 80.0, "gpu.temperature": 30.0}


def make_bodies(gpus: int = 2) -> dict[str, Any]:
    """Return what a dashtop answers: GPU 0 is held by two users, the others are free."""
    held = tuple(
        GpuProcess(pid=pid, kind="C", gpu_memory_bytes=2**30, info=ProcessInfo(username=name))
        for pid, name in ((1, "ada"), (2, "grace"))
    )
    busy = {**IDLE, "gpu.utilization.gpu": 90.0, "gpu.memory.used_gb": 60.0, "gpu.memory.used_percent": 75.0}
    free = {**IDLE, "gpu.memory.used_percent": 0.0}
    built = [make_gpu(0, values=busy, processes=held), *(make_gpu(index, values=free) for index in range(1, gpus))]
    sample = make_sample(gpus=tuple(built), host={"system.cpu.usage_percent": 25.0, "system.cpu.load_1m": 2.5})
    return {
        GPUS: [gpu_metrics_with_reasons(gpu) for gpu in built],
        HOST: system_metrics_with_reasons(sample.host),
    }


class Node:
    """A dashtop in this process. `answers`: status and body by path. `gate`: closed, it hangs."""

    def __init__(self, answers: dict[str, Any] | None = None, status: int = 200) -> None:
        self.answers, self.status = answers if answers is not None else make_bodies(), status
        self.gate = threading.Event()
        self.gate.set()
        self.requests: list[dict[str, str]] = []
        self.url = ""

    @contextmanager
    def serve(self) -> Iterator[Node]:
        node = self

        class Handler(_Quiet):
            def do_GET(self) -> None:  # noqa: N802
                node.requests.append({"path": self.path, **dict(self.headers.items())})
                if not node.gate.wait(10):
                    return
                self.send(node.status, json.dumps(node.answers.get(self.path)).encode(), "application/json")

        with serving(Handler) as url:
            self.url = url
            try:
                yield self
            finally:
                self.gate.set()


@contextmanager
def reading_from(*addresses: str, token: str | None = None, clock: Any = None) -> Iterator[PeersSource]:
    source = PeersSource(addresses, credentials=Credentials(token=token), clock=clock or SystemClock(), interval_s=3.0)
    try:
        yield source
    finally:
        source.close()


def find_node(reading: FleetReading, address: str) -> FleetNode:
    return next(node for node in reading.nodes if node.instance.startswith(address))


def test_values_are_those_of_the_peer() -> None:
    with Node().serve() as node, reading_from(node.url, token="a-common-access-token") as source:
        reading = source.current(5.0)
        assert source.engine.title == "1 dashtop"
        assert source.engine.is_unencrypted
    first, second = reading.gpus
    assert (first.node, first.index, first.occupancy) == (node.url.removeprefix("http://"), 0, Occupancy.BUSY)
    assert first.values == {
        "gpu.utilization.gpu": 90.0,
        "gpu.memory.used_gb": 60.0,
        "gpu.memory.total_gb": 80.0,
        "gpu.temperature": 30.0,
    }
    assert set(first.unavailable) == {"gpu.power.current_watts"}
    assert [(holder.name, holder.kind, holder.memory_gb) for holder in first.holders] == [
        ("ada", HolderKind.USER, 1.0),
        ("grace", HolderKind.USER, 1.0),
    ]
    assert (second.occupancy, second.holders) == (Occupancy.FREE, ())
    shown = find_node(reading, node.url)
    assert (shown.state, shown.url, shown.exporter) == (NodeState.UP, f"{node.url}/", "dashtop")
    assert shown.values == {"system.cpu.usage_percent": 25.0, "system.cpu.load_1m": 2.5}
    assert {request["Authorization"] for request in node.requests} == {"Bearer a-common-access-token"}


def test_rounds_do_not_wait_for_peers_that_hang_or_are_dead() -> None:
    with ExitStack() as stack:
        nodes = [stack.enter_context(Node(make_bodies(8)).serve()) for _ in range(45)]
        hanging = [stack.enter_context(Node().serve()) for _ in range(3)]
        for node in hanging:
            node.gate.clear()
        dead = [f"127.0.0.1:{port}" for port in find_free_ports(2)]
        addresses = [*(node.url for node in hanging), *dead, *(node.url for node in nodes)]
        source = stack.enter_context(reading_from(*addresses))
        eventually(lambda: sum(node.state is NodeState.UP for node in source.current(5.0).nodes) == 45)
        durations = []
        for _ in range(5):
            started = time.perf_counter()
            reading = source.current(5.0)
            durations.append(time.perf_counter() - started)
            assert sum(node.state is NodeState.UP for node in reading.nodes) == 45
            assert len(reading.gpus) == 360
        # A round that waits for those that hang takes 3 s. benchmarks/fleet.py measures how short it is.
        assert min(durations) < 1.0, durations
        assert min(gpu.age_s for gpu in reading.gpus) < 1.0
        states = {node.instance: node.state for node in reading.nodes}
        assert {states[f"http://{address}/"] for address in dead} == {NodeState.DOWN}
        assert {states[f"{node.url}/"] for node in hanging} == {NodeState.STALE}


def test_peer_that_hangs_is_down_after_its_deadline_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashtop.fleet.peers.DEADLINE_S", 0.2)
    monkeypatch.setattr("dashtop.fleet.peers.BACKOFF_S", (0.05,))
    with Node().serve() as hung, Node().serve() as other, reading_from(hung.url, other.url) as source:
        assert len(source.current(5.0).gpus) == 4
        hung.gate.clear()
        reading = eventually(
            lambda: next((each for each in [source.current(5.0)] if each.nodes[0].state is NodeState.DOWN), None)
        )
        assert "did not answer within 0.2 s" in find_node(reading, hung.url).reason
        assert find_node(reading, other.url).state is NodeState.UP
        assert len(reading.gpus) == 4, "the last values are kept for a while"
        hung.gate.set()
        eventually(lambda: source.current(5.0).nodes[0].state is NodeState.UP)


def test_last_values_of_a_peer_that_has_gone_disappear() -> None:
    clock = FakeClock()
    with Node().serve() as node, reading_from(node.url, clock=clock) as source:
        assert len(source.current(5.0).gpus) == 2
        node.status = 500
        node.answers = {}
        reading = source.current(5.0)
        assert (reading.nodes[0].state, len(reading.gpus)) == (NodeState.DOWN, 2)
        clock.advance(KEEP_S + 1)
        reading = source.current(0.0)
        assert reading.gpus == ()
        assert reading.nodes[0].age_s == KEEP_S + 1


def test_peer_that_fails_is_asked_less_often() -> None:
    clock = FakeClock()
    with Node(status=500, answers={}).serve() as node, reading_from(node.url, clock=clock) as source:
        source.current(5.0)
        for pause_s in (*BACKOFF_S, BACKOFF_S[-1]):
            asked = len(node.requests)
            clock.advance(pause_s - 0.1)
            source.current(5.0)
            assert len(node.requests) == asked
            clock.advance(0.2)
            source.current(5.0)
            eventually(lambda: source._peers[0].pending is None)
            assert len(node.requests) == asked + 1


@pytest.mark.parametrize(
    ("status", "body", "failure", "text"),
    [
        (401, {"detail": "Access token required."}, FleetFailure.TOKEN_REQUIRED, "Set it with --fleet-token"),
        (403, {"detail": "Host not allowed."}, FleetFailure.TOKEN_REQUIRED, "requires a token, or refuses this one"),
        (404, None, FleetFailure.TOO_OLD, "is no dashtop, or one that is too old"),
        (429, {"detail": "Rate limit exceeded."}, FleetFailure.RATE_LIMITED, "its --rate-limit"),
        (200, {"hello": 1}, FleetFailure.BAD_ANSWER, "is no dashtop"),
        (302, None, FleetFailure.BAD_ANSWER, "is no dashtop: it answered with status 302"),
    ],
)
def test_each_failure_of_a_peer_has_a_sentence(status: int, body: Any, failure: FleetFailure, text: str) -> None:
    with Node({GPUS: body}, status).serve() as node, reading_from(node.url) as source:
        reading = source.current(5.0)
        error = source._peers[0].error
    assert error is not None
    assert error.failure is failure
    assert (reading.error, reading.nodes[0].state) == (None, NodeState.DOWN)
    assert text in reading.nodes[0].reason


def test_machine_whose_driver_fails_is_up_without_gpus() -> None:
    bodies = {**make_bodies(), GPUS: {"detail": "Failed to collect GPU metrics: the NVIDIA driver does not respond"}}

    class Failing(Node):
        pass

    node = Failing(bodies)
    statuses: dict[str, int] = {GPUS: 500, HOST: 200}
    with serve_with(node, lambda path: statuses[path]), reading_from(node.url) as source:
        reading = source.current(5.0)
    assert (reading.gpus, reading.nodes[0].state) == ((), NodeState.UP)
    assert reading.nodes[0].reason == bodies[GPUS]["detail"]


@contextmanager
def serve_with(node: Node, find_status: Callable[[str], int]) -> Iterator[None]:
    class Handler(_Quiet):
        def do_GET(self) -> None:  # noqa: N802
            body = json.dumps(node.answers[self.path]).encode()
            self.send(find_status(self.path), body, "application/json")

    with serving(Handler) as url:
        node.url = url
        yield


def test_what_an_old_dashtop_lacks_is_said() -> None:
    row = {"gpu_id": 0, "gpu_name": "Tesla T4", "gpu_uuid": "x", "utilization": {"gpu": 0.0}, "temperature": "hot"}
    with Node({GPUS: [row, "nonsense"], HOST: {}}).serve() as node, reading_from(node.url) as source:
        (gpu,) = source.current(5.0).gpus
    assert gpu.values == {"gpu.utilization.gpu": 0.0}
    assert gpu.unavailable["gpu.memory.total_gb"] == "this dashtop is too old"
    assert (gpu.occupancy, gpu.holders) == (Occupancy.UNAVAILABLE, ())


def test_there_is_no_common_history() -> None:
    with reading_from("gpu1") as source:
        series = source.history(FleetQuery(kind=SeriesKind.TREND, span_s=3600))
    assert series.error is not None
    assert series.error.failure is FleetFailure.NO_HISTORY
    assert "--fleet-url" in series.error.sentence


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("gpu1", "http://gpu1:8050/"),
        ("gpu2:9000", "http://gpu2:9000/"),
        ("https://gpu3.example", "https://gpu3.example/"),
        ("https://portal.example/gpu", "https://portal.example/gpu/"),
        ("[::1]:8050", "http://[::1]:8050/"),
    ],
)
def test_addresses(address: str, url: str) -> None:
    assert parse_address(address) == url
    with reading_from(address) as source:
        assert source._peers[0].name == address.removeprefix("https://").rstrip("/")


@pytest.mark.parametrize("text", ["", "ftp://gpu1", "gpu1:99999", "user:secret@gpu1", "gpu1?token=x", "http://"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be addresses such as gpu1"):
        parse_address(text)


def test_many_peers_are_asked_less_often() -> None:
    assert [find_interval(count) for count in (1, 10, 11, 50)] == [3.0, 3.0, 5.0, 5.0]
