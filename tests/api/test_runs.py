"""The endpoints about runs, and what they refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import TypeAdapter

from dashtop.model.errors import RunsError
from dashtop.web.api import schemas
from tests.api.client import make_client
from tests.builders import NOON_MS, make_gpu, make_sample
from tests.runs.builders import STARTED_MS, World, make_process, make_world

if TYPE_CHECKING:
    from flask.testing import FlaskClient

V1 = "/api/v1/system"


@pytest.fixture
def world() -> World:
    world = make_world()
    world.tree.started = {100: STARTED_MS}
    world.latest.sample = make_sample(gpus=(make_gpu(0, processes=(make_process(100),)),))
    return world


@pytest.fixture
def client(world: World) -> FlaskClient:
    return make_client(world.latest, runs=world.service, clock=world.clock)


def send(client: FlaskClient, method: str, path: str, body: object = None, status: int = 200) -> Any:
    response = client.open(V1 + path, method=method, json=body)
    assert response.status_code == status, response.text
    return response.json


def begin(client: FlaskClient, **more: object) -> str:
    body = {"name": "resnet-a", "pid": 100, "started_ms": STARTED_MS, "tags": {"lr": "3e-4"}, **more}
    started = send(client, "POST", "/runs", body, 201)
    assert started["url"] == f"?page=runs&run={started['id']}"
    run_id: str = started["id"]
    return run_id


def test_the_life_of_a_run(client: FlaskClient, world: World) -> None:
    run_id = begin(client)
    world.service.follow()
    world.clock.advance(30)
    assert send(client, "PATCH", f"/runs/{run_id}", {})["status"] == "running"
    send(client, "POST", f"/runs/{run_id}/marks", {"text": "epoch 1"}, 201)
    marks = {"marks": [{"text": "epoch 2", "time": NOON_MS + 20_000}, {"text": "epoch 3"}]}
    assert send(client, "POST", f"/runs/{run_id}/marks", marks, 201)["marks"] == 3
    run = send(client, "PATCH", f"/runs/{run_id}", {"status": "finished"})
    assert (run["status"], run["begin"], run["end"]) == ("finished", NOON_MS, NOON_MS + 30_000)
    assert (run["user"], run["tags"], run["gpu_uuids"]) == ("ada", {"lr": "3e-4"}, [make_gpu(0).device.uuid])
    assert send(client, "GET", "/runs") == [run]
    assert send(client, "GET", "/runs?status=running") == []
    found = send(client, "GET", f"/runs/{run_id}/report")
    TypeAdapter(schemas.RunWithReport).validate_python(found, strict=True)
    assert found["run"] == run
    assert [mark["text"] for mark in found["marks"]] == ["epoch 2", "epoch 1", "epoch 3"]
    assert found["report"]["duration_s"] == 30.0


def test_a_repeated_request_begins_no_second_run(client: FlaskClient) -> None:
    ids = {begin(client, id="0123456789abcdef") for _ in range(3)}
    assert ids == {"0123456789abcdef"}
    assert len(send(client, "GET", "/runs")) == 1


def test_texts_are_sanitized(client: FlaskClient) -> None:
    run_id = begin(client, name="\x1b[31mred\u202e", tags={"a\nb": "c\0d"}, pid=5, user="eve\r")
    (run,) = send(client, "GET", "/runs")
    assert run["name"] == "\N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}"
    assert run["tags"] == {"a\N{REPLACEMENT CHARACTER}b": "c\N{REPLACEMENT CHARACTER}d"}
    assert run["user"] == "eve\N{REPLACEMENT CHARACTER}"
    send(client, "POST", f"/runs/{run_id}/marks", {"text": "a\tb"}, 201)
    assert send(client, "GET", f"/runs/{run_id}/report")["marks"][0]["text"] == "a\N{REPLACEMENT CHARACTER}b"


def test_impossible_times_are_now(client: FlaskClient, world: World) -> None:
    run_id = begin(client, begin=NOON_MS + 3_600_000)
    assert send(client, "GET", "/runs")[0]["begin"] == NOON_MS
    world.clock.advance(5)
    assert send(client, "PATCH", f"/runs/{run_id}", {"status": "failed", "end": 1})["end"] == NOON_MS


def test_what_is_refused(client: FlaskClient) -> None:
    run_id = begin(client)
    for body in ({}, {"name": ""}, {"name": "a" * 101}, {"name": "a", "tags": {str(at): "" for at in range(21)}}):
        send(client, "POST", "/runs", body, 422)
    send(client, "PATCH", f"/runs/{run_id}", {"status": "lost"}, 422)
    send(client, "PATCH", "/runs/ffffffff", {}, 404)
    send(client, "GET", "/runs/ffffffff/report", status=404)
    send(client, "POST", "/runs/ffffffff/marks", {"text": "a"}, 404)
    send(client, "POST", f"/runs/{run_id}/marks", {"marks": [{"text": "a"}] * 2001}, 422)
    send(client, "GET", "/runs?limit=0", status=422)
    assert client.post(f"{V1}/runs", data="name=a").status_code == 415


def test_a_disk_that_does_not_answer(client: FlaskClient, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = begin(client)

    def fail(*_arguments: object) -> None:
        raise RunsError("Runs cannot be stored or read at present (disk is full).")

    for name in ("add", "find", "add_marks", "change"):
        monkeypatch.setattr(world.service._store, name, fail)
    for method, path, body in (
        ("POST", "/runs", {"name": "a"}),
        ("PATCH", f"/runs/{run_id}", {}),
        ("POST", f"/runs/{run_id}/marks", {"text": "a"}),
        ("GET", f"/runs/{run_id}/report", None),
    ):
        assert "disk is full" in send(client, method, path, body, 503)["detail"]
    assert len(send(client, "GET", "/runs")) == 1


@pytest.mark.parametrize("name", ["", "   ", "\n\t", "\u200b", " \x00 "])
def test_a_name_must_be_visible(client: FlaskClient, name: str) -> None:
    assert "name" in send(client, "POST", "/runs", {"name": name}, 422)["detail"]
    assert send(client, "GET", "/runs") == []


def test_the_last_marks_come_with_the_end(client: FlaskClient) -> None:
    run_id = begin(client, name=" resnet-a ")
    assert "Give text, or marks" in send(client, "POST", f"/runs/{run_id}/marks", {}, 422)["detail"]
    body = {"status": "finished", "marks": [{"text": "epoch 1"}]}
    run = send(client, "PATCH", f"/runs/{run_id}", body)
    assert (run["name"], run["status"], run["marks"]) == ("resnet-a", "finished", 1)
    send(client, "PATCH", "/runs/ffffffffffffffff", body, 404)
