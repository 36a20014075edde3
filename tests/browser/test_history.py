"""Charts of a stored history: a spike of one second, a gap, and zooming in."""

from __future__ import annotations

import csv
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.conftest import POINTS, BrowserTab, open_browser_tab
from tests.builders import make_history, make_sample, wait_until_written
from tests.processes import running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

STEP_MS = 20_000
CPU = "system.cpu.usage_percent"
SECONDS = 5400
SPIKE, GAP = 1800, range(3000, 3600)
PLOT = "document.querySelector('#chart-utilization .js-plotly-plot')"
LINE = f"{PLOT}.data.at(-1)"
# [[time, value or null], …] of the last line, as Plotly draws it
DRAWN = f"""() => {PLOT}.calcdata.at(-1)
  .map((point, at) => [{LINE}.x0 + at * {LINE}.dx, Number.isFinite(point.y) ? point.y : null])"""


@pytest.fixture(scope="module")
def stored_history(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[BrowserTab, int]]:
    folder: Path = tmp_path_factory.mktemp("kept")
    began_ms = round(time.time()) * 1000 - SECONDS * 1000
    history = make_history(folder)
    for second in range(SECONDS):
        if second not in GAP:
            busy = 100.0 if second == SPIKE else 5.0
            history.append(make_sample(second, time_ms=began_ms + 1000 * second, host={CPU: busy}))
    wait_until_written(history)
    history.close()
    with running("--no-gpu", "--data-dir", str(folder)) as server, open_browser_tab(browser, timezone_id="UTC") as tab:
        tab.open(f"{server.url}?range=6h")
        tab.wait_until(f"chart => ({POINTS})(chart) > 100", "chart-utilization")
        # The first answer hides the charts of GPUs; the others become wider then, and are drawn again in finer steps.
        tab.wait_until(f"() => {LINE}.dx === {STEP_MS}")
        yield tab, began_ms
        assert tab.errors == []


def test_the_band_shows_a_spike_and_gaps_are_not_bridged(stored_history: tuple[BrowserTab, int]) -> None:
    tab, began_ms = stored_history
    highest: Any = tab.page.evaluate(f"{PLOT}.calcdata.at(-2).map(point => [point.x, point.y])")
    spike = [round(value) for at, value in highest if abs(at - began_ms - SPIKE * 1000) < STEP_MS]
    assert 100 in spike
    points: Any = tab.page.evaluate(DRAWN)
    within = [value for at, value in points if began_ms + GAP.start * 1000 <= at < began_ms + GAP.stop * 1000 - STEP_MS]
    assert len(within) > 10
    assert within == [None] * len(within)
    assert tab.page.evaluate(f"{LINE}.connectgaps") is False


def test_zooming_in_loads_finer_data(stored_history: tuple[BrowserTab, int]) -> None:
    tab, began_ms = stored_history
    box = tab.page.locator("#chart-utilization .nsewdrag").bounding_box()
    assert box is not None
    start, end = tab.page.evaluate(f"{PLOT}._fullLayout.xaxis._rl")
    share = (began_ms + SPIKE * 1000 - start) / (end - start)
    across = box["y"] + box["height"] / 2
    tab.page.mouse.move(box["x"] + (share - 0.03) * box["width"], across)
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + (share + 0.03) * box["width"], across, steps=5)
    tab.page.mouse.up()
    tab.wait_until(f"() => {LINE}.dx < {STEP_MS}")
    assert tab.page.evaluate(f"{LINE}.dx") == 2000
    points: Any = tab.page.evaluate(DRAWN)
    assert max(value for _, value in points if value is not None) == pytest.approx(52.5), "one of two seconds at 100 %"
    # The export is the zoomed time range at 1 s.
    tab.page.click("#export-button")
    about = re.compile(r"^.+ \d\d:\d\d:\d\d to .+ \d\d:\d\d:\d\d, the host, \d metrics?$")
    tab.page.locator("[data-export-summary]").filter(has_text=about).wait_for()
    with tab.page.expect_download() as download:
        tab.page.click("[data-format='csv']")
    head, *rows = csv.reader(download.value.path().read_text().splitlines())
    mean = head.index(f"{CPU} mean (%)")
    start, end = tab.page.evaluate("window.dashtop.charts.zoom()")
    assert len(rows) == pytest.approx((end - start) / 1000, abs=2)
    assert [float(row[mean]) for row in rows].count(100.0) == 1
