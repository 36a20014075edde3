"""Alerts on the page: the bell, the active ones with their buttons, silences, and a channel that is tried."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.alerts.receivers import webhook
from tests.browser.conftest import BrowserTab
from tests.processes import eventually, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import Route

    from tests.fake_nvml.fixtures import WorldFactory
    from tests.fake_nvml.world import World
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

            # Help of a button does not cover the one below it: the popover stays while the pointer is on it.
            tab.page.hover(f"{first} >> text=At that time")
            tab.page.locator("#popover").get_by_text("Show the values when it fired").wait_for()
            tab.page.click(f"{first} >> text=Silence until…")
            until = tab.page.locator(f"{first} input[type=datetime-local]")
            until.fill(until.input_value()[:11] + "00:00")  # the beginning of tomorrow
            until.press("Enter")
            tab.wait_until("() => document.querySelector('[data-silences] > li')")
            assert "00:00:00" in tab.text("[data-silences] .alert-note")
            tab.page.click("[data-silences] >> text=End")
            tab.wait_until("() => !document.querySelector('[data-silences] > li')")
            tab.page.locator(f"{first} >> text=Silence 8 h").click()  # waits until the button is back
            tab.wait_until("() => document.querySelector('[data-silences] > li')")
            assert tab.text("[data-silences] .alert-text") == "No spare memory rows on GPU 3"
            tab.page.click("[data-silences] >> text=End")
            tab.wait_until("() => !document.querySelector('[data-silences] > li')")

            tab.page.click("[data-channels] >> text=Test")
            tab.wait_until("() => document.querySelector('[data-channels] button').textContent === 'Sent'")
            assert [body["alerts"][0]["rule"] for body in hook.bodies()] == ["remap_failed", "test"]

            tab.page.click(f"{first} >> text=At that time")
            tab.wait_until("() => document.documentElement.dataset.live === 'past'")
            assert "gpu=GPU-" in tab.page.url
            bands = "window.dashtop.charts.figure('chart-temperature')?.bands"
            tab.wait_until(f"() => {bands}?.some(([, , text]) => text.includes('no spare memory rows'))")
            tab.page.go_back()
            tab.wait_until("() => document.documentElement.dataset.page === 'alerts'")
            tab.page.click(f"{first} >> text=Show GPU")
            tab.wait_until("() => document.documentElement.dataset.page === 'gpus'")
            tab.page.go_back()
            tab.wait_until("() => document.documentElement.dataset.page === 'alerts'")
            assert tab.errors == []


NOTIFICATIONS = """async () => (await (await navigator.serviceWorker.ready).getNotifications())
  .map(({tag, title, body}) => ({tag, title, body}))"""
ACKNOWLEDGE_ALL = """async () => {
  for (const {id} of await (await fetch("api/v1/system/alerts?state=firing")).json()) {
    const headers = {"Content-Type": "application/json"};
    await fetch(`api/v1/system/alerts/${id}/ack`, {method: "POST", headers, body: "{}"});
  }
}"""
TOKEN = "correct-horse-battery"


def wait_for_notifications(tab: BrowserTab, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = eventually(
        lambda: [shown] if len(shown := tab.page.evaluate(NOTIFICATIONS)) == count else [], 20, 0.1
    )[0]
    return found


def wait_for_the_end_of_a_process(tab: BrowserTab, server: Running, world: World) -> dict[str, Any]:
    """Have the tab be notified when the processes on GPU 4 end; return the notification."""
    tab.open(f"{server.url}?page=gpus&gpu={world.gpu(4)['uuid']}")
    tab.page.locator("[data-processes] .process-menu").first.click()
    assert tab.text("#watch-title").startswith("Process · PID ")
    tab.page.keyboard.press("Enter")  # tell this browser
    watched = tab.page.locator(".watch-status", has_text="You will be notified when it ends, by this browser: a tab")
    watched.wait_for()
    assert not tab.page.locator(".watch-form").is_visible()
    assert not watched.get_by_text("Turn notifications on").is_visible()
    # The mark stays after a reload, and the dialog takes the watch back.
    tab.page.reload()
    tab.page.locator("[data-processes] .process-menu[data-watched=true]").first.click()
    watched.get_by_text("Cancel").click()
    tab.page.locator(".watch-form").wait_for()
    tab.wait_until("() => !document.querySelector('[data-processes] .process-menu[data-watched=true]')")
    tab.page.locator(".watch-form [type=submit]").click()
    watched.wait_for()
    tab.page.keyboard.press("Escape")
    # A GPU: the head and the row say it.
    tab.page.click("#gpu-heading [data-watch-gpu]")
    tab.page.keyboard.press("Enter")
    tab.page.locator(".watch-status", has_text="You will be notified when it is free").wait_for()
    tab.page.keyboard.press("Escape")
    head = "document.querySelector('#gpu-heading [data-watch-gpu]').textContent"
    tab.wait_until(f"() => {head} === 'You will be notified when free'")
    tab.page.evaluate("() => window.dashtop.settings.set({page: 'overview'})")
    tab.page.locator(".row-watch[data-watch-gpu='4'][data-watched=true]").click()
    tab.page.click(".watch-status >> text=Cancel")
    tab.page.locator(".watch-form").wait_for()
    tab.page.keyboard.press("Escape")
    tab.wait_until("() => !document.querySelector('.row-watch[data-watched=true]')")
    tab.page.click("#alert-bell")
    note = "document.querySelector('[data-watches] .alert-note')?.textContent"
    tab.wait_until(f"() => {note}?.endsWith('notifies this browser')")
    world.set(4, "processes", []).save()

    def find() -> list[dict[str, Any]]:
        return [each for each in tab.page.evaluate(NOTIFICATIONS) if "watch" in each["tag"]]

    (ended,) = eventually(find, 30)
    assert ended["title"].startswith("Ended · ")
    assert ended["body"].endswith("has ended, or holds no GPU memory any more.")
    tab.page.click("#alert-bell")
    tab.wait_until("() => document.querySelector('[data-watches] .alert-note')?.textContent.startsWith('At')")
    tab.page.click("[data-watches] >> text=Remove")
    return ended  # type: ignore[no-any-return]


@pytest.mark.long
def test_browser_is_notified_once_of_an_episode_below_a_prefix_and_with_a_token(
    nvml_world: WorldFactory, new_tab: Callable[..., BrowserTab], tmp_path: Path
) -> None:
    world = nvml_world("h100x8")
    world.save()
    env = {**world.env(), "DASHTOP_DATA_DIR": str(tmp_path)}
    options = ("--interval", "0.5", "--url-prefix", "/gpu/", "--token", TOKEN)
    with running(*options, env=env) as server:
        tab = new_tab(service_workers="allow", permissions=["notifications"])
        tab.open(f"{server.url}?token={TOKEN}&page=alerts")
        note = "[data-this-browser] .alert-note"
        tab.wait_until(f"() => document.querySelector('{note}').textContent.startsWith('Off')")
        tab.page.click("[data-this-browser] >> text=Turn on")
        tab.wait_until(f"() => document.querySelector('{note}').textContent.startsWith('On')")
        assert tab.page.evaluate("async () => (await navigator.serviceWorker.ready).scope").endswith("/gpu/")
        other = BrowserTab(tab.page.context.new_page())
        other.open(f"{server.url}?page=alerts")

        world.add_event(3, "xid", 79).save()
        (shown,) = wait_for_notifications(tab, 1)
        assert shown["title"].startswith("Critical · ")
        assert shown["body"].startswith("GPU 3: ")
        assert "(XID 79)" in shown["body"]
        locks = "async () => (await navigator.locks.query()).held.length"
        assert other.page.evaluate(locks) == 1

        tab.page.evaluate("async () => (await (await navigator.serviceWorker.ready).getNotifications())[0].close()")
        eventually(lambda: "xid 79" in (tmp_path / "alerts.json").read_text())
        server.stop(signal.SIGKILL)
        world.set(5, "remapped_rows.failure", 1).save()
        port = urlsplit(server.url).port
        # As a server does until its first sample: the browser does not connect again by itself then.
        refused: list[str] = []

        def refuse(route: Route) -> None:
            refused.append(route.request.url)
            route.fulfill(status=503)

        tab.page.route("**/stream?alerts=only", refuse, times=1)
        with running(*options, env=env, port=port or 0) as again:
            tab.wait_until("() => document.querySelector('#alert-bell .bell-count').textContent === '2'")
            other.wait_for_state("live").errors.clear()  # of the time without a server
            (second,) = wait_for_notifications(tab, 1)
            assert len(refused) == 1
            assert second["body"].startswith("GPU 5"), "GPU 3 was reported before the restart"

            tab.page.close()  # the other tab goes on
            ended = wait_for_the_end_of_a_process(other, again, world)
            world.add_event(6, "xid", 79).save()
            wait_for_notifications(other, 3)
            other.page.evaluate(ACKNOWLEDGE_ALL)
            (left,) = wait_for_notifications(other, 1)
            assert left == ended
            other.page.click("[data-this-browser] >> text=Turn off")
            eventually(lambda: other.page.evaluate(locks) == 0)
            assert again.process.poll() is None
            assert other.errors == []


def test_page_without_alerts_says_so_and_how_to_be_notified(
    without_gpu: Running, new_tab: Callable[..., BrowserTab]
) -> None:
    tab = new_tab(width=390)
    tab.page.add_init_script("Object.defineProperty(window, 'isSecureContext', {value: false})")
    tab.open(f"{without_gpu.url}?page=alerts")
    tab.wait_until("() => document.querySelector('[data-alerts-empty]').textContent.startsWith('No alerts')")
    tab.wait_until("() => document.querySelector('[data-channels-empty]').textContent.includes('[[notify]]')")
    note = "[data-this-browser] .alert-note"
    assert "https://" in tab.text(note)
    assert not tab.page.locator("[data-this-browser] button").first.is_visible()
    assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    tab.open(f"{without_gpu.url}embed/panel-notifications")
    assert "in a tab of its own" in tab.text(note)
    assert not tab.page.locator("#alert-bell").is_visible()
    assert tab.errors == []
