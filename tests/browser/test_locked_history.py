"""A history that another process writes: the page says so and is live."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.processes import eventually, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.browser.conftest import BrowserTab

NOTICE = "[data-text='history_status']"


def test_second_dashtop_is_live_and_names_the_one_that_writes(
    tmp_path: Path, new_tab: Callable[..., BrowserTab]
) -> None:
    env = {"DASHTOP_DATA_DIR": str(tmp_path)}
    with running("--no-gpu", env=env) as first:
        eventually(lambda: first.status("/readyz")[1].get("detail") is None)
        with running("--no-gpu", env=env) as second:
            tab = new_tab().open(second.url)
            tab.page.locator(NOTICE, has_text=f"Process {first.process.pid} on ").wait_for()
            tab.page.locator(
                "[data-metric='system.cpu.usage_percent']:visible", has_text=re.compile(r"\d")
            ).first.wait_for()
            assert first.stop() == 0
            # It takes over: there is nothing left to say.
            tab.wait_until(f"() => document.querySelector(\"{NOTICE}\").textContent === ''")
            tab.wait_for_state("live")
            assert tab.errors == []
