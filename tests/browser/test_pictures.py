"""Pictures of every view and state, for people to look at: light and dark, on a desk and on a telephone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import GRID, GRIDS, POINTS, TICK, Watched
from tests.processes import Running, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SIZES = ((1440, 900), (390, 844))
FITS = """() => [...document.querySelectorAll('.chart')].filter(chart => chart.offsetParent)
  .every(chart => chart.querySelector('.main-svg')?.clientWidth === chart.clientWidth)"""


@pytest.fixture(scope="module")
def sixteen() -> Iterator[Running]:
    with running("--demo", "16", "--interval", "0.5", "--no-persist") as server:
        yield server


def takes(seen: Watched, path: Path, *, whole: bool) -> None:
    seen.page.screenshot(path=path, full_page=whole, animations="disabled")
    assert path.stat().st_size > 10_000
    assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("name", ["single", "no-gpu", "settings"])
def test_pictures_of_charts(
    name: str, demo: Running, without_gpu: Running, watch: Callable[..., Watched], screenshots: Path
) -> None:
    seen = watch().open((without_gpu if name == "no-gpu" else demo).url)
    seen.true(f"chart => ({POINTS})(chart) > 3", "chart-memory")
    if name == "settings":
        seen.page.click("#settings-button")
        seen.page.wait_for_selector("#settings-modal .arrange li")
    for width, height in SIZES:
        seen.page.set_viewport_size({"width": width, "height": height})
        for theme, grid in GRIDS.items():
            seen.page.emulate_media(color_scheme=theme)
            seen.true(f"grid => ({GRID})() === grid", grid)
            seen.true(FITS)
            takes(seen, screenshots / f"{name}-{width}-{theme}.png", whole=name != "settings")
    assert seen.errors == []


@pytest.mark.parametrize("count", [8, 16])
def test_pictures_of_all_gpus(
    count: int, demo: Running, sixteen: Running, watch: Callable[..., Watched], screenshots: Path
) -> None:
    seen = watch().open(f"{(demo if count == 8 else sixteen).url}?view=compare")
    last = f"#gpu-card-{count - 1}"
    seen.true(
        "card => document.querySelector(card + ' .spark')?.getAttribute('aria-label')?.startsWith('Use in')", last
    )
    for width, height in SIZES:
        seen.page.set_viewport_size({"width": width, "height": height})
        for theme in GRIDS:
            seen.page.emulate_media(color_scheme=theme)
            seen.true("theme => document.documentElement.dataset.bsTheme === theme", theme)
            takes(seen, screenshots / f"compare-{count}-{width}-{theme}.png", whole=True)
    assert seen.errors == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pictures_of_an_error(theme: str, demo: Running, watch: Callable[..., Watched], screenshots: Path) -> None:
    seen = watch(color_scheme=theme).open(f"{demo.url}?interval=0.5")
    seen.true(f"chart => ({POINTS})(chart) > 3", "chart-memory")
    for address in (f"**/{TICK}*", "**/healthz", "**/_compact*"):
        seen.page.route(address, lambda route: route.abort())
    seen.until("disconnected")
    for width, height in SIZES:
        seen.page.set_viewport_size({"width": width, "height": height})
        seen.true(FITS)
        takes(seen, screenshots / f"error-{width}-{theme}.png", whole=False)
