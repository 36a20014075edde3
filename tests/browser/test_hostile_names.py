"""Names that come from outside are text on the page, whatever stands in them, and stay within their place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.hostile import SCRIPT, hostile_processes
from tests.processes import running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.browser.conftest import Watched
    from tests.fake_nvml.fixtures import WorldFactory

GIB = 2**30
IMAGE = "<img src=x onerror=window.hurt=1>"
NAMES = """() => Object.fromEntries([...document.querySelectorAll('[data-processes] tr')].map(
  row => [row.dataset.pid, row.querySelector('.process-name').textContent]))"""
# Nothing that the names ask for is there: no element, no request for it (the console would tell), no script that ran.
HARM = "() => window.hurt ?? document.querySelectorAll('img[src=x], main script').length"
CUT = """() => [...document.querySelectorAll('.card-name:not([data-text])')].filter(
  name => name.scrollWidth > name.clientWidth).map(name => name.textContent)"""
HEIGHTS = "() => [...document.querySelectorAll('[data-processes] tr')].map(row => row.offsetHeight)"


def test_hostile_names_do_no_harm(
    nvml_world: WorldFactory, watch: Callable[..., Watched], tmp_path: Path, screenshots: Path
) -> None:
    world = nvml_world("rtx3090")
    world.set(0, "name", f"RTX \udcff{IMAGE}").set(0, "serial", "\x1b[31m\udcff\udcfe")
    with hostile_processes(tmp_path, IMAGE) as hostile:
        # The largest is the one that the comparison names: each in its turn.
        listed = [{"pid": pid, "used_memory": (size + 1) * GIB, "type": "C"} for size, pid in enumerate(hostile)]
        world.set(0, "processes", listed[:1]).save()
        with running("--interval", "0.5", "--no-persist", env=world.env()) as server:
            seen = watch().open(server.url)
            seen.true(f"() => Object.keys(({NAMES})()).length === 1")
            world.set(0, "processes", listed).save()  # they begin while somebody looks: that makes events
            seen.true(f"count => Object.keys(({NAMES})()).length === count", len(hostile))
            assert seen.page.evaluate(NAMES) == {str(pid): shown for pid, shown in hostile.items()}
            places = seen.page.locator("[data-processes] tr td:nth-child(4)").all_inner_texts()
            assert set(places) == {f"env {IMAGE}"}
            assert f"RTX \ufffd{IMAGE}" in seen.text("#gpu-heading")
            assert "\x1b" not in seen.page.content()
            narrow_and_wide(seen, screenshots, "hostile")

            seen.page.click("label:has-text('All GPUs')")
            for largest, shown in enumerate(hostile.values()):
                world.set(0, f"processes.{largest}.used_memory", 20 * GIB).save()
                seen.true("name => document.querySelector('.gpu-card .process-name')?.textContent === name", shown)
                world.set(0, f"processes.{largest}.used_memory", GIB).save()
            narrow_and_wide(seen, screenshots, "hostile-compare")

            told = [event["text"] for event in server.json("/api/v1/system/events?range=1h")]
            assert seen.page.evaluate(HARM) == 0
            assert seen.errors == []
    assert any(text.startswith(SCRIPT) for text in told)
    assert all(text.isprintable() for text in told)


def narrow_and_wide(seen: Watched, folder: Path, name: str) -> None:
    """See at both widths that no name makes the page wider than its window or its row higher than one line."""
    for width in (390, 1440):
        seen.picture(folder / f"{name}-{width}.png", width)
        heights = seen.page.evaluate(HEIGHTS)
        assert max(heights) - min(heights) <= 1, "rounded to whole pixels"
        assert seen.page.evaluate(CUT) == [], "the page's own words are read in full"
