"""Failures of the server: the page shows the error, stops polling, and recovers by itself or by Retry."""

from __future__ import annotations

import os
import re
import signal
import socket
import socketserver
import threading
import urllib.parse
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

import pynvml
import pytest
from playwright.sync_api import Error as PlaywrightError

from tests.browser.conftest import TICK, BrowserTab, open_browser_tab
from tests.processes import Running, eventually, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Route

    from tests.fake_nvml.fixtures import WorldFactory

FAST = ("--demo", "1", "--interval", "0.5")
TICKS = f"**/{TICK}*"


def port_of(server: Running) -> int:
    port = urllib.parse.urlsplit(server.url).port
    assert port is not None
    return port


def banner(tab: BrowserTab, kind: str, timeout_ms: int = 30_000) -> str:
    """Wait for the banner of one type; return its text."""
    tab.page.wait_for_selector(f"#error-banner[data-type={kind}]:not([hidden])", timeout=timeout_ms)
    return tab.text("#error-banner")


def fulfil(status: int, body: str, content_type: str) -> Callable[[Route], None]:
    return lambda route: route.fulfill(status=status, body=body, content_type=content_type)


class TruncatingProxy(socketserver.ThreadingTCPServer):
    """Forward bytes to a port; with `breaks` set, cut each answer off some bytes after its headers."""

    daemon_threads = True
    breaks: Literal["", "ends", "hangs"] = ""

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.upstream_port = port

    def finish_request(self, request: Any, client_address: Any) -> None:
        with socket.create_connection(("127.0.0.1", self.upstream_port)) as server:
            threading.Thread(target=self.forward_answers, args=(server, request), daemon=True).start()
            while request_bytes := request.recv(65536):
                server.sendall(request_bytes)

    def forward_answers(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):  # one side has closed the connection
            while answer := server.recv(65536):
                headers = answer.find(b"\r\n\r\n")
                if not self.breaks or headers < 0:
                    client.sendall(answer)
                    continue
                client.sendall(answer[: headers + 20])
                if self.breaks == "ends":
                    client.shutdown(socket.SHUT_RDWR)
                return


@contextmanager
def truncating_proxy(port: int) -> Iterator[TruncatingProxy]:
    with TruncatingProxy(port) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()


KEPT = """async () => {
  const addresses = [];
  for (const name of await caches.keys())
    for (const {url} of await (await caches.open(name)).keys()) addresses.push(url);
  return addresses;
}"""

LOADED = """() => [location.origin + location.pathname, ...performance.getEntriesByType("resource")
  .map(({name}) => name).filter((name) => /assets|_dash-(layout|dep|component)/.test(name))]"""


def test_the_page_without_a_server_shows_the_last_values_as_old(new_tab: Callable[..., BrowserTab]) -> None:
    options = ("--demo", "2", "--interval", "0.5", "--url-prefix", "/gpu/")
    with running(*options) as first:
        tab = new_tab(service_workers="allow").open(first.url)
        tab.wait_until("() => document.querySelectorAll('.js-plotly-plot .scatterlayer .trace').length > 3")
        eventually(lambda: set(tab.page.evaluate(LOADED)) <= set(tab.page.evaluate(KEPT)), 30, 0.2)
        first.stop(signal.SIGKILL)
        banner(tab, "connection")
        shown = tab.metric("gpu.power.current_watts", "#panel-power")
        eventually(lambda: f"{first.url}last-values" in tab.page.evaluate(KEPT))
        assert not [each for each in tab.page.evaluate(KEPT) if "/api/" in each or TICK in each or "page=" in each]

        tab.page.reload()
        tab.wait_for_state("disconnected")
        assert tab.page.locator("html[data-stored]").count() == 1
        assert re.search(r"cannot be reached\. Not updated since \d\d:\d\d:\d\d\.", banner(tab, "connection"))
        assert tab.metric("gpu.power.current_watts", "#panel-power") == shown
        tab.wait_until("() => document.querySelectorAll('.js-plotly-plot .scatterlayer .trace').length > 3")
        opacity = "() => getComputedStyle(document.querySelector('#panel-power .bar')).opacity"
        assert float(tab.page.evaluate(opacity)) < 1
        with running(*options, port=port_of(first)):
            tab.wait_for_state("live")
            assert not tab.page.locator("#error-banner").is_visible()
            tab.page.reload()
            tab.wait_for_state("live")
            assert tab.page.locator("html[data-stored]").count() == 0, "the server answers: nothing old is shown"


