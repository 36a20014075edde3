"""The page lives: numbers every tick, charts that grow, values that are the API's, one request at a time."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from dashtop.metrics import METRICS
from tests.processes import Running, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Route

    from tests.browser.conftest import Watched
    from tests.fake_nvml.fixtures import WorldFactory


def test_values_on_the_page_are_the_apis(nvml_world: WorldFactory, watch: Callable[..., Watched]) -> None:
    world = nvml_world("h100x8")
    world.set(3, "temperature", 91)
    world.data["gpus"][3]["name"] = "<img src=x onerror='window.harm=1'>"
    world.save()
    with running("--interval", "0.5", env=world.env()) as server:
        seen = watch().open(server.url)
        seen.page.select_option("#gpu-selector", "3")
        seen.true("() => document.querySelector('#gpu-heading .card-aside').innerText.includes('GPU 3')")
        body = server.json("/api/v1/system/monitoring/all?gpu_id=3")
        assert seen.text("#gpu-heading .card-name") == body["gpu_metrics"]["gpu_name"]
        assert body["gpu_metrics"]["gpu_name"].startswith("<img")
        assert seen.page.evaluate("window.harm") is None
        assert seen.metric("gpu.temperature", "#panel-temperature") == "91"
        # What changes from one moment to the next is compared in the unit tests of the frame.
        still = {
            "gpu.memory.used_gb", "gpu.memory.total_gb", "gpu.power.max_watts", "gpu.clocks.gpu_max_mhz",
            "gpu.clocks.memory_max_mhz", "gpu.pcie.generation", "gpu.pcie.width", "gpu.pcie.bandwidth_gbps",
            "gpu.utilization.gpu", "gpu.utilization.memory", "gpu.power.current_watts", "gpu.clocks.gpu_mhz",
            "gpu.fan_speed", "gpu.temperature", "system.cpu.core_count", "system.memory.total_gb",
            "system.swap.total_gb",
        }  # fmt: skip
        for key in still:
            value = field(body, key)
            expected = "N/A" if value is None else f"{value:.{METRICS[key].unit.digits}f}"
            assert seen.metric(key, "main") == expected, key
        mounts = seen.page.locator("#panel-storage .mount-point").all_inner_texts()
        assert mounts == [mount["mount_point"] for mount in body["storage"]]
        missing = seen.page.locator("#panel-fan [data-metric='gpu.fan_speed']")
        assert missing.inner_text() == "N/A"
        assert missing.get_attribute("title") == body["unavailable"]["gpu.fan_speed"]
        assert seen.text("[data-warning='gpu.temperature']") != ""
        assert not seen.page.locator(".when-simulated").is_visible()
        assert seen.errors == []


def field(body: dict[str, Any], key: str) -> float | None:
    scope, *path = key.split(".")
    found: Any = body[{"gpu": "gpu_metrics", "system": "system_metrics"}[scope]]
    for name in path:
        found = found[name]
    assert found is None or isinstance(found, (int, float))
    return found


@pytest.mark.parametrize("interval", ["0.5"])
def test_a_slow_server_is_asked_once_at_a_time(interval: str, watch: Callable[..., Watched]) -> None:
    with running("--demo", "1", "--interval", interval) as server:
        seen = watch().open(server.url)
        wire = seen.page.context.new_cdp_session(seen.page)
        wire.send("Network.enable")
        slow = {"offline": False, "latency": 2000, "downloadThroughput": -1, "uploadThroughput": -1}
        wire.send("Network.emulateNetworkConditions", slow)
        asked = seen.asked
        for _ in range(2):
            power = seen.metric("gpu.power.current_watts", "#panel-power")
            seen.true(
                "old => document.querySelector('#panel-power [data-metric=\"gpu.power.current_watts\"]')"
                ".textContent !== old",
                power,
            )
        assert seen.most_in_flight == 1
        assert seen.asked - asked <= 8
        assert not seen.page.locator("#error-banner").is_visible()
        assert seen.errors == []


def test_the_skeleton_is_there_on_the_first_load_only(demo: Running, watch: Callable[..., Watched]) -> None:
    seen = watch()
    held: list[Route] = []
    seen.page.route("**/_dash-update-component*", lambda route: held.insert(0, route))
    seen.page.goto(demo.url)
    skeleton = seen.page.locator("#loading-skeleton")
    skeleton.wait_for(state="visible")
    seen.true("() => document.querySelector('#live-indicator')?.innerText.includes('Connecting')")
    while not held:
        seen.page.wait_for_timeout(20)
    held.pop().continue_()
    seen.page.unroute("**/_dash-update-component*")
    seen.until("live")
    skeleton.wait_for(state="hidden")
    seen.page.click("label:has-text('5 min')")
    seen.true("() => document.querySelector('#time-range .btn-check:checked').value === '5m'")
    assert not skeleton.is_visible()
    assert seen.errors == []


def test_a_hidden_tab_asks_nothing_and_goes_on_when_it_is_seen_again(
    demo: Running, watch: Callable[..., Watched]
) -> None:
    seen = watch().open(demo.url)
    hide = """hidden => {
      Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});
      document.dispatchEvent(new Event('visibilitychange'));
    }"""
    seen.page.evaluate(hide, True)
    seen.true("() => document.querySelector('.live-state').textContent === 'Paused'")
    asked = seen.asked
    seen.true("since => performance.now() > since + 2000", seen.page.evaluate("performance.now()"))
    assert seen.asked == asked, "four times in which it would have asked"
    seen.page.evaluate(hide, False)
    seen.until("live")
    assert seen.asked > asked
    assert not seen.page.locator("#error-banner").is_visible()


def test_a_page_that_is_left_open_does_not_grow(demo: Running, watch: Callable[..., Watched]) -> None:
    seen = watch().open(demo.url)
    wire = seen.page.context.new_cdp_session(seen.page)
    wire.send("Performance.enable")
    seen.page.evaluate("() => window.dash_clientside.set_props('tick', {interval: 20})")

    def after(ticks: int) -> dict[str, float]:
        asked = seen.asked + ticks
        while seen.asked < asked:
            seen.page.wait_for_timeout(50)
        wire.send("HeapProfiler.collectGarbage")
        return {each["name"]: each["value"] for each in wire.send("Performance.getMetrics")["metrics"]}

    # What is kept of each tick is there in every round; a chart that gains its first points, or a process, in one.
    rounds = [after(60), *(after(120) for _ in range(3))]
    for name, each_tick in (("Nodes", 0.8), ("JSHeapUsedSize", 20_000)):
        grown = [late[name] - early[name] for early, late in pairwise(rounds)]
        assert min(grown) < 120 * each_tick, (name, grown)
    assert seen.page.evaluate("() => window.dash_stores[0].getState().history.past.length") <= 1
    assert seen.errors == []
