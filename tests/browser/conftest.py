"""Chromium, and a page that is watched: its errors, its requests in flight, and what it has on screen."""

from __future__ import annotations

import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import pytest

from dashtop.ui.theme import DARK, LIGHT
from tests.processes import Running, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, Page, Request

SCREENSHOTS = Path(__file__).parent / "screenshots"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WAIT_MS = 20_000
Theme: TypeAlias = Literal["light", "dark"]
GRIDS: dict[Theme, str] = {"light": LIGHT.grid, "dark": DARK.grid}
GRID = "() => document.querySelector('#chart-utilization .js-plotly-plot')._fullLayout.yaxis.gridcolor"
PAINTED = """grid => [...document.querySelectorAll('.chart')].filter(chart => chart.offsetParent).every(chart =>
  chart.querySelector('.main-svg')?.clientWidth === chart.clientWidth &&
  chart.querySelector('.js-plotly-plot')._fullLayout.yaxis.gridcolor === grid)"""
TICK = "_dash-update-component"


@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict[str, Any]:
    """The distribution's own Chromium, quiet."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert found, "The browser tests need Chromium: apt-get install chromium"
    quiet = ["background-networking", "component-update", "sync", "gpu"]
    return {"executable_path": found, "args": ["--no-sandbox", *(f"--disable-{each}" for each in quiet)]}


@dataclass
class Watched:
    """A page and what was seen of it."""

    page: Page
    errors: list[str] = field(default_factory=list)
    asked: int = 0
    most_in_flight: int = 0
    in_flight: set[Request] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._sent)
        self.page.on("requestfinished", self._ended)
        self.page.on("requestfailed", self._ended)

    def _sent(self, request: Request) -> None:
        if TICK in request.url:
            self.asked += 1
            self.in_flight.add(request)
            self.most_in_flight = max(self.most_in_flight, len(self.in_flight))

    def _ended(self, request: Request) -> None:
        self.in_flight.discard(request)

    def open(self, url: str) -> Watched:
        self.page.goto(url)
        return self.until("live")

    def until(self, state: str, timeout_ms: int = WAIT_MS) -> Watched:
        """Wait for `live`, `stale` or `disconnected`."""
        self.page.wait_for_selector(f"html[data-live={state}]", timeout=timeout_ms)
        return self

    def true(self, expression: str, argument: Any = None, timeout_ms: int = WAIT_MS) -> Any:
        """Wait until a JavaScript expression is true, and return it."""
        return self.page.wait_for_function(expression, arg=argument, timeout=timeout_ms).json_value()

    def text(self, selector: str) -> str:
        return self.page.locator(selector).first.inner_text()

    def metric(self, key: str, within: str = "body") -> str:
        return self.text(f"{within} [data-metric='{key}']")

    def points(self, chart: str) -> int:
        """Count the points that a chart shows on its last line."""
        count: int = self.page.evaluate(POINTS, chart)
        return count

    def picture(self, path: Path, width: int, theme: Theme = "light", *, whole: bool = True) -> None:
        """Take a picture, for people to look at, once all charts have the size and theme; nothing may be too wide."""
        self.page.set_viewport_size({"width": width, "height": 900 if width > 600 else 844})
        self.page.emulate_media(color_scheme=theme)
        self.true("theme => document.documentElement.dataset.bsTheme === theme", theme)
        self.true(PAINTED, GRIDS[theme])
        self.page.screenshot(path=path, full_page=whole, animations="disabled")
        assert path.stat().st_size > 10_000
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


POINTS = """chart => {
  const plot = document.querySelector(`#${chart} .js-plotly-plot`);
  const line = plot && plot.calcdata && plot.calcdata.at(-1);
  return line ? line.filter(point => Number.isFinite(point.y)).length : 0;
}"""


@contextmanager
def watching(browser: Browser, *, width: int = 1440, height: int = 900, **options: Any) -> Iterator[Watched]:
    """Open a watched page in a browser profile of its own."""
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    try:
        yield Watched(context.new_page())
    finally:
        context.close()


@pytest.fixture
def watch(browser: Browser) -> Iterator[Callable[..., Watched]]:
    """Makes watched pages: `watch(width=390, color_scheme="dark")`."""
    with ExitStack() as pages:
        yield lambda **options: pages.enter_context(watching(browser, **options))


@pytest.fixture(scope="session")
def demo() -> Iterator[Running]:
    """A server with eight simulated GPUs, shared by the tests that do it no harm."""
    with running("--demo", "8", "--interval", "0.5") as server:
        yield server


@pytest.fixture(scope="session")
def without_gpu() -> Iterator[Running]:
    """A server on a machine without a GPU."""
    with running("--no-gpu", "--no-persist", "--interval", "0.5") as server:
        yield server


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Where pictures of this run are kept; git does not know them."""
    SCREENSHOTS.mkdir(exist_ok=True)
    return SCREENSHOTS
