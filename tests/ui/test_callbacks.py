"""The tick callback: one small answer, and figures only when a bucket is complete or the view has changed."""

from __future__ import annotations

import dataclasses
import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from flask import Flask

from dashtop.metrics import ALL_METRICS
from dashtop.ui import ids
from dashtop.ui.callbacks import PageUpdater
from dashtop.ui.panels import PANELS, Section
from dashtop.ui.panels.charts import MAX_ADDED, added_id, find_added, is_chartable
from dashtop.ui.request import ViewRequest
from dashtop.ui.snapshot import select_metrics
from tests.builders import FixedSample, make_gpu, make_history, make_sample
from tests.ui.worlds import HOST_VALUES, Recorded, gpu, world

if TYPE_CHECKING:
    from dashtop.model.sample import Gpu

METRICS = select_metrics({"gpu.temperature", "system.cpu.usage_percent"})
# Those of the page of a GPU.
CHARTS = [chart for panel in PANELS if panel.section is Section.HISTORY for chart in panel.charts]
ALL_CHARTS = {chart.id for chart in CHARTS}
GPU_CHARTS = {
    chart.id for chart in CHARTS if not chart.all_gpus and any(key.startswith("gpu.") for key in chart.metrics)
}
GPU_PAGE = [ids.PANEL_UTILIZATION, *(f"panel-{chart}" for chart in ALL_CHARTS)]


class Browser:
    """A browser that keeps what it was sent, as assets/store-delta.js does."""

    def __init__(self, updater: PageUpdater, **view: Any) -> None:
        self.updater = updater
        self.view = {"width": 400, "visible_panels": GPU_PAGE, **view}
        self.versions: dict[str, str] = {}
        self.live: dict[str, Any] = {}
        self.figures: dict[str, Any] = {}

    def tick(self, **changes: Any) -> set[str]:
        """Send a request; return the ids of the charts that are drawn anew."""
        self.view |= changes
        self.live, figures = self.updater.update(ViewRequest.parse({**self.view, "versions": self.versions}))
        self.versions |= self.live.get("versions", {})
        if figures is None:
            return set()
        self.versions |= figures["versions"]
        self.figures = figures
        return set(figures["charts"])


def make_page(*gpus: Gpu, **options: Any) -> tuple[PageUpdater, FixedSample, Recorded]:
    services, latest, history = world(gpus=gpus, **options)
    return PageUpdater(services, METRICS, Flask("test")), latest, history


def advance(latest: FixedSample, seconds: int) -> None:
    assert latest.sample is not None
    now = latest.sample
    latest.sample = dataclasses.replace(
        now,
        sequence=now.sequence + seconds,
        time_ms=now.time_ms + 1000 * seconds,
        monotonic_s=now.monotonic_s + seconds,
    )


def test_figures_are_sent_when_a_bucket_is_complete_and_not_before() -> None:
    updater, latest, history = make_page(gpu())
    browser = Browser(updater)
    assert browser.tick() == ALL_CHARTS
    history.queries = 0
    redraws = []
    for _ in range(60):
        advance(latest, 1)
        history.last_ms += 1000
        drawn = browser.tick()
        assert drawn in (set(), ALL_CHARTS)
        redraws.append(bool(drawn))
    assert sum(redraws) == 4  # a bucket of an hour on 400 px is 15 s
    assert history.queries == 4 + 1  # the states of GPUs, once a minute


def test_first_answer_after_an_outage_of_the_history_has_every_part_of_it() -> None:
    parts = {"sparklines", "last_hour", "last_minutes", "figures"}
    updater, _, history = make_page(gpu(0), gpu(1))

    def receive(browser: Browser) -> dict[str, Any]:
        """Return the parts that a tick brings."""
        figures = {"figures": browser.figures["charts"]} if browser.tick() else {}
        return {**{name: browser.live[name] for name in parts & set(browser.live)}, **figures}

    whole = receive(Browser(updater, visible_panels=None))
    assert set(whole) == parts
    early = Browser(updater, visible_panels=None)
    assert receive(early) == whole
    history.is_out = True
    assert receive(early) == {}, "what was read before is still right"
    updater, _, history = make_page(gpu(0), gpu(1))
    history.is_out = True
    late = Browser(updater, visible_panels=None)
    incomplete = receive(late)
    assert all(incomplete[name] != whole[name] for name in parts)
    assert receive(late) == {}
    history.end_outage()
    assert receive(late) == whole
    assert receive(late) == {}


