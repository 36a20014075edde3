"""The server dies, hangs, answers nonsense: the page says so, stops asking, and comes back by itself or by Retry."""

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

import pytest

from tests.browser.conftest import TICK, Watched, watching
from tests.processes import Running, running

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


def banner(seen: Watched, kind: str, timeout_ms: int = 30_000) -> str:
    """Wait for the banner of one type; return its words."""
    seen.page.wait_for_selector(f"#error-banner[data-type={kind}]:not([hidden])", timeout=timeout_ms)
    return seen.text("#error-banner")


def fulfil(status: int, body: str, content_type: str) -> Callable[[Route], None]:
    return lambda route: route.fulfill(status=status, body=body, content_type=content_type)


class BreakingOff(socketserver.ThreadingTCPServer):
    """Passes bytes on to a port, and once it is told so, breaks off each answer some bytes behind its headers."""

    daemon_threads = True
    breaks: Literal["", "ends", "hangs"] = ""

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self.behind = port

    def finish_request(self, request: Any, client_address: Any) -> None:
        with socket.create_connection(("127.0.0.1", self.behind)) as server:
            threading.Thread(target=self.answers, args=(server, request), daemon=True).start()
            while question := request.recv(65536):
                server.sendall(question)

    def answers(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):  # either side has hung up
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
def breaking_off(port: int) -> Iterator[BreakingOff]:
    with BreakingOff(port) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def hung(browser: Browser) -> Iterator[tuple[Running, Watched]]:
    """A page whose server has been stopped in mid-run: five requests of three seconds each have to be waited for."""
    with running(*FAST) as server, watching(browser) as seen:
        seen.open(server.url)
        os.kill(server.process.pid, signal.SIGSTOP)
        yield server, seen


def test_a_hung_server_makes_the_data_stale_at_once(hung: tuple[Running, Watched]) -> None:
    _, seen = hung
    seen.until("stale", 3000)
    seen.true("() => /^Stale\\s*\\d+ s$/.test(document.querySelector('#live-indicator').innerText)")


def test_a_killed_server_is_said_to_be_gone_and_found_again(watch: Callable[..., Watched]) -> None:
    with running(*FAST) as first:
        seen = watch().open(first.url)
        seen.true("() => document.querySelectorAll('.js-plotly-plot .scatterlayer .trace').length > 3")
        first.stop(signal.SIGKILL)
        words = banner(seen, "connection")
        assert re.search(r"Connection lost\s.*5 attempts failed, last good data \d\d:\d\d:\d\d", words, re.DOTALL)
        seen.until("disconnected")
        assert "Disconnected" in seen.text("#live-indicator")
        asked = seen.asked
        with seen.page.expect_request("**/healthz"):
            pass
        assert seen.asked == asked, "polling has stopped: the server is looked for at /healthz"
        with running(*FAST, port=port_of(first)):
            seen.until("live")
            assert not seen.page.locator("#error-banner").is_visible()
            power = seen.metric("gpu.power.current_watts", "#panel-power")
            seen.true(
                "old => document.querySelector('#panel-power [data-metric=\"gpu.power.current_watts\"]')"
                ".textContent !== old",
                power,
            )


def test_retry_brings_the_page_back_at_once(watch: Callable[..., Watched]) -> None:
    with running(*FAST) as server:
        seen = watch().open(server.url)
        seen.page.route("**/healthz", lambda route: route.abort())  # so that only the button can find the server
        seen.page.route(TICKS, lambda route: route.abort())
        banner(seen, "connection")
        held: list[Route] = []
        seen.page.unroute(TICKS)
        seen.page.route(TICKS, lambda route: held.insert(0, route))
        asked = seen.asked
        seen.page.click("#retry-button")
        seen.true("() => document.querySelector('#retry-button').disabled")
        assert seen.text("#retry-button") == "Retrying…"
        while not held:  # Dash sends what it was told to in a moment of its own
            seen.page.wait_for_timeout(20)
        assert seen.asked == asked + 1
        held.pop().continue_()
        seen.page.unroute(TICKS)
        seen.until("live")
        assert not seen.page.locator("#error-banner").is_visible()


