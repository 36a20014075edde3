"""Every call: its answer is as its model says, and each failure is the documented one."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import TypeAdapter

from dashtop.metrics import ALL_METRICS, GPU_METRICS
from dashtop.model.unavailable import UnavailableReason
from dashtop.web.api.endpoints import ENDPOINTS
from tests.api.pinned import Pinned, client_of
from tests.builders import NOON_MS, make_gpu, make_history, make_sample
from tests.clock import FakeClock

if TYPE_CHECKING:
    from flask.testing import FlaskClient

V1 = "/api/v1/system"
OF_ONE_GPU = ("/gpu-metrics", "/gpu-info/0")
OF_GPUS = (*OF_ONE_GPU, "/gpu-list", "/gpu-metrics/all", "/processes")
JSON_CALLS = [call for call in ENDPOINTS if call.response is not None]


def ask(client: FlaskClient, path: str) -> Any:
    answer = client.get(V1 + path)
    assert answer.status_code == 200, answer.text
    return answer.json


@pytest.mark.parametrize("call", JSON_CALLS, ids=lambda call: call.name)
def test_answers_are_as_described(two_gpus: FlaskClient, call: Any) -> None:
    as_json = {"format": "json"} if "format" in call.params.model_fields else {}
    body = two_gpus.get(V1 + call.path.replace("{gpu_id}", "1"), query_string=as_json).data
    TypeAdapter(call.response).validate_json(body, strict=True)


@pytest.mark.parametrize("call", JSON_CALLS, ids=lambda call: call.name)
def test_the_document_describes_the_same_answers(two_gpus: FlaskClient, call: Any) -> None:
    document = ask(two_gpus, "/openapi.json")
    operation = document["paths"][call.path]["get"]
    assert "application/json" in operation["responses"]["200"]["content"]
    assert {"401", "403", "422", "429", "503"} <= set(operation["responses"])
    assert {each["name"] for each in operation["parameters"]} == set(call.params.model_fields)


def test_every_metric_is_described_with_its_unit(two_gpus: FlaskClient) -> None:
    schemas = ask(two_gpus, "/openapi.json")["components"]["schemas"]
    found = {
        field["x-metric"]: field.get("x-unit", "")
        for schema in schemas.values()
        for field in schema.get("properties", {}).values()
        if "x-metric" in field
    }
    assert found == {metric.key: metric.unit.symbol for metric in ALL_METRICS}


def test_lists_hold_every_gpu(two_gpus: FlaskClient) -> None:
    assert [gpu["id"] for gpu in ask(two_gpus, "/gpu-list")] == [0, 1]
    assert [gpu["gpu_id"] for gpu in ask(two_gpus, "/gpu-metrics/all")] == [0, 1]
    assert ask(two_gpus, "/gpu-metrics?gpu_id=1")["utilization"]["gpu"] == 0.0
    assert ask(two_gpus, "/gpu-info/1")["id"] == 1
    assert [(each["pid"], each["gpu_id"]) for each in ask(two_gpus, "/processes")] == [(12345, 0), (12346, 0)]
    assert [each["mount_point"] for each in ask(two_gpus, "/storage")] == ["/", "/dead"]
    assert ask(two_gpus, "/metrics")["cpu"]["per_core_percent"] == [10.0, 20.0]


def test_nulls_of_one_gpu_have_their_reasons(two_gpus: FlaskClient) -> None:
    body = ask(two_gpus, "/gpu-metrics?gpu_id=1")
    assert set(body["unavailable"]) == {metric.key for metric in GPU_METRICS} - {"gpu.utilization.gpu"}


@pytest.mark.parametrize(
    "path", ["/gpu-metrics?gpu_id=2", "/gpu-info/7", "/history?gpu_id=3", "/monitoring/all?gpu_id=9"]
)
def test_another_gpu_is_400(two_gpus: FlaskClient, path: str) -> None:
    answer = two_gpus.get(V1 + path)
    assert (answer.status_code, answer.json) == (400, {"detail": "Invalid GPU ID"})


@pytest.mark.parametrize(
    "path",
    [
        "/gpu-info/x", "/gpu-info/-1", "/gpu-metrics?gpu=1", "/gpu-list?gpu_id=0", "/gpu-metrics?gpu_id=0&gpu_id=1",
        "/history?range=2x", "/history?points=1", "/history?points=1e3", "/history?metrics=", "/history?metrics=gpu.x",
        "/history?metrics=gpu.temperature,", "/storage?%00=1",
        "/export?start=0&end=253402300799999&step=1",
    ],
)  # fmt: skip
def test_what_is_malformed_is_422(two_gpus: FlaskClient, path: str) -> None:
    answer = two_gpus.get(V1 + path)
    assert answer.status_code == 422, answer.text
    assert set(answer.json or {}) == {"detail"}


@pytest.mark.parametrize(
    "reason",
    [
        UnavailableReason.NO_LIBRARY,
        UnavailableReason.NO_DRIVER,
        UnavailableReason.NO_DEVICE,
        UnavailableReason.DISABLED,
    ],
)
def test_without_a_gpu(reason: UnavailableReason) -> None:
    client = client_of(Pinned(make_sample(error=reason, host={"system.cpu.usage_percent": 5.0})))
    for path in (*OF_ONE_GPU, "/history?metrics=gpu.temperature"):
        answer = client.get(V1 + path)
        assert (answer.status_code, answer.json) == (503, {"detail": "GPU monitoring not available on this system"})
    assert [ask(client, path) for path in ("/gpu-list", "/gpu-metrics/all", "/processes")] == [[], [], []]
    assert ask(client, "/metrics")["cpu"]["usage_percent"] == 5.0
    assert set(ask(client, "/history")["series"]) == {each.key for each in ALL_METRICS if each not in GPU_METRICS}


@pytest.mark.parametrize(
    "reason", [UnavailableReason.DRIVER_SILENT, UnavailableReason.DRIVER_ERROR, UnavailableReason.DRIVER_MISMATCH]
)
@pytest.mark.parametrize("path", OF_GPUS)
def test_where_nvml_fails(reason: UnavailableReason, path: str) -> None:
    answer = client_of(Pinned(make_sample(error=reason))).get(V1 + path)
    assert (answer.status_code, answer.json) == (500, {"detail": f"Failed to collect GPU metrics: {reason.text}"})


def test_a_lost_gpu_fails_alone() -> None:
    lost = replace(make_gpu(1), state=UnavailableReason.GPU_LOST)
    client = client_of(Pinned(make_sample(gpus=(make_gpu(0), lost))))
    assert client.get(V1 + "/gpu-metrics?gpu_id=0").status_code == 200
    assert client.get(V1 + "/gpu-metrics?gpu_id=1").status_code == 500
    assert ask(client, "/gpu-metrics/all")[1]["state"] == UnavailableReason.GPU_LOST.text


@pytest.mark.parametrize("call", ENDPOINTS, ids=lambda call: call.name)
def test_before_the_first_reading(call: Any) -> None:
    answer = client_of(Pinned(None)).get(V1 + call.path.replace("{gpu_id}", "0"))
    assert answer.status_code == 503
    assert "under way" in answer.text


def test_history_is_columns_with_gaps() -> None:
    history = make_history()
    end = NOON_MS + 60_000
    for second in (10, 11, 12, 40):
        value = {"gpu.temperature": 50.0 + second}
        history.append(make_sample(second, time_ms=end - 300_000 + 1000 * second, gpus=(make_gpu(0, values=value),)))
    latest = Pinned(make_sample(99, gpus=(make_gpu(0),)))
    client = client_of(latest, history=history, clock=FakeClock(now_ms=end - 1))
    body = ask(client, "/history?range=5m&points=30&metrics=gpu.temperature,system.cpu.usage_percent")
    assert body["step_ms"] == 10_000
    assert body["timestamps"] == list(range(end - 300_000, end, 10_000))
    assert body["series"]["gpu.temperature"]["mean"][:6] == [None, 61.0, None, None, 90.0, None]
    assert body["series"]["gpu.temperature"]["min"][1] == 60.0
    assert body["series"]["gpu.temperature"]["max"][1] == 62.0
    assert body["series"]["system.cpu.usage_percent"]["mean"] == [None] * 30


def test_the_documentation_page_needs_nothing_from_outside(two_gpus: FlaskClient) -> None:
    page = two_gpus.get("/docs").text
    assert "src=" not in page
    assert "://" not in page.replace("GPU-", "")
    for call in ENDPOINTS:
        assert f"GET {V1}{call.path}" in page
    led_to = set(re.findall(r'href="#([^"]*)"', page))
    assert {call.name for call in ENDPOINTS} < led_to
    assert led_to <= set(re.findall(r'id="([^"]+)"', page))
    assert two_gpus.get(V1 + "/docs").headers["Location"] == "../../../docs"


def test_every_field_is_described(two_gpus: FlaskClient) -> None:
    schemas = ask(two_gpus, "/openapi.json")["components"]["schemas"]
    assert len(schemas) > 10
    for name, schema in schemas.items():
        for field, described in schema["properties"].items():
            refers = "$ref" in json.dumps(described)
            assert refers or described.get("description") or described.get("examples"), f"{name}.{field}"


def test_history_is_as_fine_as_is_of_use_unless_points_are_asked_for() -> None:
    client = client_of(Pinned(make_sample(gpus=(make_gpu(0),))))
    steps = [ask(client, f"/history?range={name}&metrics=gpu.temperature")["step_ms"] for name in ("1h", "6h", "24h")]
    assert steps == [1000, 5000, 15_000]
    for points in (2, 7, 300, 5000):
        body = ask(client, f"/history?range=1y&points={points}&metrics=gpu.temperature")
        assert len(body["timestamps"]) <= points
    assert len(ask(client, "/history?range=24h")["timestamps"]) <= 300
