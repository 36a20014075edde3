"""Alerts on the page: the bell, the active ones with their buttons, silences, and a channel that is tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.alerts.receivers import webhook
from tests.processes import running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.browser.conftest import BrowserTab
    from tests.fake_nvml.fixtures import WorldFactory
    from tests.processes import Running


def test_alert_is_seen_acknowledged_and_silenced_from_the_page(
    nvml_world: WorldFactory, new_tab: Callable[..., BrowserTab], tmp_path: Path
) -> None:
    world = nvml_world("h100x8")
    world.set(3, "remapped_rows.failure", 1).save()
    settings = tmp_path / "dashtop.toml"
    with webhook() as hook:
        settings.write_text(f'[[notify]]\nname = "team"\nkind = "json"\nurl = "{hook.url}"\n')
        with running("--interval", "0.5", "--no-persist", "--config", str(settings), env=world.env()) as server:
            tab = new_tab().open(server.url)
            tab.wait_until("() => document.querySelector('#alert-bell .bell-count').textContent === '1'")
            assert tab.text("#alert-bell [data-bell-text]") == "Alerts: 1, critical"
            tab.page.click("#alert-bell")
            first = "[data-alerts] > li"
            tab.wait_until(f"() => document.querySelector('{first} .alert-text')")
            assert tab.text(f"{first} .alert-text").startswith("GPU 3 (NVIDIA H100 80GB HBM3): no spare memory rows")
            assert tab.text(f"{first} .alert-advice") == "Replace it."
            tab.wait_until("() => document.querySelector('[data-alert-log] tr')")
            assert "no spare memory rows" in tab.text("[data-alert-log] tr")

            tab.page.click(f"{first} >> text=Acknowledge")
            tab.wait_until("() => document.querySelector('.alert-note').textContent.includes('acknowledged')")
            tab.wait_until("() => document.querySelector('#alert-bell .bell-count').textContent === ''")

            tab.page.click(f"{first} >> text=Silence 8 h")
            tab.wait_until("() => document.querySelector('[data-silences] > li')")
            assert tab.text("[data-silences] .alert-text") == "No spare memory rows on GPU 3"
            tab.page.click("[data-silences] >> text=End")
            tab.wait_until("() => !document.querySelector('[data-silences] > li')")

            tab.page.click("[data-channels] >> text=Test")
            tab.wait_until("() => document.querySelector('[data-channels] button').textContent === 'Sent'")
            assert [body["alerts"][0]["rule"] for body in hook.bodies()] == ["remap_failed", "test"]

            tab.page.click(f"{first} >> text=Show GPU")
            tab.wait_until("() => document.documentElement.dataset.page === 'gpus'")
            tab.page.go_back()
            tab.wait_until("() => document.documentElement.dataset.page === 'alerts'")
            assert tab.errors == []


def test_page_without_alerts_says_so_and_how_to_be_told(
    without_gpu: Running, new_tab: Callable[..., BrowserTab]
) -> None:
    tab = new_tab(width=390).open(f"{without_gpu.url}?page=alerts")
    tab.wait_until("() => document.querySelector('[data-alerts-empty]').textContent.startsWith('No alerts')")
    tab.wait_until("() => document.querySelector('[data-channels-empty]').textContent.includes('[[notify]]')")
    assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.errors == []
