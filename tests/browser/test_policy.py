"""The page under its content security policy: in Chromium, nothing that it does is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.processes import running

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.browser.conftest import Watched

REFUSED = """
window.refused = [];
document.addEventListener('securitypolicyviolation', event => window.refused.push(event.violatedDirective));
"""


@pytest.mark.parametrize("arguments", [(), ("--url-prefix", "/gpu/"), ("--token", "correct-horse")])
def test_pages_run_under_the_policy(watch: Callable[..., Watched], arguments: tuple[str, ...]) -> None:
    with running("--demo", "2", *arguments) as server:
        seen = watch()
        seen.page.add_init_script(REFUSED)
        seen.open(server.url + ("?token=correct-horse" if arguments[:1] == ("--token",) else ""))
        seen.true("() => document.querySelector('#chart-temperature .js-plotly-plot')")
        seen.page.click("#theme-toggle")
        seen.page.hover("#chart-utilization .js-plotly-plot")
        assert seen.page.evaluate("window.refused") == []
        assert seen.errors == []
        assert "token" not in seen.page.url
        seen.page.goto(server.url + "docs")
        assert seen.page.locator("section").count() > 10
        assert seen.page.evaluate("window.refused") == []
        assert seen.errors == []


def test_a_script_that_is_not_ours_does_not_run(watch: Callable[..., Watched]) -> None:
    with running("--demo", "1") as server:
        seen = watch().open(server.url)
        seen.page.evaluate(
            "() => { const own = document.createElement('script'); own.textContent = 'window.stolen = 1';"
            " document.body.append(own); }"
        )
        assert seen.page.evaluate("window.stolen") is None
        assert any("Content Security Policy" in error for error in seen.errors)
