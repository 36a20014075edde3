"""Charts that belong together, all GPUs beside each other, and panels alone: against a fake world and the API."""

from __future__ import annotations

import os
import re
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest

from dashtop.ui.theme import GPUS, with_alpha
from tests.browser.conftest import POINTS, Watched, watching
from tests.processes import Running, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser

    from tests.fake_nvml.fixtures import WorldFactory

CHARTS = ("chart-utilization", "chart-memory", "chart-temperature", "chart-power", "chart-processes")
RANGES = """() => [...document.querySelectorAll('.js-plotly-plot')]
  .map(plot => plot._fullLayout.xaxis.range.map(edge => new Date(edge.replace(' ', 'T')).getTime()))"""
COMPARE = "() => window.dashtop.state.set({view: 'compare'})"
# A line of half hours on a chart of its own making; its points' times as Plotly has them: the viewer's clock, as UTC.
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
def trends(browser: Browser, demo: Running) -> Iterator[Watched]:
    with watching(browser, width=1440) as seen:
        seen.open(demo.url)
        for chart in CHARTS:
            seen.true(f"chart => ({POINTS})(chart) > 3", chart)
        yield seen
        assert seen.errors == []


def middle(seen: Watched, chart: str, share: float) -> tuple[float, float]:
    box = seen.page.locator(f"#{chart} .nsewdrag").bounding_box()
    assert box is not None
    return box["x"] + share * box["width"], box["y"] + box["height"] / 2


def test_the_pointer_on_one_chart_is_on_all_of_them(trends: Watched) -> None:
    trends.page.mouse.move(*middle(trends, "chart-power", 0.9))
    trends.page.mouse.move(*middle(trends, "chart-power", 0.97))
    labels = "() => [...document.querySelectorAll('.hoverlayer .legend')].map(label => label.textContent)"
    trends.true(f"() => ({labels})().length === 5")
    words = trends.page.evaluate(labels)
    assert [unit for unit, label in zip(("%", "GiB", "°C", "W", "GiB"), words, strict=True) if unit not in label] == []
    told = re.search(r"([\d.]+) W  \(([\d.]+) to ([\d.]+)\)", words[3])
    assert told, words[3]
    mean, least, most = map(float, told.groups())
    assert least <= mean <= most
    titles = "() => [...document.querySelectorAll('.hoverlayer .legendtitletext')].map(title => title.textContent)"
    before = trends.page.evaluate(titles)
    trends.true(
        f"before => {{ const now = ({titles})(); return new Set(now).size === 1 && now[0] !== before }}", before[0]
    )
    trends.page.mouse.move(0, 0)
    trends.true(f"() => ({labels})().length === 0")


@pytest.mark.parametrize("day", ["2026-03-08", "2026-11-01", "2026-07-01"])
def test_times_are_the_viewers_when_its_clock_is_put_forward_or_back_on_the_way(
    day: str, demo: Running, watch: Callable[..., Watched]
) -> None:
    zone = ZoneInfo("America/New_York")
    seen = watch(timezone_id=zone.key).open(demo.url)
    seen.true(f"chart => ({POINTS})(chart) > 3", "chart-power")
    start = datetime.fromisoformat(f"{day}T00:00:00+00:00")
    moments = [start + timedelta(minutes=30 * half) for half in range(48)]
    local = [each.astimezone(zone).replace(tzinfo=timezone.utc).timestamp() * 1000 for each in moments]
    assert seen.true(HALF_HOURS, ["chart-power", start.timestamp() * 1000, len(moments)]) == local
    assert seen.errors == []


def test_a_zoom_is_for_all_charts_and_a_double_click_leaves_it(trends: Watched) -> None:
    whole = trends.page.evaluate(RANGES)
    assert len({tuple(edges) for edges in whole}) == 1
    trends.page.mouse.move(*middle(trends, "chart-memory", 0.4))
    trends.page.mouse.down()
    trends.page.mouse.move(*middle(trends, "chart-memory", 0.9), steps=5)
    trends.page.mouse.up()
    narrow = f"([start, end]) => ({RANGES})().every(([from, to]) => from > start && to - from < 0.7 * (end - start))"
    trends.true(narrow, whole[0])
    assert len({tuple(edges) for edges in trends.page.evaluate(RANGES)}) == 1
    trends.page.locator("#zoom-reset").wait_for()
    trends.page.mouse.dblclick(*middle(trends, "chart-power", 0.5))
    wide = f"span => ({RANGES})().every(([from, to]) => to - from >= span)"
    trends.true(wide, whole[0][1] - whole[0][0])
    trends.page.locator("#zoom-reset").wait_for(state="hidden")


