"""Real engines scrape three dashtops and the recorded expositions of other exporters. Every value equals its source."""

from __future__ import annotations

import json
import time
import urllib.parse
import urllib.request
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from dashtop.fleet import views
from dashtop.fleet.client import Credentials
from dashtop.fleet.prometheus import PrometheusSource
from dashtop.metrics import METRICS
from dashtop.model.fleet import FleetFailure, FleetQuery, NodeState, SeriesKind
from dashtop.model.ports import SystemClock
from dashtop.model.sample import Occupancy
from tests.fleet.engines import TARGETS, scraping, scraping_expositions
from tests.fleet.expected import check_facts, check_gpus, check_nodes
from tests.processes import ROOT, eventually, find_free_ports, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dashtop.model.fleet import FleetReading
    from tests.processes import Running

pytestmark = pytest.mark.long
ENGINES = ("prometheus", "victoria-metrics")
RULES = ROOT / "docs" / "fleet" / "recording-rules.yaml"
LIVE = ("gpu.utilization.gpu", "gpu.memory.used_gb", "gpu.temperature", "gpu.power.current_watts")
TOKEN = "token-of-the-whole-fleet"


def make_source(url: str, **options: Any) -> PrometheusSource:
    return PrometheusSource(url, credentials=Credentials(), clock=SystemClock(), interval_s=1.0, **options)


@pytest.fixture(scope="module", params=ENGINES)
def expositions(request: pytest.FixtureRequest) -> Iterator[PrometheusSource]:
    with scraping_expositions(request.param) as url:
        source = make_source(url)
        eventually(lambda: len(source._client.query("up").rows) == len(TARGETS), 60, 0.2)
        eventually(lambda: source._client.query("min(count_over_time(up[1m]))").rows[0][1] >= 10, 90, 0.5)
        yield source
        source.close()


def test_every_value_of_five_exporters_is_read(expositions: PrometheusSource) -> None:
    reading = expositions.current(5.0)
    assert reading.error is None
    check_gpus(reading.gpus)
    check_facts(reading.gpus)
    check_nodes(reading)
    assert all(gpu.age_s < 5 for gpu in reading.gpus)


def test_every_kind_of_series_is_answered(expositions: PrometheusSource) -> None:
    def read(kind: SeriesKind, **options: Any) -> Any:
        return expositions.history(FleetQuery(kind=kind, span_s=3600, **options))

    reading = expositions.current(5.0)
    trend = eventually(lambda: read(SeriesKind.TREND).rows, 90, 1.0)
    known = [gpu.values["gpu.utilization.gpu"] for gpu in reading.gpus if "gpu.utilization.gpu" in gpu.values]
    assert trend[0].values[-1] == pytest.approx(sum(known) / len(known))
    nodes = {row.name: row.values[-1] for row in read(SeriesKind.NODES).rows}
    assert nodes["gpu-b"] == pytest.approx((86 + 1) / 2)
    held = read(SeriesKind.HELD).rows[0].values[-1]
    assert held == sum((views.find_memory_percent(gpu.values) or 0.0) > 5 for gpu in reading.gpus)
    power = read(SeriesKind.POWER).rows[0].values[-1]
    # The power of the GPU that dashtop reports without one is nvidia_gpu_exporter's, which is left out here.
    assert power == pytest.approx((views.summarize(reading).power_watts or 0.0) - 30.14)
    of_node = read(SeriesKind.METRIC, node="gpu-a", metric="gpu.temperature")
    assert {row.name: row.values[-1] for row in of_node.rows} == {"GPU 0": 61, "GPU 1": 28, "GPU 3": 44}
    users = read(SeriesKind.USERS)
    assert users.error is None


