"""Accessibility: contrast, names of controls, reduced motion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import POINTS, BrowserTab

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.processes import Running

CUT_TEXTS = (Path(__file__).parent / "cut_texts.js").read_text()
LOW_CONTRAST = (Path(__file__).parent / "contrast.js").read_text()
NAMED = "button, a, input, select, summary, canvas, [role=meter], [role=img]"
# Pages, and what is there when they are drawn.
PAGES = {"events": "[data-timeline] .mark", "usage": ".heat-row", "host": "#panel-host-cpu .core"}
NAMELESS = f"""() => [...document.querySelectorAll('{NAMED}')]
  .filter(each => each.checkVisibility() && !each.ariaLabel && !each.textContent.trim() && !each.labels?.length)
  .filter(each => each.ariaHidden !== 'true').map(each => each.outerHTML.slice(0, 100))"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast_and_control_names_in_every_view(
    theme: str, demo: Running, new_tab: Callable[..., BrowserTab]
) -> None:
    tab = new_tab(color_scheme=theme).open(f"{demo.url}?gpu=2")

    def check_readable() -> None:
        assert tab.page.evaluate(LOW_CONTRAST) == []
        assert tab.page.evaluate(NAMELESS) == []

    check_readable()
    # In one call: the next answer would make it live again.
    for state in ("stale", "disconnected"):
        show = f"document.documentElement.dataset.live = '{state}'; document.documentElement.dataset.gpuOld = 'true'"
        assert tab.page.evaluate(f"() => {{ {show}; return ({LOW_CONTRAST})(); }}") == []
    tab.page.evaluate("() => { document.querySelector('#panel-power .card-title').style.opacity = 0.4; }")
    assert [each.partition(".")[0] for each in tab.page.evaluate(LOW_CONTRAST)] == ["H3"], "low contrast is found"
    tab.page.evaluate("() => { document.querySelector('#panel-power .card-title').style.opacity = 1; }")
    tab.page.click("#export-button")
    check_readable()
    tab.page.keyboard.press("Escape")
    tab.page.evaluate("() => window.dashtop.settings.set({view: 'compare'})")
    tab.wait_until("() => document.querySelector('#gpu-card-7 .sparkline')?.getAttribute('aria-label')")
    check_readable()
    for page, drawn in PAGES.items():
        tab.page.evaluate("page => window.dashtop.settings.set({page})", page)
        tab.page.wait_for_selector(drawn)
        check_readable()
    tab.page.click("#settings-button")
    tab.page.wait_for_selector("#settings-modal .panel-list li")
    tab.wait_until("() => getComputedStyle(document.querySelector('.modal')).opacity === '1'")
    check_readable()
    assert tab.errors == []


def test_help_opens_by_keyboard_tap_and_mouse_and_takes_one_tab_stop_a_panel(
    demo: Running, new_tab: Callable[..., BrowserTab]
) -> None:
    tab = new_tab().open(f"{demo.url}?gpu=0")
    stops = "() => document.querySelectorAll('#panel-temperature [data-tip][tabindex=\"0\"]').length"
    tab.wait_until(f"() => ({stops})() === 1")
    popover = tab.page.locator("#popover")
    tab.page.locator("#panel-temperature [data-tip][tabindex='0']").focus()
    popover.wait_for()
    first = popover.inner_text()
    tab.page.keyboard.press("ArrowRight")
    tab.wait_until("first => document.querySelector('#popover').innerText !== first", first)
    assert tab.page.evaluate("document.activeElement.getAttribute('aria-describedby')") == "popover"
    assert tab.page.evaluate(stops) == 1
    tab.page.keyboard.press("Escape")
    popover.wait_for(state="hidden")
    # A missing value says why: this GPU does not report its memory temperature.
    tab.page.locator("#panel-temperature [data-metric='gpu.memory_temperature']").click()
    popover.get_by_text("not supported by this device").wait_for()
    tab.page.locator("#panel-temperature .card-title").click()
    popover.wait_for(state="hidden")
    tab.page.locator("#panel-power [data-metric='gpu.power.average_watts']").hover()
    popover.get_by_text("average of one second").wait_for()
    # The pointer may move onto the popover; it closes when it leaves, and with Escape.
    box = popover.bounding_box()
    assert box is not None
    tab.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=8)
    assert tab.page.evaluate("() => new Promise(end => setTimeout(() => end(popover.matches(':popover-open')), 500))")
    tab.page.keyboard.press("Escape")
    popover.wait_for(state="hidden")
    tab.page.mouse.move(0, 0)
    tab.page.locator("#panel-power [data-metric='gpu.power.average_watts']").hover()
    popover.wait_for()
    tab.page.mouse.move(0, 0)
    popover.wait_for(state="hidden")
    assert tab.errors == []