def test_a_hidden_line_stays_hidden_while_new_figures_arrive(trends: Watched) -> None:
    item = trends.page.locator(".panel:has(#chart-utilization) [data-line='system.cpu.usage_percent']")
    lines = "() => document.querySelector('#chart-utilization .js-plotly-plot').data"
    drawn = f"() => ({lines})().filter(line => line.visible !== false).map(line => line.legendgroup)"
    item.click()
    trends.true(f"() => !({drawn})().includes('system.cpu.usage_percent')")
    newest = f"() => ({lines})().at(-1).x0"
    trends.true(f"before => ({newest})() > before", trends.page.evaluate(newest))
    assert set(trends.page.evaluate(drawn)) == {"gpu.utilization.gpu"}
    assert item.get_attribute("aria-pressed") == "false"
    item.click()
    trends.true(f"() => ({drawn})().includes('system.cpu.usage_percent')")


def test_a_gpu_has_its_colour_in_charts_too(trends: Watched) -> None:
    colour = "() => document.querySelector('#chart-power .js-plotly-plot').data.at(-1).line.color"
    for index in (3, 0):
        trends.page.select_option("#gpu-selector", str(index))
        trends.true(f"colour => ({colour})() === colour", GPUS[index])


def test_cards_show_what_the_api_says_and_which_gpus_are_free(
    nvml_world: WorldFactory, watch: Callable[..., Watched]
) -> None:
    world = nvml_world("h100x8")
    world.set(5, "processes", [])
    world.set(5, "utilization", {"gpu": 0, "memory": 0})
    world.set(5, "memory.used", 2**30)
    world.data["gpus"][2]["name"] = "<img src=x onerror='window.harm=1'>"
    world.save()
    with running("--interval", "0.5", "--no-persist", env=world.env()) as server:
        seen = watch().open(server.url)
        seen.page.evaluate(COMPARE)
        seen.page.locator("#gpu-card-7").wait_for()
        told: list[dict[str, Any]] = server.json("/api/v1/system/gpu-metrics/all")
        for index in range(8):
            card = f"#gpu-card-{index}"
            assert seen.metric("gpu.temperature", card) == f"{told[index]['temperature']:.0f}"
            assert seen.metric("gpu.memory.used_gb", card) == f"{told[index]['memory']['used_gb']:.1f}"
            assert seen.metric("gpu.fan_speed", card) == "N/A"
        assert seen.text("#gpu-card-2 .card-model").startswith("<img")
        assert seen.page.evaluate("window.harm") is None
        free = seen.page.locator(".gpu-card.is-free")
        assert [card.get_attribute("id") for card in free.all()] == ["gpu-card-5"]
        assert seen.text("[data-free]") == "1 of 8 free"
        seen.page.click("#compare label:has-text('Free memory')")
        seen.true("() => document.querySelector('.gpu-card').id === 'gpu-card-5'")
        seen.true("() => document.querySelector('#gpu-card-0 .spark').getAttribute('aria-label')?.startsWith('Use in')")
        seen.page.click("#compare label:has-text('Utilization')")
        seen.true("() => document.querySelector('.fleet').lastElementChild.id === 'gpu-card-5'")
        seen.page.click("#gpu-card-3")
        seen.true("() => document.documentElement.dataset.view === 'single'")
        seen.true("() => document.querySelector('#gpu-selector').value === '3'")
        assert not seen.page.locator("#compare").is_visible()
        assert seen.errors == []