def test_series_come_from_the_recording_rules() -> None:
    with scraping_expositions("prometheus", RULES, job="dashtop") as url:
        source = make_source(url)
        eventually(lambda: source._client.query("dashtop:user_gpu_seconds:rate5m").rows, 100, 1.0)
        eventually(lambda: len(source._client.query("dashtop_gpu_up").rows) == 6, 30, 0.5)
        reading = source.current(5.0)
        assert len(reading.gpus) == 6
        found = {}
        for kind in (SeriesKind.TREND, SeriesKind.NODES, SeriesKind.HELD, SeriesKind.POWER):
            read = partial(source.history, FleetQuery(kind=kind, span_s=3600))
            eventually(lambda read=read: bool(read().rows), 90, 1.0)  # type: ignore[misc]
            found[kind] = read().rows[0].values[-1]
        assert found == pytest.approx(
            {
                SeriesKind.TREND: 2 / 3,
                SeriesKind.NODES: 2 / 3,
                SeriesKind.HELD: 1,
                SeriesKind.POWER: 88,
            }
        )
        users = source.history(FleetQuery(kind=SeriesKind.USERS, span_s=7 * 86_400))
        # Subqueries have steps of 5 min, of which there may be none yet; the counters of the exposition stand still.
        assert (users.error, {float(row.values[0]) for row in users.rows} <= {0.0}) == (None, True)
        assert source._plan is not None
        assert source._plan.has_rule("dashtop:node_gpu_utilization:avg5m")
        source.close()


@pytest.fixture(scope="module")
def dashtops() -> Iterator[list[Running]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(running("--demo", str(count), "--token", TOKEN, "--rate-limit", "1000/second"))
            for count in (2, 4, 8)
        ]


def find_address(dashtop: Running) -> str:
    return urllib.parse.urlsplit(dashtop.url).netloc


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, dashtops: list[Running]) -> Iterator[str]:
    dead = f"127.0.0.1:{find_free_ports(1)[0]}"
    job = {
        "job_name": "dashtop",
        "authorization": {"credentials": TOKEN},
        "static_configs": [{"targets": [*map(find_address, dashtops), dead]}],
    }
    with scraping(request.param, [job]) as url:
        yield url


def read_all(source: PrometheusSource) -> FleetReading | None:
    reading = source.current(5.0)
    return reading if len(reading.gpus) == 14 and len(reading.nodes) == 4 else None


def test_values_of_three_dashtops_equal_theirs(engine: str, dashtops: list[Running]) -> None:
    source = make_source(engine)
    reading = eventually(lambda: read_all(source), 90, 0.5)
    by_node = views.group_by_node(reading.gpus)
    for dashtop in dashtops:
        name = find_address(dashtop)
        facts = ask(dashtop, "/gpu-list")
        assert [(gpu.index, gpu.device_id, gpu.name) for gpu in by_node[name]] == [
            (each["id"], each["uuid"], each["name"]) for each in facts
        ]
        for gpu, each in zip(by_node[name], facts, strict=True):
            assert gpu.values["gpu.memory.total_gb"] == pytest.approx(each["memory_total_gb"], rel=1e-4)
            keys = ",".join(LIVE)
            recent = ask(dashtop, f"/history?range=60s&metrics={keys}&gpu_id={gpu.index}")["series"]
            for key in LIVE:
                low = min(value for value in recent[key]["min"] if value is not None)
                high = max(value for value in recent[key]["max"] if value is not None)
                margin = 1e-3 * abs(high) + 1e-6
                assert low - margin <= gpu.values[key] <= high + margin, (name, gpu.index, METRICS[key].title)
    down = [node for node in reading.nodes if node.state is not NodeState.UP]
    assert [node.reason for node in down] == ["the engine cannot scrape it"]
    source.close()


