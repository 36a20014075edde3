"""Screenshots of every view and state for review: light and dark, desktop and phone."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import GRIDS, POINTS, TICK, BrowserTab, Theme
from tests.processes import Running, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WIDTHS = (1440, 390)


@pytest.fixture(scope="module")
def demo_16() -> Iterator[Running]:
    with running("--demo", "16", "--interval", "0.5", "--no-persist") as server:
        yield server


@pytest.mark.parametrize("name", ["single", "no-gpu", "settings"])
def test_screenshots_of_charts(
    name: str, demo: Running, without_gpu: Running, new_tab: Callable[..., BrowserTab], screenshots: Path
) -> None:
    tab = new_tab().open((without_gpu if name == "no-gpu" else demo).url)
    # In a demo the lines of the host start with the server, those of the GPUs are full.
    tab.wait_until(f"chart => ({POINTS})(chart) > 3", "chart-memory" if name == "no-gpu" else "chart-temperature")
    if name == "settings":
        tab.page.click("#settings-button")
        tab.page.wait_for_selector("#settings-modal .panel-list li")
    for width, theme in product(WIDTHS, GRIDS):
        tab.take_screenshot(screenshots / f"{name}-{width}-{theme}.png", width, theme, whole=name != "settings")
    assert tab.errors == []


@pytest.mark.parametrize("count", [8, 16])
def test_screenshots_of_all_gpus(
    count: int, demo: Running, demo_16: Running, new_tab: Callable[..., BrowserTab], screenshots: Path
) -> None:
    tab = new_tab().open(f"{(demo if count == 8 else demo_16).url}?view=compare")
    last = f"#gpu-card-{count - 1}"
    tab.wait_until(
        "card => document.querySelector(card + ' .sparkline')?.getAttribute('aria-label')?.startsWith('Use in')", last
    )
    for width, theme in product(WIDTHS, GRIDS):
        tab.take_screenshot(screenshots / f"compare-{count}-{width}-{theme}.png", width, theme)
    assert tab.errors == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_screenshots_of_an_error(
    theme: Theme, demo: Running, new_tab: Callable[..., BrowserTab], screenshots: Path
) -> None:
    tab = new_tab(color_scheme=theme).open(f"{demo.url}?interval=0.5")
    tab.wait_until(f"chart => ({POINTS})(chart) > 3", "chart-temperature")
    for address in (f"**/{TICK}*", "**/healthz", "**/_compact*"):
        tab.page.route(address, lambda route: route.abort())
    tab.wait_for_state("disconnected")
    for width in WIDTHS:
        tab.take_screenshot(screenshots / f"error-{width}-{theme}.png", width, theme, whole=False)
