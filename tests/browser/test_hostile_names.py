"""Untrusted names are shown as text, whatever they contain, and do not break the layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.hostile import SCRIPT, hostile_processes
from tests.processes import running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.browser.conftest import BrowserTab
    from tests.fake_nvml.fixtures import WorldFactory

GIB = 2**30
IMAGE = "<img src=x onerror=window.hurt=1>"
NAMES = """() => Object.fromEntries([...document.querySelectorAll('[data-processes] tr')].map(
  row => [row.dataset.pid, row.querySelector('.process-name').textContent]))"""
# No element from a name, no request for it (it would be a console error), no script that ran.
HARM = "() => window.hurt ?? document.querySelectorAll('img[src=x], main script').length"
CUT = """() => [...document.querySelectorAll('.card-title:not([data-text])')].filter(
  name => name.scrollWidth > name.clientWidth).map(name => name.textContent)"""
HEIGHTS = "() => [...document.querySelectorAll('[data-processes] tr')].map(row => row.offsetHeight)"


def test_hostile_names_do_no_harm(
    nvml_world: WorldFactory, new_tab: Callable[..., BrowserTab], tmp_path: Path, screenshots: Path
) -> None:
    world = nvml_world("rtx3090")
    world.set(0, "name", f"RTX \udcff{IMAGE}").set(0, "serial", "\x1b[31m\udcff\udcfe")
    with hostile_processes(tmp_path, IMAGE) as hostile:
        # The view of all GPUs shows the largest process: each in turn.
        listed = [{"pid": pid, "used_memory": (size + 1) * GIB, "type": "C"} for size, pid in enumerate(hostile)]
        world.set(0, "processes", listed[:1]).save()
        with running("--interval", "0.5", "--no-persist", env=world.env()) as server:
            tab = new_tab().open(server.url)
            tab.wait_until(f"() => Object.keys(({NAMES})()).length === 1")
            world.set(0, "processes", listed).save()  # processes that start now become events
            tab.wait_until(f"count => Object.keys(({NAMES})()).length === count", len(hostile))
            assert tab.page.evaluate(NAMES) == {str(pid): shown for pid, shown in hostile.items()}
            places = tab.page.locator("[data-processes] [data-cell='context']").all_inner_texts()
            assert set(places) == {f"env {IMAGE}"}
            assert f"RTX \ufffd{IMAGE}" in tab.text("#gpu-heading")
            assert "\x1b" not in tab.page.content()
            check_widths(tab, screenshots, "hostile")

            tab.page.click("label:has-text('All GPUs')")
            for largest, shown in enumerate(hostile.values()):
                world.set(0, f"processes.{largest}.used_memory", 20 * GIB).save()
                tab.wait_until("name => document.querySelector('.gpu-card .process-name')?.textContent === name", shown)
                world.set(0, f"processes.{largest}.used_memory", GIB).save()
            check_widths(tab, screenshots, "hostile-compare")

            events = [event["text"] for event in server.json("/api/v1/system/events?range=1h")]
            assert tab.page.evaluate(HARM) == 0
            assert tab.errors == []
    assert any(text.startswith(SCRIPT) for text in events)
    assert all(text.isprintable() for text in events)


def check_widths(tab: BrowserTab, folder: Path, name: str) -> None:
    """Check at two widths that no name widens the page or wraps its row."""
    for width in (390, 1440):
        tab.take_screenshot(folder / f"{name}-{width}.png", width)
        heights = tab.page.evaluate(HEIGHTS)
        assert max(heights) - min(heights) <= 1, "rounded to whole pixels"
        assert tab.page.evaluate(CUT) == [], "titles are never shortened"
