"""What is seen on an open page that nobody touches; the tests share it, for opening one takes a second or two."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from dashtop.model.metric import Unit
from tests.browser.conftest import POINTS, Watched, watching

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

    from tests.processes import Running

CHARTS = ("chart-utilization", "chart-memory", "chart-temperature")
RECORD_SHIFTS = """window.shifts = [];
new PerformanceObserver(list => list.getEntries().forEach(entry => window.shifts.push([entry.value, entry.startTime])))
  .observe({type: 'layout-shift', buffered: true});"""


@pytest.fixture(scope="module")
def look(browser: Browser, demo: Running) -> Iterator[Watched]:
    with watching(browser, timezone_id="Asia/Kolkata") as seen:
        seen.page.add_init_script(RECORD_SHIFTS)
        yield seen.open(demo.url)


@pytest.fixture(autouse=True)
def without_errors(look: Watched) -> Iterator[None]:
    yield
    assert look.errors == []


def test_charts_gain_points_and_numbers_change_while_the_page_is_open(look: Watched) -> None:
    for chart in CHARTS:
        look.true(f"chart => ({POINTS})(chart) > 0", chart)
    before = {chart: look.points(chart) for chart in CHARTS}
    texts = "() => [...document.querySelectorAll('#panel-power [data-metric]')].map(e => e.textContent).join()"
    for _ in range(3):
        shown = look.page.evaluate(texts)
        look.true(f"shown => ({texts})() !== shown", shown)
    for chart, points in before.items():
        look.true(f"([chart, points]) => ({POINTS})(chart) > points", [chart, points])
    assert look.most_in_flight == 1


def test_nothing_moves_when_values_change(look: Watched) -> None:
    settled = look.page.evaluate("performance.now()")
    tick = "() => document.querySelector('#panel-power').innerText"
    for _ in range(6):
        look.true(f"old => ({tick})() !== old", look.page.evaluate(tick))
    shifts = look.page.evaluate("since => window.shifts.filter(([, at]) => at > since)", settled)
    assert sum(value for value, _ in shifts) < 0.002


def test_a_chart_shows_the_unit_and_the_time_under_the_pointer(look: Watched) -> None:
    look.true(f"chart => ({POINTS})(chart) > 2", "chart-temperature")
    box = look.page.locator("#chart-temperature .nsewdrag").bounding_box()
    assert box is not None
    look.page.mouse.move(box["x"] + box["width"] - 3, box["y"] + box["height"] / 2)
    label = look.page.locator("#chart-temperature .hoverlayer .legend")
    label.wait_for()
    shown = label.text_content() or ""
    assert Unit.CELSIUS.symbol in shown
    now = look.page.evaluate("new Date().toLocaleString('en-US', {month: 'short', day: '2-digit'})")
    assert now in shown
    hour = look.page.evaluate("String(new Date(Date.now() - 20e3).getHours()).padStart(2, '0')")
    later = look.page.evaluate("String(new Date().getHours()).padStart(2, '0')")
    assert f", {hour}:" in shown or f", {later}:" in shown


def test_with_a_gpu_there_is_no_notice_and_demo_says_so(look: Watched) -> None:
    assert not look.page.locator("#no-gpu-notice").is_visible()
    assert look.page.locator(".when-simulated").inner_text() == "Simulated"
    assert re.fullmatch(r"GPU \d+\s+VRAM \d+\.\d / \d+\.\d\s+Temp \d+", look.text("#compact-status"))


def test_everything_is_reached_by_keyboard(look: Watched) -> None:
    reached = set()
    for _ in range(12):
        look.page.keyboard.press("Tab")
        reached.add(look.page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"gpu-selector", "theme-toggle", "skip-link"} <= reached
    assert any("time-range" in each for each in reached)


def test_nothing_is_wider_than_the_screen(look: Watched) -> None:
    for width in (1440, 1080, 1000, 768, 699, 390, 360):
        look.page.set_viewport_size({"width": width, "height": 800})
        assert look.page.evaluate("document.documentElement.scrollWidth") <= width, width