def test_no_help_is_in_a_title_that_fingers_and_keys_cannot_reach(
    demo: Running, new_tab: Callable[..., BrowserTab]
) -> None:
    tab = new_tab(width=1100, has_touch=True).open(f"{demo.url}?page=overview")
    page, popover = tab.page, tab.page.locator("#popover")
    for name, drawn in PAGES.items():
        page.evaluate("page => window.dashtop.settings.set({page, view: 'compare'})", name)
        page.wait_for_selector(drawn)
        assert page.evaluate("() => [...document.querySelectorAll('[title]')].map(each => each.outerHTML)") == []
    page.evaluate("() => window.dashtop.settings.set({page: 'overview'})")
    # A tile by keyboard: one tab stop for all of them, arrow keys to the others.
    tab.wait_until("() => document.querySelectorAll('#panel-summary [data-tip][tabindex=\"0\"]').length === 1")
    page.locator("#panel-summary [data-tip][tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    popover.get_by_text("have not computed for two minutes").wait_for()
    # The icon buttons and the head of a column by keyboard, and that by finger, which sorts as well.
    page.locator("#settings-button").focus()
    popover.get_by_text("Settings").wait_for()
    page.locator("[data-gpu-column=since]").focus()
    popover.get_by_text("Since when the GPU is in its state").wait_for()
    page.locator("[data-gpu-column=users]").tap()
    popover.get_by_text("those with most memory first").wait_for()
    # A name only if it is truncated.
    page.evaluate("() => window.dashtop.settings.set({page: 'processes'})")
    context = page.locator("#panel-all-processes [data-cell=context]", has_text="containerd").first
    context.evaluate("each => { each.style.maxWidth = '60px'; }")
    context.tap()
    popover.get_by_text("containerd c08e41d96f37, pod").wait_for()
    page.locator("#panel-all-processes [data-cell=user]").first.tap()
    popover.wait_for(state="hidden")
    assert tab.errors == []


def test_a_group_of_options_is_one_tab_stop(demo: Running, new_tab: Callable[..., BrowserTab]) -> None:
    tab = new_tab().open(demo.url)
    focused = "() => document.activeElement.closest('.control')?.ariaLabel"
    tab.page.locator("#gpu-selector").focus()
    names = []
    for _ in range(6):
        tab.page.keyboard.press("Tab")
        names.append(tab.page.evaluate(focused))
    assert names.count("Time range") == 1
    tab.page.locator("#time-range input:checked").focus()
    tab.page.keyboard.press("ArrowRight")
    tab.wait_until("() => location.search.includes('range=6h')")
    assert tab.page.evaluate("() => document.querySelector('#time-range input:checked').value") == "6h"
    # Groups without a name of their own would be one: a choice in the settings leaves the others alone.
    groups = "() => [...document.querySelectorAll('.segments')].map(each => each.querySelector('input')?.name)"
    named = [name for name in tab.page.evaluate(groups) if name is not None]
    assert len(set(named)) == len(named) > 2
    assert "" not in named
    assert tab.errors == []


COUNT_SHIFTS = """window.shift = 0; new PerformanceObserver(list => { for (const each of list.getEntries())
  if (!each.hadRecentInput) window.shift += each.value; }).observe({type: 'layout-shift', buffered: true});"""
COUNT_ANNOUNCEMENTS = """() => {
  window.painted = 0;
  window.dashtop.painters.push(() => { window.painted += 1; });
  const spoken = '[aria-live]:not([aria-live=off]), [role=status], [role=alert], [role=log]';
  window.announced = [];
  new MutationObserver(changes => { for (const { target } of changes) {
    const element = target.nodeType === Node.TEXT_NODE ? target.parentElement : target;
    const region = element?.closest(spoken);
    if (!region || element.closest('[aria-hidden=true]')) continue;
    window.announced.push([region.id || region.className, window.painted]);
  } }).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""


@pytest.mark.parametrize("ticks", [3, pytest.param(40, marks=[pytest.mark.long, pytest.mark.timeout(400)])])
def test_no_page_shifts_complains_or_chatters(ticks: int, demo: Running, new_tab: Callable[..., BrowserTab]) -> None:
    tab = new_tab(height=900)
    warnings: list[str] = []
    tab.page.on("console", lambda message: warnings.append(message.text) if message.type == "warning" else None)
    tab.page.add_init_script(COUNT_SHIFTS)
    for page, drawn in ROWS.items():
        tab.open(f"{demo.url}?page={page}").page.wait_for_selector(drawn)
        tab.page.evaluate(COUNT_ANNOUNCEMENTS)
        tab.wait_until("ticks => window.painted >= ticks", ticks, 60_000)
        assert tab.page.evaluate("window.shift") < 0.02, page
        # Events happen, and change a region several times at once; what changes with every tick must not be spoken.
        announced = {(region, tick) for region, tick in tab.page.evaluate("window.announced")}
        regions = [region for region, _ in announced]
        assert all(regions.count(region) < ticks - 1 for region in regions), (page, announced)
    assert tab.errors == []
    assert [each for each in warnings if "by Playwright" not in each] == []


def test_reduced_motion_stops_animations(demo: Running, new_tab: Callable[..., BrowserTab]) -> None:
    animation = "() => getComputedStyle(document.querySelector('.skeleton-block')).animationName"
    tab = new_tab().open(demo.url)
    assert tab.page.evaluate(animation) == "shimmer"
    tab.page.emulate_media(reduced_motion="reduce")
    assert tab.page.evaluate(animation) == "none"
    tab.wait_until(f"chart => ({POINTS})(chart) > 0", "chart-power")


# In forced colours a background is that of the canvas, unless it is a colour of the system or is exempt.
DRAWN = """([selector, pseudo]) => {
  const canvas = getComputedStyle(document.body).backgroundColor;
  const elements = [...document.querySelectorAll(selector)].filter(each => each.checkVisibility());
  const isDrawn = each => {
    const { backgroundColor, backgroundImage } = getComputedStyle(each, pseudo);
    return backgroundImage !== 'none' || ![canvas, 'rgba(0, 0, 0, 0)'].includes(backgroundColor);
  };
  return elements.length > 0 && elements.every(isDrawn);
}"""
BACKGROUNDS = {
    "overview": (".icons .icon", ".health-mark, .problem-mark", "[data-tile] .bar::before", ".recent-event-mark"),
    "gpus": (
        ".live .dot",
        "#panel-chart-power .legend-item::before",
        "#panel-system .bar::before",
        "#panel-system .core > i",
    ),
    "processes": (".segments :checked + .segment", ".span-controls .icon"),
    "events": ("[data-timeline] .mark", ".severity::before", ".toolbar :checked + .segment"),
    "usage": (".heat-key.heat-active",),
    "host": ("#panel-host-cpu .core > i", "#panel-host-storage .bar::before"),
}

WITHOUT_FORCED_COLOURS = """() => {
  for (const sheet of document.styleSheets)
    for (let index = sheet.cssRules.length - 1; index >= 0; index -= 1)
      if (sheet.cssRules[index].media?.mediaText.includes('forced-colors')) sheet.deleteRule(index);
}"""


@pytest.mark.long
def test_forced_colours_leave_icons_bars_and_marks_visible(demo: Running, new_tab: Callable[..., BrowserTab]) -> None:
    tab = new_tab(forced_colors="active", color_scheme="dark").open(f"{demo.url}?theme=light")
    # The chosen theme gives way: charts must fit the forced background.
    assert tab.page.evaluate("document.documentElement.dataset.bsTheme") == "dark"
    for page, selectors in BACKGROUNDS.items():
        tab.page.evaluate("page => window.dashtop.settings.set({page})", page)
        for selector in selectors:
            element, _, pseudo = selector.partition("::")
            tab.wait_until(DRAWN, [element, f"::{pseudo}" if pseudo else None])
    current = "() => getComputedStyle(document.querySelector('.nav-item[aria-current=page]')).color"
    other = "() => getComputedStyle(document.querySelector('.nav-item:not([aria-current])')).color"
    assert tab.page.evaluate(current) != tab.page.evaluate(other)
    # Without the rules nothing of it is drawn.
    tab.page.evaluate(WITHOUT_FORCED_COLOURS)
    tab.wait_until(f"argument => !({DRAWN})(argument)", ["#panel-host-storage .bar", "::before"])
    assert tab.errors == []


# Links in sentences, rows that are a target as a whole, and marks whose events are in the list below are exempt.
SMALL_TARGETS = """() =>
  [...document.querySelectorAll('button, a[href], select, summary, .segment, input:not(.btn-check)')]
  .filter(each => each.checkVisibility({visibilityProperty: true}) && !each.closest('.visually-hidden, .skip-link'))
  .filter(each => !each.matches('label input, .mark, .alert-item a, .evidence'))
  .filter(each => {
    const around = getComputedStyle(each, '::after');
    const extra = around.position === 'absolute' ? parseFloat(around.height) : 0;
    return Math.max(each.getBoundingClientRect().height, extra) < 43.5;
  }).map(each => each.outerHTML.slice(0, 100))"""
NARROW = {
    "200 % zoom": {"width": 720, "height": 3000, "device_scale_factor": 2},
    "phone": {"width": 390, "height": 3000, "is_mobile": True, "has_touch": True},
}
ROWS = {
    **PAGES,
    "overview": "#chart-all-gpus .xtick",
    "gpus": "#chart-utilization .xtick",
    "processes": "#panel-all-processes tbody tr",
}


@pytest.mark.parametrize("screen", NARROW)
def test_nothing_is_cut_on_a_phone_or_at_200_percent(
    screen: str, demo: Running, new_tab: Callable[..., BrowserTab]
) -> None:
    tab = new_tab(**NARROW[screen]).open(demo.url)
    found = {}
    for page, drawn in ROWS.items():
        tab.page.evaluate("page => window.dashtop.settings.set({page})", page)
        tab.page.wait_for_selector(drawn)
        found[page] = tab.page.evaluate(CUT_TEXTS)
        if screen == "phone":
            found[page] += tab.page.evaluate(SMALL_TARGETS)
    tab.page.click("#settings-button")
    tab.page.wait_for_selector("#settings-modal .panel-list li")
    found["settings"] = tab.page.evaluate(SMALL_TARGETS) if screen == "phone" else []
    assert {page: each for page, each in found.items() if each} == {}
    assert tab.errors == []


def test_an_unresponsive_mount_is_marked(demo: Running, new_tab: Callable[..., BrowserTab]) -> None:
    tab = new_tab()
    used = {"used_gib": 20.0, "total_gib": 100.0, "used_percent": 20.0, "level": ""}
    unknown = {"used_gib": None, "total_gib": None, "used_percent": None, "level": ""}
    mounts = [
        {"mount_point": "/", "filesystem": "ext4", **used},
        {"mount_point": "/mnt/<b>gone</b>", "filesystem": "nfs4", **unknown},
    ]
    # The answer of the real server, with one mount that does not respond.
    tab.page.add_init_script(
        f"""addEventListener('DOMContentLoaded', () => window.dashtop.painters.unshift(snapshot => {{
          snapshot.mounts = {json.dumps(mounts)}; }}));"""
    )
    tab.open(demo.url)
    hung = tab.page.locator("#panel-storage .not-responding")
    hung.wait_for()
    assert hung.locator(".label").inner_text() == "/mnt/<b>gone</b>nfs4"
    assert hung.locator(".mount-error").inner_text() == "not responding"
    assert not hung.locator(".mount-used").is_visible()
    assert hung.locator(".bar").get_attribute("aria-valuenow") is None
    assert tab.page.locator("#panel-storage li:not(.not-responding) .mount-percent").inner_text() == "20 %"
    assert tab.errors == []