def test_what_the_server_answers_tells_the_kind_of_failure(demo: Running, watch: Callable[..., Watched]) -> None:
    login = "<!doctype html><title>Sign in</title>"
    seen = watch().open(demo.url)
    for kind, words, answer in (
        ("api", "(500)", fulfil(500, "{}", "application/json")),
        ("general", "in its place", fulfil(200, login, "text/html")),
        ("general", "(401)", fulfil(401, "{}", "application/json")),
        ("connection", "(502)", fulfil(502, login, "text/html")),
    ):
        seen.page.route(TICKS, answer)
        assert words in banner(seen, kind)
        seen.page.unroute(TICKS)
        seen.until("live")
        assert not seen.page.locator("#error-banner").is_visible()


@pytest.mark.parametrize(("breaks", "words"), [("ends", "cannot be reached"), ("hangs", "does not answer")])
def test_answers_that_break_off_are_failures_like_others(
    breaks: Literal["ends", "hangs"], words: str, demo: Running, watch: Callable[..., Watched]
) -> None:
    with breaking_off(port_of(demo)) as proxy:
        seen = watch().open(f"http://127.0.0.1:{proxy.server_address[1]}/")
        proxy.breaks = breaks
        assert words in banner(seen, "connection")
        proxy.breaks = ""
        seen.until("live")
        assert seen.most_in_flight == 1
        written = ("Failed to load resource", "Error: Callback failed")  # by the browser and by Dash
        assert [error for error in seen.errors if not error.startswith(written)] == []


def test_a_silent_driver_is_gpu_trouble_and_the_host_goes_on(
    nvml_world: WorldFactory, watch: Callable[..., Watched]
) -> None:
    world = nvml_world("rtx3090")
    world.save()
    with running("--interval", "0.5", env=world.env()) as server:
        seen = watch().open(server.url)
        seen.page.wait_for_selector("html[data-gpu=one]")
        world.set_hang("nvmlDeviceGetUtilizationRates").save()
        assert "CPU and memory monitoring goes on" in banner(seen, "gpu")
        temperature = seen.page.locator("#panel-temperature [data-metric='gpu.temperature']")
        assert temperature.inner_text() == "N/A"
        assert temperature.get_attribute("title")
        assert "last answer" in seen.text("#gpu-heading .old")
        seen.true("() => document.querySelector('#compact-status').innerText.includes('is not answering')")
        assert re.search(r"RAM \d+\.\d / \d+\.\d", seen.text("#compact-status")), "the host beside it"
        assert "VRAM" not in seen.text("#compact-status")
        assert "Live" in seen.text("#live-indicator")
        asked = seen.asked
        world.clear_faults().save()
        seen.page.wait_for_selector("#error-banner", state="hidden")
        seen.true("() => document.querySelector('#panel-temperature [data-metric]').textContent !== 'N/A'")
        assert seen.asked > asked
        assert seen.errors == []


def test_a_hung_server_is_a_lost_connection_until_it_goes_on(hung: tuple[Running, Watched]) -> None:
    server, seen = hung
    assert "does not answer" in banner(seen, "connection")
    assert seen.most_in_flight == 1
    os.kill(server.process.pid, signal.SIGCONT)
    seen.until("live")
    assert not seen.page.locator("#error-banner").is_visible()


def test_the_status_of_the_history_is_shown_above_its_charts_while_another_process_writes(
    tmp_path: Path, watch: Callable[..., Watched]
) -> None:
    with (
        running("--no-gpu", "--interval", "0.5", "--data-dir", str(tmp_path)) as first,
        running("--no-gpu", "--interval", "0.5", "--data-dir", str(tmp_path)) as second,
    ):
        seen = watch().open(second.url)
        remark = seen.page.locator("[data-text=history_status]")
        remark.filter(has_text=f"Process {first.process.pid}").wait_for()
        assert second.json("/readyz")["detail"] == remark.text_content()
        first.stop(signal.SIGKILL)
        remark.wait_for(state="hidden", timeout=5000)
        assert "detail" not in second.json("/readyz")
        seen.until("live", 5000)
