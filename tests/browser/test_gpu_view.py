"""The GPU view: gauges, sparklines, hardware, processes and information, compared with the fake NVML and the API."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.processes import Running, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.browser.conftest import BrowserTab
    from tests.fake_nvml.fixtures import WorldFactory

PIDS = "() => [...document.querySelectorAll('[data-processes] tr')].map(row => Number(row.dataset.pid))"
GIB = 2**30


def table_pids(tab: BrowserTab) -> list[int]:
    pids: list[int] = tab.page.evaluate(PIDS)
    return pids


def check_gauges(tab: BrowserTab, unavailable: dict[str, str]) -> None:
    """Check value, warning with severity, peak, and a sparkline."""
    assert tab.metric("gpu.temperature", "#panel-temperature") == "93"
    warning = tab.page.locator("#panel-temperature .gauge-header .warning")
    assert (warning.inner_text(), warning.get_attribute("data-severity")) == ("Running hot", "critical")
    assert tab.text("#panel-temperature [data-peak]") == "93"
    assert unavailable["gpu.fan_speed"] == "not supported by this device"
    assert not tab.page.locator("#panel-fan").is_visible(), "the card of a GPU without a fan is hidden"
    length = "() => document.querySelector('#panel-power path.line').getAttribute('d').length"
    tab.wait_until(f"() => ({length})() > 10")


def check_hardware(tab: BrowserTab) -> None:
    """Check throttle reasons, pending row remapping, and the list of unsupported metrics."""
    limit = tab.page.locator("#panel-hardware .throttle-reason")
    assert limit.inner_text().startswith("HW Thermal Slowdown")
    assert limit.get_attribute("data-severity") == "critical"
    reset = tab.page.locator("#panel-hardware [data-warning='gpu.remapped_rows.pending']")
    assert reset.inner_text() == "Pending: drain, then reset"
    assert not tab.page.locator("#panel-hardware [data-metric='gpu.retired_pages.pending']").is_visible()
    tab.page.click("#panel-hardware summary")
    assert "Pages retired, single-bit" in tab.text(".unsupported p")


def test_gauges_hardware_processes_and_information_of_a_throttled_gpu(
    nvml_world: WorldFactory, new_tab: Callable[..., BrowserTab]
) -> None:
    world = nvml_world("h100x8")
    world.set(0, "temperature", 93).set(0, "clocks_event_reasons", 0x40).set(0, "remapped_rows.pending", 1)
    own = os.getpid()
    crowd = [{"pid": pid, "name": "x", "type": "C", "used_memory": GIB + pid} for pid in range(900_001, 900_014)]
    mine = {"pid": own, "name": "pytest", "type": "C", "used_memory": 2 * GIB}
    world.set(0, "processes", [*crowd, mine]).save()
    with running("--interval", "0.5", env=world.env()) as server:
        tab = new_tab().open(server.url)
        body = server.json("/api/v1/system/monitoring/all?gpu_id=0")

        check_gauges(tab, body["unavailable"])
        check_hardware(tab)

        # Processes: largest first, in pages
        tab.wait_until("pid => document.querySelector('[data-processes] tr').dataset.pid === String(pid)", own)
        assert len(table_pids(tab)) == 10
        listed = server.json("/api/v1/system/processes")
        expected = {each["pid"]: each for each in listed if each["gpu_id"] == 0}[own]
        row = tab.text("[data-processes] tr")
        assert expected["process_name"] in row
        assert expected["username"] in row
        assert "2.0 GiB" in row
        assert "14 processes: 15.0 GiB" in tab.text("[data-summary]")
        tab.page.click(".more-rows")
        assert len(table_pids(tab)) == 14
        tab.page.locator("#panel-processes [data-column='pid']").focus()
        tab.page.keyboard.press("Enter")
        assert table_pids(tab) == sorted([own, *range(900_001, 900_014)])
        heads = "() => [...document.querySelectorAll('[aria-sort=ascending]')].map(head => head.innerText)"
        assert tab.page.evaluate(heads) == ["PID"]
        count = tab.request_count
        tab.page.fill("#process-filter", "900013")
        tab.wait_until(f"() => ({PIDS})().join() === '900013'")
        while tab.request_count < count + 3:
            tab.page.wait_for_event("requestfinished")
        assert table_pids(tab) == [900_013]
        tab.page.fill("#process-filter", "")

        # A process that ends disappears from the table
        world.set(0, "processes", [mine]).save()
        tab.wait_until(f"pid => ({PIDS})().join() === String(pid)", own)

        # Information
        facts = tab.text("[data-facts]")
        for known in (body["gpu_metrics"]["gpu_name"], "GPU-6d1d41a7", "96.00.74.00.01", "•••3518"):
            assert known in facts
        assert "1650323093518" not in tab.page.content()
        assert tab.errors == []


def test_rows_are_reused_while_values_change(demo: Running, new_tab: Callable[..., BrowserTab]) -> None:
    tab = new_tab().open(demo.url)
    tab.wait_until(f"() => ({PIDS})().length > 1")
    tab.page.evaluate("() => document.querySelectorAll('[data-processes] tr').forEach(row => { row.kept = true; })")
    text = "() => document.querySelector('[data-processes]').innerText"
    for _ in range(3):
        tab.wait_until(f"old => ({text})() !== old", tab.page.evaluate(text))
    kept = tab.page.evaluate("() => [...document.querySelectorAll('[data-processes] tr')].map(row => row.kept)")
    assert len(kept) > 1
    assert set(kept) == {True}
    assert tab.errors == []
