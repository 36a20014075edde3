"""An open page without interaction. The tests share one tab, because opening one takes a second or two."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from dashtop.model.metric import Unit
from tests.browser.conftest import POINTS, BrowserTab, open_browser_tab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

    from tests.processes import Running

CHARTS = ("chart-utilization", "chart-memory", "chart-temperature")
# Epoch milliseconds of the newest value in the last line of a chart: a full chart moves on and has no more points.
NEWEST = """chart => Math.max(...document.querySelector(`#${chart} .js-plotly-plot`).calcdata.at(-1)
  .filter(point => Number.isFinite(point.y)).map(point => point.x))"""
RECORD_SHIFTS = """window.shifts = [];
new PerformanceObserver(list => list.getEntries().forEach(entry => window.shifts.push([entry.value, entry.startTime])))
  .observe({type: 'layout-shift', buffered: true});"""


@pytest.fixture(scope="module")
def open_tab(browser: Browser, demo: Running) -> Iterator[BrowserTab]:
    with open_browser_tab(browser, timezone_id="Asia/Kolkata") as tab:
        tab.page.add_init_script(RECORD_SHIFTS)
        yield tab.open(demo.url)


@pytest.fixture(autouse=True)
def without_errors(open_tab: BrowserTab) -> Iterator[None]:
    yield
    assert open_tab.errors == []


def test_charts_and_numbers_are_updated(open_tab: BrowserTab) -> None:
    for chart in CHARTS:
        open_tab.wait_until(f"chart => ({POINTS})(chart) > 0", chart)
    before = {chart: open_tab.page.evaluate(NEWEST, chart) for chart in CHARTS}
    texts = "() => [...document.querySelectorAll('#panel-power [data-metric]')].map(e => e.textContent).join()"
    for _ in range(3):
        shown = open_tab.page.evaluate(texts)
        open_tab.wait_until(f"shown => ({texts})() !== shown", shown)
    for chart, newest in before.items():
        open_tab.wait_until(f"([chart, newest]) => ({NEWEST})(chart) > newest", [chart, newest])
    assert open_tab.max_in_flight == 1


def test_no_layout_shift_when_values_change(open_tab: BrowserTab) -> None:
    settled = open_tab.page.evaluate("performance.now()")
    tick = "() => document.querySelector('#panel-power').innerText"
    for _ in range(6):
        open_tab.wait_until(f"old => ({tick})() !== old", open_tab.page.evaluate(tick))
    shifts = open_tab.page.evaluate("since => window.shifts.filter(([, at]) => at > since)", settled)
    assert sum(value for value, _ in shifts) < 0.002


def test_the_hover_label_shows_unit_and_time(open_tab: BrowserTab) -> None:
    open_tab.wait_until(f"chart => ({POINTS})(chart) > 2", "chart-temperature")
    box = open_tab.page.locator("#chart-temperature .nsewdrag").bounding_box()
    assert box is not None
    open_tab.page.mouse.move(box["x"] + box["width"] - 3, box["y"] + box["height"] / 2)
    label = open_tab.page.locator("#chart-temperature ~ .chart-readout")
    label.wait_for()
    shown = label.inner_text()
    assert Unit.CELSIUS.symbol in shown
    hour = open_tab.page.evaluate("String(new Date(Date.now() - 20e3).getHours()).padStart(2, '0')")
    later = open_tab.page.evaluate("String(new Date().getHours()).padStart(2, '0')")
    assert shown.startswith((f"{hour}:", f"{later}:"))


def test_a_demo_has_no_notice_and_a_simulated_badge(open_tab: BrowserTab) -> None:
    assert not open_tab.page.locator("#no-gpu-notice").is_visible()
    assert open_tab.page.locator(".when-simulated").inner_text() == "Simulated"
    assert re.fullmatch(r"GPU \d+\s+VRAM \d+\.\d / \d+\.\d\s+Temp \d+", open_tab.text("#compact-status"))


def test_controls_are_reachable_by_keyboard(open_tab: BrowserTab) -> None:
    reached = set()
    for _ in range(40):
        open_tab.page.keyboard.press("Tab")
        reached.add(open_tab.page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"gpu-selector", "theme-toggle", "skip-link"} <= reached
    assert any("time-range" in each for each in reached)


def test_the_page_does_not_scroll_sideways(open_tab: BrowserTab) -> None:
    for width in (1440, 1080, 1000, 768, 699, 390, 360):
        open_tab.page.set_viewport_size({"width": width, "height": 800})
        assert open_tab.page.evaluate("document.documentElement.scrollWidth") <= width, width
