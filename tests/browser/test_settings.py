"""What a person chooses: it is done at once, lasts in this browser, and stands in the address for others."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

import pytest

from tests.browser.conftest import TICK, Watched, watching
from tests.processes import running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser

    from tests.processes import Running

KEY = "dashtop.settings"
NAME = "name => document.querySelector('#gpu-heading .card-name').textContent === name"
ORDER = """() => [...document.querySelectorAll('.trends > .panel')].filter(panel => panel.offsetParent)
  .sort((a, b) => getComputedStyle(a).order - getComputedStyle(b).order).map(panel => panel.id)"""
AXIS = (
    "() => document.querySelector('#chart-temperature .js-plotly-plot')._fullLayout.annotations.map(a => a.text).join()"
)


@pytest.fixture(scope="module")
def page(browser: Browser, demo: Running) -> Iterator[Watched]:
    with watching(browser, color_scheme="light") as seen:
        yield seen.open(demo.url)


def chosen(seen: Watched) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(seen.page.url).query).items()}


def stored(seen: Watched) -> Any:
    return json.loads(seen.page.evaluate(f"localStorage.getItem('{KEY}')"))


def open_settings(seen: Watched) -> None:
    seen.page.click("#settings-button")
    seen.page.wait_for_selector("#settings-modal .arrange li")


def close_settings(seen: Watched) -> None:
    seen.page.keyboard.press("Escape")
    seen.page.wait_for_selector("#settings-modal", state="detached")


def pick(seen: Watched, control: str, word: str) -> None:
    seen.page.locator(f"#{control} label").get_by_text(word, exact=True).click()


def degrees(seen: Watched) -> tuple[float, str]:
    shown = seen.page.locator("#panel-temperature [data-metric='gpu.temperature']")
    return float(shown.inner_text()), shown.get_attribute("data-unit") or ""


def test_units_change_numbers_axes_and_words(page: Watched, demo: Running) -> None:
    page.true(f"() => ({AXIS})().includes('°C')")
    lines = [float(each) for each in re.findall(r"(\d+) °C", page.page.evaluate(AXIS))]
    open_settings(page)
    pick(page, "temperature-unit", "°F")
    pick(page, "memory-unit", "GB")
    page.true(f"() => ({AXIS})().includes('°F')")
    converted = [float(each) for each in re.findall(r"(\d+) °F", page.page.evaluate(AXIS))]
    assert converted == pytest.approx([each * 1.8 + 32 for each in lines], abs=1)
    celsius = demo.json("/api/v1/system/gpu-metrics?gpu_id=0")["temperature"]
    assert degrees(page)[0] == pytest.approx(celsius * 1.8 + 32, abs=15)
    assert degrees(page)[1] == "°F"
    total = demo.json("/api/v1/system/gpu-metrics?gpu_id=0")["memory"]["total_gb"]
    shown = page.page.locator("#panel-utilization [data-metric='gpu.memory.total_gb']")
    assert float(shown.inner_text()) == pytest.approx(total * 1.073741824, abs=0.06)
    assert shown.get_attribute("data-unit") == "GB"
    curve = "document.querySelector('#chart-temperature .js-plotly-plot').calcdata.at(-1).at(-1).y"
    assert page.page.evaluate(curve) == pytest.approx(degrees(page)[0], abs=15)
    page.true("() => document.querySelector('#compact-status').textContent !== ''")
    compact = page.page.locator("#compact-status [data-metric='gpu.temperature']")
    assert compact.get_attribute("data-unit") == "°F"
    assert page.page.locator("#panel-storage .mount-total").first.get_attribute("data-unit") == "GB"
    pick(page, "temperature-unit", "°C")
    page.true(f"() => ({AXIS})().includes('°C')")
    assert degrees(page)[1] == "°C"
    close_settings(page)


def test_panels_are_hidden_and_moved_by_keyboard_and_by_dragging(page: Watched) -> None:
    before = page.page.evaluate(ORDER)
    open_settings(page)
    lists = page.page.locator(".arrange").first
    lists.locator("li").nth(0).get_by_role("button", name="down").focus()
    page.page.keyboard.press("Enter")
    moved = [before[1], before[0], *before[2:]]
    assert page.page.evaluate(ORDER) == moved
    assert page.page.evaluate("document.activeElement.ariaLabel") == "Move Utilization down", (
        "the hand stays where it is"
    )
    lists.locator(".grip").nth(3).drag_to(lists.locator("li").nth(0))
    moved.insert(0, moved.pop(3))
    assert page.page.evaluate(ORDER) == moved
    lists.get_by_label("Memory", exact=True).focus()
    page.page.keyboard.press("Space")
    moved.remove("panel-chart-memory")
    assert page.page.evaluate(ORDER) == moved
    assert page.page.evaluate("document.activeElement.type") == "checkbox"
    close_settings(page)
    page.page.reload()
    page.until("live")
    assert page.page.evaluate(ORDER) == moved
    open_settings(page)
    page.page.click("#settings-reset")
    assert page.page.evaluate(ORDER) == before
    close_settings(page)


def test_a_finger_moves_a_panel(page: Watched) -> None:
    wide = page.page.viewport_size
    assert wide
    page.page.set_viewport_size({"width": 390, "height": 700})
    before = page.page.evaluate(ORDER)
    open_settings(page)
    rows = page.page.locator(".arrange").first.locator("li")
    rows.nth(0).locator(".grip").hover()
    grip, third = (each.bounding_box() for each in (rows.nth(0).locator(".grip"), rows.nth(2)))
    assert grip is not None
    assert third is not None
    finger = page.page.context.new_cdp_session(page.page)
    x, y = grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2
    finger.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
    for share in (0.3, 0.6, 1.0):
        at = {"x": x, "y": y + share * (third["y"] + third["height"] / 2 - y)}
        finger.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [at]})
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.true(f"moved => ({ORDER})().join() === moved", ",".join([before[1], before[2], before[0], *before[3:]]))
    page.page.click("#settings-reset")
    assert page.page.evaluate(ORDER) == before
    close_settings(page)
    page.page.set_viewport_size(wide)


def test_the_interval_is_the_viewers_and_collection_follows(page: Watched) -> None:
    open_settings(page)
    assert page.page.locator("#update-interval input:checked").input_value() == "0.5"
    pick(page, "update-interval", "2 s")
    page.page.wait_for_url(re.compile("interval=2"))
    with page.page.expect_request(lambda request: TICK in request.url) as asked:
        pass
    body = json.loads(asked.value.post_data or "")
    assert body["inputs"][0]["value"]["interval"] == 2
    page.page.goto(urlunsplit(urlsplit(page.page.url)._replace(query="")))
    page.until("live")
    open_settings(page)
    assert page.page.locator("#update-interval input:checked").input_value() == "2"
    pick(page, "update-interval", "0.5 s")
    page.true("() => new URLSearchParams(location.search).get('interval') === '0.5'")
    close_settings(page)


def test_view_gpu_range_theme_and_units_are_kept_and_stand_in_the_address(
    page: Watched, demo: Running, watch: Callable[..., Watched]
) -> None:
    seen = page
    seen.page.select_option("#gpu-selector", "5")
    pick(seen, "time-range", "15 min")
    pick(seen, "view-mode", "All GPUs")
    seen.true("() => document.documentElement.dataset.view === 'compare'")
    assert not seen.page.locator("#panel-power").is_visible()
    assert not seen.page.locator("#chart-memory").is_visible()
    seen.true("() => document.querySelector('#gpu-selector').value === '5'")
    uuid = demo.json("/api/v1/system/gpu-info/5")["uuid"][:12]
    expected = {"view": "compare", "gpu": uuid, "range": "15m"}
    assert expected.items() <= chosen(seen).items()
    assert {"version": 2, **expected}.items() <= stored(seen).items()
    link = seen.page.url
    seen.page.goto(demo.url)
    seen.until("live")
    assert expected.items() <= chosen(seen).items(), "what was stored"
    assert seen.page.locator("#view-mode input:checked").input_value() == "compare"
    pick(seen, "view-mode", "GPU")
    seen.true("() => document.documentElement.dataset.view === 'single'")
    assert seen.page.locator("#panel-power").is_visible()
    # Somebody else opens the link: it beats what they have stored, and what it does not name is theirs.
    other = watch()
    other.page.add_init_script(
        f"localStorage.getItem('{KEY}') || localStorage.setItem('{KEY}', JSON.stringify("
        "{version: 1000, theme: 'dark', view: 'single', range: '5m', memory: 'TB', later: 1}))"
    )
    other.open(link)
    assert other.page.evaluate("document.documentElement.dataset.view") == "compare"
    assert other.page.evaluate("document.documentElement.dataset.bsTheme") == "dark"
    assert other.page.locator("#time-range input:checked").input_value() == "15m"
    assert other.errors == []


@pytest.mark.parametrize(
    "junk", ["", "{", "7", "null", '"x"', "[]", '{"view": "<script>", "gpu": {}, "order": "a{}b"}']
)
def test_junk_in_storage_is_as_good_as_nothing(junk: str, demo: Running, watch: Callable[..., Watched]) -> None:
    seen = watch()
    seen.page.add_init_script(f"localStorage.setItem('{KEY}', {json.dumps(junk)})")
    seen.open(demo.url + "?view=%3Cb%3E&range=9z&gpu=%20&hidden=*&token=kept")
    assert seen.page.evaluate("document.documentElement.dataset.view") == "single"
    assert seen.page.locator("#time-range input:checked").input_value() == "1h"
    assert seen.page.locator("#panel-power").is_visible()
    assert seen.errors == []


def test_settings_of_the_first_version_are_read(demo: Running, watch: Callable[..., Watched]) -> None:
    seen = watch(color_scheme="light")
    seen.page.add_init_script(
        """localStorage.setItem('dashtop.theme', 'dark');
        localStorage.setItem('_dash_persistence.gpu-selector.value.true', '["3", "0"]');
        localStorage.setItem('_dash_persistence.time-range.value.true', '["5m", "1h"]');"""
    )
    seen.open(demo.url)
    assert seen.page.evaluate("document.documentElement.dataset.bsTheme") == "dark"
    seen.true("() => document.querySelector('#gpu-selector').value === '3'")
    assert seen.page.locator("#time-range input:checked").input_value() == "5m"


def test_a_gpu_that_is_gone_is_said_to_be(demo: Running, watch: Callable[..., Watched]) -> None:
    seen = watch().open(f"{demo.url}?gpu=GPU-deadbeef")
    seen.page.wait_for_selector("#gpu-gone:not([hidden])")
    assert "GPU GPU-deadbeef not found. Showing GPU 0" in seen.text("#gpu-gone")
    assert seen.page.locator("#gpu-gone").get_attribute("role") == "status"
    assert seen.page.input_value("#gpu-selector") == "0"
    seen.page.click("#gpu-gone-keep")
    seen.page.wait_for_selector("#gpu-gone", state="hidden")
    uuid = demo.json("/api/v1/system/gpu-info/0")["uuid"][:12]
    assert chosen(seen)["gpu"] == stored(seen)["gpu"] == uuid
    assert seen.errors == []


def test_the_status_goes_on_with_the_page_and_without_it(demo: Running, watch: Callable[..., Watched]) -> None:
    seen = watch().open(demo.url)
    seen.until("live")
    asked: list[str] = []
    seen.page.on("request", lambda request: asked.append(request.url) if "_compact" in request.url else None)
    told = "() => document.querySelector('#compact-status').innerText"
    for _ in range(2):
        seen.true(f"old => ({told})() !== old", seen.page.evaluate(told))
    assert len(asked) <= 1, "what the page is told at every tick is not asked for a second time"
    seen.page.route(f"**/{TICK}*", lambda route: route.abort())
    seen.until("disconnected")
    asked.clear()
    for _ in range(2):
        seen.true(f"old => ({told})() !== old", seen.page.evaluate(told))
    assert asked
    assert seen.page.locator("#compact-status").get_attribute("data-old") == "false"


def test_export_is_what_is_shown_under_a_prefix_and_with_a_token(watch: Callable[..., Watched]) -> None:
    with running("--demo", "3", "--interval", "0.5", "--url-prefix", "/gpu/", "--token", "of-the-test") as server:
        seen = watch().open(f"{server.url}?token=of-the-test")
        seen.page.select_option("#gpu-selector", "2")
        pick(seen, "time-range", "5 min")
        seen.page.click("[data-line='system.cpu.usage_percent']")
        seen.true("() => document.querySelector('#gpu-heading .card-aside').innerText.includes('GPU 2')")
        seen.page.locator("#export-button").focus()
        seen.page.keyboard.press("Enter")
        seen.true("() => document.querySelector('[data-about]').innerText !== ''")
        assert seen.text("[data-about]") == "Last 5 min, GPU 2 and the host, 5 metrics"
        assert seen.page.locator("[data-format]").evaluate_all("all => all.map(each => each.dataset.format)") == [
            "csv", "json", "parquet"
        ]  # fmt: skip
        with seen.page.expect_download() as download:
            seen.page.click("[data-format='json']")
        assert download.value.suggested_filename == "dashtop-5m.json"
        body = json.loads(download.value.path().read_text())
        uuid = seen.page.evaluate("async () => (await (await fetch('api/v1/system/gpu-info/2')).json()).uuid")
        assert {(column["metric"], column["gpu_uuid"]) for column in body["columns"]} == {
            ("gpu.utilization.gpu", uuid), ("gpu.memory.used_gb", uuid), ("system.memory.used_gb", None),
            ("gpu.temperature", uuid), ("gpu.power.current_watts", uuid),
        }  # fmt: skip
        assert any(value is not None for row in body["rows"] for value in row[1:])
        assert body["rows"][-1][0] - body["rows"][0][0] <= 300_000
        # Everything, as a table; and the menu is left by Escape.
        seen.page.click("#export-button")
        seen.page.check("#export-all")
        with seen.page.expect_download() as download:
            seen.page.click("[data-format='csv']")
        head = download.value.path().read_text().partition("\r\n")[0]
        assert "gpu.fan_speed" in head
        assert "system.network.upload_mbps" in head
        seen.page.click("#export-button")
        seen.page.keyboard.press("Escape")
        assert not seen.page.locator("[data-about]").is_visible()
        assert seen.page.evaluate("document.activeElement.id") == "export-button"
        assert seen.errors == []
