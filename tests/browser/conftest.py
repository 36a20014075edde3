"""Chromium, and browser tabs that record console errors and the requests of the page."""

from __future__ import annotations

import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import urlsplit, urlunsplit

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
# Charts that are far from the screen are not drawn.
PAINTED = """grid => [...document.querySelectorAll('.chart')].filter(chart => chart.offsetParent &&
  chart.getBoundingClientRect().top < innerHeight && chart.getBoundingClientRect().bottom > 0).every(chart =>
  chart.querySelector('.main-svg')?.clientWidth === chart.clientWidth &&
  chart.querySelector('.js-plotly-plot')._fullLayout.yaxis.gridcolor === grid)"""
TICK = "_dash-update-component"


@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict[str, Any]:
    """Use the Chromium of the distribution, without background requests."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert found, "The browser tests need Chromium: apt-get install chromium"
    quiet = ["background-networking", "component-update", "sync", "gpu"]
    return {"executable_path": found, "args": ["--no-sandbox", *(f"--disable-{each}" for each in quiet)]}


@dataclass
class BrowserTab:
    """A page, with its console errors and its tick requests."""

    page: Page
    errors: list[str] = field(default_factory=list)
    request_count: int = 0
    max_in_flight: int = 0
    in_flight: set[Request] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._count_request)
        self.page.on("requestfinished", self._finish_request)
        self.page.on("requestfailed", self._finish_request)

    def _count_request(self, request: Request) -> None:
        if TICK in request.url:
            self.request_count += 1
            self.in_flight.add(request)
            self.max_in_flight = max(self.max_in_flight, len(self.in_flight))

    def _finish_request(self, request: Request) -> None:
        self.in_flight.discard(request)

    def open(self, url: str, page: str = "gpus") -> BrowserTab:
        """Open an address; one that names no page shows `page`, with all details."""
        address = urlsplit(url)
        names_page = "page=" in address.query or "/embed" in address.path
        query = address.query if names_page else f"{address.query}&page={page}&details=open".lstrip("&")
        self.page.goto(urlunsplit(address._replace(query=query)))
        return self.wait_for_state("live")

    def wait_for_state(self, state: str, timeout_ms: int = WAIT_MS) -> BrowserTab:
        """Wait until the page is `live`, `stale` or `disconnected`."""
        self.page.wait_for_selector(f"html[data-live={state}]", timeout=timeout_ms)
        return self

    def wait_until(self, expression: str, argument: Any = None, timeout_ms: int = WAIT_MS) -> Any:
        """Wait until a JavaScript expression is true; return its value."""
        return self.page.wait_for_function(expression, arg=argument, timeout=timeout_ms).json_value()

    def text(self, selector: str) -> str:
        return self.page.locator(selector).first.inner_text()

    def metric(self, key: str, within: str = "body") -> str:
        return self.text(f"{within} [data-metric='{key}']")

    def take_screenshot(self, path: Path, width: int, theme: Theme = "light", *, whole: bool = True) -> None:
        """Take a screenshot when all charts have the size and theme; check that the page does not scroll sideways."""
        self.page.set_viewport_size({"width": width, "height": (900 if width > 600 else 844) if not whole else 6000})
        self.page.emulate_media(color_scheme=theme)
        self.wait_until("theme => document.documentElement.dataset.bsTheme === theme", theme)
        self.wait_until(PAINTED, GRIDS[theme])
        self.page.screenshot(path=path, full_page=whole, animations="disabled")
        assert path.stat().st_size > 10_000
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


POINTS = """chart => {
  const plot = document.querySelector(`#${chart} .js-plotly-plot`);
  const line = plot && plot.calcdata && plot.calcdata.at(-1);
  return line ? line.filter(point => Number.isFinite(point.y)).length : 0;
}"""


@contextmanager
def open_browser_tab(
    browser: Browser, *, width: int = 1440, height: int = 2600, **options: Any
) -> Iterator[BrowserTab]:
    """Open a tab in its own browser profile. Charts are drawn when they are on the screen: all are, at that height.

    Without a service worker unless `options` allow it: Playwright cannot intercept the requests that one answers.
    """
    size: Any = {"width": width, "height": height}
    context = browser.new_context(viewport=size, **{"service_workers": "block", **options})
    try:
        yield BrowserTab(context.new_page())
    finally:
        context.close()


@pytest.fixture
def new_tab(browser: Browser) -> Iterator[Callable[..., BrowserTab]]:
    """Return a function that opens tabs: `new_tab(width=390, color_scheme="dark")`."""
    with ExitStack() as pages:
        yield lambda **options: pages.enter_context(open_browser_tab(browser, **options))


@pytest.fixture(scope="session")
def demo() -> Iterator[Running]:
    """A server with eight simulated GPUs, shared by all tests that do not disturb it."""
    with running("--demo", "8", "--interval", "0.5") as server:
        yield server


@pytest.fixture(scope="session")
def without_gpu() -> Iterator[Running]:
    """A server on a machine without a GPU."""
    with running("--no-gpu", "--no-persist", "--interval", "0.5") as server:
        yield server


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """The folder for screenshots, which git ignores."""
    SCREENSHOTS.mkdir(exist_ok=True)
    return SCREENSHOTS