def test_who_holds_the_memory_is_seen_in_layers_with_their_owners(
    nvml_world: WorldFactory, watch: Callable[..., Watched]
) -> None:
    world = nvml_world("h100x8")
    own = {"pid": os.getpid(), "name": "pytest", "type": "C", "used_memory": 40 * 2**30}
    other = {"pid": 900_001, "name": "x", "type": "C", "used_memory": 10 * 2**30}
    world.set(0, "processes", [own, other]).set(0, "memory.used", 55 * 2**30).save()
    with running("--interval", "0.5", "--no-persist", env=world.env()) as server:
        seen = watch(timezone_id="Asia/Kolkata").open(server.url)
        told = {each["pid"]: each for each in server.json("/api/v1/system/processes") if each["gpu_id"] == 0}[
            own["pid"]
        ]
        names = "() => [...document.querySelectorAll('[data-names] > *')].map(name => name.textContent)"
        mine = f"{told['process_name']} ({told['username']})"
        seen.true(f"mine => ({names})().join() === [mine, 'pid 900001', 'driver and others'].join()", mine)
        tops = """() => document.querySelector('#chart-processes .js-plotly-plot').calcdata.slice(0, 3)
          .map(layer => Math.round(layer.at(-1).y))"""
        seen.true(f"() => ({tops})().join() === '40,50,55'")
        # Half of it is given back, and the other process ends.
        world.set(0, "processes", [own | {"used_memory": 20 * 2**30}]).set(0, "memory.used", 25 * 2**30).save()
        seen.true(f"() => ({tops})().join() === '20,20,25'")
        seen.page.locator("#chart-processes").scroll_into_view_if_needed()
        seen.page.mouse.move(*middle(seen, "chart-processes", 0.99))
        label = seen.page.locator("#chart-processes .hoverlayer .legend")
        label.wait_for()
        words = label.text_content() or ""
        assert re.search(r"[A-Z][a-z]{2} \d\d, \d\d:\d\d:\d\d", words)
        assert f"{mine}, pid {own['pid']}" in words
        # The bucket may hold some of the time before the half was given back.
        held = re.search(rf", pid {own['pid']} : ([\d.]+) GiB {{2}}\(([\d.]+) to ([\d.]+)\)", words)
        assert held, words
        mean, least, most = map(float, held.groups())
        assert least == 20 <= mean <= most <= 40
        seen.page.evaluate("() => window.dashtop.state.set({memory: 'GB'})")
        last = "() => document.querySelector('#chart-processes .js-plotly-plot').data.at(-3).customdata.at(-1)[0]"
        seen.true(f"() => Math.abs(({last})() - 21.47) < 0.01")
        assert seen.errors == []


@pytest.mark.parametrize(
    ("name", "shown", "hidden"),
    [
        ("chart-temperature", "#chart-temperature", "#chart-power"),
        ("compact", "#compact-status", "#gpu-selector"),
    ],
)
def test_a_panel_alone_in_an_iframe(
    name: str, shown: str, hidden: str, prefixed: Running, watch: Callable[..., Watched]
) -> None:
    seen = watch()
    outer = FRAME.format(f"embed/{name}")
    seen.page.route("**/host-page", lambda route: route.fulfill(body=outer, content_type="text/html"))
    seen.page.goto(f"{prefixed.url}host-page")
    panel = seen.page.frame_locator("iframe")
    panel.locator(shown).wait_for()
    panel.locator("html[data-live=live]").wait_for()
    assert not panel.locator(hidden).is_visible()
    assert not panel.locator(".name").is_visible()
    ground = "element => getComputedStyle(element).backgroundColor"
    assert panel.locator("body").evaluate(ground) == "rgba(0, 0, 0, 0)"
    assert seen.errors == []


def test_panels_are_embedded_with_the_gpu_range_and_theme_of_their_address(
    prefixed: Running, watch: Callable[..., Watched]
) -> None:
    seen = watch(color_scheme="light")
    for name in ("compact", "chart-temperature", "chart-processes", "panel-processes", "panel-system"):
        seen.open(f"{prefixed.url}embed/{name}?gpu=1&range=5m&theme=dark")
        shown = {"compact": "compact-status"}.get(name, name)
        seen.page.locator(f"#{shown}").wait_for()
        assert seen.page.evaluate("document.documentElement.dataset.bsTheme") == "dark"
        assert seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgba(0, 0, 0, 0)"
        for chrome in ("#view-mode", "#settings-button", "#time-range", "footer.foot"):
            assert not seen.page.locator(chrome).is_visible()
        if name in CHARTS:
            seen.true(f"chart => ({POINTS})(chart) > 1", name)
            colours = "chart => document.querySelector(`#${chart} .js-plotly-plot`).data.map(line => line.line.color)"
            assert {GPUS[1], with_alpha(GPUS[1], 0.95)} & set(seen.page.evaluate(colours, name))
        assert seen.page.evaluate("localStorage.getItem('dashtop.settings')") is None
    assert seen.errors == []


@pytest.fixture(scope="module")
def prefixed() -> Iterator[Running]:
    with running("--demo", "2", "--interval", "0.5", "--url-prefix", "/gpu/") as server:
        yield server
