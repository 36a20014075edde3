"""Endpoints with a time range: history, events, processes and export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from dashtop.metrics import METRICS
from dashtop.model.metric import Severity
from dashtop.model.sample import Event, GpuProcess, ProcessInfo
from dashtop.web.api.context import MAX_STREAMS
from tests.api.client import make_client
from tests.builders import NOON_MS, FixedSample, make_device, make_gpu, make_history, make_sample
from tests.clock import FakeClock

if TYPE_CHECKING:
    from flask.testing import FlaskClient

XID = Event(time_ms=NOON_MS + 5000, kind="xid", severity=Severity.CRITICAL, text="fell off", gpu_uuid=None, code=79)
PROCESS = GpuProcess(pid=41, kind="C", gpu_memory_bytes=2**30, info=ProcessInfo(name="train.py", username="ada"))


def make_history_client() -> FlaskClient:
    history = make_history()
    for second in range(10):
        sample = make_sample(
            time_ms=NOON_MS + 1000 * second,
            gpus=(make_gpu(processes=(PROCESS,)),),
            host={"system.cpu.usage_percent": second},
            events=(XID,) if second == 5 else (),
        )
        history.append(sample)
    return make_client(FixedSample(sample), history=history, clock=FakeClock(now_ms=NOON_MS + 10_000))


def get_json(client: FlaskClient, path: str) -> Any:
    response = client.get(f"/api/v1/system{path}")
    assert response.status_code == 200, response.get_json()
    return response.get_json()


def test_history_between_start_and_end_has_one_second_steps() -> None:
    query = f"/history?start={NOON_MS + 2000}&end={NOON_MS + 5000}&metrics=system.cpu.usage_percent"
    body = get_json(make_history_client(), query)
    assert body["timestamps"] == [NOON_MS + 2000, NOON_MS + 3000, NOON_MS + 4000]
    assert body["series"]["system.cpu.usage_percent"]["mean"] == [2, 3, 4]


def test_history_from_start_ends_now() -> None:
    body = get_json(make_history_client(), f"/history?start={NOON_MS + 8000}&metrics=system.cpu.usage_percent")
    assert body["series"]["system.cpu.usage_percent"]["mean"] == [8, 9, None]


def test_history_of_a_century_has_a_limited_number_of_points() -> None:
    assert len(get_json(make_history_client(), "/history?start=0&end=3000000000000")["timestamps"]) <= 5001


def test_events_and_processes_of_a_time_range() -> None:
    (event,) = get_json(make_history_client(), f"/events?start={NOON_MS}&end={NOON_MS + 6000}")
    assert (event["kind"], event["severity"], event["code"], event["gpu_id"]) == ("xid", "critical", 79, None)
    assert get_json(make_history_client(), f"/events?start={NOON_MS}&end={NOON_MS + 5000}") == []
    (span,) = get_json(make_history_client(), f"/processes/history?start={NOON_MS}&end={NOON_MS + 6000}")
    assert (span["username"], span["gpu_memory_mb"], span["start"]) == ("ada", 1024, NOON_MS)


def make_event(second: int, kind: str, severity: Severity, gpu: int | None = None) -> Event:
    uuid = make_device(gpu).uuid if gpu is not None else None
    return Event(time_ms=NOON_MS + second * 1000, kind=kind, severity=severity, text=kind, gpu_uuid=uuid)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [0, 1, 2, 3, 4]),
        ("&kind=xid", [0, 1]),
        ("&kind=xid,process_end", [0, 1, 3]),
        ("&severity=critical", [1, 2]),
        ("&severity=warning,critical", [0, 1, 2]),
        ("&gpu_id=1", [1, 3]),
        ("&gpu_id=5", [4]),  # no longer there
        ("&kind=xid&severity=critical&gpu_id=0", []),
        ("&kind=gpu_lost,xid&severity=critical&gpu_id=0", [2]),
    ],
)
def test_events_are_selected_by_kind_severity_and_gpu(query: str, expected: list[int]) -> None:
    history = make_history()
    events = (
        make_event(0, "xid", Severity.WARNING, 0),
        make_event(1, "xid", Severity.CRITICAL, 1),
        make_event(2, "gpu_lost", Severity.CRITICAL, 0),
        make_event(3, "process_end", Severity.INFO, 1),
        make_event(4, "gpu_removed", Severity.INFO, 5),
    )
    for sample in (make_sample(0, gpus=(make_gpu(5),)), make_sample(1, gpus=(make_gpu(0), make_gpu(1)), events=events)):
        history.append(sample)
    client = make_client(FixedSample(sample), history=history, clock=FakeClock(now_ms=NOON_MS + 10_000))
    found = get_json(client, f"/events?range=1h{query}")
    assert [(event["timestamp"] - NOON_MS) // 1000 for event in found] == expected


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("kind=xyz", 422, "'xyz' is unknown; allowed are xid, ecc,"),
        ("kind=xid,", 422, "'' is unknown"),
        ("severity=bad", 422, "allowed are info, warning, critical"),
        ("gpu_id=x", 422, "must be a whole number"),
        ("gpu_id=7", 400, "Invalid GPU ID"),
    ],
)
def test_filter_that_selects_nothing_that_exists_is_an_error(query: str, status: int, message: str) -> None:
    response = make_history_client().get(f"/api/v1/system/events?{query}")
    assert response.status_code == status
    assert message in response.get_json()["detail"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("range=2x", "must be a number with a unit"),
        ("range=11y", "must be at most 10y"),
        ("end=5", "needs start"),
        ("start=9&end=9", "must be after start"),
        ("start=-1", "milliseconds since 1970"),
        ("start=1e9", "milliseconds since 1970"),
        ("start=999999999999999", "less than or equal"),
    ],
)
@pytest.mark.parametrize("path", ["/history", "/events", "/processes/history"])
def test_malformed_time_range_is_422_with_the_allowed_values(path: str, query: str, message: str) -> None:
    response = make_history_client().get(f"/api/v1/system{path}?{query}")
    assert response.status_code == 422
    assert message in response.get_json()["detail"]


def test_history_error_is_reported_and_readyz_stays_200(monkeypatch: pytest.MonkeyPatch) -> None:
    history = make_history()
    monkeypatch.setattr(history, "status_message", lambda: "The disk is full.")
    ready = make_client(FixedSample(make_sample()), history=history).get("/readyz")
    assert (ready.status_code, ready.get_json()) == (200, {"ready": True, "detail": "The disk is full."})


TIME_RANGE = f"start={NOON_MS}&end={NOON_MS + 10_000}&metrics=system.cpu.usage_percent"


def test_export_is_a_file_with_units_in_its_header() -> None:
    response = make_history_client().get(f"/api/v1/system/export?{TIME_RANGE}")
    assert response.mimetype == "text/csv"
    assert response.headers["Content-Disposition"] == (
        f'attachment; filename="dashtop-{NOON_MS}-{NOON_MS + 10_000}.csv"'
    )
    header, *rows = response.get_data(as_text=True).splitlines()
    assert header.startswith("time (UTC),system.cpu.usage_percent mean (%),")
    assert rows[3] == "2027-01-15T08:00:03Z,3.0,3.0,3.0"
    assert len(rows) == 10


def test_export_without_metrics_has_every_stored_series() -> None:
    body = get_json(make_history_client(), "/export?format=json&range=5m")
    kept = {column["metric"] for column in body["columns"]}
    assert {"system.cpu.usage_percent", "gpu.temperature"} <= kept
    assert not any(METRICS[metric].constant for metric in kept), "what never changes is no series"
    assert len(body["rows"]) == 10


def test_export_of_a_day_can_have_one_second_steps() -> None:
    path = f"/export?format=json&start={NOON_MS - 86_400_000}&end={NOON_MS + 10_000}&metrics=system.cpu.usage_percent"
    by_default, with_step = get_json(make_history_client(), path), get_json(make_history_client(), f"{path}&step=1")
    assert (by_default["step_ms"] > 1000, with_step["step_ms"]) == (True, 1000)
    assert [row[0] for row in with_step["rows"]] == [NOON_MS + 1000 * second for second in range(10)]
    assert make_history_client().get(f"/api/v1/system{path}&step=0").status_code == 422


def test_aborted_download_releases_its_stream() -> None:
    client = make_history_client()
    for _ in range(2 * MAX_STREAMS):
        response = client.get(f"/api/v1/system/export?{TIME_RANGE}", buffered=False)
        assert response.status_code == 200
        response.close()


def test_downloads_over_the_limit_are_503() -> None:
    client = make_history_client()
    downloads = [client.get(f"/api/v1/system/export?{TIME_RANGE}", buffered=False) for _ in range(MAX_STREAMS)]
    assert client.get(f"/api/v1/system/export?{TIME_RANGE}").status_code == 503
    for response in downloads:
        response.close()
