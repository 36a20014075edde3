"""Pictures of every view and state, for people to look at: light and dark, on a desk and on a telephone."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import GRIDS, POINTS, TICK, Theme, Watched
from tests.processes import Running, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WIDTHS = (1440, 390)


@pytest.fixture(scope="module")
def sixteen() -> Iterator[Running]:
    with running("--demo", "16", "--interval", "0.5", "--no-persist") as server:
        yield server


@pytest.mark.parametrize("name", ["single", "no-gpu", "settings"])
def test_pictures_of_charts(
    name: str, demo: Running, without_gpu: Running, watch: Callable[..., Watched], screenshots: Path
) -> None:
    seen = watch().open((without_gpu if name == "no-gpu" else demo).url)
    seen.true(f"chart => ({POINTS})(chart) > 3", "chart-memory")
    if name == "settings":
        seen.page.click("#settings-button")
        seen.page.wait_for_selector("#settings-modal .arrange li")
    for width, theme in product(WIDTHS, GRIDS):
        seen.picture(screenshots / f"{name}-{width}-{theme}.png", width, theme, whole=name != "settings")
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
    for width, theme in product(WIDTHS, GRIDS):
        seen.picture(screenshots / f"compare-{count}-{width}-{theme}.png", width, theme)
    assert seen.errors == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pictures_of_an_error(theme: Theme, demo: Running, watch: Callable[..., Watched], screenshots: Path) -> None:
    seen = watch(color_scheme=theme).open(f"{demo.url}?interval=0.5")
    seen.true(f"chart => ({POINTS})(chart) > 3", "chart-memory")
    for address in (f"**/{TICK}*", "**/healthz", "**/_compact*"):
        seen.page.route(address, lambda route: route.abort())
    seen.until("disconnected")
    for width in WIDTHS:
        seen.picture(screenshots / f"error-{width}-{theme}.png", width, theme, whole=False)
