"""A GPU without memory of its own (GB10) beside one that has some: whose memory a number speaks of is said at it."""

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

    from tests.browser.conftest import Watched
    from tests.fake_nvml.fixtures import WorldFactory

MARK = "#panel-utilization .shared-mark"
TOTAL = "gpu.memory.total_gb"


def title(seen: Watched, within: str) -> str | None:
    return seen.page.locator(f"{within} [data-metric='{TOTAL}']").get_attribute("title")


def test_memory_that_is_the_hosts_is_marked_wherever_it_is_shown(
    nvml_world: WorldFactory, watch: Callable[..., Watched], screenshots: Path
) -> None:
    world = nvml_world("gb10")
    world.gpus.append(nvml_world("rtx3090").gpu(0))
    world.save()
    with running("--interval", "0.5", "--no-persist", env=world.env()) as server:
        seen = watch().open(server.url)
        mark = seen.page.locator(MARK)
        seen.true(f"() => document.querySelector('{MARK}').checkVisibility()")
        assert mark.inner_text() == "shared with host"
        assert mark.get_attribute("title") == SHARED_MEMORY_HELP
        assert seen.metric(TOTAL, "#panel-utilization") == seen.metric("system.memory.total_gb", "#panel-system")
        seen.true(f"() => document.querySelector('#compact-status [data-metric=\"{TOTAL}\"]').title.includes('host')")
        for shown in ("#panel-utilization", "#compact-status"):
            assert title(seen, shown) == SHARED_MEMORY_HELP
        assert "shared with the host" in seen.text("[data-facts]")
        assert seen.text("[data-sum]") == "2 processes: 62.5 GiB"
        # It tells no temperature at which it slows down: the bar is full where any GPU is too hot.
        hot = seen.page.locator("#panel-temperature .bar").first.get_attribute("aria-valuenow")
        assert hot == str(round(100 * float(seen.metric("gpu.temperature", "#panel-temperature")) / 95))
        for width, theme in product((390, 1440), GRIDS):
            seen.picture(screenshots / f"gb10-{width}-{theme}.png", width, theme)

        seen.page.select_option("#gpu-selector", "1")
        seen.true(f"() => !document.querySelector('{MARK}').checkVisibility()")
        assert title(seen, "#panel-utilization") == METRICS[TOTAL].help
        assert "shared with the host" not in seen.text("[data-facts]")

        seen.page.click("label:has-text('All GPUs')")
        seen.true("() => document.querySelectorAll('.gpu-card').length === 2")
        own, shared = (seen.page.locator(f"#gpu-card-{index} .shared-mark") for index in (1, 0))
        assert (own.is_visible(), shared.is_visible()) == (False, True)
        assert shared.get_attribute("title") == title(seen, "#gpu-card-0") == SHARED_MEMORY_HELP
        assert not title(seen, "#gpu-card-1")
        for width, theme in product((390, 1440), GRIDS):
            seen.picture(screenshots / f"gb10-compare-{width}-{theme}.png", width, theme)
        assert seen.errors == []
