"""Settings: applied at once, stored in the browser, and part of the address."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

import pytest

from tests.browser.conftest import TICK, BrowserTab, open_browser_tab
from tests.processes import running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser

    from tests.processes import Running

KEY = "dashtop.settings"
NAME = "name => document.querySelector('#gpu-heading .card-title').textContent === name"
ORDER = """() => [...document.querySelectorAll('.trends > .panel')].filter(panel => panel.offsetParent)
  .sort((a, b) => getComputedStyle(a).order - getComputedStyle(b).order).map(panel => panel.id)"""
AXIS = (
    "() => document.querySelector('#chart-temperature .js-plotly-plot')._fullLayout.annotations.map(a => a.text).join()"
)


@pytest.fixture(scope="module")
def tab(browser: Browser, demo: Running) -> Iterator[BrowserTab]:
    with open_browser_tab(browser, color_scheme="light") as tab:
        yield tab.open(f"{demo.url}?gpu=1")  # a GPU with all charts


def address_settings(tab: BrowserTab) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(tab.page.url).query).items()}


def stored_settings(tab: BrowserTab) -> Any:
    return json.loads(tab.page.evaluate(f"localStorage.getItem('{KEY}')"))


def open_settings(tab: BrowserTab) -> None:
    tab.page.click("#settings-button")
    tab.page.wait_for_selector("#settings-modal .panel-list li")


def close_settings(tab: BrowserTab) -> None:
    tab.page.keyboard.press("Escape")
    tab.page.wait_for_selector("#settings-modal", state="detached")


def choose(tab: BrowserTab, control: str, label: str) -> None:
    tab.page.locator(f"#{control} label").get_by_text(label, exact=True).click()


def shown_temperature(tab: BrowserTab) -> tuple[float, str]:
    shown = tab.page.locator("#panel-temperature [data-metric='gpu.temperature']")
    return float(shown.inner_text()), shown.get_attribute("data-unit") or ""


def test_units_apply_to_values_axes_and_annotations(tab: BrowserTab, demo: Running) -> None:
    tab.wait_until(f"() => ({AXIS})().includes('°C')")
    lines = [float(each) for each in re.findall(r"(\d+) °C", tab.page.evaluate(AXIS))]
    open_settings(tab)
    choose(tab, "temperature-unit", "°F")
    choose(tab, "memory-unit", "GB")
    tab.wait_until(f"() => ({AXIS})().includes('°F')")
    converted = [float(each) for each in re.findall(r"(\d+) °F", tab.page.evaluate(AXIS))]
    assert converted == pytest.approx([each * 1.8 + 32 for each in lines], abs=1)
    celsius = demo.json("/api/v1/system/gpu-metrics?gpu_id=1")["temperature"]
    assert shown_temperature(tab)[0] == pytest.approx(celsius * 1.8 + 32, abs=15)
    assert shown_temperature(tab)[1] == "°F"
    total = demo.json("/api/v1/system/gpu-metrics?gpu_id=1")["memory"]["total_gb"]
    shown = tab.page.locator("#panel-vram [data-metric='gpu.memory.total_gb']")
    assert float(shown.inner_text()) == pytest.approx(total * 1.073741824, abs=0.06)
    assert shown.get_attribute("data-unit") == "GB"
    curve = "document.querySelector('#chart-temperature .js-plotly-plot').calcdata.at(-1).at(-1).y"
    # The last bucket may be half a minute old, and a simulated job may have ended since; °C would be 70 below.
    assert tab.page.evaluate(curve) == pytest.approx(shown_temperature(tab)[0], abs=35)
    tab.wait_until("() => document.querySelector('#compact-status').textContent !== ''")
    compact = tab.page.locator("#compact-status [data-metric='gpu.temperature']")
    assert compact.get_attribute("data-unit") == "°F"
    assert tab.page.locator("#panel-storage .mount-total").first.get_attribute("data-unit") == "GB"
    margin = tab.page.locator("#panel-temperature [data-metric='gpu.temperature_margin']")
    known = demo.json("/api/v1/system/gpu-metrics?gpu_id=1")["temperature_margin"]
    assert float(margin.inner_text()) == pytest.approx(known * 1.8, abs=15), "a difference has no offset of 32"
    assert margin.get_attribute("data-unit") == "°F"
    ticks = tab.page.evaluate("() => document.querySelector('#chart-memory .js-plotly-plot').layout.yaxis.ticktext")
    assert ticks == ["0", "30", "60"], "85.5 GB in round steps"
    choose(tab, "temperature-unit", "°C")
    tab.wait_until(f"() => ({AXIS})().includes('°C')")
    assert shown_temperature(tab)[1] == "°C"
    close_settings(tab)


# Paints the newest snapshot with another utilization: text, severity and colour of the note beside it.
NOTE_AT = """percent => {
  const { snapshot } = dashtop.polling.latest();
  snapshot.values['gpu.utilization.gpu'] = percent;
  dashtop.repaint();
  const note = document.querySelector('#panel-utilization .warning');
  return [note.textContent, note.dataset.severity ?? null, getComputedStyle(note).color];
}"""
INFO_COLOUR = """() => {
  const probe = document.body.appendChild(document.createElement('i'));
  probe.style.color = 'var(--info-text)';
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}"""


def test_bars_are_coloured_by_load_if_chosen(tab: BrowserTab) -> None:
    bar = "() => document.querySelector('#panel-vram .bar')"
    load = f"() => ({bar})().dataset.load"
    colour = f"() => getComputedStyle(({bar})(), '::before').backgroundColor"
    assert tab.page.evaluate(load) is None
    plain = tab.page.evaluate(colour)
    open_settings(tab)
    choose(tab, "bar-colours", "By load")
    percent = float(tab.metric("gpu.memory.used_percent", "#panel-vram"))
    expected = "low" if percent < 70 else "medium" if percent < 85 else "high"
    tab.wait_until(f"expected => ({load})() === expected", expected)
    assert tab.page.evaluate(colour) != plain
    assert "bars=load" in tab.page.url
    # More than 95 % utilization is mentioned, in the colour of a note.
    note = tab.page.evaluate(NOTE_AT, 95.1)
    assert note == ["High GPU utilization", "info", tab.page.evaluate(INFO_COLOUR)]
    assert tab.page.evaluate(NOTE_AT, 95)[:2] == ["", None]
    choose(tab, "bar-colours", "Warnings only")
    tab.wait_until(f"() => ({load})() === undefined")
    close_settings(tab)


def test_panels_are_hidden_and_moved_by_keyboard_and_mouse(tab: BrowserTab) -> None:
    before = tab.page.evaluate(ORDER)
    open_settings(tab)
    lists = tab.page.locator(".panel-list").first
    lists.locator("li").nth(0).get_by_role("button", name="down").focus()
    tab.page.keyboard.press("Enter")
    moved = [before[1], before[0], *before[2:]]
    assert tab.page.evaluate(ORDER) == moved
    assert tab.page.evaluate("document.activeElement.ariaLabel") == "Move Utilization down", (
        "the focus stays on the button"
    )
    lists.locator(".drag-handle").nth(3).drag_to(lists.locator("li").nth(0))
    moved.insert(0, moved.pop(3))
    assert tab.page.evaluate(ORDER) == moved
    lists.get_by_label("Memory in use", exact=True).focus()
    tab.page.keyboard.press("Space")
    moved.remove("panel-chart-memory")
    assert tab.page.evaluate(ORDER) == moved
    assert tab.page.evaluate("document.activeElement.type") == "checkbox"
    close_settings(tab)
    tab.page.reload()
    tab.wait_for_state("live")
    assert tab.page.evaluate(ORDER) == moved
    open_settings(tab)
    tab.page.click("#settings-reset")
    assert tab.page.evaluate(ORDER) == before
    close_settings(tab)


def centre(tab: BrowserTab, selector: str) -> tuple[float, float]:
    """Scroll to an element, and return its centre in the window."""
    tab.page.locator(selector).scroll_into_view_if_needed()
    box = tab.page.locator(selector).bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag_with_finger(tab: BrowserTab, x: float, start: float, end: float) -> None:
    """Touch at (x, start), move to (x, end) in three steps, and let go."""
    finger = tab.page.context.new_cdp_session(tab.page)
    finger.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": start}]})
    for share in (0.3, 0.6, 1.0):
        at = {"x": x, "y": start + share * (end - start)}
        finger.send("Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [at]})
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


def test_panels_are_arranged_on_the_page(tab: BrowserTab) -> None:
    """By mouse, keyboard and finger, with the settings of the dialog; Escape takes back a drag, then ends it."""
    before = tab.page.evaluate(ORDER)
    first, second, third, *rest = before
    tab.page.click("#arrange-button")
    grip = f"#{first} .drag-handle"
    # Mouse: anywhere on the panel
    tab.page.mouse.move(*centre(tab, f"#{first} .arrange-cover"))
    tab.page.mouse.down()
    tab.page.mouse.move(*centre(tab, f"#{third} .arrange-cover"), steps=8)
    assert tab.page.evaluate(ORDER) == [second, third, first, *rest]
    tab.page.keyboard.press("Escape")
    assert tab.page.evaluate(ORDER) == before, "Escape takes back the drag"
    tab.page.mouse.up()
    # Keyboard: the handle, and the buttons
    tab.page.focus(grip)
    tab.page.keyboard.press("ArrowRight")
    tab.page.keyboard.press("ArrowRight")
    assert tab.page.evaluate(ORDER) == [second, third, first, *rest]
    assert tab.text(".arrange-bar [role=status]") == f"Utilization: place 3 of {len(before)}"
    tab.page.press(f"#{first} .earlier", "Enter")
    assert tab.page.evaluate(ORDER) == [second, first, third, *rest]
    assert tab.page.evaluate("document.activeElement.ariaLabel") == "Move Utilization earlier"
    # Hidden panels stay in sight until the end.
    tab.page.click(f"#{third} .arrange-hide")
    assert third in tab.page.evaluate(ORDER)
    tab.page.click("[data-arrange-done]")
    assert tab.page.evaluate(ORDER) == [second, first, *rest]
    assert tab.page.evaluate("document.activeElement.id") == "arrange-button"
    # The dialog shows the same, and begins arranging too.
    open_settings(tab)
    rows = tab.page.locator(".panel-list").first.locator("li")
    assert [rows.nth(at).get_attribute("data-panel") for at in range(3)] == [second, first, third]
    assert not rows.nth(2).locator("input").is_checked()
    tab.page.click("#settings-arrange")
    tab.page.wait_for_selector("#settings-modal", state="detached")
    # Finger: the handle
    wide = tab.page.viewport_size
    assert wide
    tab.page.set_viewport_size({"width": 390, "height": 844})
    assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    x, y = centre(tab, grip)
    box = tab.page.locator(f"#{second}").bounding_box()
    assert box is not None
    drag_with_finger(tab, x, y, box["y"] + box["height"] / 2)
    tab.wait_until(f"moved => ({ORDER})().join() === moved", ",".join([first, second, third, *rest]))
    tab.page.click("[data-arrange-reset]")
    assert tab.page.evaluate(ORDER) == before
    tab.page.keyboard.press("Escape")
    tab.wait_until("() => document.documentElement.dataset.arrange === undefined")
    assert tab.page.locator(".arrange-cover").count() == 0
    assert not {"order", "hidden"} & address_settings(tab).keys()
    tab.page.set_viewport_size(wide)
    assert tab.errors == []


def test_panels_are_moved_by_touch(tab: BrowserTab) -> None:
    wide = tab.page.viewport_size
    assert wide
    tab.page.set_viewport_size({"width": 390, "height": 700})
    before = tab.page.evaluate(ORDER)
    open_settings(tab)
    rows = tab.page.locator(".panel-list").first.locator("li")
    rows.nth(0).locator(".drag-handle").hover()
    grip, third = (each.bounding_box() for each in (rows.nth(0).locator(".drag-handle"), rows.nth(2)))
    assert grip is not None
    assert third is not None
    x, y = grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2
    drag_with_finger(tab, x, y, third["y"] + third["height"] / 2)
    tab.wait_until(f"moved => ({ORDER})().join() === moved", ",".join([before[1], before[2], before[0], *before[3:]]))
    tab.page.click("#settings-reset")
    assert tab.page.evaluate(ORDER) == before
    close_settings(tab)
    tab.page.set_viewport_size(wide)


def test_the_update_interval_is_sent_and_stored(tab: BrowserTab) -> None:
    open_settings(tab)
    assert tab.page.locator("#update-interval input:checked").input_value() == "0.5"
    choose(tab, "update-interval", "2 s")
    tab.page.wait_for_url(re.compile("interval=2"))
    with tab.page.expect_request(lambda request: TICK in request.url) as ticks:
        pass
    body = json.loads(ticks.value.post_data or "")
    assert body["inputs"][0]["value"]["interval"] == 2
    tab.page.goto(urlunsplit(urlsplit(tab.page.url)._replace(query="page=gpus")))
    tab.wait_for_state("live")
    open_settings(tab)
    assert tab.page.locator("#update-interval input:checked").input_value() == "2"
    choose(tab, "update-interval", "0.5 s")
    tab.wait_until("() => new URLSearchParams(location.search).get('interval') === '0.5'")
    close_settings(tab)


def test_view_gpu_and_range_are_stored_and_part_of_the_address(
    tab: BrowserTab, demo: Running, new_tab: Callable[..., BrowserTab]
) -> None:
    tab.page.select_option("#gpu-selector", "5")
    choose(tab, "time-range", "15 min")
    choose(tab, "view-mode", "All GPUs")
    tab.wait_until("() => document.documentElement.dataset.view === 'compare'")
    assert not tab.page.locator("#panel-power").is_visible()
    assert not tab.page.locator("#chart-memory").is_visible()
    tab.wait_until("() => document.querySelector('#gpu-selector').value === '5'")
    uuid = demo.json("/api/v1/system/gpu-info/5")["uuid"][:12]
    expected = {"view": "compare", "gpu": uuid, "range": "15m"}
    assert expected.items() <= address_settings(tab).items()
    assert {"version": 2, **expected}.items() <= stored_settings(tab).items()
    link = tab.page.url
    tab.page.goto(f"{demo.url}?page=gpus")
    tab.wait_for_state("live")
    assert expected.items() <= address_settings(tab).items(), "stored settings"
    assert tab.page.locator("#view-mode input:checked").input_value() == "compare"
    choose(tab, "view-mode", "GPU")
    tab.wait_until("() => document.documentElement.dataset.view === 'single'")
    assert tab.page.locator("#panel-power").is_visible()
    # In another browser the link takes precedence over stored settings, which apply to all others.
    other = new_tab()
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
    "invalid", ["", "{", "7", "null", '"x"', "[]", '{"view": "<script>", "gpu": {}, "order": "a{}b"}']
)
def test_invalid_storage_and_address_are_ignored(
    invalid: str, demo: Running, new_tab: Callable[..., BrowserTab]
) -> None:
    tab = new_tab()
    tab.page.add_init_script(f"localStorage.setItem('{KEY}', {json.dumps(invalid)})")
    tab.open(demo.url + "?view=%3Cb%3E&range=9z&gpu=%20&hidden=*&token=kept")
    assert tab.page.evaluate("document.documentElement.dataset.view") == "single"
    assert tab.page.locator("#time-range input:checked").input_value() == "1h"
    assert tab.page.locator("#panel-power").is_visible()
    assert tab.errors == []


def test_settings_of_version_1_are_read(demo: Running, new_tab: Callable[..., BrowserTab]) -> None:
    tab = new_tab(color_scheme="light")
    tab.page.add_init_script(
        """localStorage.setItem('dashtop.theme', 'dark');
        localStorage.setItem('_dash_persistence.gpu-selector.value.true', '["3", "0"]');
        localStorage.setItem('_dash_persistence.time-range.value.true', '["5m", "1h"]');"""
    )
    tab.open(demo.url)
    assert tab.page.evaluate("document.documentElement.dataset.bsTheme") == "dark"
    tab.wait_until("() => document.querySelector('#gpu-selector').value === '3'")
    assert tab.page.locator("#time-range input:checked").input_value() == "5m"


def test_a_missing_gpu_shows_a_notice(demo: Running, new_tab: Callable[..., BrowserTab]) -> None:
    tab = new_tab().open(f"{demo.url}?gpu=GPU-deadbeef")
    tab.page.wait_for_selector("#gpu-gone:not([hidden])")
    assert "GPU GPU-deadbeef not found. Showing GPU 0" in tab.text("#gpu-gone")
    assert tab.page.locator("#gpu-gone").get_attribute("role") == "status"
    assert tab.page.input_value("#gpu-selector") == "0"
    tab.page.click("#gpu-gone-keep")
    tab.page.wait_for_selector("#gpu-gone", state="hidden")
    uuid = demo.json("/api/v1/system/gpu-info/0")["uuid"][:12]
    assert address_settings(tab)["gpu"] == stored_settings(tab)["gpu"] == uuid
    assert tab.errors == []


def test_the_compact_status_works_with_and_without_the_page(demo: Running, new_tab: Callable[..., BrowserTab]) -> None:
    tab = new_tab().open(demo.url)
    tab.wait_for_state("live")
    requests: list[str] = []
    tab.page.on("request", lambda request: requests.append(request.url) if "_compact" in request.url else None)
    status = "() => document.querySelector('#compact-status').innerText"
    for _ in range(2):
        tab.wait_until(f"old => ({status})() !== old", tab.page.evaluate(status))
    assert len(requests) <= 1, "no extra request while the page has recent values"
    tab.page.route(f"**/{TICK}*", lambda route: route.abort())
    tab.wait_for_state("disconnected")
    requests.clear()
    for _ in range(2):
        tab.wait_until(f"old => ({status})() !== old", tab.page.evaluate(status))
    assert requests
    assert tab.page.locator("#compact-status").get_attribute("data-old") == "false"


@pytest.mark.long
def test_export_of_the_shown_lines_with_prefix_and_token(new_tab: Callable[..., BrowserTab]) -> None:
    with running(
        "--demo", "3", "--interval", "0.5", "--url-prefix", "/gpu/", "--token", "secret-of-the-test"
    ) as server:
        tab = new_tab().open(f"{server.url}?token=secret-of-the-test")
        tab.page.select_option("#gpu-selector", "2")
        choose(tab, "time-range", "5 min")
        tab.page.click("#panel-chart-cpu [data-line='system.cpu.usage_percent']")
        tab.wait_until("() => document.querySelector('#gpu-heading .gpu-index').innerText.includes('GPU 2')")
        tab.page.locator("#export-button").focus()
        tab.page.keyboard.press("Enter")
        tab.wait_until("() => document.querySelector('[data-export-summary]').innerText !== ''")
        assert re.fullmatch(r"Last 5 min, GPU 2 and the host, \d+ metrics", tab.text("[data-export-summary]"))
        assert tab.page.locator("[data-format]").evaluate_all("all => all.map(each => each.dataset.format)") == [
            "csv", "json", "parquet"
        ]  # fmt: skip
        with tab.page.expect_download() as download:
            tab.page.click("[data-format='json']")
        assert download.value.suggested_filename == "dashtop-5m.json"
        body = json.loads(download.value.path().read_text())
        uuid = tab.page.evaluate("async () => (await (await fetch('api/v1/system/gpu-info/2')).json()).uuid")
        columns = {(column["metric"], column["gpu_uuid"]) for column in body["columns"]}
        assert columns >= {
            ("gpu.utilization.gpu", uuid), ("gpu.memory.used_gb", uuid), ("system.memory.used_gb", None),
            ("gpu.temperature", uuid), ("gpu.power.current_watts", uuid), ("gpu.pcie.rx_mbps", uuid),
        }  # fmt: skip
        assert ("system.cpu.usage_percent", None) not in columns, "its line is hidden"
        assert any(value is not None for row in body["rows"] for value in row[1:])
        assert body["rows"][-1][0] - body["rows"][0][0] <= 300_000
        # All metrics as CSV; Escape closes the menu.
        tab.page.click("#export-button")
        tab.page.check("#export-all")
        with tab.page.expect_download() as download:
            tab.page.click("[data-format='csv']")
        head = download.value.path().read_text().partition("\r\n")[0]
        assert "gpu.fan_speed" in head
        assert "system.network.upload_mbps" in head
        tab.page.click("#export-button")
        tab.page.keyboard.press("Escape")
        assert not tab.page.locator("[data-export-summary]").is_visible()
        assert tab.page.evaluate("document.activeElement.id") == "export-button"
        assert tab.errors == []
