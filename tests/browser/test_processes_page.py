"""The processes of all GPUs: groups with sums, filters, several GPUs, and ended processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.processes import running

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.browser.conftest import BrowserTab
    from tests.fake_nvml.fixtures import WorldFactory
    from tests.processes import Running

GIB = 2**30
TABLE = "#panel-all-processes [data-all-processes]"
NAMES = f"() => [...document.querySelectorAll('{TABLE} .process-row .process-name')].map(name => name.textContent)"
GROUPS = f"() => [...document.querySelectorAll('{TABLE} .group-button')].map(group => group.textContent)"
SUMMARY = "#panel-all-processes .table-summary"


@pytest.fixture
def tab(demo: Running, new_tab: Callable[..., BrowserTab]) -> BrowserTab:
    opened = new_tab().open(f"{demo.url}?page=processes")
    opened.wait_until(f"() => ({NAMES})().length > 5")
    return opened


def test_processes_are_grouped_with_sums_and_sorted_by_the_address(tab: BrowserTab) -> None:
    groups = tab.page.evaluate(GROUPS)
    assert len(set(groups)) == len(groups) > 3
    count, rows = len(tab.page.evaluate(NAMES)), tab.page.locator(f"{TABLE} .group-row")
    assert tab.text(SUMMARY).startswith(f"{count} processes: ")
    counts = [int(text.split()[0]) for text in rows.locator(".group-count").all_inner_texts()]
    assert sum(counts) == count
    assert all(
        "GiB" in text or "MiB" in text for text in rows.locator("[data-cell='gpu_memory_mib']").all_inner_texts()
    )
    tab.page.click("#panel-all-processes label:has-text('GPU')")
    tab.wait_until(f"() => ({GROUPS})().every(name => name.startsWith('GPU '))")
    rows.first.locator(".group-button").click()
    folded = len(tab.page.evaluate(NAMES))
    assert folded == count - counts_of_first(tab)
    tab.page.click("#panel-all-processes [data-column='user']")
    assert "process_group=gpu" in tab.page.url
    assert "process_sort=user" in tab.page.url
    tab.page.reload()
    tab.wait_for_state("live")
    tab.wait_until(f"() => ({GROUPS})().every(name => name.startsWith('GPU ')) && ({GROUPS})().length > 3")
    sorted_by = "#panel-all-processes th[aria-sort='ascending'] [data-column='user']"
    tab.page.locator(sorted_by).wait_for()
    assert tab.errors == []


def counts_of_first(tab: BrowserTab) -> int:
    return int(tab.text(f"{TABLE} .group-row .group-count").split()[0])


def test_filters_are_in_the_address_and_the_sum_follows_them(tab: BrowserTab) -> None:
    count = len(tab.page.evaluate(NAMES))
    user = tab.page.evaluate(GROUPS)[0]
    tab.page.get_by_role("button", name="Mine", exact=True).locator("visible=true").click()
    tab.page.locator(".table-empty:visible", has_text="Enter your user name").wait_for()
    tab.page.get_by_label("Your user name").locator("visible=true").fill(user)
    tab.page.keyboard.press("Enter")
    tab.wait_until(f"user => ({GROUPS})().join() === user", user)
    mine = len(tab.page.evaluate(NAMES))
    assert 0 < mine < count
    assert tab.text(SUMMARY).startswith(f"{mine} of {count} processes: ")
    assert "process_only=mine" in tab.page.url
    assert user not in tab.page.url
    tab.page.fill("#all-process-filter", "no such process")
    tab.page.locator(".table-empty:visible", has_text="No matching processes.").wait_for()
    assert tab.text(SUMMARY) == f"0 of {count} processes"
    # The table of one GPU has the same filters and the same name.
    tab.page.click(".nav-item[data-page-link='gpus']")
    tab.page.locator("#panel-processes .table-summary", has_text="0 of ").wait_for()
    tab.page.fill("#process-filter", "")
    assert tab.text("#panel-processes .name-button") == user
    assert tab.errors == []


def test_a_process_on_two_gpus_unfolds_and_one_that_ends_moves_below(
    nvml_world: WorldFactory, new_tab: Callable[..., BrowserTab]
) -> None:
    world = nvml_world("h100x8")
    own, foreign = os.getpid(), 4_000_001
    for index in range(8):
        world.set(index, "processes", [])
    shared = [{"pid": own, "type": "C", "used_memory": 2 * GIB}]
    world.set(1, "processes", shared)
    world.set(2, "processes", [*shared, {"pid": foreign, "type": "C", "used_memory": GIB}]).save()
    with running("--interval", "0.5", "--no-persist", env=world.env()) as server:
        tab = new_tab(width=390, height=844).open(f"{server.url}?page=processes")
        row = tab.page.locator(f"{TABLE} [data-pid='{own}']")
        row.locator(".shares-button", has_text="1, 2").wait_for()
        assert "4.0 GiB" in row.inner_text()
        row.locator(".shares-button").click()
        shares = tab.page.locator(f"{TABLE} .share-row")
        assert [text.split() for text in shares.locator("[data-cell='gpus']").all_inner_texts()] == [
            ["GPU", "1"],
            ["GPU", "2"],
        ]
        assert row.locator("[data-cell='user']").is_visible(), "also on a phone"
        assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        unnamed = tab.page.locator(f"{TABLE} [data-pid='{foreign}'] [data-cell='name']")
        unnamed.locator(".process-name").click()
        tab.page.locator(
            "#popover", has_text="The process has ended, or the operating system does not show it"
        ).wait_for()
        assert "4.0 GiB" in tab.text(f"{TABLE} .group-row")
        world.set(1, "processes", []).set(2, "processes", []).save()
        tab.page.locator("#panel-all-processes .table-empty", has_text="No processes on any GPU.").wait_for()
        tab.page.click(".ended-processes > summary")
        ended = tab.page.locator("[data-ended-processes] tr", has=tab.page.locator(f"text={row_name(own)}")).first
        ended.wait_for()
        assert "4.0 GiB" in ended.inner_text()
        assert tab.errors == []


def row_name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()


def test_a_process_is_marked_as_a_service_and_unmarked(demo: Running, new_tab: Callable[..., BrowserTab]) -> None:
    tab = new_tab().open(f"{demo.url}?page=processes")
    name = tab.page.locator("[data-all-processes] .process-row").first
    name.wait_for()
    pid = name.get_attribute("data-pid")
    row = tab.page.locator(f"[data-all-processes] .process-row[data-pid='{pid}']").first
    row.locator(".process-menu").focus()
    tab.page.keyboard.press("Enter")
    assert f"PID {pid}" in tab.text("#watch-title")
    tab.page.click("text=This is a service")
    row.locator(".idle-mark:text-is('service')").wait_for()
    tab.page.click("#alert-bell")
    tab.page.wait_for_selector("[data-services] .alert-text")
    tab.page.go_back()
    row.locator(".process-menu").click()
    tab.page.click("text=No longer a service")
    row.locator(".idle-mark:text-is('service')").wait_for(state="detached")
    row.locator(".process-menu").click()
    assert tab.page.locator(".watch-dialog").is_visible()
    tab.page.keyboard.press("Escape")
    assert not tab.page.locator(".watch-dialog").is_visible()
    assert tab.page.evaluate("document.activeElement.className") == "process-menu", "the focus returns"
    assert tab.errors == []
