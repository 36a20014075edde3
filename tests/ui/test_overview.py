"""The data of the overview: problems, totals, rows of GPUs, newest events; and the chart of all GPUs."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dashtop.alerts.events import build_event
from dashtop.alerts.identity import build_id
from dashtop.metrics import METRICS
from dashtop.metrics.xid import XIDS
from dashtop.model.alert import Alert, AlertState, Silence
from dashtop.model.metric import Severity, Unit
from dashtop.model.sample import (
    ALL_EVENTS,
    Event,
    EventFilter,
    GpuProcess,
    Mount,
    ProcessInfo,
    Sample,
    Series,
    SeriesKey,
    SeriesSet,
)
from dashtop.model.timerange import DAY_MS, MINUTE_MS
from dashtop.model.unavailable import UnavailableReason
from dashtop.settings import assets_dir
from dashtop.ui import ids
from dashtop.ui.charts.all_gpus import CHOICES, choose_metric, figure, find_outliers
from dashtop.ui.charts.base_figure import ChartStyle
from dashtop.ui.overview_data import LIVE_METRICS, TOTAL_COLUMNS, build_overview, build_status
from dashtop.ui.panels.overview import CHART, COLUMNS
from dashtop.ui.parts import MAX_SAMPLE_AGE_S, DeltaEncoder
from dashtop.ui.request import ViewRequest
from dashtop.ui.theme import LIGHT
from tests.builders import NOON_MS, FixedSample, make_alerts, make_device, make_gpu, make_sample
from tests.ui.test_gpu_state import Loads, held, idle, lost, split_gpu
from tests.ui.worlds import Recorded, make_context, world

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dashtop.model.sample import Gpu
    from dashtop.ui.panels import PanelContext

GIB = 2**30


def replace_flags(series: Series, last: Sequence[int]) -> Series:
    """Return a series with the throttle reasons of its last buckets, and none before."""
    if series.key.metric != "gpu.clocks.event_reasons":
        return series
    flags = np.zeros_like(series.mean)
    flags[len(flags) - len(last) :] = last
    return dataclasses.replace(series, mean=flags, minimum=flags, maximum=flags)


class WithEvents(Recorded):
    """A history with some events, which counts how often they are read. `flags`: of the last buckets."""

    def __init__(self, events: Sequence[Event] = (), status: str | None = None) -> None:
        super().__init__(first_ms=NOON_MS - DAY_MS, last_ms=NOON_MS)
        self.all = tuple(events)
        self.status = status
        self.event_queries = 0
        self.flags: Sequence[int] = ()

    def query(
        self, keys: Sequence[SeriesKey], start_ms: int, end_ms: int, step_ms: int, *, wait: bool = False
    ) -> SeriesSet:
        data = super().query(keys, start_ms, end_ms, step_ms, wait=wait)
        series = (replace_flags(each, self.flags) for each in data.series)
        return dataclasses.replace(data, series=tuple(series))

    def events(self, start_ms: int, end_ms: int, wanted: EventFilter = ALL_EVENTS) -> tuple[Event, ...]:
        self.event_queries += 1
        found = [event for event in self.all if start_ms <= event.time_ms < end_ms and wanted.matches(event)]
        return tuple(found[-(wanted.limit or len(found)) :])

    def status_message(self) -> str | None:
        return self.status


def context_of(sample: Sample, history: Recorded | None = None, *, is_alive: bool = True) -> PanelContext:
    services, _, _ = world()
    latest = FixedSample(sample, is_alive=is_alive)
    services = dataclasses.replace(services, latest=latest, history=history or WithEvents())
    return make_context(sample=sample, services=services)


def sample_of(*gpus: Gpu, **changes: Any) -> Sample:
    return make_sample(gpus=gpus, time_ms=NOON_MS, **changes)


def overview_of(sample: Sample, history: Recorded | None = None, **changes: Any) -> dict[str, Any]:
    return build_overview(context_of(sample, history, **changes))


def totals_of(sample: Sample) -> dict[str, Any]:
    (row,) = overview_of(sample)["totals"].rows
    return dict(zip(TOTAL_COLUMNS, row, strict=True))


def event(kind: str, gpu: Gpu | None, time_ms: int, text: str = "", severity: Severity = Severity.WARNING) -> Event:
    uuid = gpu.device.uuid if gpu is not None else None
    return Event(time_ms=time_ms, kind=kind, severity=severity, text=text, gpu_uuid=uuid)


# --- problems ---------------------------------------------------------------------------------------------------------


def test_a_machine_that_works_has_no_problem() -> None:
    assert overview_of(sample_of(idle(0), idle(1)))["problems"] == []
    assert build_status(context_of(sample_of(idle(0), idle(1)))) == {"free": 2, "problems": 0}


def test_a_problem_names_its_gpu_since_when_and_what_to_do() -> None:
    gpu = make_gpu(3, values={"gpu.utilization.gpu": 90.0, "gpu.clocks.event_reasons": float(0x40)})
    sick = dataclasses.replace(idle(4, gpu__retired_pages__pending=1.0), device=make_device(4))
    history = WithEvents(
        [
            event("throttle_begin", gpu, NOON_MS - 9 * MINUTE_MS),
            event("throttle_begin", gpu, NOON_MS - 5 * MINUTE_MS),
            event("reset_pending", sick, NOON_MS - DAY_MS),
            event("throttle_begin", sick, NOON_MS - MINUTE_MS),
        ]
    )
    context = context_of(sample_of(gpu, sick), history)
    first, second = build_overview(context)["problems"]
    assert (first["gpu"], first["name"], first["severity"]) == (3, "GPU 3", "critical")
    assert (first["text"], first["since"]) == ("HW Thermal Slowdown", NOON_MS - 5 * MINUTE_MS)
    assert "check cooling" in first["advice"]
    assert (second["gpu"], second["advice"], second["since"]) == (4, XIDS[63].advice, NOON_MS - DAY_MS)
    row = build_overview(context)["gpu_facts"][0]
    assert (row["condition"], row["since"], row["severity"]) == ("throttled", NOON_MS - 5 * MINUTE_MS, "critical")


def test_a_problem_that_has_just_begun_has_its_time_at_once() -> None:
    gpu = make_gpu(0, values={"gpu.clocks.event_reasons": float(0x20)})
    history = WithEvents()
    context = context_of(sample_of(gpu), history)
    assert build_overview(context)["problems"][0]["since"] is None
    began = dataclasses.replace(context.sample, sequence=2, events=(event("throttle_begin", gpu, NOON_MS),))
    (problem,) = build_overview(dataclasses.replace(context, sample=began))["problems"]
    assert problem["since"] == NOON_MS
    # Within the same minute, once the event is stored.
    history.all = began.events
    later = dataclasses.replace(context.sample, sequence=3, time_ms=NOON_MS + 6000)
    (problem,) = build_overview(dataclasses.replace(context, sample=later))["problems"]
    assert problem["since"] == NOON_MS


def test_unhealthy_memory_does_not_begin_with_dashtop() -> None:
    sick = idle(4, gpu__remapped_rows__pending=1.0)
    restarted = NOON_MS - MINUTE_MS
    context = context_of(sample_of(sick), WithEvents([event("reset_pending", sick, restarted)]))
    assert build_overview(context)["problems"][0]["since"] == restarted
    alerts = make_alerts()
    context = dataclasses.replace(context, services=dataclasses.replace(context.services, alerts=alerts))
    alerts.update(make_sample(1, time_ms=NOON_MS - DAY_MS, gpus=(sick,)))
    again = dataclasses.replace(context, sample=dataclasses.replace(context.sample, sequence=2))
    assert build_overview(again)["problems"][0]["since"] == NOON_MS - DAY_MS, "the alert goes on over a restart"
    past = dataclasses.replace(again, is_past=True, sample=dataclasses.replace(context.sample, sequence=3))
    assert build_overview(past)["problems"][0]["since"] == restarted, "alerts are of the present"


def test_throttling_does_not_begin_with_dashtop() -> None:
    gpu = make_gpu(0, values={"gpu.utilization.gpu": 97.0, "gpu.clocks.event_reasons": float(0x20)})
    history = WithEvents([event("restart", None, NOON_MS - 5000), event("throttle_begin", gpu, NOON_MS - 4000)])
    history.flags = (0x20, 0, 0, 0x24, 0x24, 0, 0x20, 0x20)
    built = build_overview(context_of(sample_of(gpu), history))
    since = NOON_MS - 5 * MINUTE_MS
    assert (built["problems"][0]["since"], built["problems"][0]["is_since_exact"]) == (since, True)
    assert (built["gpu_facts"][0]["since"], built["gpu_facts"][0]["is_since_exact"]) == (since, True)
    history.flags = (0x20,) * 60
    built = build_overview(context_of(sample_of(gpu), history))
    assert built["problems"][0]["is_since_exact"] is True
    assert built["problems"][0]["since"] <= NOON_MS - 590 * MINUTE_MS, "ten minutes each"
    history.flags = (0x20,) * 30 + (0, 0)
    assert build_overview(context_of(sample_of(gpu), history))["problems"][0]["since"] == NOON_MS - 4000


def test_a_silent_driver_is_one_problem() -> None:
    gpus = [dataclasses.replace(lost(UnavailableReason.DRIVER_SILENT), device=make_device(index)) for index in (0, 1)]
    (problem,) = overview_of(sample_of(*gpus))["problems"]
    assert (problem["name"], problem["gpu"]) == ("Driver", None)
    assert problem["advice"] == UnavailableReason.DRIVER_SILENT.advice
    (problem,) = overview_of(sample_of(error=UnavailableReason.NO_DRIVER))["problems"]
    assert problem["advice"] == UnavailableReason.NO_DRIVER.advice
    assert overview_of(sample_of(error=UnavailableReason.DISABLED))["problems"] == []
    (problem,) = overview_of(sample_of(error=UnavailableReason.NO_PERMISSION))["problems"]
    assert (problem["name"], problem["text"], problem["severity"]) == ("GPUs", "No permission", "critical")
    (problem,) = overview_of(sample_of(error=UnavailableReason.INTERNAL_ERROR))["problems"]
    assert problem["name"] == "GPUs", "a failure of dashtop is not the driver's"


def test_a_silent_driver_and_its_gpus_have_one_start() -> None:
    silent = [dataclasses.replace(lost(UnavailableReason.DRIVER_SILENT), device=make_device(index)) for index in (0, 1)]
    context = context_of(sample_of(*silent))

    def find_starts(context: PanelContext) -> list[int | None]:
        built = build_overview(context)
        return [built["problems"][0]["since"], *(each["since"] for each in built["gpu_facts"])]

    assert find_starts(context) == [None] * 3
    seen = tuple(dataclasses.replace(gpu, state_since_ms=NOON_MS - 60_000) for gpu in silent)
    seen_sample = dataclasses.replace(context.sample, sequence=2, gpus=seen)
    assert find_starts(dataclasses.replace(context, sample=seen_sample)) == [NOON_MS - 60_000] * 3
    alerts = make_alerts()
    alerts.update(make_sample(1, time_ms=NOON_MS - DAY_MS, gpus=tuple(silent)))
    services = dataclasses.replace(context.services, alerts=alerts)
    restarted = dataclasses.replace(context.sample, sequence=3)
    assert find_starts(dataclasses.replace(context, services=services, sample=restarted)) == [NOON_MS - DAY_MS] * 3


def test_a_critical_alert_is_a_problem_unless_its_gpu_has_a_critical_one() -> None:
    hot = {"gpu.temperature": 95.0, "gpu.temperature_slowdown": 87.0, "gpu.temperature_shutdown": 98.0}
    near = make_gpu(0, values={**hot, "gpu.clocks.event_reasons": float(0x20)})
    sick = make_gpu(1, values={**hot, "gpu.remapped_rows.failure": 1.0})
    alerts = make_alerts()
    for second in range(120):
        time_ms = NOON_MS - 120_000 + 1000 * second
        alerts.update(make_sample(second, time_ms=time_ms, gpus=(near, sick)))
    context = context_of(sample_of(near, sick))
    context = dataclasses.replace(context, services=dataclasses.replace(context.services, alerts=alerts))
    problems = build_overview(context)["problems"]
    title = "GPU near its shutdown temperature"
    assert [(each["name"], each["severity"], each["text"] == title) for each in problems] == [
        ("GPU 1", "critical", False),
        ("GPU 0", "critical", True),
        ("GPU 0", "warning", False),
    ]
    assert (problems[1]["since"], problems[1]["gpu"]) == (NOON_MS - 120_000, 0)
    assert problems[1]["advice"].startswith("Stop the work on it now")
    past = dataclasses.replace(context, is_past=True, sample=dataclasses.replace(context.sample, sequence=2))
    assert title not in {each["text"] for each in build_overview(past)["problems"]}
    silence = Silence(
        id="",
        rule="gpu_overheating",
        gpu_uuid=near.device.uuid,
        user=None,
        from_ms=NOON_MS - DAY_MS,
        until_ms=NOON_MS + DAY_MS,
        reason="The fan is on order.",
    )
    assert alerts.add_silence(silence) is not None
    alerts.update(make_sample(121, time_ms=NOON_MS, gpus=(near, sick)))
    silenced = dataclasses.replace(context, sample=dataclasses.replace(context.sample, sequence=3))
    assert title not in {each["text"] for each in build_overview(silenced)["problems"]}


def test_problems_of_the_host_are_listed() -> None:
    mounts = (
        Mount(mount_point="/", filesystem="ext4", used_bytes=1, total_bytes=2, used_percent=50.0),
        Mount(mount_point="/data", filesystem="xfs", used_bytes=97, total_bytes=100, used_percent=97.0),
        Mount(mount_point="/nfs", filesystem="nfs4", used_bytes=None, total_bytes=None, used_percent=None),
    )
    sample = sample_of(idle(), mounts=mounts, host={"system.memory.used_percent": 96.4}, gpu_age_s=30.0)
    problems = overview_of(sample, WithEvents(status="The disk is full."), is_alive=False)["problems"]
    assert problems[0]["severity"] == "critical"
    assert {(each["name"], each["text"]) for each in problems} == {
        ("dashtop", "Collection has stopped"),
        ("Driver", "GPU readings are late"),
        ("Host", "Memory is nearly full (96 %)"),
        ("Host", "/data is nearly full (97 %)"),
        ("Host", "/nfs does not respond"),
        ("History", "The disk is full."),
    }


def test_the_title_of_a_page_of_one_gpu_lags_by_seconds_at_most() -> None:
    context = context_of(sample_of(idle(0), idle(1)))
    assert context.request.is_visible(ids.GPU_HEADING)
    assert build_status(context) == {"free": 2, "problems": 0}

    def later(by_ms: int, *panels: str) -> dict[str, int]:
        gone = dataclasses.replace(lost(UnavailableReason.GPU_LOST), device=make_device(1))
        sample = dataclasses.replace(sample_of(idle(0), gone), sequence=by_ms, time_ms=NOON_MS + by_ms)
        request = ViewRequest.parse({"visible_panels": list(panels)})
        return build_status(dataclasses.replace(context, sample=sample, request=request))

    assert later(4000, ids.GPU_HEADING) == {"free": 2, "problems": 0}
    assert later(4000, ids.OVERVIEW) == later(5000, ids.GPU_HEADING) == {"free": 1, "problems": 1}


def test_a_stop_of_the_collection_is_a_problem_although_the_sample_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(sample_of(idle()))
    assert build_overview(context)["problems"] == []
    stopped = dataclasses.replace(context.services, latest=FixedSample(context.sample, is_alive=False))
    context = dataclasses.replace(context, services=stopped)
    later_s = time.time() + MAX_SAMPLE_AGE_S + 1
    monkeypatch.setattr("cachelib.simple.time", lambda: later_s)
    assert [each["text"] for each in build_overview(context)["problems"]] == ["Collection has stopped"]
    assert build_status(context)["problems"] == 1


# --- totals -----------------------------------------------------------------------------------------------------------


def test_totals_count_whole_gpus_once() -> None:
    values = {"gpu.memory.used_gb": 20.0, "gpu.memory.total_gb": 40.0, "gpu.power.current_watts": 100.0}
    busy = make_gpu(0, values={**values, "gpu.utilization.gpu": 50.0, "gpu.power.max_watts": 300.0})
    parent, empty, used = split_gpu()
    shared = make_gpu(5, values=values, device=make_device(5, shares_host_memory=True))
    totals = totals_of(sample_of(busy, parent, empty, used, shared))
    assert (totals["free"], totals["busy"], totals["unavailable"]) == (1, 2, 1)
    # The GPU that shares the host's memory adds none; the instances are a part of their GPU.
    assert (totals["memory_used"], totals["memory_total"]) == (20.4, 64.0)
    assert (totals["power"], totals["power_limit"]) == (100.0, 300.0)


def test_the_hottest_gpu_is_the_one_nearest_to_its_limit() -> None:
    cool = make_gpu(0, values={"gpu.temperature": 80.0}, device=make_device(0, slowdown_celsius=105.0))
    hot = make_gpu(1, values={"gpu.temperature": 79.0}, device=make_device(1, slowdown_celsius=83.0))
    totals = totals_of(sample_of(cool, hot))
    assert (totals["hottest"], totals["temperature"], totals["temperature_limit"]) == (1, 79.0, 83.0)
    assert totals["temperature_level"] == "elevated"


def test_totals_without_a_gpu_are_missing() -> None:
    totals = totals_of(sample_of(error=UnavailableReason.NO_DEVICE))
    gone = ("memory_used", "memory_total", "power", "power_limit", "hottest", "temperature", "disk")
    assert [totals[name] for name in gone] == [None] * len(gone)
    assert totals["free"] == totals["busy"] == 0


# --- rows -------------------------------------------------------------------------------------------------------------


def test_a_row_has_live_values_and_facts() -> None:
    processes = tuple(
        GpuProcess(pid=pid, kind="C", gpu_memory_bytes=size * GIB, info=ProcessInfo(name=name, username=user))
        for pid, size, name, user in ((1, 2, "python", "ada"), (2, 5, None, "grace"))
    )
    gpu = dataclasses.replace(held(), processes=processes)
    built = overview_of(sample_of(gpu), Loads({}))
    assert built["gpu_rows"].columns == LIVE_METRICS
    assert built["gpu_rows"].rows == [[0, 0.4, 31, None]]
    (facts,) = built["gpu_facts"]
    assert (facts["condition"], facts["label"], facts["users"]) == ("idle_held", "Idle, held", ("grace", "ada"))
    assert (facts["process"], facts["process_count"]) == ("pid 2", 2)
    assert facts["missing"] == {"gpu.power.current_watts": "not supported by this device"}


def test_a_mig_instance_names_the_gpu_that_it_is_a_part_of() -> None:
    facts = overview_of(sample_of(*split_gpu()))["gpu_facts"]
    assert [(each["index"], each["parent"]) for each in facts] == [(8, None), (9, 8), (10, 8)]


def test_a_busy_gpu_is_in_use_since_its_first_process() -> None:
    gpu = held(started_ms=NOON_MS - DAY_MS)
    busy = dataclasses.replace(gpu, values={**gpu.values, "gpu.utilization.gpu": 90.0})
    assert overview_of(sample_of(busy))["gpu_facts"][0]["since"] == NOON_MS - DAY_MS


def test_only_live_values_are_sent_again() -> None:
    encoder = DeltaEncoder()
    context = context_of(sample_of(idle(0), idle(1)))
    first = encoder.encode(build_overview(context), {})
    later = dataclasses.replace(context.sample, sequence=2, time_ms=NOON_MS + 1000)
    second = encoder.encode(build_overview(dataclasses.replace(context, sample=later)), first["versions"])
    assert set(second) == {"totals", "gpu_rows", "versions"}


# --- events -----------------------------------------------------------------------------------------------------------


def test_the_newest_five_events_are_read_every_five_seconds_for_all() -> None:
    gpu = idle(2)
    text = f"GPU 2 ({gpu.device.name}): row remapping waits for a reset."
    events = [event("reset_pending", gpu, NOON_MS - number * MINUTE_MS, text) for number in range(9, 0, -1)]
    history = WithEvents([*events, event("restart", None, NOON_MS, "dashtop started.", Severity.INFO)])
    context = context_of(sample_of(gpu), history)
    newest, *others = [build_overview(context)["recent_events"] for _ in range(3)]
    assert others == [newest, newest]
    assert history.event_queries == 1
    assert [each["time"] for each in newest] == [NOON_MS - number * MINUTE_MS for number in range(5)]
    assert newest[0] == {"time": NOON_MS, "gpu": None, "severity": "info", "text": "dashtop started."}
    assert (newest[1]["gpu"], newest[1]["text"]) == (2, "Row remapping waits for a reset.")


def test_older_events_are_looked_for_if_there_are_few() -> None:
    history = WithEvents([event("xid", None, NOON_MS - 3 * DAY_MS, "old")])
    assert [each["text"] for each in overview_of(sample_of(idle()), history)["recent_events"]] == ["old"]


def test_a_lost_gpu_is_listed_once_and_other_alerts_remain() -> None:
    gpu = idle(2)

    def alert_event(rule: str, number: int, state: AlertState) -> Event:
        alert = Alert(
            id=build_id(rule, gpu.device.uuid, ""),
            rule=rule,
            severity=Severity.CRITICAL,
            state=state,
            text=rule,
            advice="",
            pending_ms=NOON_MS,
            since_ms=NOON_MS,
            gpu_uuid=gpu.device.uuid,
        )
        return build_event(alert, NOON_MS - number * MINUTE_MS)

    history = WithEvents(
        [
            event("gpu_lost", gpu, NOON_MS - 8 * MINUTE_MS, "lost"),
            *(alert_event("gpu_lost", 7, state) for state in (AlertState.FIRING, AlertState.RESOLVED)),
            alert_event("gpu_hot", 5, AlertState.FIRING),
        ]
    )
    texts = [each["text"] for each in overview_of(sample_of(gpu), history)["recent_events"]]
    assert texts == ["gpu_hot", "lost"]


# --- chart ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recent", "outliers"),
    [
        ([97.0, 96.0, 98.0, 20.0], {3}),
        ([97.0, 96.0, 98.0, 90.0], set()),
        ([97.0, 20.0], set()),
        ([98.0, 98.0, 95.0, 60.0, 55.0, 70.0, 98.0], set()),
        ([50.0] * 8, set()),
    ],
)
def test_an_outlier_is_far_from_the_median_of_the_busy_gpus(recent: list[float], outliers: set[int]) -> None:
    assert find_outliers(dict(enumerate(recent)), Unit.PERCENT) == outliers


def test_the_metric_of_the_chart_is_chosen_by_name() -> None:
    assert choose_metric({"metric": "power"}) == "gpu.power.current_watts"
    assert choose_metric({"metric": "<script>"}) == choose_metric({}) == "gpu.utilization.gpu"
    assert CHART.list_metrics({"metric": "sm"}) == ("gpu.utilization.compute",)
    assert all(key in METRICS for key in CHOICES.values())


def chart_of(means: Sequence[float], key: str = "gpu.utilization.gpu") -> Any:
    gpus = [make_gpu(index, values={"gpu.utilization.gpu": 50.0}) for index in range(len(means))]
    values = [np.full(60, mean, dtype=np.float32) for mean in means]
    series = tuple(
        Series(key=SeriesKey(key, gpu.device.uuid), mean=each, minimum=each, maximum=each)
        for gpu, each in zip(gpus, values, strict=True)
    )
    data = SeriesSet(start_ms=NOON_MS, step_ms=60_000, count=60, series=series)
    return figure(data, gpus, key, ChartStyle(theme=LIGHT, width_px=400, revision="1h"))


def test_an_outlier_is_named_and_drawn_above_the_others() -> None:
    drawn = chart_of([20.0, 97.0, 96.0, 98.0])
    assert [trace["meta"]["label"] for trace in drawn["data"]] == ["GPU 1", "GPU 2", "GPU 3", "GPU 0"]
    assert [note["text"] for note in drawn["layout"]["annotations"]] == ["GPU 0"]
    widths = [trace["line"]["width"] for trace in drawn["data"]]
    assert widths[3] > widths[0] == widths[1]


def test_a_metric_that_no_gpu_reports_says_so() -> None:
    drawn = chart_of([np.nan, np.nan])
    assert drawn["data"] == []
    assert "No GPU reports" in drawn["message"]


def test_columns_are_those_that_the_browser_sorts_by() -> None:
    store = (assets_dir() / "settings-store.js").read_text(encoding="utf-8")
    assert f"({'|'.join(column.name for column in COLUMNS)})" in store
    names = ", ".join(f'"{name}"' for name in CHOICES)
    assert f"oneOf({names})" in store
