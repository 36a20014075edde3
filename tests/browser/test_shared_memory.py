"""A GPU that shares the memory of the host (GB10), next to one with its own: shared memory is marked."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from dashtop.metrics import METRICS
from dashtop.ui.components import SHARED_MEMORY_HELP
from tests.browser.conftest import GRIDS
from tests.processes import running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.browser.conftest import BrowserTab
    from tests.fake_nvml.fixtures import WorldFactory

MARK = "#panel-vram .shared-mark"
TOTAL = "gpu.memory.total_gb"


def title(tab: BrowserTab, within: str) -> str | None:
    return tab.page.locator(f"{within} [data-metric='{TOTAL}']").get_attribute("data-tip")


def test_shared_memory_is_marked_wherever_it_is_shown(
    nvml_world: WorldFactory, new_tab: Callable[..., BrowserTab], screenshots: Path
) -> None:
    world = nvml_world("gb10")
    world.gpus.append(nvml_world("rtx3090").gpu(0))
    world.save()
    with running("--interval", "0.5", "--no-persist", env=world.env()) as server:
        tab = new_tab().open(server.url)
        mark = tab.page.locator(MARK)
        tab.wait_until(f"() => document.querySelector('{MARK}').checkVisibility()")
        assert mark.inner_text() == "shared with host"
        assert mark.get_attribute("data-tip") == SHARED_MEMORY_HELP
        assert tab.metric(TOTAL, "#panel-vram") == tab.metric("system.memory.total_gb", "#panel-system")
        tab.wait_until(
            f"() => document.querySelector('#compact-status [data-metric=\"{TOTAL}\"]').dataset.tip.includes('host')"
        )
        for shown in ("#panel-vram", "#compact-status"):
            assert title(tab, shown) == SHARED_MEMORY_HELP
        assert "shared with the host" in tab.text("[data-facts]")
        assert tab.text("[data-summary]") == "2 processes: 62.5 GiB"
        # It reports no slowdown temperature: the bar is full at the general critical threshold.
        hot = tab.page.locator("#panel-temperature .bar").first.get_attribute("aria-valuenow")
        assert hot == str(round(100 * float(tab.metric("gpu.temperature", "#panel-temperature")) / 95))
        for width, theme in product((390, 1440), GRIDS):
            tab.take_screenshot(screenshots / f"gb10-{width}-{theme}.png", width, theme)

        tab.page.select_option("#gpu-selector", "1")
        tab.wait_until(f"() => !document.querySelector('{MARK}').checkVisibility()")
        assert title(tab, "#panel-vram") == METRICS[TOTAL].help
        assert "shared with the host" not in tab.text("[data-facts]")

        tab.page.click("label:has-text('All GPUs')")
        tab.wait_until("() => document.querySelectorAll('.gpu-card').length === 2")
        own, shared = (tab.page.locator(f"#gpu-card-{index} .shared-mark") for index in (1, 0))
        assert (own.is_visible(), shared.is_visible()) == (False, True)
        assert shared.get_attribute("data-tip") == title(tab, "#gpu-card-0") == SHARED_MEMORY_HELP
        assert not title(tab, "#gpu-card-1")
        for width, theme in product((390, 1440), GRIDS):
            tab.take_screenshot(screenshots / f"gb10-compare-{width}-{theme}.png", width, theme)
        assert tab.errors == []
