"""The page of the host, without a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.browser.conftest import POINTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.browser.conftest import BrowserTab
    from tests.processes import Running

# Fourteen cores, of which 1, 5 to 6, and 12 to 13 are offline: the machine of the test has as many as it has.
OFFLINE_CORES = """() => dashtop.painters.unshift(snapshot => {
  snapshot.core_ids = [0, 2, 3, 4, 7, 8, 9, 10, 11];
  snapshot.offline_cores = [12, 13];
  snapshot.cores = snapshot.core_ids.map(number => 8 * number);
})"""


def test_the_host_is_shown_without_a_gpu(without_gpu: Running, new_tab: Callable[..., BrowserTab]) -> None:
    tab = new_tab().open(f"{without_gpu.url}?page=host&range=5m")
    tab.wait_until("() => document.querySelectorAll('#panel-host-cpu .core').length > 0")
    tab.wait_until("() => document.querySelectorAll('#panel-host-storage li').length > 0")
    assert float(tab.metric("system.memory.total_gb", "#panel-host-memory")) > 0
    for chart in ("chart-host-cpu", "chart-host-load", "chart-host-ram", "chart-host-network", "chart-host-disk"):
        tab.wait_until(f"chart => ({POINTS})(chart) > 2", chart)
    tab.page.evaluate(OFFLINE_CORES)
    tab.wait_until("() => document.querySelectorAll('#panel-host-cpu .core').length === 14")
    assert tab.page.locator("#panel-host-cpu .is-offline").count() == 5
    label = tab.page.locator("#panel-host-cpu .cores").get_attribute("aria-label") or ""
    assert label == "CPU utilization of 9 cores, highest: core 11, 88 %, offline: 1, 5, 6, 12, 13"
    assert tab.errors == []


def test_the_page_fits_a_phone(without_gpu: Running, new_tab: Callable[..., BrowserTab]) -> None:
    tab = new_tab(width=390).open(f"{without_gpu.url}?page=host")
    tab.wait_until("() => document.querySelectorAll('#panel-host-cpu .core').length > 0")
    assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.errors == []
