"""The contract with undocumented parts of Dash and Plotly that assets/dash-internals.js uses.

A failure here says which assumption an installed version breaks; the other browser tests say what that does to a page.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import POINTS, BrowserTab, open_browser_tab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

    from tests.processes import Running

PLOT = "document.querySelector('#chart-power .js-plotly-plot')"
# Records the arguments of the hook and of fetch() before the scripts of the page wrap them.
RECORD = """
window.hookCalls = [];
window.fetchCalls = [];
const browserFetch = window.fetch;
window.fetch = (input, options) => {
  const body = options && options.body;
  window.fetchCalls.push([typeof input, String(input.url || input), typeof body, body]);
  return browserFetch.call(window, input, options);
};
let hook = null;
document.addEventListener('DOMContentLoaded', () => {
  const original = window.dashtop.onCallbackResolved;
  window.dashtop.onCallbackResolved = (callback, result) => {
    window.hookCalls.push([callback.output, Object.keys(result), result.data && Object.keys(result.data)]);
    original(callback, result);
  };
});
"""


@pytest.fixture(scope="module")
def tab(browser: Browser, demo: Running) -> Iterator[BrowserTab]:
    with open_browser_tab(browser, height=2400) as tab:
        tab.page.add_init_script(RECORD)
        tab.open(demo.url)
        tab.wait_until(f"chart => ({POINTS})(chart) > 2", "chart-power")
        yield tab
        assert tab.errors == []


def test_stores_have_an_undo_history_that_can_be_cleared(tab: BrowserTab) -> None:
    assert tab.page.evaluate("window.dash_stores.every(store => Array.isArray(store.getState().history.past))")
    tab.page.evaluate("window.dashtop.internals.clearUndoHistory()")
    assert tab.page.evaluate("window.dash_stores[0].getState().history.past.length") <= 1


def test_configuration_has_the_path_prefix(tab: BrowserTab) -> None:
    assert tab.page.evaluate("window.dashtop.internals.pathPrefix()") == "./"


def test_dash_loads_plotly_from_our_address(tab: BrowserTab) -> None:
    bundles = (
        "performance.getEntriesByType('resource').map(each => each.name).filter(name => /plotly[^/]*js/.test(name))"
    )
    names = tab.page.evaluate(bundles)
    assert names, "plotly.js was not loaded"
    assert all("/assets/vendor/" in name for name in names), f"Dash loads its own plotly.js: {names}"


def test_the_hook_gets_the_output_and_the_result_of_a_callback(tab: BrowserTab) -> None:
    output, keys, stores = tab.wait_until("() => window.hookCalls.find(([output]) => output.includes('live.data'))")
    assert output == "..live.data...figures.data.."
    assert "data" in keys
    assert "live" in stores


def test_requests_go_through_fetch_with_a_text_body(tab: BrowserTab) -> None:
    kind, _, body_kind, body = tab.wait_until(
        "() => window.fetchCalls.find(([, address]) => address.includes('_dash-update-component'))"
    )
    assert (kind, body_kind) == ("string", "string"), "Dash calls fetch() with other arguments now"
    assert "live.data" in body


def test_results_of_other_callbacks_are_told_apart(tab: BrowserTab) -> None:
    def result(output: str, answer: str) -> object:
        call = f"window.dashtop.internals.callbackResult({{output: '{output}'}}, {answer}, 'live', 'data')"
        return tab.page.evaluate(call)

    tick = "..live.data...figures.data.."
    assert result("other.data", "{data: {}}") is None
    assert result(tick, "{error: 'x'}") == {"error": "x"}
    assert result(tick, "{data: {live: {data: 7}}}") == {"data": 7}
    assert result(tick, "{data: {}}") == {"data": None}


def test_the_time_axis_of_a_plot_converts_pixels(tab: BrowserTab) -> None:
    internals = "window.dashtop.internals"
    assert tab.page.evaluate(f"{internals}.hasAxes({PLOT})"), "Plotly has renamed _fullLayout or _plots"
    left, right = tab.page.evaluate(f"{internals}.plotEdges({PLOT})")
    box = tab.page.evaluate(f"{PLOT}.querySelector('.nsewdrag').getBBox().width")
    assert right - left == pytest.approx(box, abs=1)
    at = f"pixel => {internals}.pixelToTime({PLOT}, pixel)"
    start, middle = tab.page.evaluate(at, left), tab.page.evaluate(at, (left + right) / 2)
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d", middle)
    ms = [tab.page.evaluate("text => window.dashtop.times.fromWall(text)", text) for text in (start, middle)]
    assert (ms[1] - ms[0]) / tab.page.evaluate(f"{internals}.msPerPixel({PLOT})") == pytest.approx(
        (right - left) / 2, abs=1
    )
    back = tab.page.evaluate(f"text => {internals}.timeToPixel({PLOT}, text)", middle)
    assert back == pytest.approx((left + right) / 2, abs=1)


def test_values_that_dash_persisted_are_found(tab: BrowserTab) -> None:
    read = """() => window.dashtop.internals.readPersisted(
      {'_dash_persistence.time-range.value.true': 1, getItem: () => '["5m", "1h"]'}, 'time-range')"""
    assert tab.page.evaluate(read) == "5m"
    tab.page.evaluate("window.dashtop.settings.set({view: 'compare'})")
    tab.page.locator("#compare-order label").last.click()
    stored = "() => Object.keys(localStorage).find(key => key.startsWith('_dash_persistence.compare-order.'))"
    assert tab.wait_until(stored), "Dash stores persisted values under other keys now"
