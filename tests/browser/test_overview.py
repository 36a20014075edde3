"""The overview: key facts above the fold, states of GPUs, links and the address, and what it costs the layout."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pynvml
import pytest

from tests.processes import Running, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.browser.conftest import BrowserTab
    from tests.fake_nvml.fixtures import WorldFactory

ROWS = "() => document.querySelectorAll('[data-gpu-table] tr').length"
STATE = "index => document.querySelector(`[data-gpu-table] tr[data-open-gpu='${index}']`)?.dataset.gpuState"
SHIFTS = """() => { window.shift = 0; new PerformanceObserver(list => { for (const entry of list.getEntries())
  if (!entry.hadRecentInput) window.shift += entry.value; }).observe({type: 'layout-shift', buffered: true}); }"""
ABOVE_THE_FOLD = ("#panel-problems", "#panel-summary", "#panel-gpus tbody tr", "#chart-all-gpus", ".recent-event")


def find_top(tab: BrowserTab, selector: str) -> float:
    """Return where the first element with a selector begins, in px from the top of the window."""
    box = tab.page.locator(selector).first.bounding_box()
    assert box is not None
    return box["y"]


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
    # What a time is the start of: GPU 0 computes, 6 is held but idle.
    tips = [
        tab.page.locator(f"tr[data-open-gpu='{index}'] .column-since").get_attribute("data-tip") for index in (0, 6)
    ]
    assert [(tip or "").split(" since ")[0] for tip in tips] == ["In use", "Idle, held"]
    assert tab.page.evaluate("window.shift") < 0.02
    # A phone: the first GPUs are above the fold, with a problem shown, and the totals below them
    tab.page.set_viewport_size({"width": 390, "height": 844})
    assert tab.page.locator("#panel-problems .problem").first.is_visible()
    navigation = find_top(tab, ".navigation")
    assert find_top(tab, "[data-gpu-table] tr:nth-child(3)") < navigation
    assert find_top(tab, "[data-tile=free]") == find_top(tab, "[data-tile=unavailable]")
    assert find_top(tab, "[data-tile=vram]") > find_top(tab, "[data-gpu-table] tr:last-child")
    assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    bell = tab.page.locator("[data-gpu-table] [data-watch-gpu='0']")
    assert bell.is_visible()
    box = bell.bounding_box()
    assert box is not None
    assert min(box["width"], box["height"]) >= 44
    tab.page.set_viewport_size({"width": 1440, "height": 900})
    assert bell.evaluate("bell => getComputedStyle(bell).opacity") == "1"
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What the overview shows of a GPU: the state of its row, the text of the state, of its tooltip and of its problem.

    `problem` is empty where nobody has to act.
    """

    condition: str
    label: str
    detail: str = ""
    problem: str = ""


SLOWED = "HW Thermal Slowdown"
EXPECTED = {
    "0": Seen(condition="busy", label="Busy"),
    "1": Seen(condition="idle_held", label="Idle, held"),
    "2": Seen(condition="free", label="Free"),
    "3": Seen(condition="throttled", label="Throttled", detail=SLOWED, problem=SLOWED),
    "4": Seen(
        condition="lost",
        label="Lost",
        detail="The GPU has fallen off the bus",
        problem="The GPU has fallen off the bus",
    ),
    "5": Seen(condition="asleep", label="Asleep", detail="The GPU is asleep (dashtop does not wake it)"),
    "8": Seen(condition="split", label="MIG", detail="Split into MIG instances, which report it"),
}
# Records what each snapshot shows, with the time of its sample.
RECORD = """() => { window.seen = []; dashtop.painters.push(({ time }) => window.seen.push([time, Object.fromEntries(
  [...document.querySelectorAll('[data-gpu-table] tr')].map(row => [row.dataset.openGpu, {
    condition: row.dataset.gpuState, label: row.querySelector('.state').textContent,
    detail: row.querySelector('.state').dataset.tip || '',
    problem: [...document.querySelectorAll(`.problem:has([data-open-gpu="${row.dataset.openGpu}"]) .problem-text`)]
      .map(text => text.textContent).join() }]))])); }"""
NAMES_IN_ORDER = "() => [...document.querySelectorAll('[data-gpu-table] .row-name')].map(name => name.textContent)"


