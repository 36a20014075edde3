"""GET /usage: rows of each grouping as JSON and CSV, from the ledger."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask
from pydantic import TypeAdapter

from dashtop.model.ports import Services
from dashtop.model.sample import GpuProcess, ProcessInfo
from dashtop.model.usage import NO_PRICES, Prices
from dashtop.usage.ledger import UsageLedger
from dashtop.usage.summary import GROUPINGS
from dashtop.web.api import blueprint, schemas
from tests.builders import NOON_MS, FixedSample, make_alerts, make_device, make_gpu, make_history, make_sample
from tests.clock import FakeClock

if TYPE_CHECKING:
    from flask.testing import FlaskClient

VALUES = {"gpu.utilization.gpu": 50.0, "gpu.power.current_watts": 360.0}
ADA = GpuProcess(pid=7, kind="C", gpu_memory_bytes=2**30, info=ProcessInfo(name="train", username="=ada", started_ms=5))
SECONDS = 1201


@pytest.fixture(scope="module")
def client() -> FlaskClient:
    return make_client()


def make_client(prices: Prices = NO_PRICES) -> FlaskClient:
    """Return a client of a dashtop that has measured twenty minutes of one process."""
    history, ledger = make_history(starts=False), UsageLedger(interval_s=1.0)
    gpus = (make_gpu(0, values=VALUES, processes=(ADA,)),)
    for second in range(SECONDS):
        sample = make_sample(second, time_ms=NOON_MS + 1000 * second, gpus=gpus)
        if (records := ledger.update(sample)).gpus:
            history.append(replace(sample, usage=records))
    services = Services(
        latest=FixedSample(make_sample(SECONDS, gpus=gpus)),
        history=history,
        alerts=make_alerts(),
        clock=FakeClock(now_ms=NOON_MS + 1000 * SECONDS),
        prices=prices,
    )
    server = Flask("test")
    blueprint.register(server, services)
    return server.test_client()


def get_usage(client: FlaskClient, query: str) -> dict[str, Any]:
    response = client.get(f"/api/v1/system/usage?{query}")
    assert response.status_code == 200, response.text
    TypeAdapter(schemas.Usage).validate_python(response.json)
    body: dict[str, Any] = json.loads(response.data)
    return body


def test_usage_by_each_grouping() -> None:
    client = make_client(Prices(kwh=2.0))
    keys = {by: get_usage(client, f"range=1h&by={by}")["rows"][0]["key"] for by in GROUPINGS}
    assert keys == {
        "user": "=ada", "container": "(none)", "slurm_job": "(none)", "process": "train 7", "gpu": make_device(0).uuid,
    }  # fmt: skip
    body = get_usage(client, "range=1h&by=user")
    (row,) = body["rows"]
    assert (row["held_h"], row["shared_h"], row["busy_h"]) == pytest.approx((1 / 3, 1 / 3, 1 / 6), rel=0.05)
    assert row["active_kwh"] == pytest.approx(0.12, rel=0.05)
    assert (row["base_kwh"], row["energy_kind"]) == (None, "integrated")
    assert row["cost"] == pytest.approx(2 * row["active_kwh"], rel=0.01)
    assert body["coverage"] == pytest.approx(0.3, abs=0.06), "of an hour, in whole buckets"
    assert body["unattributed_kwh"] == 0
    assert (body["incomplete"], body["is_cut"]) == (None, False)
    assert get_usage(client, f"start={NOON_MS - 7_200_000}&end={NOON_MS - 3_600_000}")["rows"] == []


def test_usage_as_csv(client: FlaskClient) -> None:
    response = client.get("/api/v1/system/usage?range=1h&format=csv")
    assert response.content_type == "text/csv; charset=utf-8"
    assert "dashtop-usage-user-" in response.headers["Content-Disposition"]
    (row,) = csv.DictReader(io.StringIO(response.text))
    assert row["key"] == "'=ada"
    assert row["cost"] == ""


@pytest.mark.parametrize("query", ["by=nobody", "format=xml", "range=0h"])
def test_malformed_parameters_are_422(query: str, client: FlaskClient) -> None:
    assert client.get(f"/api/v1/system/usage?{query}").status_code == 422
