"""Live values: the same as in the API, one request at a time, and no growth of memory."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from dashtop.metrics import METRICS
from tests.processes import Running, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Route

    from tests.browser.conftest import BrowserTab
    from tests.fake_nvml.fixtures import WorldFactory


def test_values_on_the_page_equal_those_of_the_api(
    nvml_world: WorldFactory, new_tab: Callable[..., BrowserTab]
) -> None:
    world = nvml_world("h100x8")
    world.set(3, "temperature", 91)
    world.data["gpus"][3]["name"] = "<img src=x onerror='window.harm=1'>"
    world.save()
    with running("--interval", "0.5", env=world.env()) as server:
        tab = new_tab().open(server.url)
        tab.page.select_option("#gpu-selector", "3")
        tab.wait_until("() => document.querySelector('#gpu-heading .gpu-index').innerText.includes('GPU 3')")
        body = server.json("/api/v1/system/monitoring/all?gpu_id=3")
        assert tab.text("#gpu-heading .card-title") == body["gpu_metrics"]["gpu_name"]
        assert body["gpu_metrics"]["gpu_name"].startswith("<img")
        assert tab.page.evaluate("window.harm") is None
        assert tab.metric("gpu.temperature", "#panel-temperature") == "91"
        # Changing values are compared in the unit tests of the snapshot.
        keys = {
            "gpu.memory.used_gb", "gpu.memory.total_gb", "gpu.power.max_watts", "gpu.clocks.gpu_max_mhz",
            "gpu.clocks.memory_max_mhz", "gpu.pcie.generation", "gpu.pcie.width", "gpu.pcie.bandwidth_gbps",
            "gpu.utilization.gpu", "gpu.utilization.memory", "gpu.power.current_watts", "gpu.clocks.gpu_mhz",
            "gpu.fan_speed", "gpu.temperature", "system.cpu.core_count", "system.memory.total_gb",
            "system.swap.total_gb",
        }  # fmt: skip
        for key in keys:
            value = field(body, key)
            expected = "N/A" if value is None else f"{value:.{METRICS[key].unit.digits}f}"
            assert tab.metric(key, "main") == expected, key
        mounts = tab.page.locator("#panel-storage .mount-point").all_inner_texts()
        assert mounts == [mount["mount_point"] for mount in body["storage"]]
        missing = tab.page.locator("#panel-fan [data-metric='gpu.fan_speed']")
        assert missing.inner_text() == "N/A"
        assert missing.get_attribute("data-tip") == body["unavailable"]["gpu.fan_speed"]
        assert tab.text("[data-warning='gpu.temperature']") != ""
        assert not tab.page.locator(".when-simulated").is_visible()
        assert tab.errors == []


def field(body: dict[str, Any], key: str) -> float | None:
    scope, *path = key.split(".")
    found: Any = body[{"gpu": "gpu_metrics", "system": "system_metrics"}[scope]]
    for name in path:
        found = found[name]
    assert found is None or isinstance(found, (int, float))
    return found


@pytest.mark.parametrize("interval", ["0.5"])
def test_a_slow_server_gets_one_request_at_a_time(interval: str, new_tab: Callable[..., BrowserTab]) -> None:
    with running("--demo", "1", "--interval", interval) as server:
        tab = new_tab().open(server.url)
        wire = tab.page.context.new_cdp_session(tab.page)
        wire.send("Network.enable")
        slow = {"offline": False, "latency": 2000, "downloadThroughput": -1, "uploadThroughput": -1}
        wire.send("Network.emulateNetworkConditions", slow)
        count = tab.request_count
        for _ in range(2):
            power = tab.metric("gpu.power.current_watts", "#panel-power")
            tab.wait_until(
                "old => document.querySelector('#panel-power [data-metric=\"gpu.power.current_watts\"]')"
                ".textContent !== old",
                power,
            )
        assert tab.max_in_flight == 1
        assert tab.request_count - count <= 8
        assert not tab.page.locator("#error-banner").is_visible()
        assert tab.errors == []


def test_the_skeleton_is_shown_on_the_first_load_only(demo: Running, new_tab: Callable[..., BrowserTab]) -> None:
    tab = new_tab()
    pending: list[Route] = []
    tab.page.route("**/_dash-update-component*", lambda route: pending.insert(0, route))
    tab.page.goto(demo.url)
    skeleton = tab.page.locator("#loading-skeleton")
    skeleton.wait_for(state="visible")
    tab.wait_until("() => document.querySelector('#live-indicator')?.innerText.includes('Connecting')")
    while not pending:
        tab.page.wait_for_timeout(20)
    pending.pop().continue_()
    tab.page.unroute("**/_dash-update-component*")
    tab.wait_for_state("live")
    skeleton.wait_for(state="hidden")
    tab.page.click("label:has-text('5 min')")
    tab.wait_until("() => document.querySelector('#time-range .btn-check:checked').value === '5m'")
    assert not skeleton.is_visible()
    assert tab.errors == []


def test_a_hidden_tab_pauses_and_resumes(demo: Running, new_tab: Callable[..., BrowserTab]) -> None:
    tab = new_tab().open(demo.url)
    hide = """hidden => {
      Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});
      document.dispatchEvent(new Event('visibilitychange'));
    }"""
    tab.page.evaluate(hide, True)
    tab.wait_until("() => document.querySelector('.live-state').textContent === 'Paused'")
    count = tab.request_count
    tab.wait_until("since => performance.now() > since + 2000", tab.page.evaluate("performance.now()"))
    assert tab.request_count == count, "no request in four intervals"
    tab.page.evaluate(hide, False)
    tab.wait_for_state("live")
    assert tab.request_count > count
    assert not tab.page.locator("#error-banner").is_visible()


@pytest.mark.long
def test_memory_of_an_open_page_does_not_grow(demo: Running, new_tab: Callable[..., BrowserTab]) -> None:
    tab = new_tab().open(demo.url)
    wire = tab.page.context.new_cdp_session(tab.page)
    wire.send("Performance.enable")
    tab.page.evaluate("() => window.dash_clientside.set_props('tick', {interval: 20})")

    def after(ticks: int) -> dict[str, float]:
        target = tab.request_count + ticks
        while tab.request_count < target:
            tab.page.wait_for_timeout(50)
        wire.send("HeapProfiler.collectGarbage")
        return {each["name"]: each["value"] for each in wire.send("Performance.getMetrics")["metrics"]}

    # A leak grows in every round; a new chart point or process in one of them.
    rounds = [after(60), *(after(120) for _ in range(3))]
    for name, each_tick in (("Nodes", 0.8), ("JSHeapUsedSize", 20_000)):
        grown = [late[name] - early[name] for early, late in pairwise(rounds)]
        assert min(grown) < 120 * each_tick, (name, grown)
    assert tab.page.evaluate("() => window.dash_stores[0].getState().history.past.length") <= 1
    assert tab.errors == []
