"""The page of events: an XID appears on the timeline and in the list, filters are in the address, marks show charts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.processes import Running, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.browser.conftest import BrowserTab
    from tests.fake_nvml.fixtures import WorldFactory

ROWS = "() => [...document.querySelectorAll('[data-events] tr')].map(row => row.innerText)"
ADDRESS = "() => Object.fromEntries(new URLSearchParams(location.search))"


def test_an_xid_and_a_lost_gpu_appear_on_the_timeline_and_in_the_list(
    nvml_world: WorldFactory, new_tab: Callable[..., BrowserTab]
) -> None:
    world = nvml_world("h100x8")
    world.set(2, "remapped_rows.pending", 1).set(2, "name", "<b>H100</b>").save()
    with running("--interval", "0.5", "--no-persist", env=world.env()) as server:
        tab = new_tab().open(f"{server.url}?page=events&range=5m")
        tab.wait_until("() => document.querySelectorAll('.lane').length === 9")
        tab.page.wait_for_selector(".mark-remap-pending")
        world.add_event(1, "xid", 79).save()
        mark = tab.page.wait_for_selector("[data-timeline] .mark-xid-critical")
        assert mark is not None
        assert "fallen off the bus (XID 79)" in (mark.get_attribute("aria-label") or "")
        tab.wait_until("() => document.querySelector('[data-events]').innerText.includes('XID 79')")
        assert any("GPU 1" in row and "critical" in row and "Reboot." in row for row in tab.page.evaluate(ROWS))
        assert tab.page.locator("[data-events] b").count() == 0, "names are text"
        # The keyboard reaches the marks, and shows their text.
        tab.page.locator("[data-timeline] .mark[tabindex='0']").focus()
        for key in ("ArrowDown", "ArrowDown"):
            tab.page.keyboard.press(key)
        assert tab.page.locator(".timeline-tip").is_visible()
        # A mark takes the charts to its time and GPU.
        tab.page.locator("[data-timeline] .mark-xid-critical").click()
        tab.page.wait_for_selector("html[data-page=gpus][data-zoomed=true]")
        tab.wait_until("() => document.querySelector('#gpu-selector').value === '1'")
        assert tab.errors == []


def test_filters_are_in_the_address_and_an_empty_list_says_so(
    demo: Running, new_tab: Callable[..., BrowserTab]
) -> None:
    tab = new_tab().open(f"{demo.url}?page=events&range=7d&event_severity=critical")
    tab.wait_until("() => document.querySelectorAll('[data-events] tr').length > 0")
    tab.wait_until("() => document.querySelector('[data-event-filter=event_severity]').value === 'critical'")
    severities = "() => [...new Set([...document.querySelectorAll('[data-events] .severity')].map(e => e.textContent))]"
    tab.wait_until(f"() => ({severities})().join() === 'critical'")
    tab.page.select_option("[data-event-filter=event_gpu]", "1")
    tab.page.select_option("[data-event-filter=event_kind]", "history_damaged")
    tab.wait_until(
        "() => document.querySelector('[data-events-empty]').textContent === 'No matching events in the last 7 days'"
    )
    found = tab.page.evaluate(ADDRESS)
    assert (found["event_severity"], found["event_gpu"], found["event_kind"]) == ("critical", "1", "history_damaged")
    assert not tab.page.locator(".events-table").is_visible()
    assert tab.errors == []


def test_without_a_gpu_the_list_shows_the_host(without_gpu: Running, new_tab: Callable[..., BrowserTab]) -> None:
    tab = new_tab(width=390).open(f"{without_gpu.url}?page=events")
    tab.wait_until("() => document.querySelector('[data-events]').innerText.includes('dashtop started')")
    assert tab.page.locator(".lane-label").all_inner_texts() == ["Host"]
    assert not tab.page.locator("#panel-ecc").is_visible()
    assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.errors == []