@pytest.mark.long
def test_a_changed_token_removes_the_page_that_the_browser_keeps(new_tab: Callable[..., BrowserTab]) -> None:
    with running(*FAST) as first:
        tab = new_tab(service_workers="allow").open(first.url)
        eventually(lambda: set(tab.page.evaluate(LOADED)) <= set(tab.page.evaluate(KEPT)), 30, 0.2)
        first.stop()
        with running(*FAST, "--token", "correct-horse-battery", port=port_of(first)) as second:
            refused = tab.page.goto(first.url)
            assert refused is not None
            assert refused.status == 401
            eventually(lambda: tab.page.evaluate(KEPT) == [])
            second.stop()
        with pytest.raises(PlaywrightError, match="ERR_"):
            tab.page.goto(first.url)


@pytest.fixture(scope="module")
def hung(browser: Browser) -> Iterator[tuple[Running, BrowserTab]]:
    """A page whose server is stopped; shared, because five requests time out after three seconds each."""
    with running(*FAST) as server, open_browser_tab(browser) as tab:
        tab.open(server.url)
        os.kill(server.process.pid, signal.SIGSTOP)
        yield server, tab


def test_a_hung_server_makes_the_data_stale(hung: tuple[Running, BrowserTab]) -> None:
    _, tab = hung
    tab.wait_for_state("stale", 3000)
    tab.wait_until("() => /^Stale\\s*\\d+ s$/.test(document.querySelector('#live-indicator').innerText)")


def test_a_killed_server_shows_the_banner_and_is_found_again(new_tab: Callable[..., BrowserTab]) -> None:
    with running(*FAST) as first:
        tab = new_tab().open(first.url)
        tab.wait_until("() => document.querySelectorAll('.js-plotly-plot .scatterlayer .trace').length > 3")
        first.stop(signal.SIGKILL)
        words = banner(tab, "connection")
        assert re.search(r"Connection lost\s.*5 attempts failed, not updated since \d\d:\d\d:\d\d", words, re.DOTALL)
        tab.wait_for_state("disconnected")
        assert "Disconnected" in tab.text("#live-indicator")
        count = tab.request_count
        with tab.page.expect_request("**/healthz"):
            pass
        assert tab.request_count == count, "polling has stopped: the page probes /healthz"
        # A page that was not open yet shows the last values as well.
        tab.page.evaluate("() => window.dashtop.settings.set({page: 'host'})")
        tab.wait_until("() => document.querySelectorAll('#panel-host-cpu .core').length > 0")
        tab.page.evaluate("() => window.dashtop.settings.set({page: 'gpus'})")
        with running(*FAST, port=port_of(first)):
            tab.wait_for_state("live")
            assert not tab.page.locator("#error-banner").is_visible()
            power = tab.metric("gpu.power.current_watts", "#panel-power")
            tab.wait_until(
                "old => document.querySelector('#panel-power [data-metric=\"gpu.power.current_watts\"]')"
                ".textContent !== old",
                power,
            )


@pytest.mark.long
def test_retry_reconnects_at_once(new_tab: Callable[..., BrowserTab]) -> None:
    with running(*FAST) as server:
        tab = new_tab().open(server.url)
        tab.page.route("**/healthz", lambda route: route.abort())  # only the button can reconnect
        tab.page.route(TICKS, lambda route: route.abort())
        banner(tab, "connection")
        pending: list[Route] = []
        tab.page.unroute(TICKS)
        tab.page.route(TICKS, lambda route: pending.insert(0, route))
        count = tab.request_count
        tab.page.click("#retry-button")
        tab.wait_until("() => document.querySelector('#retry-button').disabled")
        assert tab.text("#retry-button") == "Retrying…"
        while not pending:  # Dash sends the request asynchronously
            tab.page.wait_for_timeout(20)
        assert tab.request_count == count + 1
        pending.pop().continue_()
        tab.page.unroute(TICKS)
        tab.wait_for_state("live")
        assert not tab.page.locator("#error-banner").is_visible()


def test_the_banner_classifies_answers_of_the_server(demo: Running, new_tab: Callable[..., BrowserTab]) -> None:
    login = "<!doctype html><title>Sign in</title>"
    tab = new_tab().open(demo.url)
    for kind, words, answer in (
        ("api", "(500)", fulfil(500, "{}", "application/json")),
        ("general", "in its place", fulfil(200, login, "text/html")),
        ("general", "(401)", fulfil(401, "{}", "application/json")),
        ("connection", "(502)", fulfil(502, login, "text/html")),
    ):
        tab.page.route(TICKS, answer)
        assert words in banner(tab, kind)
        tab.page.unroute(TICKS)
        tab.wait_for_state("live")
        assert not tab.page.locator("#error-banner").is_visible()


BLOCK = """() => new Promise((resolve) => {
  const send = window.fetch;
  window.fetch = (input, options) => {
    const answer = send(input, options);
    if (options && String(options.body).includes("live.data")) {
      window.fetch = send;
      const end = performance.now() + 5000;
      while (performance.now() < end);
      resolve();
    }
    return answer;
  };
})"""


