"""The endpoints about alerts: state, rules, acknowledgements and silences, and what they refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import TypeAdapter

from dashtop.model.sample import GpuProcess, ProcessInfo
from dashtop.model.timerange import DAY_MS
from dashtop.web.api import schemas
from tests.api.client import make_client
from tests.builders import FixedSample, make_alerts, make_gpu, make_sample
from tests.clock import FakeClock

if TYPE_CHECKING:
    from flask.testing import FlaskClient

    from dashtop.alerts.service import AlertService

V1 = "/api/v1/system"
NOW_MS = 1_800_000_000_000


@pytest.fixture
def alerts() -> AlertService:
    """Alerts of a GPU with failed rows, which fire at once, and a pending reset, which does not yet."""
    service = make_alerts()
    gpu = make_gpu(1, values={"gpu.remapped_rows.failure": 1.0, "gpu.retired_pages.pending": 1.0})
    service.start()
    for sequence in (1, 2):
        service.update(make_sample(sequence, gpus=(gpu,)))
    return service


@pytest.fixture
def client(alerts: AlertService) -> FlaskClient:
    sample = make_sample(gpus=(make_gpu(1),))
    return make_client(FixedSample(sample), alerts=alerts, clock=FakeClock(now_ms=NOW_MS))


def get(client: FlaskClient, path: str) -> Any:
    response = client.get(V1 + path)
    assert response.status_code == 200, response.text
    return response.json


def post(client: FlaskClient, path: str, body: dict[str, Any]) -> Any:
    response = client.post(V1 + path, json=body)
    assert response.status_code in {200, 201}, response.text
    return response.json


def test_alerts_and_their_states(client: FlaskClient) -> None:
    found = get(client, "/alerts")
    TypeAdapter(list[schemas.Alert]).validate_python(found, strict=True)
    assert [(each["rule"], each["state"], each["gpu_id"]) for each in found] == [
        ("remap_failed", "firing", 1),
        ("pages_pending", "pending", 1),
    ]
    assert found[0]["text"] == "GPU 1 (NVIDIA GeForce RTX 3090): no spare memory rows are left."
    assert [each["rule"] for each in get(client, "/alerts?state=pending")] == ["pages_pending"]
    assert client.get(f"{V1}/alerts?state=over").status_code == 422


def test_every_rule_is_listed(client: FlaskClient) -> None:
    rules = {rule["id"]: rule for rule in get(client, "/alerts/rules")}
    assert rules["gpu_lost"] == {
        "id": "gpu_lost", "title": "GPU lost", "severity": "critical", "enabled": True, "for_s": 10.0, "clear_s": 60.0,
        "limits": {},
    }  # fmt: skip
    assert rules["xid_hardware"]["clear_s"] is None
    assert not rules["vram_full"]["enabled"]


def test_acknowledgement_is_shown_with_the_next_sample(client: FlaskClient, alerts: AlertService) -> None:
    (alert, _) = get(client, "/alerts")
    by = post(client, f"/alerts/{alert['id']}/ack", {"by": "ada\n\x1b[0m"})["acked_by"]
    assert by.startswith("ada")
    assert "\x1b" not in by
    alerts.update(make_sample(3, gpus=(make_gpu(1, values={"gpu.remapped_rows.failure": 1.0}),)))
    assert get(client, "/alerts")[0]["acked"] is not None


def test_unknown_or_pending_alert_cannot_be_acknowledged(client: FlaskClient) -> None:
    pending = get(client, "/alerts?state=pending")[0]
    for name in (pending["id"], "0123456789abcdef"):
        assert client.post(f"{V1}/alerts/{name}/ack", json={}).status_code == 404
    assert client.post(f"{V1}/alerts/0123456789ABCDEF/ack", json={}).status_code == 422


def test_silence_from_its_beginning_to_its_end(client: FlaskClient, alerts: AlertService) -> None:
    silence = post(client, "/silences", {"rule": "remap_*", "until": NOW_MS + 3_600_000, "reason": "known"})
    TypeAdapter(schemas.Silence).validate_python(silence)
    assert get(client, "/silences") == [silence]
    alerts.update(make_sample(3, gpus=(make_gpu(1, values={"gpu.remapped_rows.failure": 1.0}),)))
    assert [each["silenced_by"] for each in get(client, "/alerts?state=firing")] == [silence["id"]]
    assert client.delete(f"{V1}/silences/{silence['id']}").status_code == 204
    assert client.delete(f"{V1}/silences/{silence['id']}").status_code == 404
    assert get(client, "/silences") == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"until": NOW_MS},
        {"until": NOW_MS + 31 * DAY_MS},
        {"until": "tomorrow"},
        {"until": True},
        {"until": NOW_MS + 1000, "rule": "a; drop"},
        {"until": NOW_MS + 1000, "reason": "x" * 501},
        {"until": NOW_MS + 1000, "color": "red"},
        [],
        7,
    ],
)
def test_malformed_silence_is_422(client: FlaskClient, body: Any) -> None:
    response = client.post(f"{V1}/silences", json=body)
    assert response.status_code == 422
    assert "detail" in response.text
    assert get(client, "/silences") == []


def test_body_must_be_json(client: FlaskClient) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", ""):
        response = client.post(f"{V1}/silences", data='{"until": 1}', content_type=content_type)
        assert response.status_code == 415
    broken = client.post(f"{V1}/silences", data="{", content_type="application/json")
    nested = client.post(f"{V1}/silences", data="[" * 100_000, content_type="application/json")
    assert (broken.status_code, nested.status_code) == (400, 400)


def test_number_of_silences_is_limited(client: FlaskClient) -> None:
    for _ in range(200):
        assert client.post(f"{V1}/silences", json={"until": NOW_MS + 60_000}).status_code == 201
    assert client.post(f"{V1}/silences", json={"until": NOW_MS + 60_000}).status_code == 409


@pytest.fixture
def client_with_process(alerts: AlertService) -> FlaskClient:
    info = ProcessInfo(name="vllm\n", username="ada", started_ms=NOW_MS - 1000)
    process = GpuProcess(pid=4711, kind="C", gpu_memory_bytes=2**30, info=info)
    sample = make_sample(gpus=(make_gpu(1, processes=(process,)),))
    return make_client(FixedSample(sample), alerts=alerts, clock=FakeClock(now_ms=NOW_MS))


def test_service_from_its_mark_to_its_end(client_with_process: FlaskClient) -> None:
    client = client_with_process
    service = post(client, "/services", {"pid": 4711, "started": NOW_MS - 1000, "by": "ada"})
    TypeAdapter(schemas.Service).validate_python(service)
    assert get(client, "/services") == [service]
    assert service["username"] == "ada"
    assert client.delete(f"{V1}/services/{service['id']}").status_code == 204
    assert client.delete(f"{V1}/services/{service['id']}").status_code == 404
    assert get(client, "/services") == []
    for body in ({"pid": 4712}, {"pid": 4711, "started": 5}):
        assert client.post(f"{V1}/services", json=body).status_code == 404
    assert client.post(f"{V1}/services", json={"pid": "4711"}).status_code == 422


def test_watch_from_its_beginning_to_its_end(client_with_process: FlaskClient) -> None:
    client = client_with_process
    uuid = make_gpu(1).device.uuid
    found = [
        post(client, "/watches", {"kind": "gpu_free", "gpu_uuid": uuid}),
        post(client, "/watches", {"kind": "process_end", "pid": 4711, "by": "ada"}),
    ]
    TypeAdapter(list[schemas.Watch]).validate_python(found)
    assert found[0]["subject"] == "GPU 1 (NVIDIA GeForce RTX 3090)"
    assert found[1]["subject"].endswith(" of ada (pid 4711)")
    assert "\n" not in found[1]["subject"]
    assert {each["met"] for each in found} == {None}
    assert get(client, "/watches") == found
    assert client.delete(f"{V1}/watches/{found[0]['id']}").status_code == 204
    assert client.delete(f"{V1}/watches/{found[0]['id']}").status_code == 404
    for body, status in (
        ({"kind": "gpu_free", "gpu_uuid": "GPU-9"}, 404),
        ({"kind": "gpu_free"}, 404),
        ({"kind": "gpu_free", "gpu_uuid": uuid, "channel": "nobody"}, 404),
        ({"kind": "process_end"}, 422),
        ({"kind": "process_end", "pid": 1}, 404),
        ({"kind": "reboot"}, 422),
    ):
        assert client.post(f"{V1}/watches", json=body).status_code == status, body
