"""The page of usage: totals, heat map and tables of the demo, the file of a table, and the printed page."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.browser.conftest import BrowserTab
    from tests.processes import Running

USERS = "() => [...document.querySelectorAll('[data-usage-table=users] tbody tr')].map(row => row.cells[0].textContent)"


def test_usage_of_the_demo_is_shown_downloaded_and_printed(
    demo: Running, new_tab: Callable[..., BrowserTab], tmp_path: Path
) -> None:
    tab = new_tab(color_scheme="dark").open(f"{demo.url}?page=usage&range=24h&tz=utc")
    tab.wait_until(f"() => ({USERS})().length > 2")
    users = tab.page.evaluate(USERS)
    period = tab.text("[data-usage-period]")
    assert "UTC" in period
    assert "measured 100 % of the window" in period or "measured > 99 % of the window" in period
    assert tab.page.locator(".heat-row").count() == 8
    assert (tab.page.locator(".heat-row").first.get_attribute("aria-label") or "").startswith("GPU 0: active")
    totals = tab.page.locator("[data-usage-totals] dt").all_text_contents()
    assert totals == ["Held", "Utilized", "Idle, held", "Free", "Energy"], "busy is a state, on the overview"
    held, _, _, free, _ = [
        float(text.split()[0]) for text in tab.page.locator("[data-usage-totals] dd").all_text_contents()
    ]
    assert 0.98 * 8 * 24 < held + free < 8 * 24.2
    tab.page.locator(".heat-row").first.hover()
    assert "Utilization" in tab.text(".timeline-tip")
    with tab.page.expect_download() as download:
        tab.page.click("[data-usage-csv=users]")
    path = tmp_path / "users.csv"
    download.value.save_as(path)
    assert download.value.suggested_filename.startswith("dashtop-usage-users-")
    rows = list(csv.DictReader(io.StringIO(path.read_text())))
    assert [row["User"] for row in rows] == users
    assert all(0 < float(row["Utilized (GPU-h)"]) <= float(row["Held (GPU-h)"]) <= 8 * 24.2 for row in rows)
    assert {row["Attribution"] for row in rows} <= {"sole user", "shared (estimate)"}
    assert all(0 < float(row["Active energy (kWh)"]) < 24.2 * 8 for row in rows)
    assert sum(float(row["Shared (GPU-h)"]) for row in rows) == pytest.approx(held, rel=0.01), "the ledger's sums agree"
    assert "Calculated" not in tab.text("[data-usage-note]")
    check_groupings(tab, demo, users)
    tab.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.page.evaluate("document.documentElement.dataset.bsTheme") == "light"
    tab.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.page.evaluate("document.documentElement.dataset.bsTheme") == "dark"
    tab.page.emulate_media(media="print")
    assert not tab.page.locator(".header").is_visible()
    assert not tab.page.locator("[data-print]").is_visible()
    assert tab.page.locator("[data-usage-period]").is_visible()
    assert tab.errors == []


def check_groupings(tab: BrowserTab, demo: Running, users: list[str]) -> None:
    """Check the tables by job, container and process, whose choice is in the address."""
    for by, title, cell in (
        ("slurm_job", "Slurm job", "4711"),
        ("container", "Container", "None"),
        ("process", "Process", ""),
    ):
        tab.page.select_option("[data-usage-by]", by)
        assert tab.text("[data-usage-table=users] thead th") == title
        assert cell in " ".join(tab.page.evaluate(USERS))
    heads = tab.page.locator("[data-usage-table=users] thead th").all_text_contents()
    assert heads[:3] == ["Process", "User", "GPUs"]
    owners = tab.page.locator("[data-usage-table=users] tbody tr td:nth-child(2)").all_text_contents()
    assert set(owners) <= {*users, "", "Unknown user"}
    assert owners[0] in users
    assert "usage_by=process" in tab.page.url
    tab.page.evaluate("window.dashtop.settings.set({usage_by: 'container'})")
    assert tab.page.locator("[data-usage-by]").input_value() == "container"
    assert tab.text("[data-usage-table=users] thead th") == "Container"
    assert "User" not in tab.page.locator("[data-usage-table=users] thead th").all_text_contents()
    tab.page.reload()
    tab.wait_until("() => document.querySelector('[data-usage-table=users] thead th')?.textContent === 'Container'")
    tab.page.select_option("[data-usage-by]", "process")
    link = tab.page.locator("[data-usage-table-note=users] a")
    assert link.text_content() == "Download all processes (CSV)"
    answer = tab.page.request.get(urljoin(demo.url, link.get_attribute("href")))
    assert len(list(csv.DictReader(io.StringIO(answer.text())))) > len(tab.page.evaluate(USERS)) == 50


def test_without_a_gpu_the_page_says_so(without_gpu: Running, new_tab: Callable[..., BrowserTab]) -> None:
    tab = new_tab(width=390).open(f"{without_gpu.url}?page=usage")
    tab.wait_until(
        "() => document.querySelector('[data-usage-empty]').textContent === 'No GPU was read in the last hour.'"
    )
    assert not tab.page.locator(".usage-table").first.is_visible()
    assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert tab.errors == []
