"""Calls about the past between two moments, events and processes; what is malformed is refused with what is allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from dashtop.metrics import METRICS
from dashtop.model.metric import Severity
from dashtop.model.sample import Event, GpuProcess, ProcessInfo
from dashtop.web.api.context import MAX_STREAMS
from tests.api.pinned import Pinned, client_of
from tests.builders import NOON_MS, make_gpu, make_history, make_sample
from tests.clock import FakeClock

if TYPE_CHECKING:
    from flask.testing import FlaskClient

XID = Event(time_ms=NOON_MS + 5000, kind="xid", severity=Severity.CRITICAL, text="fell off", gpu_uuid=None, code=79)
HOLDER = GpuProcess(pid=41, kind="C", gpu_memory_bytes=2**30, info=ProcessInfo(name="train.py", username="ada"))


def client() -> FlaskClient:
    history = make_history()
    for second in range(10):
        sample = make_sample(
            time_ms=NOON_MS + 1000 * second,
            gpus=(make_gpu(processes=(HOLDER,)),),
            host={"system.cpu.usage_percent": second},
            events=(XID,) if second == 5 else (),
        )
        history.append(sample)
    return client_of(Pinned(sample), history=history, clock=FakeClock(now_ms=NOON_MS + 10_000))


def ask(served: FlaskClient, path: str) -> Any:
    answer = served.get(f"/api/v1/system{path}")
    assert answer.status_code == 200, answer.get_json()
    return answer.get_json()


def test_history_between_two_moments_is_second_by_second() -> None:
    query = f"/history?start={NOON_MS + 2000}&end={NOON_MS + 5000}&metrics=system.cpu.usage_percent"
    body = ask(client(), query)
    assert body["timestamps"] == [NOON_MS + 2000, NOON_MS + 3000, NOON_MS + 4000]
    assert body["series"]["system.cpu.usage_percent"]["mean"] == [2, 3, 4]


def test_history_since_a_moment_ends_now() -> None:
    body = ask(client(), f"/history?start={NOON_MS + 8000}&metrics=system.cpu.usage_percent")
    assert body["series"]["system.cpu.usage_percent"]["mean"] == [8, 9, None]


def test_a_century_is_answered_coarsely() -> None:
    assert len(ask(client(), "/history?start=0&end=3000000000000")["timestamps"]) <= 5001


def test_events_and_processes_of_a_stretch() -> None:
    (event,) = ask(client(), f"/events?start={NOON_MS}&end={NOON_MS + 6000}")
    assert (event["kind"], event["severity"], event["code"], event["gpu_id"]) == ("xid", "critical", 79, None)
    assert ask(client(), f"/events?start={NOON_MS}&end={NOON_MS + 5000}") == []
    (span,) = ask(client(), f"/processes/history?start={NOON_MS}&end={NOON_MS + 6000}")
    assert (span["username"], span["gpu_memory_mb"], span["start"]) == ("ada", 1024, NOON_MS)


@pytest.mark.parametrize(
    ("query", "said"),
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
def test_malformed_stretches_are_refused_with_what_is_allowed(path: str, query: str, said: str) -> None:
    answer = client().get(f"/api/v1/system{path}?{query}")
    assert answer.status_code == 422
    assert said in answer.get_json()["detail"]


def test_history_problem_is_reported_and_dashtop_stays_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    history = make_history()
    monkeypatch.setattr(history, "status_message", lambda: "The disk is full.")
    ready = client_of(Pinned(make_sample()), history=history).get("/readyz")
    assert (ready.status_code, ready.get_json()) == (200, {"ready": True, "detail": "The disk is full."})


STRETCH = f"start={NOON_MS}&end={NOON_MS + 10_000}&metrics=system.cpu.usage_percent"


def test_an_export_is_a_file_with_units_in_its_header() -> None:
    answer = client().get(f"/api/v1/system/export?{STRETCH}")
    assert answer.mimetype == "text/csv"
    assert answer.headers["Content-Disposition"] == (f'attachment; filename="dashtop-{NOON_MS}-{NOON_MS + 10_000}.csv"')
    header, *rows = answer.get_data(as_text=True).splitlines()
    assert header.startswith("time (UTC),system.cpu.usage_percent mean (%),")
    assert rows[3] == "2027-01-15T08:00:03Z,3.0,3.0,3.0"
    assert len(rows) == 10


def test_an_export_of_everything_holds_what_was_kept_and_nothing_else() -> None:
    body = ask(client(), "/export?format=json&range=5m")
    kept = {column["metric"] for column in body["columns"]}
    assert {"system.cpu.usage_percent", "gpu.temperature"} <= kept
    assert not any(METRICS[metric].constant for metric in kept), "what never changes is no series"
    assert len(body["rows"]) == 10


def test_an_export_of_a_day_may_be_second_by_second() -> None:
    path = f"/export?format=json&start={NOON_MS - 86_400_000}&end={NOON_MS + 10_000}&metrics=system.cpu.usage_percent"
    by_default, asked = ask(client(), path), ask(client(), f"{path}&step=1")
    assert (by_default["step_ms"] > 1000, asked["step_ms"]) == (True, 1000)
    assert [row[0] for row in asked["rows"]] == [NOON_MS + 1000 * second for second in range(10)]
    assert client().get(f"/api/v1/system{path}&step=0").status_code == 422


def test_a_download_that_is_left_gives_its_place_back() -> None:
    served = client()
    for _ in range(2 * MAX_STREAMS):
        answer = served.get(f"/api/v1/system/export?{STRETCH}", buffered=False)
        assert answer.status_code == 200
        answer.close()


def test_more_downloads_than_places_are_refused() -> None:
    served = client()
    held = [served.get(f"/api/v1/system/export?{STRETCH}", buffered=False) for _ in range(MAX_STREAMS)]
    assert served.get(f"/api/v1/system/export?{STRETCH}").status_code == 503
    for answer in held:
        answer.close()
