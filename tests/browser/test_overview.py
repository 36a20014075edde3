"""The overview: key facts above the fold, states of GPUs, links and the address, and what it costs the layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pynvml
import pytest

from tests.processes import Running, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.browser.conftest import BrowserTab
    from tests.fake_nvml.fixtures import WorldFactory

ROWS = "() => document.querySelectorAll('[data-gpu-table] tr').length"
STATE = "index => document.querySelector(`[data-gpu-table] tr[data-open-gpu='${index}']`)?.dataset.gpuState"
SHIFTS = """() => { window.shift = 0; new PerformanceObserver(list => { for (const entry of list.getEntries())
  if (!entry.hadRecentInput) window.shift += entry.value; }).observe({type: 'layout-shift', buffered: true}); }"""
ABOVE_THE_FOLD = ("#panel-problems", "#panel-summary", "#panel-gpus tbody tr", "#chart-all-gpus", ".recent-event")


def test_the_overview_is_the_first_page_and_fits_a_window(demo: Running, new_tab: Callable[..., BrowserTab]) -> None:
    tab = new_tab()
    tab.page.add_init_script(f"({SHIFTS})()")
    tab.page.goto(demo.url)
    tab.wait_for_state("live")
    tab.wait_until("() => document.querySelector('#chart-all-gpus .scatterlayer .trace')")
    assert "page=overview" in tab.page.url
    assert tab.page.evaluate(ROWS) == 8
    for part in ABOVE_THE_FOLD:
        box = tab.page.locator(part).first.bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 900, part
    assert tab.page.locator("#compact-status [data-total=vram]").is_visible()
    assert "GiB" in tab.text("[data-tile=vram]")
    assert tab.page.evaluate("window.shift") < 0.02
    # Links, order and Back
    tab.page.click("[data-gpu-column=temperature]")
    tab.wait_until("() => location.search.includes('sort=-temperature')")
    tab.page.locator("[data-gpu-table] tr[data-open-gpu='3'] a").focus()
    tab.page.keyboard.press("Enter")
    tab.wait_until("() => location.search.includes('page=gpus')")
    tab.wait_until("() => document.querySelector('#gpu-selector').value === '3'")
    tab.page.go_back()
    tab.wait_until("() => location.search.includes('page=overview')")
    assert tab.page.locator("#panel-gpus").is_visible()
    tab.page.click("#panel-gpus .view-switch >> text=Cards")
    tab.page.locator("#gpu-card-7").wait_for()
    tab.page.click("#compare .view-switch >> text=Table")
    tab.page.locator("#panel-gpus").wait_for()
    assert tab.errors == []


@pytest.mark.parametrize("width", [390, 1440])
def test_states_are_recognised_within_two_ticks(
    nvml_world: WorldFactory, new_tab: Callable[..., BrowserTab], width: int
) -> None:
    world = nvml_world("h100x8")
    idle = {"gpu": 0, "memory": 0}
    held = [{"pid": 900_001, "name": "x", "type": "C", "used_memory": 2**33}]
    world.set(1, "utilization", idle).set(1, "processes", held)
    world.set(2, "utilization", idle).set(2, "processes", []).set(2, "memory.used", 2**30)
    world.save()
    with running("--interval", "0.5", "--no-persist", env=world.env()) as server:
        tab = new_tab(width=width).open(server.url, page="overview")
        tab.wait_until(f"() => ({STATE})(1) === 'idle_held' && ({STATE})(2) === 'free'")
        world.set(3, "clocks_event_reasons", 0x40)
        world.set_return("*", pynvml.NVML_ERROR_GPU_IS_LOST, gpu=4).save()
        tab.wait_until(f"() => ({STATE})(3) === 'throttled' && ({STATE})(4) === 'lost'")
        names = "() => [...document.querySelectorAll('.problem-name')].map(name => name.textContent)"
        tab.wait_until(f"() => ({names})().filter(name => /GPU [34]/.test(name)).length === 2")
        assert tab.text("[data-tile=free]").split() == ["Free", "1", "of", "7"]
        assert "1 free" in tab.page.title()
        assert "problems" in tab.page.title()
        assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert tab.errors == []


@pytest.mark.long
def test_mig_instances_and_sleeping_gpus_have_a_row_each(new_tab: Callable[..., BrowserTab]) -> None:
    with running("--demo", "16", "--no-persist") as server:
        tab = new_tab().open(server.url, page="overview")
        tab.wait_until(f"() => ({ROWS})() >= 16")
        states = "() => [...document.querySelectorAll('[data-gpu-table] tr')].map(row => row.dataset.gpuState)"
        assert {"split", "asleep", "lost"} <= set(tab.page.evaluate(states))
        assert "MIG" in tab.text("[data-gpu-table] .is-instance .row-name")
        assert tab.errors == []


def test_without_a_gpu_the_overview_shows_the_host(without_gpu: Running, new_tab: Callable[..., BrowserTab]) -> None:
    tab = new_tab().open(without_gpu.url, page="overview")
    tab.wait_until("() => /\\d/.test(document.querySelector('[data-tile=disk]').textContent)")
    assert not tab.page.locator("#panel-gpus").is_visible()
    assert not tab.page.locator("[data-tile=free]").is_visible()
    assert tab.errors == []
