"""One GPU in full: cards, sparklines, hardware, processes, information; compared with the world and the API."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.processes import Running, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.browser.conftest import Watched
    from tests.fake_nvml.fixtures import WorldFactory

PIDS = "() => [...document.querySelectorAll('[data-processes] tr')].map(row => Number(row.dataset.pid))"
GIB = 2**30


def table(seen: Watched) -> list[int]:
    pids: list[int] = seen.page.evaluate(PIDS)
    return pids


def cards(seen: Watched, unavailable: dict[str, str]) -> None:
    """Value, warning with its severity, peak, and a line that grows."""
    assert seen.metric("gpu.temperature", "#panel-temperature") == "93"
    warning = seen.page.locator("#panel-temperature .gauge-head .warning")
    assert (warning.inner_text(), warning.get_attribute("data-severity")) == ("Running hot", "critical")
    assert seen.text("#panel-temperature [data-peak]") == "93"
    assert seen.text("#panel-fan .why") == unavailable["gpu.fan_speed"]
    length = "() => document.querySelector('#panel-power path.line').getAttribute('d').length"
    seen.true(f"() => ({length})() > 10")
    before = seen.page.evaluate(length)
    seen.true(f"before => ({length})() > before", before)


def hardware(seen: Watched) -> None:
    """Why it is slow, what needs a reset, and what this card cannot tell."""
    limit = seen.page.locator("#panel-hardware .limit")
    assert limit.inner_text().startswith("Hardware thermal slowdown")
    assert limit.get_attribute("data-severity") == "critical"
    reset = seen.page.locator("#panel-hardware [data-warning='gpu.remapped_rows.pending']")
    assert reset.inner_text() == "Reset the GPU when its work is done"
    assert not seen.page.locator("#panel-hardware [data-metric='gpu.retired_pages.pending']").is_visible()
    seen.page.click("#panel-hardware summary")
    assert "Pages retired, single-bit" in seen.text(".untold p")


def test_a_gpu_in_trouble_is_told_in_words_and_its_processes_in_a_table(
    nvml_world: WorldFactory, watch: Callable[..., Watched]
) -> None:
    world = nvml_world("h100x8")
    world.set(0, "temperature", 93).set(0, "clocks_event_reasons", 0x40).set(0, "remapped_rows.pending", 1)
    own = os.getpid()
    crowd = [{"pid": pid, "name": "x", "type": "C", "used_memory": GIB + pid} for pid in range(900_001, 900_014)]
    mine = {"pid": own, "name": "pytest", "type": "C", "used_memory": 2 * GIB}
    world.set(0, "processes", [*crowd, mine]).save()
    with running("--interval", "0.5", env=world.env()) as server:
        seen = watch().open(server.url)
        body = server.json("/api/v1/system/monitoring/all?gpu_id=0")

        cards(seen, body["unavailable"])
        hardware(seen)

        # Processes: largest first, a page at a time, the same rows from tick to tick
        seen.true("pid => document.querySelector('[data-processes] tr').dataset.pid === String(pid)", own)
        assert len(table(seen)) == 10
        listed = server.json("/api/v1/system/processes")
        told = {each["pid"]: each for each in listed if each["gpu_id"] == 0}[own]
        row = seen.text("[data-processes] tr")
        assert told["process_name"] in row
        assert told["username"] in row
        assert "2.0 GiB" in row
        assert "14 processes: 15.0 GiB" in seen.text("[data-sum]")
        seen.page.click(".more-rows")
        assert len(table(seen)) == 14
        seen.page.locator("[data-sort='0']").focus()
        seen.page.keyboard.press("Enter")
        assert table(seen) == sorted([own, *range(900_001, 900_014)])
        heads = "() => [...document.querySelectorAll('[aria-sort=ascending]')].map(head => head.innerText)"
        assert seen.page.evaluate(heads) == ["PID"]
        asked = seen.asked
        seen.page.fill("#process-filter", "900013")
        seen.true(f"() => ({PIDS})().join() === '900013'")
        while seen.asked < asked + 3:
            seen.page.wait_for_event("requestfinished")
        assert table(seen) == [900_013]
        seen.page.fill("#process-filter", "")

        # A process that ends is gone from the table
        world.set(0, "processes", [mine]).save()
        seen.true(f"pid => ({PIDS})().join() === String(pid)", own)

        # Information
        facts = seen.text("[data-facts]")
        for known in (body["gpu_metrics"]["gpu_name"], "GPU-6d1d41a7", "96.00.74.00.01", "•••3518"):
            assert known in facts
        assert "1650323093518" not in seen.page.content()
        assert seen.errors == []


def test_rows_stay_the_same_elements_while_values_change(demo: Running, watch: Callable[..., Watched]) -> None:
    seen = watch().open(demo.url)
    seen.true(f"() => ({PIDS})().length > 1")
    seen.page.evaluate("() => document.querySelectorAll('[data-processes] tr').forEach(row => { row.kept = true; })")
    text = "() => document.querySelector('[data-processes]').innerText"
    for _ in range(3):
        seen.true(f"old => ({text})() !== old", seen.page.evaluate(text))
    assert seen.page.evaluate("() => [...document.querySelectorAll('[data-processes] tr')].every(row => row.kept)")
    assert seen.errors == []
