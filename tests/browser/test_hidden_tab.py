"""Notifications while the tab is in the background. Playwright keeps every tab visible, so Selenium drives Chromium."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from tests.processes import eventually, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fake_nvml.fixtures import WorldFactory

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore:HTTPResponse.getheader:DeprecationWarning")]
WAIT_S = 30
NOTE = "return document.querySelector('[data-this-browser] .alert-note')?.textContent ?? ''"
RECORD_VISIBILITY = """window.hidden = [document.hidden];
document.addEventListener("visibilitychange", () => window.hidden.push(document.hidden))"""
SHOWN = """const done = arguments[0]; navigator.serviceWorker.getRegistration("/")
  .then((worker) => worker.getNotifications()).then((shown) => done(shown.map(({body}) => body)))"""


@contextmanager
def start_chromium() -> Iterator[Any]:
    """Start Chromium by chromedriver, from Debian's package chromium-driver."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium-driver is not installed")
    options = Options()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"):
        options.add_argument(argument)  # type: ignore[no-untyped-call]
    browser = webdriver.Chrome(service=Service(driver), options=options)
    try:
        yield browser
    finally:
        browser.quit()


def test_alert_is_shown_while_the_tab_is_hidden(nvml_world: WorldFactory, tmp_path: Path) -> None:
    world = nvml_world("h100x8")
    world.save()
    env = {**world.env(), "DASHTOP_DATA_DIR": str(tmp_path)}
    with running("--interval", "0.5", env=env) as server, start_chromium() as browser:
        browser.execute_cdp_cmd(
            "Browser.grantPermissions", {"permissions": ["notifications"], "origin": server.url.rstrip("/")}
        )
        browser.get(f"{server.url}?page=alerts")
        tab = browser.current_window_handle
        eventually(lambda: browser.execute_script(NOTE).startswith("Off"), WAIT_S)
        browser.find_element(By.XPATH, "//*[@data-this-browser]//button[text()='Turn on']").click()
        eventually(lambda: browser.execute_script(NOTE).startswith("On"), WAIT_S)
        browser.execute_script(RECORD_VISIBILITY)
        browser.switch_to.new_window("tab")
        browser.get(f"{server.url}healthz")  # of the same origin, without scripts

        world.add_event(3, "xid", 79).save()
        (body,) = eventually(lambda: browser.execute_async_script(SHOWN), WAIT_S)
        assert "(XID 79)" in body
        browser.switch_to.window(tab)
        assert browser.execute_script("return window.hidden") == [False, True, False], "hidden all the time"
