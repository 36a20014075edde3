"""Charts, the view of all GPUs, and embedded panels, compared with the fake NVML and the API."""

from __future__ import annotations

import os
import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

from dashtop.ui.theme import ACCENT, with_alpha
from tests.browser.conftest import POINTS, BrowserTab, open_browser_tab
from tests.processes import Running, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser

    from tests.fake_nvml.fixtures import WorldFactory

CHARTS = ("chart-utilization", "chart-memory", "chart-temperature", "chart-power", "chart-processes")
RANGES = """() => [...document.querySelectorAll('.js-plotly-plot')]
  .filter(plot => plot.offsetParent && plot._fullLayout.xaxis.type === 'date')
  .map(plot => plot._fullLayout.xaxis.range.map(edge => new Date(edge.replace(' ', 'T')).getTime()))"""
COMPARE = "() => window.dashtop.settings.set({view: 'compare'})"
# Draws a line with a point every half hour; returns the times of its points as Plotly has them: local time, as UTC.
HALF_HOURS = """([chart, start, count]) => {
  const y = {dtype: 'f4', bdata: btoa(String.fromCharCode(...new Uint8Array(new Float32Array(count).fill(50).buffer)))};
  const line = {type: 'scatter', mode: 'lines', x0: start, dx: 1800000, y, meta: 'half hours'};
  const layout = {xaxis: {type: 'date', range: [start, start + 1800000 * (count - 1)]}, yaxis: {}, meta: {y: '%'}};
  const [drawn] = document.querySelector(`#${chart} .js-plotly-plot`).calcdata;
  if (drawn && drawn[0].trace.meta === 'half hours') return drawn.map(point => point.x);
  window.dashtop.charts.draw({[chart]: {data: [line], layout}});
  return false;
}"""
FRAME = "<!DOCTYPE html><body style='background: rgb(1, 2, 3)'><iframe src='{}' width=600 height=300></iframe>"


@pytest.fixture(scope="module")
def shared_tab(browser: Browser, demo: Running) -> Iterator[BrowserTab]:
    with open_browser_tab(browser, width=1440) as tab:
        tab.open(demo.url)
        for chart in CHARTS:
            # Lines of the host start with the demo, and their buckets are ten seconds wide.
            tab.wait_until(f"chart => ({POINTS})(chart) > 0", chart)
        yield tab
        assert tab.errors == []


def middle(tab: BrowserTab, chart: str, share: float) -> tuple[float, float]:
    box = tab.page.locator(f"#{chart} .nsewdrag").bounding_box()
    assert box is not None
    return box["x"] + share * box["width"], box["y"] + box["height"] / 2


def test_hover_is_synchronised_across_charts(shared_tab: BrowserTab) -> None:
    shared_tab.page.mouse.move(*middle(shared_tab, "chart-power", 0.9))
    shared_tab.page.mouse.move(*middle(shared_tab, "chart-power", 0.97))
    readouts = """() => Object.fromEntries([...document.querySelectorAll('.chart-readout:not([hidden])')].map(
      box => [box.parentElement.firstElementChild.id, box.innerText]))"""
    shared_tab.wait_until(f"charts => charts.every(chart => chart in ({readouts})())", CHARTS)
    shown = shared_tab.page.evaluate(readouts)
    for chart, unit in zip(CHARTS, ("%", "GiB", "°C", "W", "GiB"), strict=True):
        assert unit in shown[chart]
    match = re.search(r"GPU\s([\d.]+) W \(([\d.]+)–([\d.]+) W\)", shown["chart-power"])
    assert match, shown["chart-power"]
    mean, least, most = map(float, match.groups())
    assert least <= mean <= most
    words = " ".join(shown.values())
    assert not re.search(r"\(([\d.]+)–\1 ", words), "a range of one value is not shown"
    assert " :" not in words
    titles = (
        "() => [...document.querySelectorAll('.chart-readout:not([hidden]) .readout-time')].map(e => e.textContent)"
    )
    before = shared_tab.page.evaluate(titles)
    assert len(set(before)) == 1
    # The label is at the edge that is further away, beside the lines at the pointer.
    box = shared_tab.page.locator("#chart-power ~ .chart-readout").bounding_box()
    plot = shared_tab.page.locator("#chart-power .nsewdrag").bounding_box()
    assert box is not None
    assert plot is not None
    assert box["x"] + box["width"] < plot["x"] + 0.8 * plot["width"]
    shared_tab.page.mouse.move(*middle(shared_tab, "chart-power", 0.5))
    shared_tab.wait_until(
        f"before => {{ const now = ({titles})(); return new Set(now).size === 1 && now[0] !== before }}", before[0]
    )
    shared_tab.page.mouse.move(0, 0)
    shared_tab.wait_until(f"() => ({titles})().length === 0")


