"""/monitoring/all, /healthz and /readyz: field names, null with a reason, and errors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from dashtop.metrics import ALL_METRICS
from dashtop.model.unavailable import UnavailableReason
from dashtop.sources.gpu_records import mark_unavailable
from tests.api.client import make_client
from tests.builders import FixedSample, make_gpu, make_sample

if TYPE_CHECKING:
    from flask.testing import FlaskClient

ALL = "/api/v1/system/monitoring/all"

PROCESS = ("pid", "process_name", "gpu_memory_mb", "cpu_percent", "type")
# Field names of the original document, section 3.2.
FIELDS = {
    "": {"gpu_available", "gpu_list", "gpu_metrics", "system_metrics", "gpu_processes", "storage"},
    "gpu_list.0": {"id", "name", "memory_total_gb", "cuda_version", "driver_version", "compute_capability"},
    "gpu_metrics": {
        "gpu_id", "gpu_name", "utilization", "memory", "temperature", "power", "fan_speed", "clocks", "pcie",
        "encoder_utilization", "decoder_utilization",
    },
    "gpu_metrics.utilization": {"gpu", "memory", "compute"},
    "gpu_metrics.memory": {"used_gb", "total_gb", "used_percent"},
    "gpu_metrics.power": {"current_watts", "max_watts", "usage_percent"},
    "gpu_metrics.clocks": {"gpu_mhz", "gpu_max_mhz", "memory_mhz", "memory_max_mhz"},
    "gpu_metrics.pcie": {"bandwidth_gbps", "generation", "width"},
    "system_metrics": {"cpu", "memory", "swap", "network", "disk_io"},
    "system_metrics.cpu": {"usage_percent", "core_count", "frequency_mhz"},
    "system_metrics.memory": {"used_gb", "total_gb", "used_percent", "available_gb"},
    "system_metrics.swap": {"used_gb", "total_gb", "used_percent"},
    "system_metrics.network": {"upload_mbps", "download_mbps"},
    "system_metrics.disk_io": {"read_mbps", "write_mbps"},
    "gpu_processes.0": {"pid", "process_name", "gpu_memory_mb", "cpu_percent"},
    "storage.0": {"mount_point", "used_gb", "total_gb", "used_percent"},
}  # fmt: skip


def test_field_names_match_the_original_document(two_gpus: FlaskClient) -> None:
    body = two_gpus.get(ALL).get_json()
    for path, names in FIELDS.items():
        place = body
        for step in path.split(".") if path else []:
            place = place[int(step)] if step.isdigit() else place[step]
        assert names <= set(place), path


def test_values_and_nulls_of_a_sample(two_gpus: FlaskClient) -> None:
    body = two_gpus.get(ALL).get_json()
    assert body["gpu_available"] is True
    assert body["gpu_metrics"]["utilization"] == {
        "gpu": 78.5,
        **dict.fromkeys(("memory", "compute", "sm_occupancy", "tensor", "dram")),
    }
    assert body["gpu_metrics"]["clocks"]["gpu_mhz"] == 1800
    assert body["gpu_metrics"]["fan_speed"] is None
    assert body["system_metrics"]["cpu"]["usage_percent"] == 35.25
    assert [{name: process[name] for name in PROCESS} for process in body["gpu_processes"]] == [
        {"pid": 12345, "process_name": "python", "gpu_memory_mb": 8192.0, "cpu_percent": 25.5, "type": "C"},
        {"pid": 12346, "process_name": None, "gpu_memory_mb": None, "cpu_percent": None, "type": "G"},
    ]
    assert body["storage"][0]["used_gb"] == 1.0
    assert body["storage"][1]["used_gb"] is None


def test_every_null_metric_has_a_reason(two_gpus: FlaskClient) -> None:
    body = two_gpus.get(ALL).get_json()
    for metric in ALL_METRICS:
        place = body["gpu_metrics" if metric.key.startswith("gpu.") else "system_metrics"]
        for step in metric.path.split("."):
            place = place[step]
        assert (place is None) == (metric.key in body["unavailable"]), metric.key


def test_gpu_id_selects_the_gpu(two_gpus: FlaskClient) -> None:
    assert two_gpus.get(ALL, query_string={"gpu_id": "1"}).get_json()["gpu_metrics"]["gpu_id"] == 1
    assert two_gpus.get(ALL, query_string={"gpu_id": "0"}).get_json()["gpu_metrics"]["gpu_id"] == 0


@pytest.mark.parametrize("gpu_id", ["2", "999999"])
def test_unknown_gpu_is_400(two_gpus: FlaskClient, gpu_id: str) -> None:
    response = two_gpus.get(ALL, query_string={"gpu_id": gpu_id})
    assert (response.status_code, response.get_json()) == (400, {"detail": "Invalid GPU ID"})


@pytest.mark.parametrize("gpu_id", ["", "-1", "1.5", "abc", "1e3", "٣", "0x1", "9" * 5000])
def test_malformed_gpu_id_is_422(two_gpus: FlaskClient, gpu_id: str) -> None:
    response = two_gpus.get(ALL, query_string={"gpu_id": gpu_id})
    assert response.status_code == 422
    assert "gpu_id" in response.get_json()["detail"]


def test_host_metrics_without_gpus() -> None:
    sample = make_sample(host={"system.cpu.usage_percent": 5.0}, error=UnavailableReason.NO_LIBRARY)
    response = make_client(FixedSample(sample)).get(ALL)
    assert response.status_code == 200
    body = response.get_json()
    assert (body["gpu_available"], body["gpu_metrics"], body["gpu_list"], body["gpu_processes"]) == (
        False,
        None,
        [],
        [],
    )
    assert body["gpu_status"] == UnavailableReason.NO_LIBRARY.text
    assert body["system_metrics"]["cpu"]["usage_percent"] == 5.0


@pytest.mark.parametrize(
    ("states", "status"),
    [
        ((UnavailableReason.DRIVER_SILENT, UnavailableReason.DRIVER_SILENT), UnavailableReason.DRIVER_SILENT.text),
        ((UnavailableReason.DRIVER_SILENT, None), None),
        ((UnavailableReason.GPU_LOST, UnavailableReason.GPU_LOST), None),
    ],
)
def test_gpu_status_says_why_no_listed_gpu_can_be_read(
    states: tuple[UnavailableReason | None, ...], status: str | None
) -> None:
    gpus = tuple(
        make_gpu(index) if state is None else mark_unavailable(make_gpu(index).device, state)
        for index, state in enumerate(states)
    )
    body = make_client(FixedSample(make_sample(gpus=gpus))).get(ALL).get_json()
    assert (len(body["gpu_list"]), body["gpu_status"]) == (2, status)


def test_status_before_the_first_sample() -> None:
    client = make_client(FixedSample(None, is_alive=False))
    assert client.get(ALL).status_code == 503
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200


def test_readyz_is_503_if_the_collector_has_stopped() -> None:
    assert make_client(FixedSample(make_sample())).get("/readyz").get_json() == {"ready": True}
    stopped = make_client(FixedSample(make_sample(), is_alive=False)).get("/readyz")
    assert stopped.status_code == 503
    assert "stopped" in stopped.get_json()["detail"]


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/v1", "/api/v1/system", "/api/v1/system/nothing", "/api/%00"])
def test_unknown_api_path_is_json_404(two_gpus: FlaskClient, path: str) -> None:
    response = two_gpus.get(path)
    assert response.status_code == 404
    assert set(response.get_json()) == {"detail"}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_methods_that_write_are_405(two_gpus: FlaskClient, method: str) -> None:
    response = two_gpus.open(ALL, method=method)
    assert response.status_code == 405
    assert set(response.get_json()) == {"detail"}
    assert "GET" in response.headers["Allow"]


def test_exception_is_500_without_its_message(two_gpus: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    response = two_gpus.get("/api/v1/system/broken")
    assert response.status_code == 500
    assert "secret" not in response.text
    assert set(response.get_json()) == {"detail"}
    assert "secret detail" in caplog.text


def test_live_data_is_not_cached_by_clients_and_encoded_once(two_gpus: FlaskClient) -> None:
    responses = [two_gpus.get(ALL) for _ in range(2)]
    assert responses[0].headers["Cache-Control"] == "no-store"
    assert responses[0].data == responses[1].data


def test_new_sample_replaces_the_response() -> None:
    latest = FixedSample(make_sample(1))
    client = make_client(latest)
    first = client.get(ALL).get_json()["timestamp"]
    latest.sample = make_sample(2)
    assert client.get(ALL).get_json()["timestamp"] > first


def test_response_is_json_without_nan_or_infinity(two_gpus: FlaskClient) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(two_gpus.get(ALL).data, parse_constant=refuse)


def test_throttle_reasons_have_name_meaning_and_severity() -> None:
    def get_reasons(flags: float | None) -> Any:
        values = {} if flags is None else {"gpu.clocks.event_reasons": flags}
        client = make_client(FixedSample(make_sample(gpus=(make_gpu(values=values),))))
        return client.get(ALL).get_json()["gpu_metrics"]["clock_reasons"]

    assert get_reasons(None) is None
    assert get_reasons(0) == []
    cap, hot = get_reasons(0x44)
    assert cap == {
        "name": "SW Power Cap",
        "meaning": "The board has reached its power limit.",
        "severity": "info",
    }
    assert (hot["name"], hot["severity"]) == ("HW Thermal Slowdown", "critical")
