"""Accessibility of every page, dialog and embedded panel as axe-core judges it. Its script comes with the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.browser.conftest import BrowserTab
    from tests.processes import Running

# Each page, and what is there when it is drawn.
PAGES = {
    "overview": "#chart-all-gpus .main-svg",
    "gpus": "#chart-utilization .main-svg",
    "gpus&view=compare": "#gpu-card-7 .sparkline",
    "processes": "#panel-all-processes tbody tr",
    "events": "[data-timeline] .mark",
    "usage": ".heat-row",
    "runs&run=51000000": ".run-report .run-table",
    "host": "#panel-host-cpu .core",
    "alerts": "#panel-silences",
}
EMBEDDED = {
    "panel-gpus": "[data-gpu-table] tr",
    "panel-temperature": ".bar[aria-valuenow]",
    "compact": "#compact-status[data-gpu]",
    "compare": "#gpu-card-7 .sparkline",
    "chart-utilization": ".main-svg",
    "panel-usage": ".heat-row",
    "panel-health": "[data-timeline] .mark",
    "panel-host-storage": ".metric-row",
}
# The contrast of colours is two thirds of the time; test_access.py checks it in every run.
OPTIONS = {"resultTypes": ["violations"], "iframes": False, "preload": False}
WITHOUT_CONTRAST = {**OPTIONS, "rules": {"color-contrast": {"enabled": False}}}
RUN = """async options => (await axe.run(document, options)).violations.flatMap(
  rule => rule.nodes.map(node => `${rule.id}: ${node.target.join(' ')} ${node.html.slice(0, 120)}`))"""


def find_violations(tab: BrowserTab, options: dict[str, Any]) -> Any:
    if not tab.page.evaluate("() => 'axe' in window"):
        tab.page.evaluate(AXE_SCRIPT)
    return tab.page.evaluate(RUN, options)


def show_page(tab: BrowserTab, page: str) -> None:
    """Show a page of the open document."""
    go = "page => window.dashtop.settings.set({view: 'single', ...Object.fromEntries(new URLSearchParams(page))})"
    tab.page.evaluate(go, f"page={page}")
    tab.page.wait_for_selector(PAGES[page])


def open_overlays(tab: BrowserTab) -> Iterator[str]:
    """Open each menu, dialog and popover of the page of GPUs, one after the other."""
    page = tab.page
    for opened, clicked, shown in (
        # First: a popover closes when the page scrolls, as it does for what is further below.
        ("popover", "#panel-temperature [data-metric][data-tip]", "#popover"),
        ("settings", "#settings-button", "#settings-modal .panel-list li"),
        ("help", "#help-button", ".help-menu[open] a"),
        ("export", "#export-button", ".menu[open] a"),
        ("from-to", ".span-summary", ".span-picker[open] form"),
        ("table of a chart", "#panel-chart-utilization [data-table]", ".table-dialog[open] td"),
        ("chart picker", "#add-chart", "dialog[open] li"),
        ("process", "[data-processes] .process-menu", ".watch-dialog[open] .watch-service"),
    ):
        page.locator(clicked).first.click()
        page.wait_for_selector(shown)
        # Colours are judged when a dialog has faded in.
        tab.wait_until(
            "() => document.getAnimations().every(each => each.playState !== 'running' || !each.transitionProperty)"
        )
        yield opened
        page.keyboard.press("Escape")
        page.wait_for_selector(shown, state="hidden")


def check_every_view(tab: BrowserTab, options: dict[str, Any]) -> None:
    found = {}
    for page in PAGES:
        show_page(tab, page)
        found[page] = find_violations(tab, options)
    show_page(tab, "gpus")
    found |= {name: find_violations(tab, options) for name in open_overlays(tab)}
    assert {name: violations for name, violations in found.items() if violations} == {}


@pytest.mark.long
def test_axe_finds_nothing_on_any_page_and_in_any_dialog(demo: Running, new_tab: Callable[..., BrowserTab]) -> None:
    tab = new_tab(height=900).open(demo.url)
    check_every_view(tab, WITHOUT_CONTRAST)
    tab.page.evaluate("() => document.querySelector('#panel-temperature .bar').setAttribute('role', 'nothing')")
    assert any("aria-roles" in each for each in find_violations(tab, WITHOUT_CONTRAST)), "axe runs"


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_axe_finds_nothing_in_any_theme_and_width(
    width: int, theme: str, demo: Running, without_gpu: Running, new_tab: Callable[..., BrowserTab]
) -> None:
    tab = new_tab(width=width, height=900, color_scheme=theme).open(demo.url)
    check_every_view(tab, OPTIONS)
    found = {}
    tab.page.click("#arrange-button")
    tab.page.locator(".arrange-hide").first.click()
    found["arranging"] = find_violations(tab, OPTIONS)
    tab.page.keyboard.press("Escape")
    for name, drawn in EMBEDDED.items():
        tab.open(f"{demo.url}embed/{name}").page.wait_for_selector(drawn)
        found[name] = find_violations(tab, OPTIONS)
    tab.page.goto(f"{demo.url}embed/")
    tab.page.evaluate("() => document.querySelectorAll('iframe').forEach(frame => frame.remove())")
    found["gallery"] = find_violations(tab, OPTIONS)
    for page, drawn in {"gpus": "#no-gpu-notice", "overview": "[data-tile=disk]"}.items():
        tab.open(f"{without_gpu.url}?page={page}").page.wait_for_selector(drawn)
        found[f"{page} without GPU"] = find_violations(tab, OPTIONS)
    assert {name: violations for name, violations in found.items() if violations} == {}