def start_with_sysfs(folder: Path) -> Path:
    """Return a command like dashtop that reads the power states of GPUs below `folder`, and not below /sys."""
    command = folder / "dashtop-with-sysfs"
    command.write_text(
        f"#!{sys.executable}\n"
        "from pathlib import Path\n"
        "from dashtop.cli import main\n"
        "from dashtop.sources.nvml.subprocess_reader import SubprocessGpuReader\n"
        f"SubprocessGpuReader.__init__.__kwdefaults__['sys_root'] = Path({str(folder)!r})\n"
        "main()\n"
    )
    command.chmod(0o755)
    return command


def test_states_are_recognised_within_two_ticks(
    nvml_world: WorldFactory, new_tab: Callable[..., BrowserTab], tmp_path: Path
) -> None:
    """One page: GPU 1 is held but idle, 2 free; then 3 is throttled, 4 lost, 5 asleep; 8 has MIG instances."""
    world = nvml_world("h100x8")
    idle = {"gpu": 0, "memory": 0}
    held = [{"pid": 900_001, "name": "x", "type": "C", "used_memory": 2**33}]
    world.set(1, "utilization", idle).set(1, "processes", held)
    world.set(2, "utilization", idle).set(2, "processes", []).set(2, "memory.used", 2**30)
    world.data["gpus"].append(nvml_world("a100_mig").gpu(0))
    sleeper = nvml_world({**world.data, "gpus": [world.gpu(5)]})
    sleeper.write_sysfs(tmp_path)
    world.save()
    command = start_with_sysfs(tmp_path)
    with running("--interval", "0.5", "--no-persist", command=command, env=world.env()) as server:
        tab = new_tab().open(server.url, page="overview")
        tab.wait_until(f"() => ({STATE})(1) === 'idle_held' && ({STATE})(2) === 'free' && ({STATE})(8) === 'split'")
        assert tab.text("[data-tile=free]").split() == ["Free", "1", "of", "10"]
        tab.page.evaluate(RECORD)
        world.set(3, "clocks_event_reasons", 0x40)
        sleeper.gpu(0)["runtime_status"] = "suspended"
        sleeper.write_sysfs(tmp_path)
        world.set_return("*", pynvml.NVML_ERROR_GPU_IS_LOST, gpu=4).save()
        began = time.time() * 1000
        tab.wait_until("began => window.seen.filter(([time]) => time > began).length >= 2", began)
        _, shown = [row for row in tab.page.evaluate("window.seen") if row[0] > began][1]
        assert {index: Seen(**shown[index]) for index in EXPECTED} == EXPECTED
        offered = [each for each in EXPECTED if tab.page.locator(f"[data-watch-gpu='{each}'].row-watch").is_visible()]
        assert offered == ["0", "1", "3", "5"], "neither free, split nor lost"
        # Lost and sleeping GPUs, and the parent of MIG instances, are not in the denominator.
        assert tab.text("[data-tile=free]").split() == ["Free", "1", "of", "8"]
        assert tab.text("[data-tile=unavailable]").split() == ["Unavailable", "2"]
        assert tab.text("[data-free-count]") == "1 of 8 free"
        assert "1 free" in tab.page.title()
        assert "2 problems" in tab.page.title()
        # The health card says it: no banner, which is for the page of that GPU.
        tab.page.evaluate("() => dashtop.settings.set({ gpu: '4' })")
        tab.wait_until("() => dashtop.polling.latest().snapshot.error?.scope === 'gpu'")
        assert tab.page.locator("#error-banner").is_hidden()
        names = tab.page.evaluate(NAMES_IN_ORDER)
        assert names[8:] == ["GPU 8", "GPU 8 · MIG 3g.20gb", "GPU 8 · MIG 3g.20gb"]
        assert tab.page.locator("[data-gpu-table] .is-instance").count() == 2
        for width in (1440, 390):
            tab.page.set_viewport_size({"width": width, "height": 844})
            assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        # On its page the error is cut before the buttons of the header leave the window.
        tab.page.set_viewport_size({"width": 1440, "height": 844})
        tab.page.evaluate("() => dashtop.settings.set({ page: 'gpus', view: 'single' })")
        tab.page.locator(".compact-error", has_text="The GPU has fallen off the bus").wait_for()
        last = tab.page.locator(".header .icons > *").last.bounding_box()
        assert last is not None
        assert last["x"] + last["width"] <= 1440
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
