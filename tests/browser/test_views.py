"""Theme, GPU and time range after a reload, and the page without a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dashtop.ui.theme import DARK
from tests.browser.conftest import GRID, POINTS, BrowserTab

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.processes import Running

THEME = "() => document.documentElement.dataset.bsTheme"
FIRST_BODY = """() => new MutationObserver((_, observer) => {
  if (!document.body) return;
  window.themeAtFirstBody = document.documentElement.dataset.bsTheme;
  observer.disconnect();
}).observe(document, {childList: true, subtree: true})"""


@pytest.mark.long
def test_the_theme_is_stored_and_applied_before_the_first_paint(
    demo: Running, new_tab: Callable[..., BrowserTab]
) -> None:
    tab = new_tab(color_scheme="light")
    tab.page.add_init_script(f"({FIRST_BODY})()")
    tab.open(demo.url)
    for choice, following in (("system", "light"), ("light", "dark")):
        tab.page.get_by_role("button", name=f"Theme: {choice}").click()
        tab.wait_until("choice => document.documentElement.dataset.themeChoice === choice", following)
    tab.wait_until(f"grid => ({GRID})() === grid", DARK.grid)
    tab.page.reload()
    tab.wait_for_state("live")
    assert tab.page.evaluate("window.themeAtFirstBody") == "dark"
    tab.page.get_by_role("button", name="Theme: dark").click()
    tab.page.emulate_media(color_scheme="dark")
    tab.wait_until(f"() => ({THEME})() === 'dark'")
    tab.page.emulate_media(color_scheme="light")
    tab.wait_until(f"() => ({THEME})() === 'light'")
    assert tab.errors == []


def test_gpu_and_range_are_stored(demo: Running, new_tab: Callable[..., BrowserTab]) -> None:
    tab = new_tab().open(demo.url)
    names = tab.page.locator("#gpu-selector option:not([value=''])").all_inner_texts()
    assert len(names) == 8
    tab.page.select_option("#gpu-selector", "5")
    tab.page.click("label:has-text('15 min')")
    name = names[5].partition(": ")[2].partition(" · ")[0]
    tab.wait_until("name => document.querySelector('#gpu-heading .card-title').textContent === name", name)
    tab.page.reload()
    tab.wait_for_state("live")
    tab.wait_until("name => document.querySelector('#gpu-heading .card-title').textContent === name", name)
    assert tab.page.input_value("#gpu-selector") == "5"
    assert tab.page.locator("#time-range .btn-check:checked").input_value() == "15m"
    assert tab.errors == []


def test_without_a_gpu_the_notice_and_host_values_are_shown(
    without_gpu: Running, new_tab: Callable[..., BrowserTab]
) -> None:
    tab = new_tab().open(f"{without_gpu.url}?view=compare")
    assert "GPU monitoring off" in tab.text("#no-gpu-notice")
    assert "CPU and memory monitoring goes on" in tab.text("#no-gpu-notice")
    status = tab.text("#compact-status")
    assert "CPU" in status
    assert "RAM" in status
    assert "VRAM" not in status
    for hidden in ("#chart-temperature", "#panel-utilization", "#gpu-selector"):
        assert not tab.page.locator(hidden).is_visible()
    for chart in ("chart-utilization", "chart-memory"):
        tab.wait_until(f"chart => ({POINTS})(chart) > 2", chart)
    assert tab.page.locator("main").get_by_text("GPU", exact=True).locator("visible=true").count() == 0
    assert tab.errors == []
