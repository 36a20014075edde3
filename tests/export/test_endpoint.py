"""The API's /export takes the same selection as the command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.api.client import make_client
from tests.builders import NOON_MS, FixedSample, make_device, make_gpu, make_history, make_sample
from tests.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask.testing import FlaskClient

EXPORT = "/api/v1/system/export?format=json"
SECONDS = 10


@pytest.fixture
def client() -> Iterator[FlaskClient]:
    """Two equal GPUs, whose UUIDs are not in the order of their indices, over ten seconds."""
    history = make_history()
    for second in range(SECONDS):
        gpus = tuple(
            make_gpu(device=make_device(index, uuid=f"GPU-{letter}"), values={"gpu.temperature": 40 + index})
            for index, letter in enumerate("ba")
        )
        sample = make_sample(second, gpus=gpus, host={"system.cpu.usage_percent": second})
        history.append(sample)
    yield make_client(FixedSample(sample), history=history, clock=FakeClock(now_ms=NOON_MS + 1000 * SECONDS))
    history.close()


def get_export(client: FlaskClient, query: str) -> Any:
    response = client.get(f"{EXPORT}&{query}")
    assert response.status_code == 200, response.get_json()
    return response.get_json()


def find_gpus(body: Any) -> list[int | None]:
    return list(dict.fromkeys(column["gpu"] for column in body["columns"]))


@pytest.mark.parametrize(
    ("query", "gpus"),
    [
        ("", [None, 0]),
        ("gpu_id=1", [None, 1]),
        ("gpu=1", [None, 1]),
        ("gpu=1,0", [None, 0, 1]),
        ("gpu=all", [None, 0, 1]),
        ("gpu=all&metrics=gpu.temperature", [0, 1]),
        ("gpu=all&metrics=system.cpu.usage_percent", [None]),
    ],
)
def test_export_has_the_selected_gpus_in_the_order_of_their_index(
    client: FlaskClient, query: str, gpus: list[int | None]
) -> None:
    assert find_gpus(get_export(client, f"range=30s&{query}")) == gpus


def test_long_layout_has_a_row_per_gpu_and_metric(client: FlaskClient) -> None:
    body = get_export(client, "range=30s&gpu=all&layout=long")
    assert body["columns"] == ["time", "gpu", "gpu_name", "metric", "mean", "min", "max"]
    name = make_device().name
    assert body["rows"][:3] == [
        [NOON_MS, None, None, "system.cpu.usage_percent", 0.0, 0.0, 0.0],
        [NOON_MS, 0, name, "gpu.temperature", 40.0, 40.0, 40.0],
        [NOON_MS, 1, name, "gpu.temperature", 41.0, 41.0, 41.0],
    ]
    assert len(body["rows"]) == 3 * SECONDS


@pytest.mark.parametrize(("duration", "step_ms"), [("30s", 1000), ("90m", 5000), ("1h", 1000), ("1w", 120_000)])
def test_range_is_any_duration(client: FlaskClient, duration: str, step_ms: int) -> None:
    response = client.get(f"{EXPORT}&range={duration}")
    assert response.get_json()["step_ms"] == step_ms
    assert f"dashtop-{duration}.json" in response.headers["Content-Disposition"]


@pytest.mark.parametrize(
    ("query", "status", "detail"),
    [
        ("gpu=2", 400, "Invalid GPU ID"),
        ("gpu=0,x", 422, "gpu: must be all, or indices from /gpu-list separated by commas, not '0,x'"),
        ("gpu=", 422, "gpu: must be all, or indices"),
        ("gpu=0&gpu_id=1", 422, "gpu: cannot be combined with gpu_id"),
        ("layout=tall", 422, "layout: input should be 'wide' or 'long'"),
        ("range=soon", 422, "range: must be a number with a unit"),
    ],
)
def test_invalid_selection_is_an_error(client: FlaskClient, query: str, status: int, detail: str) -> None:
    response = client.get(f"{EXPORT}&{query}")
    assert response.status_code == status
    assert detail in response.get_json()["detail"]


def test_machine_without_gpus_exports_the_host() -> None:
    history = make_history()
    sample = make_sample(host={"system.cpu.usage_percent": 5})
    history.append(sample)
    client = make_client(FixedSample(sample), history=history, clock=FakeClock(now_ms=sample.time_ms))
    assert find_gpus(get_export(client, "range=30s&gpu=all")) == [None]
    history.close()


def test_openapi_describes_the_parameters_and_both_layouts(client: FlaskClient) -> None:
    document = client.get("/api/v1/system/openapi.json").get_json()
    operation = document["paths"]["/export"]["get"]
    parameters = {each["name"]: each["schema"] for each in operation["parameters"]}
    assert parameters["layout"]["enum"] == ["wide", "long"]
    assert parameters["gpu"]["pattern"].startswith("^(all|")
    assert parameters["range"]["pattern"].endswith("[smhdwy]$")
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert [each["$ref"].rsplit("/", 1)[1] for each in schema["anyOf"]] == ["Export", "LongExport"]
