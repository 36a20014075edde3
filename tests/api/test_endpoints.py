"""Every endpoint: its response matches its model, and each failure has the documented status."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import TypeAdapter

from dashtop.metrics import ALL_METRICS, GPU_METRICS
from dashtop.model.sample import GpuProcess, ProcessInfo
from dashtop.model.unavailable import UnavailableReason
from dashtop.web.api.endpoints import ENDPOINTS
from tests.api.client import make_client
from tests.builders import NOON_MS, FixedSample, make_gpu, make_history, make_sample
from tests.clock import FakeClock

if TYPE_CHECKING:
    from flask.testing import FlaskClient

V1 = "/api/v1/system"
SINGLE_GPU_PATHS = ("/gpu-metrics", "/gpu-info/0")
GPU_PATHS = (*SINGLE_GPU_PATHS, "/gpu-list", "/gpu-metrics/all", "/processes")
JSON_ENDPOINTS = [endpoint for endpoint in ENDPOINTS if endpoint.response is not None]
FLEET = {"/fleet", "/fleet/free"}
WITHOUT_SAMPLES = {
    *("/actions", "/alerts/rules", "/services", "/silences", "/watches", "/runs", "/runs/{run_id}/report", "/usage"),
    *FLEET,
}
OF_SAMPLES = [each for each in ENDPOINTS if each.method == "GET" and each.path not in WITHOUT_SAMPLES]
# Off by default, or there is none: test_actions.py, test_runs.py, test_fleet.py.
EXCLUDED = {"/actions", "/runs/{run_id}/report", *FLEET}
READING = [each for each in JSON_ENDPOINTS if each.method == "GET" and each.path not in EXCLUDED]


def get_json(client: FlaskClient, path: str) -> Any:
    response = client.get(V1 + path)
    assert response.status_code == 200, response.text
    return response.json


@pytest.mark.parametrize("endpoint", READING, ids=lambda endpoint: endpoint.name)
def test_response_matches_its_model(two_gpus: FlaskClient, endpoint: Any) -> None:
    as_json = {"format": "json"} if "format" in endpoint.params.model_fields else {}
    body = two_gpus.get(V1 + endpoint.path.replace("{gpu_id}", "1"), query_string=as_json).data
    TypeAdapter(endpoint.response).validate_json(body, strict=True)


@pytest.mark.parametrize("endpoint", JSON_ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_openapi_document_lists_responses_and_parameters(two_gpus: FlaskClient, endpoint: Any) -> None:
    document = get_json(two_gpus, "/openapi.json")
    operation = document["paths"][endpoint.path][endpoint.method.lower()]
    assert "application/json" in operation["responses"][str(endpoint.status)]["content"]
    assert {"401", "403", "422", "429", "503"} <= set(operation["responses"])
    assert {each["name"] for each in operation["parameters"]} == set(endpoint.params.model_fields)


def test_openapi_document_has_every_metric_with_its_unit(two_gpus: FlaskClient) -> None:
    schemas = get_json(two_gpus, "/openapi.json")["components"]["schemas"]
    found = {
        field["x-metric"]: field.get("x-unit", "")
        for schema in schemas.values()
        for field in schema.get("properties", {}).values()
        if "x-metric" in field
    }
    assert found == {metric.key: metric.unit.symbol for metric in ALL_METRICS}


def test_lists_have_every_gpu_process_and_mount(two_gpus: FlaskClient) -> None:
    assert [gpu["id"] for gpu in get_json(two_gpus, "/gpu-list")] == [0, 1]
    assert [gpu["gpu_id"] for gpu in get_json(two_gpus, "/gpu-metrics/all")] == [0, 1]
    assert get_json(two_gpus, "/gpu-metrics?gpu_id=1")["utilization"]["gpu"] == 0.0
    assert get_json(two_gpus, "/gpu-info/1")["id"] == 1
    assert [(each["pid"], each["gpu_id"]) for each in get_json(two_gpus, "/processes")] == [(12345, 0), (12346, 0)]
    assert [each["mount_point"] for each in get_json(two_gpus, "/storage")] == ["/", "/dead"]
    cpu = get_json(two_gpus, "/metrics")["cpu"]
    assert (cpu["per_core_percent"], cpu["core_ids"]) == ([10.0, 20.0], [0, 1])


def test_null_metrics_of_one_gpu_have_reasons(two_gpus: FlaskClient) -> None:
    body = get_json(two_gpus, "/gpu-metrics?gpu_id=1")
    assert set(body["unavailable"]) == {metric.key for metric in GPU_METRICS} - {"gpu.utilization.gpu"}


@pytest.mark.parametrize(
    "path", ["/gpu-metrics?gpu_id=2", "/gpu-info/7", "/history?gpu_id=3", "/monitoring/all?gpu_id=9"]
)
def test_unknown_gpu_is_400(two_gpus: FlaskClient, path: str) -> None:
    response = two_gpus.get(V1 + path)
    assert (response.status_code, response.json) == (400, {"detail": "Invalid GPU ID"})


@pytest.mark.parametrize(
    "path",
    [
        "/gpu-info/x", "/gpu-info/-1", "/gpu-metrics?gpu=1", "/gpu-list?gpu_id=0", "/gpu-metrics?gpu_id=0&gpu_id=1",
        "/history?range=2x", "/history?points=1", "/history?points=1e3", "/history?metrics=", "/history?metrics=gpu.x",
        "/history?metrics=gpu.temperature,", "/storage?%00=1",
        "/export?start=0&end=253402300799999&step=1",
    ],
)  # fmt: skip
def test_malformed_parameter_is_422(two_gpus: FlaskClient, path: str) -> None:
    response = two_gpus.get(V1 + path)
    assert response.status_code == 422, response.text
    assert set(response.json or {}) == {"detail"}


@pytest.mark.parametrize(
    "reason",
    [
        UnavailableReason.NO_LIBRARY,
        UnavailableReason.NO_DRIVER,
        UnavailableReason.NO_DEVICE,
        UnavailableReason.DISABLED,
    ],
)
def test_gpu_endpoints_are_503_and_lists_empty_without_gpus(reason: UnavailableReason) -> None:
    client = make_client(FixedSample(make_sample(error=reason, host={"system.cpu.usage_percent": 5.0})))
    for path in (*SINGLE_GPU_PATHS, "/history?metrics=gpu.temperature"):
        response = client.get(V1 + path)
        assert (response.status_code, response.json) == (503, {"detail": "GPU monitoring not available on this system"})
    assert [get_json(client, path) for path in ("/gpu-list", "/gpu-metrics/all", "/processes")] == [[], [], []]
    assert get_json(client, "/metrics")["cpu"]["usage_percent"] == 5.0
    assert set(get_json(client, "/history")["series"]) == {each.key for each in ALL_METRICS if each not in GPU_METRICS}


@pytest.mark.parametrize(
    "reason", [UnavailableReason.DRIVER_SILENT, UnavailableReason.DRIVER_ERROR, UnavailableReason.DRIVER_MISMATCH]
)
@pytest.mark.parametrize("path", GPU_PATHS)
def test_nvml_failure_is_500_with_the_reason(reason: UnavailableReason, path: str) -> None:
    response = make_client(FixedSample(make_sample(error=reason))).get(V1 + path)
    assert (response.status_code, response.json) == (500, {"detail": f"Failed to collect GPU metrics: {reason.text}"})


def test_lost_gpu_does_not_affect_other_gpus() -> None:
    lost = replace(make_gpu(1), state=UnavailableReason.GPU_LOST)
    client = make_client(FixedSample(make_sample(gpus=(make_gpu(0), lost))))
    assert client.get(V1 + "/gpu-metrics?gpu_id=0").status_code == 200
    assert client.get(V1 + "/gpu-metrics?gpu_id=1").status_code == 500
    assert get_json(client, "/gpu-metrics/all")[1]["state"] == UnavailableReason.GPU_LOST.text
    assert get_json(client, "/gpu-metrics/all")[1]["occupancy"] == "unavailable"


@pytest.mark.parametrize(
    ("load", "memory", "users", "faults", "occupancy"),
    [
        (0.0, 1.0, (), 0.0, "free"),
        (0.0, 1.0, (), 1.0, "unavailable"),
        (0.0, 40.0, ("bob", "alice"), 0.0, "idle_held"),
        (90.0, 40.0, ("bob",), 0.0, "busy"),
        (None, None, (), 0.0, "unavailable"),
    ],
)
def test_gpu_says_whether_it_is_free_and_who_holds_it(
    load: float | None, memory: float | None, users: tuple[str, ...], faults: float, occupancy: str
) -> None:
    values = {
        "gpu.utilization.gpu": load,
        "gpu.memory.used_percent": memory,
        "gpu.remapped_rows.failure": faults,
        "gpu.clocks.event_reasons": 0.0,
    }
    gpu = make_gpu(0)
    processes = tuple(
        GpuProcess(pid=pid, kind="C", gpu_memory_bytes=pid, info=ProcessInfo(username=user))
        for pid, user in enumerate(users, 1)
    )
    client = make_client(
        FixedSample(make_sample(gpus=(replace(gpu, values={**gpu.values, **values}, processes=processes),)))
    )
    for body in (get_json(client, "/gpu-metrics?gpu_id=0"), get_json(client, "/monitoring/all")["gpu_metrics"]):
        assert (body["occupancy"], body["holders"]) == (occupancy, list(reversed(users)))


@pytest.mark.parametrize("endpoint", OF_SAMPLES, ids=lambda endpoint: endpoint.name)
def test_endpoints_are_503_before_the_first_sample(endpoint: Any) -> None:
    response = make_client(FixedSample(None)).get(V1 + endpoint.path.replace("{gpu_id}", "0"))
    assert response.status_code == 503
    assert "under way" in response.text


@pytest.mark.parametrize("reason", [UnavailableReason.STARTING, UnavailableReason.INITIALIZING])
def test_gpus_are_503_with_the_reason_until_the_driver_is_initialized(reason: UnavailableReason) -> None:
    response = make_client(FixedSample(make_sample(error=reason))).get(V1 + "/gpu-metrics/all")
    assert (response.status_code, response.json) == (
        503,
        {"detail": f"No sample of the GPUs yet: {reason.text}. Try again in a second."},
    )


def test_history_has_columns_with_null_for_gaps() -> None:
    history = make_history()
    end = NOON_MS + 60_000
    for second in (10, 11, 12, 40):
        value = {"gpu.temperature": 50.0 + second}
        history.append(make_sample(second, time_ms=end - 300_000 + 1000 * second, gpus=(make_gpu(0, values=value),)))
    latest = FixedSample(make_sample(99, gpus=(make_gpu(0),)))
    client = make_client(latest, history=history, clock=FakeClock(now_ms=end - 1))
    body = get_json(client, "/history?range=5m&points=30&metrics=gpu.temperature,system.cpu.usage_percent")
    assert body["step_ms"] == 10_000
    assert body["timestamps"] == list(range(end - 300_000, end, 10_000))
    assert body["series"]["gpu.temperature"]["mean"][:6] == [None, 61.0, None, None, 90.0, None]
    assert body["series"]["gpu.temperature"]["min"][1] == 60.0
    assert body["series"]["gpu.temperature"]["max"][1] == 62.0
    assert body["series"]["system.cpu.usage_percent"]["mean"] == [None] * 30


def test_documentation_page_is_complete_and_works_offline(two_gpus: FlaskClient) -> None:
    page = two_gpus.get("/docs").text
    assert "src=" not in page
    assert "://" not in page.replace("GPU-", "")
    for endpoint in ENDPOINTS:
        assert f"{endpoint.method} {V1}{endpoint.path}" in page
    targets = set(re.findall(r'href="#([^"]*)"', page))
    assert {endpoint.name for endpoint in ENDPOINTS} < targets
    assert targets <= set(re.findall(r'id="([^"]+)"', page))
    assert two_gpus.get(V1 + "/docs").headers["Location"] == "../../../docs"


def test_every_field_has_a_description(two_gpus: FlaskClient) -> None:
    schemas = get_json(two_gpus, "/openapi.json")["components"]["schemas"]
    assert len(schemas) > 10
    for name, schema in schemas.items():
        for field, described in schema["properties"].items():
            refers = "$ref" in json.dumps(described)
            assert refers or described.get("description") or described.get("examples"), f"{name}.{field}"


def test_history_step_depends_on_range_and_points() -> None:
    client = make_client(FixedSample(make_sample(gpus=(make_gpu(0),))))
    steps = [
        get_json(client, f"/history?range={name}&metrics=gpu.temperature")["step_ms"] for name in ("1h", "6h", "24h")
    ]
    assert steps == [1000, 5000, 15_000]
    for points in (2, 7, 300, 5000):
        body = get_json(client, f"/history?range=1y&points={points}&metrics=gpu.temperature")
        assert len(body["timestamps"]) <= points
    assert len(get_json(client, "/history?range=24h")["timestamps"]) <= 300
