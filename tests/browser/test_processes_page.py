"""The processes of all GPUs: groups with sums, filters, several GPUs, and ended processes."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.actions.targets import STUBBORN, has_ended, orphan, state
from tests.browser.test_axe import OPTIONS, WITHOUT_CONTRAST, find_violations
from tests.processes import running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.browser.conftest import BrowserTab
    from tests.fake_nvml import World
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


ACTION_TOKEN = "a-token-for-actions"
DIALOG = ".action-dialog"


def choose_action(tab: BrowserTab, pid: int, action: str) -> None:
    """Open the menu of a process by keyboard, and choose an action."""
    tab.page.locator(f"{TABLE} [data-pid='{pid}'] .process-menu").focus()
    tab.page.keyboard.press("Enter")
    tab.page.get_by_role("menuitem", name=action).focus()
    tab.page.keyboard.press("Enter")
    tab.page.locator(f"{DIALOG}[open]").wait_for()


def send(tab: BrowserTab, result: str) -> None:
    """Confirm the action, wait for what the dialog says then, and close it."""
    tab.page.click(".action-send")
    tab.page.locator(".action-result", has_text=result).wait_for()
    tab.page.keyboard.press("Escape")


def expect_error(tab: BrowserTab, text: str) -> None:
    tab.page.click(".action-send")
    tab.page.locator(f"{DIALOG} .alert-error", has_text=text).wait_for()


def focused(tab: BrowserTab) -> Any:
    return tab.page.evaluate("document.activeElement.textContent || document.activeElement.className")


def check_menu(tab: BrowserTab, pid: int) -> None:
    """Arrow keys move in the menu, and Escape gives the focus back."""
    tab.page.locator(f"{TABLE} [data-pid='{pid}'] .process-menu").focus()
    tab.page.keyboard.press("Enter")
    names = tab.page.locator(".action-menu [role=menuitem]:visible").all_inner_texts()
    assert [name.split()[0] for name in names] == ["Notify", "Interrupt", "Terminate", "Kill", "Pause"]
    tab.page.keyboard.press("ArrowUp")
    assert focused(tab) == "Pause …"
    tab.page.keyboard.press("ArrowDown")
    assert find_violations(tab, WITHOUT_CONTRAST) == []
    tab.page.keyboard.press("Escape")
    assert focused(tab) == "process-menu"


def check_cancel_is_the_default(tab: BrowserTab, pid: int) -> None:
    choose_action(tab, pid, "Terminate")
    assert focused(tab) == "Cancel"
    facts = tab.text(".action-facts")
    assert all(part in facts for part in (str(pid), "2.0 GiB", "python"))
    assert not tab.page.locator("[data-field=pid]").is_visible(), "it is one's own"
    assert find_violations(tab, OPTIONS) == []
    tab.page.keyboard.press("Enter")
    tab.page.locator(f"{DIALOG}[open]").wait_for(state="detached")
    assert focused(tab) == "process-menu"
    assert not has_ended(pid)


def check_token_is_asked_for_once(tab: BrowserTab, pid: int) -> None:
    choose_action(tab, pid, "Pause")
    assert "keeps its GPU memory" in tab.text("#action-help")
    expect_error(tab, "Enter the action token.")
    tab.page.get_by_label("Action token").fill("a-wrong-action-token")
    expect_error(tab, "The action token is wrong.")
    tab.page.get_by_label("Action token").fill(ACTION_TOKEN)
    send(tab, "It is paused, and keeps its GPU memory")
    assert state(pid) == "T"
    tab.page.locator(f"{TABLE} [data-pid='{pid}'] .idle-mark", has_text="paused").wait_for()
    choose_action(tab, pid, "Resume")
    assert not tab.page.get_by_label("Action token").is_visible()
    assert tab.page.get_by_role("menuitem", name="Pause", include_hidden=True).get_attribute("hidden") is not None
    send(tab, "It goes on.")
    tab.page.locator(f"{TABLE} [data-pid='{pid}'] .idle-mark", has_text="paused").wait_for(state="detached")
    stored = tab.page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
    assert ACTION_TOKEN not in stored + tab.page.url


@contextmanager
def open_actions(world: World, new_tab: Callable[..., BrowserTab], kinds: dict[int, str]) -> Iterator[BrowserTab]:
    """Open the page of processes of a server that may act on those with these PIDs and kinds."""
    for index in range(8):
        world.set(index, "processes", [])
    world.set(1, "processes", [{"pid": pid, "type": kind, "used_memory": 2 * GIB} for pid, kind in kinds.items()])
    world.save()
    arguments = ("--interval", "0.5", "--allow-actions", "own", "--action-token", ACTION_TOKEN)
    with running(*arguments, env=world.env()) as server:
        tab = new_tab(height=900).open(f"{server.url}?page=processes")
        for pid in kinds:
            tab.page.locator(f"{TABLE} [data-pid='{pid}'] .process-menu").wait_for(state="attached")
        yield tab
        assert all("401" in error or "409" in error for error in tab.errors), tab.errors


def test_dialog_ends_a_real_process_and_cancel_is_the_default(
    nvml_world: WorldFactory, new_tab: Callable[..., BrowserTab]
) -> None:
    drawing = os.getpid()
    with (
        orphan() as other,
        orphan() as meant,
        open_actions(nvml_world("h100x8"), new_tab, {other: "C", meant: "C", drawing: "G"}) as tab,
    ):
        check_menu(tab, meant)
        check_cancel_is_the_default(tab, meant)
        check_token_is_asked_for_once(tab, meant)
        choose_action(tab, meant, "Terminate")
        send(tab, "It has ended")
        assert (has_ended(meant), has_ended(other)) == (True, False)
        # A process that only draws: the menu says why nothing can be done to it.
        menu = tab.page.locator(f"{TABLE} [data-pid='{drawing}'] .process-menu")
        menu.focus()
        tab.page.keyboard.press("Enter")
        assert "it only draws" in tab.text(".action-obstacle")
        tab.page.get_by_role("menuitem", name="Terminate").click(force=True)
        assert tab.page.locator(f"{DIALOG}[open]").count() == 0
        # Embedded panels have no actions.
        tab.page.goto(tab.page.url.partition("?")[0] + "embed/panel-all-processes")
        menu.focus()
        tab.page.keyboard.press("Enter")
        tab.page.locator(".watch-dialog[open]").wait_for()
        assert tab.page.locator(".action-menu").count() == 0


@pytest.mark.long
def test_kill_needs_the_pid_and_is_offered_ten_seconds_after_terminate(
    nvml_world: WorldFactory, new_tab: Callable[..., BrowserTab]
) -> None:
    kinds = {os.getpid(): "G"}
    with orphan(STUBBORN) as pid, open_actions(nvml_world("h100x8"), new_tab, {**kinds, pid: "C"}) as tab:
        choose_action(tab, pid, "Kill")
        tab.page.get_by_label("Type the PID").fill("1")
        expect_error(tab, f"Type the PID of the process: {pid}.")
        tab.page.get_by_label("Type the PID").fill(str(pid))
        tab.page.get_by_label("Action token").fill(ACTION_TOKEN)
        expect_error(tab, "Kill is possible 10 s after Terminate.")
        tab.page.keyboard.press("Escape")
        choose_action(tab, pid, "Terminate")
        tab.page.click(".action-send")
        tab.page.locator(".action-result", has_text="has not ended after 10 s: Kill is possible now").wait_for()
        tab.page.get_by_role("button", name="Kill …").click()
        assert focused(tab) == "Cancel"
        tab.page.get_by_label("Type the PID").fill(str(pid))
        send(tab, "It has ended")
        assert has_ended(pid)
        # A page in a frame has no actions: its parent could lead clicks to the buttons.
        tab.page.goto(tab.page.url.partition("?")[0] + "docs")
        tab.page.evaluate("""() => {
          const frame = document.createElement('iframe');
          frame.src = './?page=processes';
          document.body.replaceChildren(frame);
        }""")
        frame = tab.page.frame_locator("iframe")
        frame.locator(f"{TABLE} [data-pid='{os.getpid()}'] .process-menu").press("Enter")
        frame.locator(".watch-dialog[open]").wait_for()