def test_every_tick_has_values_under_column_names_that_are_sent_once() -> None:
    updater, latest, _ = make_page(gpu())
    browser = Browser(updater)
    browser.tick()
    first = browser.live
    advance(latest, 1)
    assert browser.tick() == set()
    second = browser.live
    assert (first["sequence"], second["sequence"]) == (7200, 7201)
    assert dict(zip(first["columns"]["values"], second["values"][0], strict=True)) == {
        "gpu.temperature": 91.0,
        "system.cpu.usage_percent": 12.346,
    }
    assert first["age"] == 0.25
    assert "devices" in first
    assert second["versions"] == {}
    assert not {"devices", "columns", "texts", "sparklines"} & set(second)


def test_a_changed_view_is_drawn_at_once() -> None:
    updater, _, _ = make_page(gpu(0), gpu(1))
    for change in ({"range": "5m"}, {"gpu": 1}, {"theme": "dark"}, {"width": 800}):
        browser = Browser(updater)
        browser.tick()
        assert browser.tick(**change) == (GPU_CHARTS if "gpu" in change else ALL_CHARTS)
        assert browser.tick() == set()


def test_a_chart_that_comes_into_view_is_drawn_alone() -> None:
    updater, _, _ = make_page(gpu())
    browser = Browser(updater, visible_panels=[f"panel-{ids.CHART_UTILIZATION}"])
    assert browser.tick() == {ids.CHART_UTILIZATION}
    both = [f"panel-{chart}" for chart in (ids.CHART_UTILIZATION, ids.CHART_POWER)]
    assert browser.tick(visible_panels=both) == {ids.CHART_POWER}


def test_any_stored_metric_can_be_charted() -> None:
    updater, _, _ = make_page(gpu())
    keys = [metric.key for metric in ALL_METRICS if is_chartable(metric)]
    history = make_history()
    every = {metric.key: 1.0 for metric in ALL_METRICS}
    history.append(make_sample(gpus=(make_gpu(values=every),), host=every))
    assert set(keys) == {series.metric for series in history.series()}
    history.close()
    longest = ",".join(sorted(keys, key=len)[-MAX_ADDED:])
    assert len(find_added(ViewRequest.parse({"options": {"charts": longest}}).options["charts"])) == MAX_ADDED
    for key in keys:
        panel = f"panel-{added_id(key)}"
        browser = Browser(updater, visible_panels=[panel], options={"charts": f"nonsense,{key}"})
        assert browser.tick() == {added_id(key)}
        figure = browser.figures["charts"][added_id(key)]
        json.dumps(figure, allow_nan=False)
        assert figure["data"][-1]["meta"]["label"]
    constant = Browser(updater, visible_panels=["panel-x"], options={"charts": "gpu.memory.total_gb"})
    assert constant.tick() == set()


def test_figures_of_a_lost_answer_are_sent_again() -> None:
    updater, latest, _ = make_page(gpu())
    browser = Browser(updater)
    browser.tick()
    advance(latest, 20)
    before = dict(browser.versions)
    for _ in range(2):
        browser.versions = dict(before)
        assert browser.tick() == ALL_CHARTS


def test_a_short_history_is_shown_in_a_window_that_grows() -> None:
    updater, latest, history = make_page(gpu(), recorded_s=20)
    browser = Browser(updater)
    assert browser.tick() == ALL_CHARTS
    assert browser.figures["recorded"] is not None
    spans, steps = set(), 0
    for _ in range(400):
        advance(latest, 10)
        history.last_ms += 10_000
        if not browser.tick():
            continue
        left, right = browser.figures["charts"][ids.CHART_UTILIZATION]["layout"]["xaxis"]["range"]
        spans.add(math.ceil((right - left) / 60_000))
        steps += 1
    assert spans == {1, 2, 3, 5, 10, 15, 20, 30, 45, 60}
    assert browser.figures["recorded"] is None
    assert steps > 200


