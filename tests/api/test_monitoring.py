"""The API's answers: field names of the original document, this project's null rules, and every error as promised."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from dashtop.metrics import ALL_METRICS
from dashtop.model.unavailable import UnavailableReason
from tests.api.pinned import Pinned, client_of
from tests.builders import make_gpu, make_sample

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


def test_field_names_are_those_of_the_original_document(two_gpus: FlaskClient) -> None:
    body = two_gpus.get(ALL).get_json()
    for path, names in FIELDS.items():
        place = body
        for step in path.split(".") if path else []:
            place = place[int(step)] if step.isdigit() else place[step]
        assert names <= set(place), path


def test_values_and_nulls(two_gpus: FlaskClient) -> None:
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


def test_every_null_metric_has_its_reason(two_gpus: FlaskClient) -> None:
    body = two_gpus.get(ALL).get_json()
    for metric in ALL_METRICS:
        place = body["gpu_metrics" if metric.key.startswith("gpu.") else "system_metrics"]
        for step in metric.path.split("."):
            place = place[step]
        assert (place is None) == (metric.key in body["unavailable"]), metric.key


def test_each_gpu_is_answered_for(two_gpus: FlaskClient) -> None:
    assert two_gpus.get(ALL, query_string={"gpu_id": "1"}).get_json()["gpu_metrics"]["gpu_id"] == 1
    assert two_gpus.get(ALL, query_string={"gpu_id": "0"}).get_json()["gpu_metrics"]["gpu_id"] == 0


@pytest.mark.parametrize("gpu_id", ["2", "999999"])
def test_a_gpu_that_does_not_exist_is_400(two_gpus: FlaskClient, gpu_id: str) -> None:
    answer = two_gpus.get(ALL, query_string={"gpu_id": gpu_id})
    assert (answer.status_code, answer.get_json()) == (400, {"detail": "Invalid GPU ID"})


@pytest.mark.parametrize("gpu_id", ["", "-1", "1.5", "abc", "1e3", "٣", "0x1", "9" * 5000])
def test_a_malformed_gpu_is_422(two_gpus: FlaskClient, gpu_id: str) -> None:
    answer = two_gpus.get(ALL, query_string={"gpu_id": gpu_id})
    assert answer.status_code == 422
    assert "gpu_id" in answer.get_json()["detail"]


def test_without_any_gpu_the_host_is_answered_for() -> None:
    sample = make_sample(host={"system.cpu.usage_percent": 5.0}, error=UnavailableReason.NO_LIBRARY)
    answer = client_of(Pinned(sample)).get(ALL)
    assert answer.status_code == 200
    body = answer.get_json()
    assert (body["gpu_available"], body["gpu_metrics"], body["gpu_list"], body["gpu_processes"]) == (
        False,
        None,
        [],
        [],
    )
    assert body["gpu_status"] == UnavailableReason.NO_LIBRARY.text
    assert body["system_metrics"]["cpu"]["usage_percent"] == 5.0


def test_before_the_first_sample() -> None:
    client = client_of(Pinned(None, is_alive=False))
    assert client.get(ALL).status_code == 503
    assert client.get("/readyz").status_code == 503
    assert client.get("/healthz").status_code == 200


def test_ready_is_about_collection_not_about_the_process() -> None:
    assert client_of(Pinned(make_sample())).get("/readyz").get_json() == {"ready": True}
    stopped = client_of(Pinned(make_sample(), is_alive=False)).get("/readyz")
    assert stopped.status_code == 503
    assert "stopped" in stopped.get_json()["detail"]


@pytest.mark.parametrize("path", ["/api", "/api/", "/api/v1", "/api/v1/system", "/api/v1/system/nothing", "/api/%00"])
def test_unknown_paths_under_api_are_json_404(two_gpus: FlaskClient, path: str) -> None:
    answer = two_gpus.get(path)
    assert answer.status_code == 404
    assert set(answer.get_json()) == {"detail"}


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_changed(two_gpus: FlaskClient, method: str) -> None:
    answer = two_gpus.open(ALL, method=method)
    assert answer.status_code == 405
    assert set(answer.get_json()) == {"detail"}
    assert "GET" in answer.headers["Allow"]


def test_a_crash_tells_nothing_of_its_inside(two_gpus: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    answer = two_gpus.get("/api/v1/system/broken")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert set(answer.get_json()) == {"detail"}
    assert "secret detail" in caplog.text


def test_live_data_is_not_cached_but_made_once_a_sample(two_gpus: FlaskClient) -> None:
    answers = [two_gpus.get(ALL) for _ in range(2)]
    assert answers[0].headers["Cache-Control"] == "no-store"
    assert answers[0].data == answers[1].data


def test_a_new_sample_is_a_new_answer() -> None:
    latest = Pinned(make_sample(1))
    client = client_of(latest)
    first = client.get(ALL).get_json()["timestamp"]
    latest.sample = make_sample(2)
    assert client.get(ALL).get_json()["timestamp"] > first


def test_answers_are_json_that_every_reader_takes(two_gpus: FlaskClient) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(two_gpus.get(ALL).data, parse_constant=refuse)


def test_what_holds_the_clocks_down_is_said_in_words() -> None:
    def told(flags: float | None) -> Any:
        values = {} if flags is None else {"gpu.clocks.event_reasons": flags}
        client = client_of(Pinned(make_sample(gpus=(make_gpu(values=values),))))
        return client.get(ALL).get_json()["gpu_metrics"]["clock_reasons"]

    assert told(None) is None
    assert told(0) == []
    cap, hot = told(0x44)
    assert cap == {
        "name": "SW Power Cap",
        "meaning": "The board has reached its power limit.",
        "severity": "info",
    }
    assert (hot["name"], hot["severity"]) == ("HW Thermal Slowdown", "critical")
