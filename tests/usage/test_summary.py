"""Summaries of the ledger: groupings, cost, kinds of energy; JSON, CSV and the table of `dashtop usage`."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import Any

import pytest

from dashtop.model.sample import StoredGpu
from dashtop.model.usage import NO_PRICES, SHARED, GpuUsage, Prices, ProcessUsage, StoredUsage, UsageRecords
from dashtop.usage import report
from dashtop.usage.summary import GROUPINGS, UsageSummary, summarize

HOUR_MS = 3_600_000.0
KWH = 3.6e9


def make_row(gpu: str, pid: int, owner: str, hours: float, **changes: Any) -> ProcessUsage:
    held_ms = hours * HOUR_MS
    facts: dict[str, Any] = {
        "container": "", "slurm_job": "", "pod": "", "name": "train", "started_ms": 5, "share_ms": held_ms,
        "known_ms": held_ms, "busy_ms": held_ms / 2, "idle_ms": held_ms / 4, "owner_held_ms": held_ms,
        "owner_idle_ms": held_ms / 4, "container_held_ms": held_ms, "job_held_ms": held_ms,
        "memory_byte_ms": 2**30 * held_ms, "active_mj": KWH * hours, "base_mj": KWH * hours / 10,
    }  # fmt: skip
    return ProcessUsage(start_ms=0, gpu_uuid=gpu, pid=pid, owner=owner, held_ms=held_ms, **{**facts, **changes})


ROWS = (
    make_row("GPU-0", 1, "ada", 6.0, slurm_job="12"),
    make_row("GPU-1", 1, "ada", 2.0, container="c1"),
    make_row("GPU-1", 2, "=grace", 2.0, share_ms=HOUR_MS, base_mj=None),
    make_row("GPU-1", 3, "=grace", 2.0, share_ms=HOUR_MS, known_ms=0.0, active_mj=None, base_mj=None),
    make_row("GPU-2", 0, SHARED, 0.0, started_ms=0, name="", memory_byte_ms=None, active_mj=KWH * 3, base_mj=None),
)
GPUS = (
    GpuUsage(
        start_ms=0, gpu_uuid="GPU-0", seen_ms=9 * HOUR_MS, held_ms=6 * HOUR_MS, known_ms=9 * HOUR_MS,
        busy_ms=3 * HOUR_MS, idle_ms=HOUR_MS, energy_mj=KWH * 8, integrated_mj=0.0, unattributed_mj=KWH,
        thermal_ms=HOUR_MS,
    ),
    GpuUsage(
        start_ms=0, gpu_uuid="GPU-1", seen_ms=9 * HOUR_MS, held_ms=4 * HOUR_MS, energy_mj=KWH * 2,
        integrated_mj=KWH * 2, unattributed_mj=KWH / 2,
    ),
    GpuUsage(
        start_ms=0, gpu_uuid="GPU-2", seen_ms=9 * HOUR_MS, unlisted_ms=9 * HOUR_MS, energy_mj=KWH * 3, integrated_mj=KWH
    ),
)  # fmt: skip
USAGE = StoredUsage(start_ms=0, end_ms=round(10 * HOUR_MS), began_ms=0, records=UsageRecords(processes=ROWS, gpus=GPUS))
STORED = (StoredGpu("GPU-1", 1, "A100"), StoredGpu("GPU-0", 0, "H100"))


def summary(by: str = "user", prices: Prices = NO_PRICES) -> UsageSummary:
    return summarize(USAGE, by, now_ms=round(20 * HOUR_MS), prices=prices, gpus=STORED)


@pytest.mark.parametrize(
    ("by", "held"),
    [
        ("user", {"ada": 8, "=grace": 4, SHARED: 0}),
        ("container", {"(none)": 10, "c1": 2, SHARED: 0}),
        ("slurm_job", {"12": 6, "(none)": 6, SHARED: 0}),
        ("process", {"train 1": 8, "train 2": 2, "train 3": 2, SHARED: 0}),
        ("gpu", {"GPU-0": 6, "GPU-1": 4, "GPU-2": None}),
    ],
)
def test_rows_by_each_grouping(by: str, held: dict[str, float | None]) -> None:
    found = summary(by)
    assert {row.key: row.held_h for row in found.rows} == held
    assert sum(row.shared_h or 0.0 for row in found.rows) == pytest.approx(10), "the time in which GPUs were held"
    assert (found.coverage, found.energy_kwh, found.unattributed_kwh) == pytest.approx((0.9, 13, 1.5))


def test_hours_energy_and_its_kind_of_users() -> None:
    ada, grace, shared = summary().rows
    assert (ada.busy_h, ada.idle_h, ada.active_kwh, ada.base_kwh) == pytest.approx((4, 2, 8, 0.8))
    assert (ada.gpus, ada.processes) == (("GPU-0", "GPU-1"), 1)
    assert ada.mean_memory_bytes == pytest.approx(2**30)
    assert (ada.energy_kind, ada.known) == ("mixed", 1.0)
    assert (grace.energy_kind, grace.known, grace.base_kwh) == ("estimated_share", 0.5, None)
    assert (shared.active_kwh, shared.busy_h, shared.energy_kind, shared.processes) == (3, None, "mixed", 0)
    _, _, unread = summary("gpu").rows
    assert (unread.gpu_id, unread.busy_h, unread.free_h) == (None, None, None), "its processes are not listed"


def test_processes_of_one_user_on_one_gpu_are_shared_and_the_user_is_not() -> None:
    facts = {"share_ms": HOUR_MS, "owner_held_ms": HOUR_MS, "container_held_ms": HOUR_MS, "job_held_ms": HOUR_MS}
    rows = tuple(make_row("GPU-0", pid, "ada", 2.0, **facts) for pid in (1, 2))
    usage = replace(USAGE, records=UsageRecords(processes=rows, gpus=GPUS))
    found = {by: summarize(usage, by, now_ms=1, prices=NO_PRICES).rows for by in ("user", "container", "process")}
    kinds = {by: [(row.is_shared, row.energy_kind) for row in group] for by, group in found.items()}
    assert kinds["process"] == [(True, "estimated_share")] * 2
    assert kinds["user"] == kinds["container"] == [(False, "counter")]


def test_a_process_is_one_row_although_its_start_is_calculated_anew_after_a_restart() -> None:
    starts = [1_700_000_000_000, 1_700_000_000_010, 1_700_000_060_000]
    rows = tuple(make_row("GPU-0", 7, "ada", 1.0, started_ms=start) for start in starts)
    usage = replace(USAGE, records=UsageRecords(processes=rows, gpus=GPUS))
    by_process, by_user = (summarize(usage, by, now_ms=1, prices=NO_PRICES).rows for by in ("process", "user"))
    found = [(row.held_h, row.started_ms) for row in by_process]
    assert found == [(2.0, starts[0]), (1.0, starts[2])], "a minute later the pid is that of another process"
    assert by_user[0].processes == 2


def test_a_table_marks_busy_time_of_which_a_part_is_not_known() -> None:
    text = report.to_table(summary())
    (line,) = [line for line in text.splitlines() if line.startswith("=grace")]
    assert "  ≥ 2.00  " in line
    assert "≥: the load of a part" in text


@pytest.mark.parametrize(("part", "kind"), [(0.04, "counter"), (0.5, "mixed"), (0.96, "integrated")])
def test_the_kind_of_energy_ignores_the_first_second_after_a_start(part: float, kind: str) -> None:
    total = replace(GPUS[0], integrated_mj=part * KWH * 8)
    usage = replace(USAGE, records=UsageRecords(processes=(), gpus=(total,)))
    found = summarize(usage, "gpu", now_ms=round(20 * HOUR_MS), prices=NO_PRICES)
    assert found.rows[0].energy_kind == kind
    assert "the driver has no" not in report.to_table(found)
    assert ("reported no value of its energy counter" in report.to_table(found)) == (kind != "counter")


def test_cost_is_that_of_energy_and_shared_time_and_null_without_prices() -> None:
    assert {row.cost for row in summary().rows} == {None}
    ada, grace, _ = summary(prices=Prices(kwh=0.5, gpu_hour=2.0)).rows
    assert ada.cost == pytest.approx(0.5 * 8.8 + 2 * 8)
    assert grace.cost == pytest.approx(0.5 * 2 + 2 * 2)
    one, *_ = summary("process", prices=Prices(kwh=0.5)).rows
    assert one.cost == pytest.approx(0.5 * 8.8)
    assert summary("process", prices=Prices(kwh=0.5)).rows[2].cost is None, "its energy is not known"
    split = summary("process", prices=Prices(kwh=0.5, gpu_hour=2.0))
    assert [row.cost for row in split.rows[1:]] == pytest.approx([0.5 * 2 + 2, 2, 0.5 * 3]), "each pays its time"
    assert summary(prices=Prices(gpu_hour=1.0)).rows[1].cost == pytest.approx(2)


def test_csv_has_the_fields_of_the_grouping_and_no_formula() -> None:
    rows = list(csv.DictReader(io.StringIO(report.to_csv(summary()))))
    assert [row["key"] for row in rows] == ["ada", "'=grace", SHARED]
    assert rows[0]["held_h"] == "8.0"
    assert rows[1]["base_kwh"] == ""
    assert "pid" not in rows[0]
    assert "gpu_id" not in rows[0]
    assert "pid" in next(csv.DictReader(io.StringIO(report.to_csv(summary("process")))))
    assert next(csv.DictReader(io.StringIO(report.to_csv(summary("gpu")))))["gpu_name"] == "H100"


@pytest.mark.parametrize("by", GROUPINGS)
def test_table_says_what_its_numbers_are(by: str) -> None:
    text = report.to_table(summary(by, prices=Prices(kwh=0.5)))
    assert "measured 90 % of the window" in text
    assert "Board energy as the driver reports it: 13.000 kWh" in text
    assert "Cost" in text
    assert ("estimated share" in text) == (by != "gpu")
    assert not {"wasted", "bill", "CO2"} & set(text.split())
    heads, *lines = [line for line in text.splitlines() if "  " in line]
    assert len(lines) == len(summary(by).rows)
    assert len(heads.split("  ")) > 1


def test_a_window_that_is_not_over_is_measured_until_now() -> None:
    found = summarize(USAGE, "user", now_ms=round(9 * HOUR_MS), prices=NO_PRICES)
    assert (found.end_ms, found.coverage) == (round(9 * HOUR_MS), 1.0)
