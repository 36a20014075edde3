"""A span of time: a link to a past moment, the way back to live, and the time zone of everything on the page."""

from __future__ import annotations

import re
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest

from tests.browser.conftest import POINTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.browser.conftest import BrowserTab
    from tests.processes import Running

MINUTE_MS = 60_000
RANGE = "() => document.querySelector('#chart-power .js-plotly-plot')?._fullLayout?.xaxis.range.map(String)"
BERLIN = ZoneInfo("Europe/Berlin")


def clock(ms: int, zone: ZoneInfo | timezone = timezone.utc) -> str:
    return datetime.fromtimestamp(ms / 1000, zone).strftime("%H:%M:%S")


@pytest.fixture
def past_tab(demo: Running, new_tab: Callable[..., BrowserTab]) -> tuple[BrowserTab, int, int]:
    """A page opened by a link to ten minutes, half an hour ago, in Berlin."""
    end = int(time.time() * 1000) - 30 * MINUTE_MS
    start = end - 10 * MINUTE_MS
    tab = new_tab(timezone_id=BERLIN.key)
    tab.page.goto(f"{demo.url}?page=gpus&gpu=0&range=1h&from={start}&to={end}")
    return tab.wait_for_state("past"), start, end


def test_a_link_shows_a_past_moment_and_back_to_live_leaves_it(past_tab: tuple[BrowserTab, int, int]) -> None:
    tab, start, end = past_tab
    shown = tab.page.locator(".span-text")
    assert clock(start, BERLIN) in shown.inner_text()
    assert shown.inner_text().startswith("Paused · ")
    assert clock(end, BERLIN) in tab.text("[data-when='Current']")
    assert tab.text(".live-state") == "Paused"
    assert tab.page.locator("#time-range .btn-check:checked").count() == 0
    tab.wait_until(f"chart => ({POINTS})(chart) > 3", "chart-power")
    tab.page.click("#zoom-reset")
    tab.wait_for_state("live")
    assert "from=" not in tab.page.url
    assert tab.page.locator("#time-range .btn-check:checked").input_value() == "1h"
    # A range leaves the past as well, and Back returns to it.
    tab.page.go_back()
    tab.wait_for_state("past")
    assert f"to={end}" in tab.page.url
    tab.page.click("label:has-text('15 min')")
    tab.wait_for_state("live")
    assert "range=15m" in tab.page.url
    assert tab.errors == []


def test_the_span_is_chosen_by_buttons_presets_and_fields(past_tab: tuple[BrowserTab, int, int]) -> None:
    tab, start, end = past_tab
    edges = "() => window.dashtop.settings.span()"
    tab.page.get_by_role("button", name="Earlier", exact=True).click()
    assert tab.page.evaluate(edges) == [start - 5 * MINUTE_MS, end - 5 * MINUTE_MS]
    tab.page.get_by_role("button", name="Zoom out", exact=True).click()
    assert tab.page.evaluate(edges) == [start - 10 * MINUTE_MS, end]
    tab.page.locator(".span-summary").press("Enter")
    tab.wait_until("() => document.querySelector('.span-form').elements.from.value")  # the picker fills its fields
    fields = tab.page.locator(".span-field input")
    fields.nth(0).fill("2026-03-29T01:59:00")
    fields.nth(1).fill("2026-03-29T01:00:00")
    tab.page.get_by_role("button", name="Show", exact=True).click()
    assert tab.text(".span-message") == "From must be before To."
    # In Berlin clocks went from 2:00 to 3:00.
    fields.nth(1).fill("2026-03-29T03:01:00")
    fields.nth(1).press("Enter")
    assert [edge // 1000 for edge in tab.page.evaluate(edges)] == [
        int(datetime(2026, 3, 29, 0, 59, tzinfo=timezone.utc).timestamp()),
        int(datetime(2026, 3, 29, 1, 1, tzinfo=timezone.utc).timestamp()),
    ]
    tab.page.locator(".span-summary").click()
    tab.page.get_by_role("button", name="Yesterday").click()
    midnight = datetime.now(BERLIN).replace(hour=0, minute=0, second=0, microsecond=0)
    assert tab.page.evaluate(edges)[1] == midnight.timestamp() * 1000
    assert tab.errors == []


def test_charts_and_texts_follow_the_time_zone(past_tab: tuple[BrowserTab, int, int]) -> None:
    tab, start, end = past_tab
    tab.wait_until(f"({RANGE})")
    assert tab.text(".zone") == "Europe/Berlin"
    tab.page.click("#settings-button")
    tab.page.click("#time-zone label:has-text('UTC')")
    tab.page.click("#settings-done")
    tab.wait_until(f"clock => ({RANGE})()[0].includes(clock)", clock(start))
    assert tab.page.evaluate(RANGE)[1].startswith(
        datetime.fromtimestamp(end / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    )
    tab.page.locator(".span-text", has_text=clock(start)).wait_for()
    assert tab.text(".zone") == "UTC"
    assert "tz=utc" in tab.page.url
    # Dragging across the whole chart selects the same span.
    box = tab.page.locator("#chart-power .nsewdrag").bounding_box()
    assert box is not None
    across = box["y"] + box["height"] / 2
    tab.page.mouse.move(box["x"] + 0.5 * box["width"], across)
    tab.page.mouse.down()
    tab.page.mouse.move(box["x"] + box["width"] - 1, across, steps=5)
    tab.page.mouse.up()
    tab.wait_until("start => window.dashtop.settings.span()[0] > start", start)
    middle, last = tab.page.evaluate("window.dashtop.settings.span()")
    assert middle == pytest.approx((start + end) / 2, abs=5000)
    assert last == pytest.approx(end, abs=5000)
    assert tab.errors == []


@pytest.mark.long
def test_a_moment_in_a_link_may_be_iso_8601_and_an_invalid_one_is_ignored(
    demo: Running, new_tab: Callable[..., BrowserTab]
) -> None:
    tab = new_tab()
    tab.page.goto(f"{demo.url}?page=gpus&from=2026-03-01T12:00:00+01:00&to=2026-03-01T11:30:00Z")
    tab.wait_for_state("past")
    assert re.search(r"from=1772362800000&to=1772364600000", tab.page.url)
    tab.page.locator(".compact-error", has_text="Not recorded at that time").wait_for()
    for query in ("from=5&to=6", "from=1772362800000", "from=x&to=y", "from=2000000000000&to=1000000000000"):
        tab.open(f"{demo.url}?{query}")
        assert tab.page.evaluate("window.dashtop.settings.span()") is None
    assert tab.errors == []
