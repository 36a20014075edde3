"""What a person chooses and what a screen is: theme, GPU, range, and no GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashtop.ui.theme import DARK
from tests.browser.conftest import GRID, POINTS, Watched

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.processes import Running

THEME = "() => document.documentElement.dataset.bsTheme"
FIRST_BODY = """() => new MutationObserver((_, observer) => {
  if (!document.body) return;
  window.themeAtFirstBody = document.documentElement.dataset.bsTheme;
  observer.disconnect();
}).observe(document, {childList: true, subtree: true})"""


def test_the_theme_is_kept_and_is_there_before_anything_is_painted(
    demo: Running, watch: Callable[..., Watched]
) -> None:
    seen = watch(color_scheme="light")
    seen.page.add_init_script(f"({FIRST_BODY})()")
    seen.open(demo.url)
    for choice, following in (("system", "light"), ("light", "dark")):
        seen.page.get_by_role("button", name=f"Theme: {choice}").click()
        seen.true("choice => document.documentElement.dataset.themeChoice === choice", following)
    seen.true(f"grid => ({GRID})() === grid", DARK.grid)
    seen.page.reload()
    seen.until("live")
    assert seen.page.evaluate("window.themeAtFirstBody") == "dark"
    seen.page.get_by_role("button", name="Theme: dark").click()
    seen.page.emulate_media(color_scheme="dark")
    seen.true(f"() => ({THEME})() === 'dark'")
    seen.page.emulate_media(color_scheme="light")
    seen.true(f"() => ({THEME})() === 'light'")
    assert seen.errors == []


def test_gpu_and_range_are_kept(demo: Running, watch: Callable[..., Watched]) -> None:
    seen = watch().open(demo.url)
    names = seen.page.locator("#gpu-selector option:not([value=''])").all_inner_texts()
    assert len(names) == 8
    seen.page.select_option("#gpu-selector", "5")
    seen.page.click("label:has-text('15 min')")
    name = names[5].partition(": ")[2].partition(" · ")[0]
    seen.true("name => document.querySelector('#gpu-heading .card-name').textContent === name", name)
    seen.page.reload()
    seen.until("live")
    seen.true("name => document.querySelector('#gpu-heading .card-name').textContent === name", name)
    assert seen.page.input_value("#gpu-selector") == "5"
    assert seen.page.locator("#time-range .btn-check:checked").input_value() == "15m"
    assert seen.errors == []


def test_without_a_gpu_the_notice_stands_and_cpu_and_ram_are_told(
    without_gpu: Running, watch: Callable[..., Watched]
) -> None:
    seen = watch().open(f"{without_gpu.url}?view=compare")
    assert "GPU monitoring off" in seen.text("#no-gpu-notice")
    assert "CPU and memory monitoring goes on" in seen.text("#no-gpu-notice")
    status = seen.text("#compact-status")
    assert "CPU" in status
    assert "RAM" in status
    assert "VRAM" not in status
    for hidden in ("#chart-temperature", "#panel-utilization", "#gpu-selector"):
        assert not seen.page.locator(hidden).is_visible()
    for chart in ("chart-utilization", "chart-memory"):
        seen.true(f"chart => ({POINTS})(chart) > 2", chart)
    assert seen.page.locator("main").get_by_text("GPU", exact=True).locator("visible=true").count() == 0
    assert seen.errors == []