def test_without_a_gpu_only_the_host_is_drawn() -> None:
    updater, _, _ = make_page()
    browser = Browser(updater)
    assert browser.tick() == {ids.CHART_UTILIZATION, ids.CHART_MEMORY, ids.CHART_DISK}
    assert browser.live["gpu"] is None


def test_a_gpu_that_appears_is_drawn() -> None:
    updater, latest, _ = make_page()
    browser = Browser(updater)
    browser.tick()
    assert latest.sample is not None
    latest.sample = dataclasses.replace(latest.sample, gpus=(gpu(),))
    assert browser.tick() == ALL_CHARTS


def test_before_the_first_sample_there_is_nothing_to_show() -> None:
    updater, latest, _ = make_page()
    latest.sample = None
    assert updater.update(ViewRequest()) == ({"sequence": None, "interval": 1.0, "error": None}, None)


def test_a_single_reading_is_drawn_as_a_dot() -> None:
    updater, latest, history = make_page(recorded_s=0)
    latest.sample = make_sample(7201, host=HOST_VALUES)
    history.first_ms = history.last_ms = latest.sample.time_ms - 1500
    browser = Browser(updater)
    browser.tick()
    assert browser.figures["charts"][ids.CHART_UTILIZATION]["data"][-1]["mode"] == "lines+markers"


def test_viewers_of_the_same_share_one_rendering() -> None:
    updater, _, history = make_page(gpu(0), gpu(1))
    browsers = [Browser(updater) for _ in range(20)]
    for browser in browsers:
        browser.tick()
    assert all(browser.figures == browsers[0].figures for browser in browsers)
    # The start of the history, the states of GPUs, and the charts. Every browser has read the sparklines for itself.
    assert history.queries == 3 + 20
    browsers[0].tick(gpu=1)
    assert history.queries == 3 + 20 + 3


def test_ten_viewers_at_the_same_moment_share_one_rendering() -> None:
    updater, latest, history = make_page(gpu())
    browsers = [Browser(updater) for _ in range(10)]
    for browser in browsers:
        browser.tick()
    before = history.queries
    advance(latest, 60)
    barrier = threading.Barrier(10)

    def view(browser: Browser) -> set[str]:
        barrier.wait()
        return browser.tick()

    with ThreadPoolExecutor(10) as threads:
        assert list(threads.map(view, browsers)) == [ALL_CHARTS] * 10
    assert all(browser.figures == browsers[0].figures for browser in browsers)
    assert history.queries == before + 2  # the charts, and the states of GPUs in this minute


def test_a_zoom_has_finer_buckets_and_does_not_change_with_time() -> None:
    updater, latest, history = make_page(gpu())
    browser = Browser(updater)
    browser.tick()
    wide = browser.figures["charts"][ids.CHART_POWER]["data"][-1]["dx"]
    zoom = [history.last_ms - 600_000, history.last_ms - 300_000]
    assert browser.tick(zoom=zoom) == ALL_CHARTS
    assert browser.figures["charts"][ids.CHART_POWER]["data"][-1]["dx"] <= 2000 < wide
    assert browser.figures["charts"][ids.CHART_POWER]["layout"]["xaxis"]["range"] == zoom
    advance(latest, 60)
    assert browser.tick() == set()
    assert browser.tick(zoom=None) == ALL_CHARTS


def test_a_history_status_may_name_a_path_of_any_bytes() -> None:
    updater, _, history = make_page(gpu())
    history.status_message = lambda: "Nothing can be written to /data/\udcff."  # type: ignore[method-assign]
    live, _ = updater.update(ViewRequest())
    assert json.loads(json.dumps(live))["texts"]["history_status"].endswith("/data/\ufffd.")