def test_a_chart_is_read_and_zoomed_by_keyboard_and_shown_as_a_table(shared_tab: BrowserTab) -> None:
    page = shared_tab.page
    chart = page.locator("#panel-chart-power .chart")
    assert re.match(r"Power\. GPU: mean \d+\.\d W, min .*, max .*, now ", chart.get_attribute("aria-label") or "")
    chart.focus()
    page.keyboard.press("ArrowLeft")
    shown = page.locator("#panel-chart-power .readout-time")
    shown.wait_for()
    newest = shown.inner_text()
    shared_tab.wait_until(
        "time => document.querySelector('[aria-live=polite].visually-hidden').textContent.startsWith(time)", newest
    )
    page.keyboard.press("Shift+ArrowLeft")
    assert shown.inner_text() != newest
    page.keyboard.press("+")
    shared_tab.wait_until("() => window.dashtop.settings.span() !== null")
    page.keyboard.press("0")
    shared_tab.wait_until("() => window.dashtop.settings.span() === null")
    page.keyboard.press("Enter")
    table = page.locator("dialog[open] .chart-table")
    assert re.match(r"\d\d:\d\d:\d\d", table.locator("tbody th").first.inner_text())
    assert re.search(r"\d W", table.locator("tbody td").first.inner_text())
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    assert chart.evaluate("element => element === document.activeElement"), "the focus returns to the chart"
    page.keyboard.press("Escape")
    assert not shown.is_visible()


@pytest.mark.parametrize("day", ["2026-03-08", "2026-11-01", "2026-07-01"])
def test_times_are_local_across_daylight_saving_changes(
    day: str, demo: Running, new_tab: Callable[..., BrowserTab]
) -> None:
    zone = ZoneInfo("America/New_York")
    tab = new_tab(timezone_id=zone.key).open(demo.url)
    tab.wait_until(f"chart => ({POINTS})(chart) > 3", "chart-power")
    start = datetime.fromisoformat(f"{day}T00:00:00+00:00")
    moments = [start + timedelta(minutes=30 * half) for half in range(48)]
    local = [each.astimezone(zone).replace(tzinfo=timezone.utc).timestamp() * 1000 for each in moments]
    assert tab.wait_until(HALF_HOURS, ["chart-power", start.timestamp() * 1000, len(moments)]) == local
    assert tab.errors == []


def test_zoom_applies_to_all_charts_and_a_double_click_resets_it(shared_tab: BrowserTab) -> None:
    whole = shared_tab.page.evaluate(RANGES)
    assert len({tuple(edges) for edges in whole}) == 1
    shared_tab.page.mouse.move(*middle(shared_tab, "chart-memory", 0.4))
    shared_tab.page.mouse.down()
    shared_tab.page.mouse.move(*middle(shared_tab, "chart-memory", 0.9), steps=5)
    shared_tab.page.mouse.up()
    narrow = f"([start, end]) => ({RANGES})().every(([from, to]) => from > start && to - from < 0.7 * (end - start))"
    shared_tab.wait_until(narrow, whole[0])
    assert len({tuple(edges) for edges in shared_tab.page.evaluate(RANGES)}) == 1
    shared_tab.page.locator("#zoom-reset").wait_for()
    shared_tab.page.mouse.dblclick(*middle(shared_tab, "chart-power", 0.5))
    wide = f"span => ({RANGES})().every(([from, to]) => to - from >= span)"
    shared_tab.wait_until(wide, whole[0][1] - whole[0][0])
    shared_tab.page.locator("#zoom-reset").wait_for(state="hidden")


def test_a_hidden_line_stays_hidden(shared_tab: BrowserTab) -> None:
    item = shared_tab.page.locator(".panel:has(#chart-pcie) [data-line='gpu.pcie.tx_mbps']")
    lines = "() => document.querySelector('#chart-pcie .js-plotly-plot').data"
    drawn = f"() => ({lines})().filter(line => line.visible !== false).map(line => line.legendgroup)"
    item.click()
    shared_tab.wait_until(f"() => !({drawn})().includes('gpu.pcie.tx_mbps')")
    newest = f"() => ({lines})().at(-1).x0"
    shared_tab.wait_until(f"before => ({newest})() > before", shared_tab.page.evaluate(newest))
    assert set(shared_tab.page.evaluate(drawn)) == {"gpu.pcie.rx_mbps"}
    assert item.get_attribute("aria-pressed") == "false"
    assert "lines=chart-pcie%7Egpu.pcie.tx_mbps" in shared_tab.page.url
    shared_tab.page.reload()
    shared_tab.wait_for_state("live")
    shared_tab.page.locator("#chart-pcie .scatterlayer .trace").first.wait_for(state="attached")
    shared_tab.wait_until(f"() => !({drawn})().includes('gpu.pcie.tx_mbps')")
    assert item.get_attribute("aria-pressed") == "false"
    item.click()
    shared_tab.wait_until(f"() => ({drawn})().includes('gpu.pcie.tx_mbps')")


