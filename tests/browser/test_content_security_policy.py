"""The content security policy: Chromium blocks nothing of the page, and blocks foreign scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.processes import Running, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.browser.conftest import BrowserTab

RECORD_VIOLATIONS = """
window.violations = [];
document.addEventListener('securitypolicyviolation', event => window.violations.push(event.violatedDirective));
"""


def test_pages_do_not_violate_the_policy(demo: Running, new_tab: Callable[..., BrowserTab]) -> None:
    check_violations(new_tab(), demo.url, "")


@pytest.mark.long
@pytest.mark.parametrize("arguments", [("--url-prefix", "/gpu/"), ("--token", "correct-horse-battery")])
def test_pages_with_a_prefix_or_a_token_do_not_violate_the_policy(
    new_tab: Callable[..., BrowserTab], arguments: tuple[str, ...]
) -> None:
    with running("--demo", "2", *arguments) as server:
        check_violations(new_tab(), server.url, "?token=correct-horse-battery" if arguments[0] == "--token" else "")


def check_violations(tab: BrowserTab, url: str, query: str) -> None:
    tab.page.add_init_script(RECORD_VIOLATIONS)
    tab.open(url + query)
    tab.wait_until("() => document.querySelector('#chart-temperature .js-plotly-plot')")
    tab.page.click("#theme-toggle")
    tab.page.hover("#chart-utilization .js-plotly-plot")
    assert tab.page.evaluate("window.violations") == []
    assert tab.errors == []
    assert "token" not in tab.page.url
    tab.page.goto(url + "docs")
    assert tab.page.locator("section").count() > 10
    assert tab.page.evaluate("window.violations") == []
    assert tab.errors == []


def test_a_foreign_script_does_not_run(demo: Running, new_tab: Callable[..., BrowserTab]) -> None:
    tab = new_tab().open(demo.url)
    tab.page.evaluate(
        "() => { const own = document.createElement('script'); own.textContent = 'window.stolen = 1';"
        " document.body.append(own); }"
    )
    assert tab.page.evaluate("window.stolen") is None
    assert any("Content Security Policy" in error for error in tab.errors)
