"""The charts of a history that was there before: a spike of one second, a gap, and what a zoom brings to light."""

from __future__ import annotations

import csv
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.conftest import POINTS, Watched, watching
from tests.builders import make_history, make_sample, wait_until_written
from tests.processes import running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

CPU = "system.cpu.usage_percent"
SECONDS = 5400
SPIKE, GAP = 1800, range(3000, 3600)
PLOT = "document.querySelector('#chart-utilization .js-plotly-plot')"
LINE = f"{PLOT}.data.at(-1)"
# [[time, value or null], …] of the last line: what is really drawn
DRAWN = f"""() => {PLOT}.calcdata.at(-1)
  .map((point, at) => [{LINE}.x0 + at * {LINE}.dx, Number.isFinite(point.y) ? point.y : null])"""


@pytest.fixture(scope="module")
def past(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Watched, int]]:
    folder: Path = tmp_path_factory.mktemp("kept")
    began_ms = round(time.time()) * 1000 - SECONDS * 1000
    history = make_history(folder)
    for second in range(SECONDS):
        if second not in GAP:
            busy = 100.0 if second == SPIKE else 5.0
            history.append(make_sample(second, time_ms=began_ms + 1000 * second, host={CPU: busy}))
    wait_until_written(history)
    history.close()
    with running("--no-gpu", "--data-dir", str(folder)) as server, watching(browser, timezone_id="UTC") as seen:
        seen.open(f"{server.url}?range=6h")
        seen.true(f"chart => ({POINTS})(chart) > 100", "chart-utilization")
        yield seen, began_ms
        assert seen.errors == []


def step_ms(seen: Watched) -> int:
    step: int = seen.page.evaluate(f"{LINE}.dx")
    return step


def test_one_busy_second_is_in_the_band_and_a_gap_is_not_bridged(past: tuple[Watched, int]) -> None:
    seen, began_ms = past
    assert step_ms(seen) >= 10_000
    highest: Any = seen.page.evaluate(f"{PLOT}.calcdata.at(-2).map(point => [point.x, point.y])")
    spike = [round(value) for at, value in highest if abs(at - began_ms - SPIKE * 1000) < step_ms(seen)]
    assert 100 in spike
    points: Any = seen.page.evaluate(DRAWN)
    within = [
        value for at, value in points if began_ms + GAP.start * 1000 <= at < began_ms + GAP.stop * 1000 - step_ms(seen)
    ]
    assert len(within) > 10
    assert within == [None] * len(within)
    assert seen.page.evaluate(f"{LINE}.connectgaps") is False


def test_a_zoom_asks_for_finer_data(past: tuple[Watched, int]) -> None:
    seen, began_ms = past
    coarse = step_ms(seen)
    box = seen.page.locator("#chart-utilization .nsewdrag").bounding_box()
    assert box is not None
    start, end = seen.page.evaluate(f"{PLOT}._fullLayout.xaxis._rl")
    share = (began_ms + SPIKE * 1000 - start) / (end - start)
    across = box["y"] + box["height"] / 2
    seen.page.mouse.move(box["x"] + (share - 0.03) * box["width"], across)
    seen.page.mouse.down()
    seen.page.mouse.move(box["x"] + (share + 0.03) * box["width"], across, steps=5)
    seen.page.mouse.up()
    seen.true(f"coarse => {LINE}.dx < coarse", coarse)
    assert step_ms(seen) == 2000
    points: Any = seen.page.evaluate(DRAWN)
    assert max(value for _, value in points if value is not None) == pytest.approx(52.5), "of two seconds one was busy"
    # What is downloaded is the stretch that is looked at, second by second.
    seen.page.click("#export-button")
    about = re.compile(r"^.+ \d\d:\d\d:\d\d to .+ \d\d:\d\d:\d\d, the host, 2 metrics$")
    seen.page.locator("[data-about]").filter(has_text=about).wait_for()
    with seen.page.expect_download() as download:
        seen.page.click("[data-format='csv']")
    head, *rows = csv.reader(download.value.path().read_text().splitlines())
    mean = head.index(f"{CPU} mean (%)")
    start, end = seen.page.evaluate("window.dashtop.charts.zoom()")
    assert len(rows) == pytest.approx((end - start) / 1000, abs=2)
    assert [float(row[mean]) for row in rows].count(100.0) == 1