def test_a_printed_page_has_charts_as_wide_as_the_sheet(shared_tab: BrowserTab) -> None:
    fits = """() => [...document.querySelectorAll('.trends .chart')].every(chart => !chart.offsetParent
      || !chart.querySelector('.main-svg') || chart.querySelector('.main-svg').clientWidth === chart.clientWidth)"""
    wide = shared_tab.page.locator("#panel-chart-power").bounding_box()
    assert wide is not None
    shared_tab.page.emulate_media(media="print")
    shared_tab.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    shared_tab.wait_until(fits)
    assert shared_tab.page.evaluate("document.querySelector('.section-history > .trends').clientWidth") == 700
    note = shared_tab.text(".print-note")
    assert re.search(r" · \d{4}-\d\d-\d\d \d\d:\d\d:\d\d · last 1 h · \S+$", note)
    assert shared_tab.page.locator(".header").is_hidden()
    shared_tab.page.emulate_media(media="screen")
    shared_tab.page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    shared_tab.wait_until(fits)
    assert shared_tab.page.locator("#panel-chart-power").bounding_box() == wide
    assert shared_tab.page.locator(".print-note").is_hidden()


def test_any_metric_can_be_charted(demo: Running, new_tab: Callable[..., BrowserTab]) -> None:
    tab = new_tab().open(f"{demo.url}?gpu=1")
    tab.page.click("#add-chart")
    tab.page.fill("dialog[open] input[type=search]", "performance state")
    tab.page.locator("dialog[open] .picker-list input").check()
    tab.page.keyboard.press("Escape")
    added = "#chart-added-gpu-performance-state"
    tab.wait_until(f"() => document.querySelector('{added} .js-plotly-plot')?.calcdata?.at(-1)?.length > 1")
    assert "charts=gpu.performance_state" in tab.page.url
    tab.page.locator(f"#panel-{added[1:]} .chart").focus()
    tab.page.keyboard.press("ArrowLeft")
    assert re.search(r"P\d", tab.text(f"#panel-{added[1:]} .readout-value"))
    tab.page.reload()
    tab.wait_until(f"() => document.querySelector('{added} .js-plotly-plot')?.calcdata?.at(-1)?.length > 1")
    # It can be arranged as the others can; the settings dialog, which does not list it, leaves it in its place.
    tab.page.click("#arrange-button")
    panel = f"panel-{added[1:]}"
    order = """() => [...document.querySelectorAll('.trends > .panel')].filter(each => each.offsetParent)
      .sort((a, b) => getComputedStyle(a).order - getComputedStyle(b).order).map(({ id }) => id)"""
    before = tab.page.evaluate(order)
    tab.page.focus(f"#{panel} .drag-handle")
    for _ in range(2):
        tab.page.keyboard.press("ArrowLeft")
    moved = tab.page.evaluate(order)
    assert moved.index(panel) == before.index(panel) - 2
    tab.page.evaluate("ids => dashtop.panelOrder.move(ids[0], ids, 1)", [each for each in moved if each != panel])
    assert tab.page.evaluate(order) == [moved[1], moved[0], *moved[2:]]
    tab.page.keyboard.press("Escape")
    tab.page.reload()
    tab.wait_until("panel => document.getElementById(panel)", panel)
    assert tab.page.evaluate(order) == [moved[1], moved[0], *moved[2:]]
    tab.page.click("#arrange-button")
    assert tab.text(f"#{panel} .arrange-hide") == "Remove"
    tab.page.click(f"#{panel} .arrange-hide")
    assert tab.page.locator(added).count() == 0
    assert tab.page.evaluate("document.activeElement.className") == "drag-handle"
    tab.page.click("[data-arrange-done]")
    # Without arranging it has a button of its own.
    tab.page.evaluate("dashtop.settings.set({charts: 'gpu.performance_state', order: ''})")
    tab.page.get_by_role("button", name="Remove Performance state").click()
    assert tab.page.locator(added).count() == 0
    assert "charts=" not in tab.page.url
    assert tab.errors == []


