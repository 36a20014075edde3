"""The page of runs: the list of the demo, a report, two runs side by side, and what stands there without any."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.browser.conftest import BrowserTab
    from tests.processes import Running

TITLES = "() => [...document.querySelectorAll('.run-report h3')].map(title => title.textContent)"

HAS_SUMS = "row => row.querySelector('[data-state=running]') && row.children[7].textContent.endsWith('Wh')"
EDGES = """() => [...document.querySelectorAll('[data-runs] tr')].map(row =>
    [row.offsetHeight, ...[...row.children].map(cell => cell.offsetLeft)])"""


def test_runs_of_the_demo_and_their_reports(demo: Running, new_tab: Callable[..., BrowserTab]) -> None:
    tab = new_tab().open(f"{demo.url}?page=runs")
    tab.wait_until("() => document.querySelectorAll('[data-runs] tr').length > 4")
    assert "simulated" in tab.text("[data-runs] tr .run-tags")
    assert tab.page.locator("#panel-run-report .table-empty").is_visible()
    tab.wait_until(
        "() => [...document.querySelectorAll('[data-runs] tr')].some(HAS_SUMS)".replace("HAS_SUMS", HAS_SUMS)
    )
    edges = tab.page.evaluate(EDGES)
    ended = tab.page.locator("[data-runs] tr", has=tab.page.locator("[data-state=finished]")).first
    name = ended.locator(".run-name").text_content()
    ended.locator(".run-name").click()
    tab.wait_until(f"() => ({TITLES})().length === 1")
    assert tab.page.evaluate(TITLES) == [name]
    assert "run=" in tab.page.url
    assert tab.page.evaluate(EDGES) == edges, "the table does not move"
    tab.wait_until("() => document.querySelector('.run-table').getBoundingClientRect().top < innerHeight")
    rows = tab.page.locator(".run-table tbody tr")
    texts = {row.locator("th").text_content(): row.locator("td").first.text_content() for row in rows.all()}
    assert str(texts["Peak VRAM"]).endswith("GiB")
    assert str(texts["Utilization"]).endswith("%")
    assert "Wh" in str(texts["Energy"])
    assert tab.text(".run-details summary") == "Marks: 8"
    tab.page.locator("[data-runs] tr:not(.is-chosen) button", has_text="Compare").first.click()
    tab.wait_until(f"() => ({TITLES})().length === 2")
    assert tab.page.locator("[data-runs] .is-chosen").count() == 2
    tab.page.go_back()
    tab.wait_until(f"() => ({TITLES})().length === 1")
    tab.page.locator(".run-table thead a").first.click()
    tab.wait_until("() => document.documentElement.dataset.page === 'gpus' && document.documentElement.dataset.zoomed")
    assert "from=" in tab.page.url
    tab.page.go_back()
    tab.page.click("[data-run-close]")
    tab.wait_until(f"() => ({TITLES})().length === 0")
    tab.open(f"{demo.url}?page=runs&run=ffffffffffffffff")
    tab.wait_until("() => document.querySelector('.run-report')?.textContent === 'There is no run with this id.'")
    assert tab.errors == [] or all("404" in error for error in tab.errors)


def test_names_of_runs_are_text_and_the_bar_fits_a_phone(
    without_gpu: Running, new_tab: Callable[..., BrowserTab]
) -> None:
    tab = new_tab(width=390).open(f"{without_gpu.url}?page=runs")
    tab.wait_until("() => document.querySelector('[data-runs-empty]').offsetParent")
    assert "with dashtop.run" in tab.text("[data-runs-empty]")
    body = {"name": "<img src=x onerror=alert(1)>", "tags": {"<b>": "</b>"}}
    request = urllib.request.Request(
        f"{without_gpu.url}api/v1/system/runs",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        run_id = json.load(answer)["id"]
    tab.wait_until("() => document.querySelector('.run-name')")
    tab.page.click(".run-name")
    tab.wait_until(f"() => ({TITLES})().length === 1")
    assert tab.page.evaluate(TITLES) == [body["name"]]
    assert "<b>=</b>" in tab.text(".run-facts")
    assert "sent without a pid" in tab.text(".run-report .table-note")
    assert run_id in tab.page.url
    assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    cut = "() => [...document.querySelectorAll('.nav-item')].filter(item => item.scrollWidth > item.clientWidth).length"
    assert tab.page.evaluate(cut) == 0
    assert tab.errors == []
