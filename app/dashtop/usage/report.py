"""A summary of usage as JSON, CSV and as a table for a terminal."""

from __future__ import annotations

import csv
import io
from dataclasses import fields
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final

from dashtop.export.table import escape_formula
from dashtop.model.metric import GIB
from dashtop.model.usage import SHARED
from dashtop.usage.summary import ESTIMATED, INTEGRATED, MIXED, UsageRow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dashtop.usage.summary import UsageSummary

CSV_TYPE: Final = "text/csv; charset=utf-8"
_DIGITS: Final = 4
_RENAMED: Final = {"mean_memory_bytes": "mean_memory_gb", "started_ms": "started"}
FIELDS: Final = tuple(_RENAMED.get(each.name, each.name) for each in fields(UsageRow))
"""Names of the fields of a row in JSON and CSV."""
# Fields of the rows of processes and of GPUs only.
_PROCESS_FIELDS: Final = ("pid", "started", "user")
_GPU_FIELDS: Final = (*("gpu_id", "gpu_name", "coverage", "free_h", "energy_kwh", "thermal_h", "hw_h", "power_cap_h"),)
TITLES: Final = {
    "user": "User",
    "container": "Container",
    "slurm_job": "Slurm job",
    "process": "Process",
    "gpu": "GPU",
}


_HOLDERS: Final = {
    "user": "several users",
    "container": "several containers",
    "slurm_job": "several jobs",
    "process": "several processes",
}
_MIN_KNOWN: Final = 0.995
"""Busy time is marked as a lower bound where less of the load is known."""


def to_json(summary: UsageSummary) -> dict[str, Any]:
    """Return the summary as JSON values."""
    return {
        "by": summary.by,
        "start": summary.start_ms,
        "end": summary.end_ms,
        "began": summary.began_ms,
        "coverage": round(summary.coverage, _DIGITS),
        "rows": [encode_row(row) for row in summary.rows],
        "energy_kwh": _round(summary.energy_kwh),
        "unattributed_kwh": _round(summary.unattributed_kwh),
        "is_cut": summary.is_cut,
    }


def encode_row(row: UsageRow) -> dict[str, Any]:
    """Return a row as JSON values."""
    values: dict[str, Any] = {}
    for each, name in zip(fields(row), FIELDS, strict=True):
        value = getattr(row, each.name)
        if each.name == "mean_memory_bytes" and value is not None:
            value /= GIB
        values[name] = round(value, _DIGITS) if isinstance(value, float) else list(value) if name == "gpus" else value
    return values


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)


def to_csv(summary: UsageSummary) -> str:
    """Return the rows as CSV: an empty cell is not known. No cell begins a formula."""
    left_out = {*_PROCESS_FIELDS, *_GPU_FIELDS} - {"process": {*_PROCESS_FIELDS}, "gpu": {*_GPU_FIELDS}}.get(
        summary.by, set()
    )
    names = [name for name in FIELDS if name not in left_out]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(names)
    for row in map(encode_row, summary.rows):
        writer.writerow([_format_cell(row[name]) for name in names])
    return text.getvalue()


def _format_cell(value: Any) -> Any:
    if isinstance(value, list):
        return " ".join(value)
    return escape_formula(value) if isinstance(value, str) else value


def to_table(summary: UsageSummary) -> str:
    """Return the rows as a table for people, with what its numbers mean."""
    has_cost = any(row.cost is not None for row in summary.rows)
    heads = [
        TITLES[summary.by],
        *(["User"] if summary.by == "process" else []),
        "Held h",
        "Shared h",
        "Busy h",
        "Idle h",
        "Active kWh",
        "Base kWh",
    ]
    rows = [_list_cells(row, summary.by, has_cost=has_cost) for row in summary.rows]
    heads += ["Cost"] if has_cost else []
    widths = [max(len(line[column]) for line in (heads, *rows)) for column in range(len(heads))]
    lines = [_format_line(line, widths) for line in (heads, *rows)] if rows else ["No GPU was held."]
    return "\n".join([*_describe(summary), "", *lines, *_explain(summary)])


def _list_cells(row: UsageRow, by: str, *, has_cost: bool) -> list[str]:
    name = f"GPU {row.gpu_id} {row.gpu_name or ''}".rstrip() if by == "gpu" and row.gpu_id is not None else row.key
    mark = "*" if row.energy_kind == ESTIMATED else ""
    least = "≥ " if row.busy_h is not None and row.known < _MIN_KNOWN else ""
    cells = [
        name,
        *([row.user or ""] if by == "process" else []),
        *(_format_number(value, 2) for value in (row.held_h, row.shared_h)),
    ]
    cells += [least + _format_number(row.busy_h, 2), _format_number(row.idle_h, 2)]
    cells += [_format_number(row.active_kwh, 3) + mark, _format_number(row.base_kwh, 3)]
    return [*cells, _format_number(row.cost, 2)] if has_cost else cells


def _format_number(value: float | None, digits: int) -> str:
    return "N/A" if value is None else f"{value:.{digits}f}"


def _format_line(cells: list[str], widths: list[int]) -> str:
    first, *others = zip(cells, widths, strict=True)
    return "  ".join([first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]).rstrip()


def _describe(summary: UsageSummary) -> Iterator[str]:
    start, end = (
        datetime.fromtimestamp(time_ms / 1000, tz=timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M")
        for time_ms in (summary.start_ms, summary.end_ms)
    )
    yield f"{start} - {end}, measured {100 * summary.coverage:.0f} % of the window"
    if summary.energy_kwh is not None:
        unattributed = summary.unattributed_kwh or 0.0
        yield (
            f"Board energy as the driver reports it: {summary.energy_kwh:.3f} kWh, {unattributed:.3f} kWh of it while"
            " no process held a GPU"
        )


def _explain(summary: UsageSummary) -> Iterator[str]:
    kinds = {row.energy_kind for row in summary.rows}
    if ESTIMATED in kinds:
        yield f"* estimated share: {_HOLDERS[summary.by]} held a GPU at the same time; its energy is split by load."
    if kinds & {INTEGRATED, MIXED}:
        yield "Some energy is power × time, where the driver reported no value of its energy counter."
    if any(row.active_kwh is not None and row.base_kwh is None and row.key != SHARED for row in summary.rows):
        yield "Where the base power is not known yet (10 minutes without a process), active energy includes it."
    if any(row.key == SHARED for row in summary.rows):
        yield f"{SHARED}: energy of MIG instances, or of several owners whose load is not reported; it cannot be split."
    if any(row.busy_h is not None and row.known < _MIN_KNOWN for row in summary.rows):
        yield "≥: the load of a part of the held time is not known."
    if summary.is_cut:
        yield "There are more processes than are listed."
