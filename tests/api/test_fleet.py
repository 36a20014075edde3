"""The endpoints of a fleet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import TypeAdapter

from dashtop.model.fleet import FleetError, FleetFailure, FleetReading
from dashtop.web.api import schemas
from tests.api.client import make_client
from tests.builders import FixedSample, make_sample
from tests.fleet.builders import FixedFleet

V1 = "/api/v1/system"


def ask(path: str, fleet: FixedFleet | None) -> tuple[int, Any]:
    response = make_client(FixedSample(make_sample()), fleet=fleet).get(V1 + path)
    return response.status_code, response.json


def test_fleet_has_gpus_nodes_and_their_numbers() -> None:
    status, body = ask("/fleet", FixedFleet())
    assert status == 200
    TypeAdapter(schemas.Fleet).validate_python(body, strict=True)
    assert body["summary"] == {
        "gpus": 24,
        "free": 3,
        "idle_held": 3,
        "busy": 15,
        "unavailable": 3,
        "nodes": 4,
        "nodes_up": 3,
        "nodes_down": 1,
        "power_watts": 3 * (2 * 70 + sum(70 + 5 * (90 + index) for index in range(2, 7))),
    }
    first = body["gpus"][0]
    assert (first["node"], first["gpu_id"], first["occupancy"]) == ("gpu0001", 0, "free")
    assert first["gpu_uuid"] == "GPU-00000000-0000-4000-8000-000000000000"
    assert body["gpus"][1]["holders"] == [{"name": "grace", "kind": "user", "memory_gb": 60.0}]
    assert body["gpus"][7]["values"] == {}
    assert body["gpus"][7]["unavailable"]["gpu.temperature"] == "the GPU cannot be read"
    assert (body["nodes"][0]["state"], body["nodes"][0]["reason"]) == ("down", "the engine cannot scrape it")
    assert (body["partial"], body["error"], body["engine"]) == (False, None, "http://prometheus.example:9090")


@pytest.mark.parametrize(
    ("query", "gpus"),
    [("node=gpu0002", 8), ("user=ada", 6), ("name=NVIDIA%20H100%2080GB%20HBM3", 8), ("node=gpu0001&user=grace", 2)],
)
def test_fleet_is_filtered(query: str, gpus: int) -> None:
    status, body = ask(f"/fleet?{query}", FixedFleet())
    assert (status, len(body["gpus"])) == (200, gpus)


def test_free_gpus_are_found_with_the_variable_for_cuda() -> None:
    status, body = ask("/fleet/free?memory_gb=40", FixedFleet())
    assert status == 200
    TypeAdapter(schemas.FleetFree).validate_python(body, strict=True)
    assert [node["node"] for node in body["nodes"]] == ["gpu0002", "gpu0001"], "the smallest that fits comes first"
    assert body["nodes"][0]["cuda_visible_devices"] == "GPU-00000008-0000-4000-8000-000000000008"
    assert ask("/fleet/free?count=2", FixedFleet())[1]["nodes"] == []


@pytest.mark.parametrize("query", ["count=0", "count=65", "memory_gb=-1", "memory_gb=nan", "memory_gb=inf", "gpus=4"])
def test_impossible_request_is_refused(query: str) -> None:
    assert ask(f"/fleet/free?{query}", FixedFleet())[0] == 422


def test_without_a_fleet_it_says_how_to_show_one() -> None:
    for path in ("/fleet", "/fleet/free"):
        status, body = ask(path, None)
        assert status == 404
        assert "--fleet-url or --fleet-peers" in body["detail"]


def test_error_is_shown_beside_the_last_reading_or_instead_of_the_first() -> None:
    error = FleetError(FleetFailure.TIMEOUT, "http://prometheus.example:9090 did not answer within 10 s.")
    fleet = FixedFleet()
    fleet.fail(FleetReading(error=error))
    status, body = ask("/fleet", fleet)
    assert (status, body["error"], body["summary"]["gpus"]) == (200, error.sentence, 24)
    status, body = ask("/fleet", FixedFleet(FleetReading(error=error)))
    assert (status, body["detail"]) == (503, error.sentence)


def test_partial_answer_is_marked() -> None:
    fleet = FixedFleet()
    fleet.reading = replace(fleet.reading, warnings=("no store matched",))
    body = ask("/fleet", fleet)[1]
    assert (body["partial"], body["warnings"]) == (True, ["no store matched"])
