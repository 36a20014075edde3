"""The page of events: filters from the address, the list, the timeline's versions, and the table of memory errors."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from dashtop.metrics.xid import xid_event
from dashtop.model.metric import Severity
from dashtop.model.ports import ReadStatus, Services
from dashtop.model.sample import EVENT_KINDS, Event
from dashtop.model.unavailable import UnavailableReason
from dashtop.sources.gpu_records import mark_unavailable
from dashtop.ui.panels import events
from tests.builders import NOON_MS, FixedSample, make_alerts, make_device, make_gpu, make_history, make_sample
from tests.clock import FakeClock
from tests.ui.worlds import make_context

if TYPE_CHECKING:
    from dashtop.model.sample import Sample
    from dashtop.ui.panels import PanelContext

XID = xid_event(79, time_ms=NOON_MS + 100_000, gpu_uuid=make_device(1).uuid)
PROCESS = Event(
    time_ms=NOON_MS + 110_000, kind="process_start", severity=Severity.INFO, text="train", gpu_uuid=make_device(0).uuid
)


def make_world(*found: Event, seconds: int = 300) -> tuple[Services, Sample]:
    """Two GPUs, read once a second; events with the sample of their second."""
    history = make_history()
    sample = make_sample()
    for second in range(0, seconds, 2):
        time_ms = NOON_MS + second * 1000
        sample = make_sample(
            sequence=second,
            time_ms=time_ms,
            gpus=tuple(make_gpu(index, values={"gpu.utilization.gpu": 5.0}) for index in (0, 1)),
            host={"system.cpu.usage_percent": 1.0},
            events=tuple(event for event in found if time_ms - 2000 < event.time_ms <= time_ms),
        )
        history.append(sample)
    clock = FakeClock(now_ms=sample.time_ms)
    return Services(latest=FixedSample(sample), history=history, alerts=make_alerts(), clock=clock), sample


def make(world: tuple[Services, Sample], **request: Any) -> PanelContext:
    services, sample = world
    return make_context(sample=sample, services=services, range="5m", **request)


def read_list(context: PanelContext) -> dict[str, Any]:
    (part,) = events.list_parts(context)
    body: dict[str, Any] = part.build()
    return body


def kinds_of(context: PanelContext) -> list[str]:
    return [row[4] for row in read_list(context)["rows"]]


def test_the_list_has_the_newest_event_first_and_leaves_processes_out() -> None:
    body = read_list(make(make_world(XID, PROCESS, replace(PROCESS, kind="restart", gpu_uuid=None))))
    assert [row[1:5] for row in body["rows"]] == [
        ["Host", None, "info", "dashtop started"],
        ["GPU 1", 1, "critical", "XID error"],
    ]
    assert body["rows"][1][0] == XID.time_ms
    assert body["rows"][1][5:] == [XID.text, XID.advice]
    assert body["total"] == 2
    assert body["gpus"] == [(0, "NVIDIA GeForce RTX 3090"), (1, "NVIDIA GeForce RTX 3090")]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"event_kind": "all"}, ["Process starts", "XID error"]),
        ({"event_kind": "process_start"}, ["Process starts"]),
        ({"event_kind": "xid,process_start"}, ["Process starts", "XID error"]),
        ({"event_kind": "nonsense"}, ["XID error"]),
        ({"event_severity": "warning,critical"}, ["XID error"]),
        ({"event_severity": "info"}, []),
        ({"event_severity": "loud", "event_kind": "all"}, ["Process starts", "XID error"]),
        ({"event_gpu": "1", "event_kind": "all"}, ["XID error"]),
        ({"event_gpu": "0", "event_kind": "all"}, ["Process starts"]),
        ({"event_gpu": "99999999999999999999", "event_kind": "all"}, ["Process starts", "XID error"]),
        ({"event_gpu": "-1", "event_kind": "all"}, ["Process starts", "XID error"]),
    ],
)
def test_filters_of_the_address_are_checked(options: dict[str, str], expected: list[str]) -> None:
    assert kinds_of(make(make_world(XID, PROCESS), options=options)) == expected


def test_a_gpu_that_is_not_present_is_found_in_the_history() -> None:
    services, sample = make_world(XID)
    without = replace(sample, gpus=sample.gpus[:1])
    context = make_context(sample=without, services=services, range="5m", options={"event_gpu": "1"})
    assert kinds_of(context) == ["XID error"]
    (part,) = events.timeline_parts(context)
    lanes = part.build()["lanes"]
    assert [(lane["label"], lane["gpu"]) for lane in lanes] == [("GPU 0", 0), ("GPU 1", None)]


def test_a_long_list_says_how_many_there_are() -> None:
    many = [replace(XID, time_ms=NOON_MS + 1000 * second) for second in range(1, 250)]
    body = read_list(make(make_world(*many)))
    assert (len(body["rows"]), body["total"]) == (events.MAX_ROWS, 249)


def test_the_list_has_one_version_until_something_happens() -> None:
    world = make_world(XID)
    (before,) = events.list_parts(make(world))
    services, sample = world
    later = replace(sample, time_ms=sample.time_ms + 5000)
    (same,) = events.list_parts(make_context(sample=later, services=services, range="5m"))
    assert same.version == before.version
    services.history.append(replace(later, events=(replace(XID, time_ms=later.time_ms),)))
    (new,) = events.list_parts(make_context(sample=later, services=services, range="5m"))
    assert new.version != before.version


def test_the_timeline_is_new_with_a_bucket_and_with_an_event() -> None:
    world = make_world(XID)
    services, sample = world
    (first,) = events.timeline_parts(make(world))
    timeline = first.build()
    assert timeline["start"] <= NOON_MS
    assert timeline["end"] > sample.time_ms
    assert [lane["label"] for lane in timeline["lanes"]] == ["GPU 0", "GPU 1"]
    assert [row for row, _ in timeline["lanes"][1]["rows"]] == ["state", "xid"]
    (same,) = events.timeline_parts(make(world))
    assert same.version == first.version
    later = replace(sample, time_ms=sample.time_ms + timeline["step"])
    (next_bucket,) = events.timeline_parts(make_context(sample=later, services=services, range="5m"))
    assert next_bucket.version != first.version
    services.history.append(replace(sample, time_ms=sample.time_ms + 1, events=(replace(XID, time_ms=sample.time_ms),)))
    (new,) = events.timeline_parts(make(world))
    assert new.version != first.version


def test_a_zoom_selects_its_time() -> None:
    world = make_world(XID)
    start, end = NOON_MS + 90_000, NOON_MS + 105_000
    context = make(world, zoom=[start, end])
    (part,) = events.timeline_parts(context)
    assert (part.build()["start"], part.build()["end"]) == (start // 2000 * 2000, NOON_MS + 106_000)
    assert kinds_of(context) == ["XID error"]
    assert kinds_of(make(world, zoom=[NOON_MS, NOON_MS + 99_000])) == []


def test_the_memory_table_has_the_columns_that_any_gpu_reports_and_reasons_for_the_others() -> None:
    counts = {"gpu.ecc.volatile_corrected": 12345.0, "gpu.ecc.volatile_uncorrected": 1.0}
    first = make_gpu(0, values={**counts, "gpu.remapped_rows.failure": 1.0, "gpu.remapped_rows.pending": 0.0})
    sample = make_sample(gpus=(first, make_gpu(1)))
    table = events.memory_health(make_context(sample=sample))["memory_health"]
    assert table["columns"] == [
        "ECC corrected (since reload)",
        "ECC uncorrected (since reload)",
        "Row remap pending",
        "Row remap failed",
    ]
    name = first.device.name
    missing = ["N/A", "", UnavailableReason.NOT_SUPPORTED.text]
    assert table["rows"] == [
        [0, name, ["12 345", "", ""], ["1", "critical", ""], ["no", "", ""], ["yes", "critical", ""]],
        [1, name, missing, missing, missing, missing],
    ]
    none = events.memory_health(make_context(sample=make_sample(gpus=(make_gpu(),))))["memory_health"]
    assert (none["columns"], none["rows"]) == ([], [])
    assert none["empty"].startswith("Not supported: no GPU reports ECC errors")
    silent = mark_unavailable(first.device, UnavailableReason.DRIVER_SILENT)
    unread = events.memory_health(make_context(sample=make_sample(gpus=(silent,))))["memory_health"]
    assert (unread["rows"], unread["empty"]) == ([], "Not available: the NVIDIA driver does not respond.")


def test_every_choice_of_the_filters_is_valid() -> None:
    from tests.ui.test_layout import parts

    services, sample = make_world()
    selects = {
        vars(part)["data-event-filter"]: [vars(option)["value"] for option in part.children]
        for part in parts(events.list_layout(services))
        if "data-event-filter" in vars(part)
    }
    for name in selects["event_kind"]:
        wanted = events.parse_filter({"event_kind": name}, sample, {})
        assert wanted.kinds == ((name,) if name in EVENT_KINDS else () if name == "all" else events._DEFAULT_KINDS)
    for name in selects["event_severity"]:
        wanted = events.parse_filter({"event_severity": name}, sample, {})
        assert ",".join(each.value for each in wanted.severities) == name


class SilentHistory:
    """A history whose database does not answer: it has what is in memory, and says why there is no more."""

    def __init__(self, history: Any) -> None:
        self._history = history

    def __getattr__(self, name: str) -> Any:
        return getattr(self._history, name)

    def read_status(self) -> ReadStatus:
        return ReadStatus(version=1, error="The history does not answer.")


def test_a_history_that_does_not_answer_is_the_reason_of_gaps() -> None:
    services, sample = make_world(XID, seconds=200)
    silent = replace(services, history=SilentHistory(services.history))
    context = make_context(sample=sample, services=silent, range="1h")
    assert read_list(context)["error"] == "The history does not answer."
    (part,) = events.timeline_parts(context)
    timeline = part.build()
    kinds = {kind: timeline["texts"][text] for _, _, kind, text in dict(timeline["lanes"][0]["rows"])["state"]}
    assert kinds["gap"] == ["Not recorded", "The history does not answer."]
    assert kinds["ok"] == ["Can be read", ""]