def test_charts_have_the_accent_whichever_gpu_is_chosen(shared_tab: BrowserTab) -> None:
    colour = "() => document.querySelector('#chart-power .js-plotly-plot').data.at(-1).line.color"
    for index in (3, 0):
        shared_tab.page.select_option("#gpu-selector", str(index))
        shared_tab.wait_until("index => document.querySelector('.gpu-index').textContent === `GPU ${index}`", index)
        shared_tab.wait_until(f"colour => ({colour})() === colour", ACCENT)


def test_gpu_cards_equal_the_api_and_mark_free_gpus(
    nvml_world: WorldFactory, new_tab: Callable[..., BrowserTab]
) -> None:
    world = nvml_world("h100x8")
    world.set(5, "processes", [])
    world.set(5, "utilization", {"gpu": 0, "memory": 0})
    world.set(5, "memory.used", 2**30)
    world.data["gpus"][2]["name"] = "<img src=x onerror='window.harm=1'>"
    world.save()
    with running("--interval", "0.5", "--no-persist", env=world.env()) as server:
        tab = new_tab().open(server.url)
        tab.page.evaluate(COMPARE)
        tab.page.locator("#gpu-card-7").wait_for()
        gpus: list[dict[str, Any]] = server.json("/api/v1/system/gpu-metrics/all")
        for index in range(8):
            card = f"#gpu-card-{index}"
            assert tab.metric("gpu.temperature", card) == f"{gpus[index]['temperature']:.0f}"
            assert tab.metric("gpu.memory.used_gb", card) == f"{gpus[index]['memory']['used_gb']:.1f}"
            assert tab.metric("gpu.fan_speed", card) == "N/A"
        assert tab.text("#gpu-card-2 .card-model").startswith("<img")
        assert tab.page.evaluate("window.harm") is None
        free = tab.page.locator(".gpu-card.is-free")
        assert [card.get_attribute("id") for card in free.all()] == ["gpu-card-5"]
        assert tab.text("[data-free]") == "1 of 8 free"
        assert tab.text("#gpu-card-5 .card-condition") == "Free"
        states = tab.page.locator(".card-condition").all_inner_texts()
        assert len(states) == 8
        assert "" not in states
        heads = "() => new Set([...document.querySelectorAll('.gpu-card')].map(card => card.offsetHeight)).size"
        assert tab.page.evaluate(heads) == 1, "a card is as high in any state"
        tab.page.click("#compare label:has-text('Free first')")
        tab.wait_until("() => document.querySelector('.gpu-card').id === 'gpu-card-5'")
        size = tab.page.viewport_size
        assert size is not None
        tab.page.set_viewport_size({"width": 390, "height": 844})
        assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        tab.page.set_viewport_size(size)
        tab.page.click("#compare label:has-text('Index')")
        tab.wait_until("() => document.querySelector('.gpu-card').id === 'gpu-card-0'")
        tab.page.click("#compare label:has-text('Free memory')")
        tab.wait_until("() => document.querySelector('.gpu-card').id === 'gpu-card-5'")
        tab.wait_until(
            "() => document.querySelector('#gpu-card-0 .sparkline').getAttribute('aria-label')?.startsWith('Use in')"
        )
        tab.page.click("#compare label:has-text('Utilization')")
        tab.wait_until("() => document.querySelector('.gpu-grid').lastElementChild.id === 'gpu-card-5'")
        tab.page.click("#gpu-card-3")
        tab.wait_until("() => document.documentElement.dataset.view === 'single'")
        tab.wait_until("() => document.querySelector('#gpu-selector').value === '3'")
        assert not tab.page.locator("#compare").is_visible()
        assert tab.errors == []