def test_a_page_that_was_blocked_takes_the_answer_that_has_come(
    demo: Running, new_tab: Callable[..., BrowserTab]
) -> None:
    sequence = "dashtop.polling.latest().snapshot.sequence"
    tab = new_tab().open(demo.url)
    tab.page.evaluate(BLOCK)
    tab.wait_until(f"shown => {sequence} > shown", tab.page.evaluate(sequence))
    tab.wait_for_state("live")
    assert tab.max_in_flight == 1
    assert tab.errors == []


@pytest.mark.parametrize(
    ("breaks", "words"),
    [("ends", "cannot be reached"), pytest.param("hangs", "does not answer", marks=pytest.mark.long)],
)
def test_truncated_answers_are_failures(
    breaks: Literal["ends", "hangs"], words: str, demo: Running, new_tab: Callable[..., BrowserTab]
) -> None:
    with truncating_proxy(port_of(demo)) as proxy:
        tab = new_tab().open(f"http://127.0.0.1:{proxy.server_address[1]}/")
        proxy.breaks = breaks
        assert words in banner(tab, "connection")
        proxy.breaks = ""
        tab.wait_for_state("live")
        assert tab.max_in_flight == 1
        written = ("Failed to load resource", "Error: Callback failed")  # logged by the browser and by Dash
        assert [error for error in tab.errors if not error.startswith(written)] == []


@pytest.mark.long
def test_a_hung_driver_is_a_gpu_error_and_host_values_continue(
    nvml_world: WorldFactory, new_tab: Callable[..., BrowserTab]
) -> None:
    world = nvml_world("rtx3090")
    world.save()
    with running("--interval", "0.5", env=world.env()) as server:
        tab = new_tab().open(server.url)
        tab.page.wait_for_selector("html[data-gpu=one]")
        world.set_hang("nvmlDeviceGetUtilizationRates").save()
        assert "CPU and memory monitoring goes on" in banner(tab, "gpu")
        temperature = tab.page.locator("#panel-temperature [data-metric='gpu.temperature']")
        assert temperature.inner_text() == "N/A"
        assert temperature.get_attribute("data-tip")
        assert "last answer" in tab.text("#gpu-heading .gpu-age")
        tab.wait_until("() => document.querySelector('#compact-status').innerText.includes('does not respond')")
        assert re.search(r"RAM \d+\.\d / \d+\.\d", tab.text("#compact-status")), "the values of the host"
        assert "VRAM" not in tab.text("#compact-status")
        tab.wait_for_state("live")
        count = tab.request_count
        world.clear_faults().save()
        tab.page.wait_for_selector("#error-banner", state="hidden")
        tab.wait_until("() => document.querySelector('#panel-temperature [data-metric]').textContent !== 'N/A'")
        assert tab.request_count > count
        assert tab.errors == []


@pytest.mark.parametrize("code", [pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, pynvml.NVML_ERROR_NO_PERMISSION])
def test_the_overview_lists_what_fails_for_all_gpus_in_place_of_the_banner(
    code: int, nvml_world: WorldFactory, new_tab: Callable[..., BrowserTab]
) -> None:
    world = nvml_world("rtx3090")
    world.set_return("nvmlInit", code).save()
    with running("--interval", "0.5", env=world.env()) as server:
        tab = new_tab().open(f"{server.url}?page=events")
        words = banner(tab, "gpu")
        tab.page.click("[data-page-link=overview]")
        tab.page.wait_for_selector("#error-banner", state="hidden")
        assert tab.text(".problem-text") in words
        assert tab.errors == []


def test_a_hung_server_is_a_connection_error_until_it_resumes(hung: tuple[Running, BrowserTab]) -> None:
    server, tab = hung
    assert "does not answer" in banner(tab, "connection")
    assert tab.max_in_flight == 1
    os.kill(server.process.pid, signal.SIGCONT)
    tab.wait_for_state("live")
    assert not tab.page.locator("#error-banner").is_visible()


@pytest.mark.long
def test_the_status_of_the_history_is_shown_above_its_charts_while_another_process_writes(
    tmp_path: Path, new_tab: Callable[..., BrowserTab]
) -> None:
    with (
        running("--no-gpu", "--interval", "0.5", "--data-dir", str(tmp_path)) as first,
        running("--no-gpu", "--interval", "0.5", "--data-dir", str(tmp_path)) as second,
    ):
        tab = new_tab().open(second.url)
        remark = tab.page.locator("[data-text=history_status]")
        remark.filter(has_text=f"Process {first.process.pid}").wait_for()
        assert second.json("/readyz")["detail"] == remark.text_content()
        first.stop(signal.SIGKILL)
        remark.wait_for(state="hidden", timeout=5000)
        assert "detail" not in second.json("/readyz")
        tab.wait_for_state("live", 5000)