def ask(dashtop: Running, path: str) -> Any:
    request = urllib.request.Request(f"{dashtop.url}api/v1/system{path}", headers={"Authorization": f"Bearer {TOKEN}"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def test_holders_and_free_gpus_are_those_of_the_dashtops(engine: str, dashtops: list[Running]) -> None:
    source = make_source(engine)
    reading = eventually(lambda: read_all(source), 90, 0.5)
    by_node = views.group_by_node(reading.gpus)
    for dashtop in dashtops:
        for gpu, each in zip(by_node[find_address(dashtop)], ask(dashtop, "/gpu-metrics/all"), strict=True):
            # Those of /metrics have compute processes: a desktop holds no GPU.
            assert {holder.name for holder in gpu.holders} <= set(each["holders"]), (gpu.node, gpu.index)
            assert (gpu.occupancy is Occupancy.FREE) == (each["occupancy"] == "free"), (gpu.node, gpu.index)
    source.close()


@pytest.mark.parametrize(
    ("suffix", "failure"), [("/wrong", FleetFailure.WRONG_ADDRESS), ("/graph", FleetFailure.WRONG_ADDRESS)]
)
def test_wrong_path_is_recognized(engine: str, suffix: str, failure: FleetFailure) -> None:
    source = make_source(engine + suffix)
    error = source.current(5.0).error
    source.close()
    assert error is not None
    assert error.failure in {failure, FleetFailure.BAD_QUERY}


def test_query_that_is_none_is_a_fault_of_ours(engine: str) -> None:
    source = make_source(engine, select=("not a matcher",))
    error = source.current(5.0).error
    source.close()
    assert error is not None
    assert error.failure is FleetFailure.BAD_QUERY


def test_gpus_of_a_machine_that_dies_leave() -> None:
    with running("--demo", "2") as first, running("--demo", "3") as second:
        targets = [find_address(first), find_address(second)]
        job = {"job_name": "dashtop", "static_configs": [{"targets": targets}]}
        with scraping("prometheus", [job]) as url:
            source = make_source(url)
            eventually(lambda: len(source.current(5.0).gpus) == 5, 60, 0.5)
            second.stop()
            started = time.monotonic()
            eventually(lambda: len(source.current(5.0).gpus) == 2, 60, 0.5)
            assert time.monotonic() - started < 40
            states = {node.instance: node.state for node in source.current(5.0).nodes}
            assert states == {targets[0]: NodeState.UP, targets[1]: NodeState.DOWN}
            up = next(each.name for each in source.current(5.0).nodes if each.instance == targets[0])
            query = FleetQuery(kind=SeriesKind.LAST_SEEN, span_s=86_400, node=up)
            eventually(lambda: bool(source.history(query).rows), 70, 1.0)  # to the full minute
            assert 0 <= source.history(query).rows[0].values[0] <= 61
            source.close()


def test_wrong_token_of_the_scrape_makes_a_node_down(dashtops: list[Running]) -> None:
    job = {
        "job_name": "dashtop",
        "static_configs": [{"targets": [find_address(dashtops[0])]}],
        "authorization": {"credentials": "a-token-that-is-wrong"},
    }
    with scraping("prometheus", [job]) as url:
        source = make_source(url)
        eventually(lambda: source._client.query("up == 0").rows, 30, 0.5)
        error = source.current(5.0).error
        source.close()
    assert error is not None
    assert error.failure is FleetFailure.NO_EXPORTER


def test_dashtop_shows_the_fleet_in_its_api(engine: str) -> None:
    with running("--no-gpu", "--fleet-url", engine) as viewer:
        body = eventually(
            lambda: next((each for each in [viewer.json("/api/v1/system/fleet")] if len(each["gpus"]) == 14), None),
            60,
            1.0,
        )
        assert body["summary"]["nodes_down"] == 1
        assert viewer.json("/readyz") == {"ready": True}
        free = viewer.json("/api/v1/system/fleet/free?memory_gb=10")
        assert {node["node"] for node in free["nodes"]} <= {gpu["node"] for gpu in body["gpus"]}


def test_dashtop_is_ready_although_the_engine_is_down() -> None:
    with running("--no-gpu", "--fleet-url", f"http://127.0.0.1:{find_free_ports(1)[0]}") as viewer:
        status, body = viewer.status("/api/v1/system/fleet")
        assert (status, "cannot be reached" in body["detail"]) == (503, True)
        assert viewer.json("/readyz") == {"ready": True}


def test_peers_are_read_by_a_real_dashtop(dashtops: list[Running]) -> None:
    peers = ",".join(find_address(dashtop) for dashtop in dashtops)
    with running("--no-gpu", "--fleet-peers", peers, "--fleet-token", TOKEN) as viewer:
        body = viewer.json("/api/v1/system/fleet")
        assert (len(body["gpus"]), body["summary"]["nodes_up"]) == (14, 3)
        own = {each["gpu_uuid"]: each for each in ask(dashtops[0], "/gpu-metrics/all")}
        for gpu in body["gpus"]:
            if gpu["node"] == find_address(dashtops[0]):
                assert gpu["gpu_name"] == own[gpu["gpu_uuid"]]["gpu_name"]
    with running("--no-gpu", "--fleet-peers", peers, "--fleet-token", "not-the-token-of-the-fleet") as viewer:
        body = viewer.json("/api/v1/system/fleet")
        assert body["gpus"] == []
        assert all("requires a token" in node["reason"] for node in body["nodes"])