def test_process_memory_chart_shows_layers_with_users(
    nvml_world: WorldFactory, new_tab: Callable[..., BrowserTab]
) -> None:
    world = nvml_world("h100x8")
    own = {"pid": os.getpid(), "name": "pytest", "type": "C", "used_memory": 40 * 2**30}
    other = {"pid": 900_001, "name": "x", "type": "C", "used_memory": 10 * 2**30}
    world.set(0, "processes", [own, other]).set(0, "memory.used", 55 * 2**30).save()
    with running("--interval", "0.5", "--no-persist", env=world.env()) as server:
        tab = new_tab(timezone_id="Asia/Kolkata").open(server.url)
        owner = {each["pid"]: each for each in server.json("/api/v1/system/processes") if each["gpu_id"] == 0}[
            own["pid"]
        ]
        names = "() => [...document.querySelectorAll('[data-legend] > *')].map(name => name.textContent)"
        mine = f"{owner['process_name']} ({owner['username']})"
        tab.wait_until(f"mine => ({names})().join() === [mine, 'pid 900001', 'driver and others'].join()", mine)
        tops = """() => document.querySelector('#chart-processes .js-plotly-plot').calcdata
          .filter(layer => layer[0].trace.meta !== 'missing').slice(0, 3).map(layer => Math.round(layer.at(-1).y))"""
        tab.wait_until(f"() => ({tops})().join() === '40,50,55'")
        # Half of the memory is freed, and the other process ends.
        world.set(0, "processes", [own | {"used_memory": 20 * 2**30}]).set(0, "memory.used", 25 * 2**30).save()
        tab.wait_until(f"() => ({tops})().join() === '20,20,25'")
        tab.page.locator("#chart-processes").scroll_into_view_if_needed()
        tab.page.mouse.move(*middle(tab, "chart-processes", 0.99))
        label = tab.page.locator("#chart-processes ~ .chart-readout")
        label.wait_for()
        words = label.inner_text()
        assert re.match(r"\d\d:\d\d:\d\d", words)
        # The bucket may include time before the memory was freed.
        match = re.search(rf"{re.escape(mine)}\s+([\d.]+) GiB(?: \(([\d.]+)–([\d.]+) GiB\))?", words)
        assert match, words
        mean, least, most = (float(value or match[1]) for value in match.groups())
        assert least == 20 <= mean <= most <= 40
        tab.page.evaluate("() => window.dashtop.settings.set({memory: 'GB'})")
        last = "() => document.querySelector('#chart-processes .js-plotly-plot').data.at(-3).customdata.at(-1)[0]"
        tab.wait_until(f"() => Math.abs(({last})() - 21.47) < 0.01")
        assert tab.errors == []


@pytest.mark.parametrize(
    ("name", "shown", "hidden"),
    [
        ("chart-temperature", "#chart-temperature", "#chart-power"),
        ("compact", "#compact-status", "#gpu-selector"),
    ],
)
def test_an_embedded_panel_in_an_iframe(
    name: str, shown: str, hidden: str, prefixed: Running, new_tab: Callable[..., BrowserTab]
) -> None:
    tab = new_tab()
    outer = FRAME.format(f"embed/{name}")
    tab.page.route("**/host-page", lambda route: route.fulfill(body=outer, content_type="text/html"))
    tab.page.goto(f"{prefixed.url}host-page")
    panel = tab.page.frame_locator("iframe")
    panel.locator(shown).wait_for()
    panel.locator("html[data-live=live]").wait_for()
    assert not panel.locator(hidden).is_visible()
    assert not panel.locator(".brand-name").is_visible()
    ground = "element => getComputedStyle(element).backgroundColor"
    assert panel.locator("body").evaluate(ground) == "rgba(0, 0, 0, 0)"
    assert tab.errors == []


def test_embedded_panels_use_gpu_range_and_theme_of_the_address(
    prefixed: Running, new_tab: Callable[..., BrowserTab]
) -> None:
    tab = new_tab(color_scheme="light")
    for name in ("compact", "chart-temperature", "chart-processes", "panel-processes", "panel-system"):
        tab.open(f"{prefixed.url}embed/{name}?gpu=1&range=5m&theme=dark")
        shown = {"compact": "compact-status"}.get(name, name)
        tab.page.locator(f"#{shown}").wait_for()
        assert tab.page.evaluate("document.documentElement.dataset.bsTheme") == "dark"
        assert tab.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgba(0, 0, 0, 0)"
        for chrome in ("#view-mode", "#settings-button", "#time-range", "footer.footer"):
            assert not tab.page.locator(chrome).is_visible()
        if name in CHARTS:
            tab.wait_until(f"chart => ({POINTS})(chart) > 1", name)
            colours = "chart => document.querySelector(`#${chart} .js-plotly-plot`).data.map(line => line.line.color)"
            assert {ACCENT, with_alpha(ACCENT, 1.0)} & set(tab.page.evaluate(colours, name))
        assert tab.page.evaluate("localStorage.getItem('dashtop.settings')") is None
    tab.open(f"{prefixed.url}embed/chart-temperature?gpu=99")
    tab.wait_until("() => document.querySelector('.embed-caption').textContent.includes('GPU 99 not found')")
    assert "GPU 0" in tab.text(".embed-caption")
    assert tab.errors == []


@pytest.fixture(scope="module")
def prefixed() -> Iterator[Running]:
    with running("--demo", "2", "--interval", "0.5", "--url-prefix", "/gpu/") as server:
        yield server
