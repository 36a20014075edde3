"""The page of the fleet, of three dashtops that are asked directly."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.base import AXE_SCRIPT

from tests.browser.test_axe import OPTIONS, RUN
from tests.processes import find_free_ports, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.browser.conftest import BrowserTab
    from tests.processes import Running

ROWS = "() => document.querySelectorAll('[data-fleet-table=nodes] tr').length"
MODELS = """[...document.querySelectorAll('[data-fleet-table=node] tr')]
  .map(({cells}) => [cells[0].textContent, cells[1].textContent])"""


@pytest.fixture(scope="module")
def viewer(demo: Running, without_gpu: Running) -> Iterator[Running]:
    """A dashtop without GPUs that shows two others, and one that does not answer."""
    addresses = [urlsplit(each.url).netloc for each in (demo, without_gpu)]
    (closed,) = find_free_ports(1)
    with running("--no-gpu", "--fleet-peers", ",".join([*addresses, f"127.0.0.1:{closed}"])) as server:
        yield server


def test_fleet_shows_what_each_dashtop_says(viewer: Running, demo: Running, new_tab: Callable[..., BrowserTab]) -> None:
    node = urlsplit(demo.url).netloc
    tab = new_tab()
    tab.page.goto(viewer.url)
    tab.wait_until(f"() => ({ROWS})() === 3")
    assert tab.page.evaluate("document.documentElement.dataset.page") == "fleet", "it has no GPU of its own"
    tab.wait_until("() => document.querySelector('[data-fleet-tile=nodes] .number').textContent === '2'")
    states = tab.page.evaluate(
        "[...document.querySelectorAll('[data-fleet-table=nodes] td:nth-child(2)')].map(each => each.textContent)"
    )
    assert sorted(states) == ["down", "up", "up"]
    assert tab.page.locator("[data-fleet-attention] [data-severity=critical]").count() == 1
    # The grid: a click on a GPU shows its node, and the page of the other dashtop is one click away.
    box = tab.page.locator("[data-fleet-canvas]").bounding_box()
    assert box is not None
    at = tab.page.locator("[data-fleet-table=nodes] th").all_text_contents()
    assert node in at
    tab.page.locator("[data-fleet-table=nodes]").get_by_text(node, exact=True).click()
    tab.wait_until("() => document.querySelectorAll('[data-fleet-table=node] tr').length === 8")
    assert (tab.page.locator("[data-fleet-open]").get_attribute("href") or "").rstrip("/") == demo.url.rstrip("/")
    gpus = {str(gpu["gpu_id"]): gpu for gpu in demo.json("/api/v1/system/gpu-metrics/all")}
    names = tab.page.evaluate(MODELS)
    assert dict(names) == {index: gpu["gpu_name"] for index, gpu in gpus.items()}
    assert "fleet_node=" in tab.page.url
    tab.page.click("[data-fleet-close]")
    tab.page.wait_for_selector("[data-fleet-node]", state="hidden")
    texts = set()
    for x in range(8, 300, 8):  # the nodes are in the order of their ports
        tab.page.mouse.move(box["x"] + x, box["y"] + 26)
        texts.add(tab.page.evaluate("document.querySelector('#fleet-grid .timeline-tip')?.textContent"))
    assert any(text and f"{node}GPU 0: " in text for text in texts), texts
    tab.page.evaluate(AXE_SCRIPT)
    assert tab.page.evaluate(RUN, OPTIONS) == []
    assert tab.errors == []


def test_free_gpus_come_first_on_a_phone_and_can_be_filtered(
    viewer: Running, new_tab: Callable[..., BrowserTab]
) -> None:
    tab = new_tab(width=390, color_scheme="dark")
    tab.page.goto(f"{viewer.url}?page=fleet&fleet_count=8")
    tab.wait_until(f"() => ({ROWS})() === 3")
    tab.wait_until(
        "() => document.querySelector('[data-fleet-table-empty=free]').textContent.startsWith('No node has')"
    )
    tops = tab.page.evaluate(
        "['summary', 'free', 'grid'].map(name => document.getElementById(`fleet-${name}`).offsetTop)"
    )
    assert tops == sorted(tops)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert tab.page.locator(".navigation").bounding_box() is not None
    tab.page.evaluate(AXE_SCRIPT)
    assert tab.page.evaluate(RUN, OPTIONS) == []
    assert tab.errors == []
