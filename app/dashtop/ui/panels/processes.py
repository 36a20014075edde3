"""The table of the processes on the selected GPU. The browser builds, sorts and filters it."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import dash_bootstrap_components as dbc
from dash import html

from dashtop.model.metric import GIB, MIB
from dashtop.model.sample import PROCESSES
from dashtop.ui import ids
from dashtop.ui.charts.process_memory import describe_context
from dashtop.ui.components import attributes, card
from dashtop.ui.delta import Table
from dashtop.ui.panels.base import Panel, Section

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, GpuProcess, Sample

_EMPTY_TEXT: Final = "processes.empty"
_NO_PROCESSES: Final = "No processes on this GPU."
MAX_ROWS: Final = 200
"""Number of processes that are sent: the largest ones. Each costs some bytes at every tick."""


class Column(NamedTuple):
    """A column of the table: field of a process, title, help text, and format in assets/panels-processes.js."""

    field: str
    title: str
    help: str
    format: str = "text"


COLUMNS: Final = (
    Column("pid", "PID", "Process ID"),
    Column("name", "Name", "Name of the executable, and type: C compute, G graphics, M MPS client"),
    Column("user", "User", "Owner of the process"),
    Column("context", "Container / job", "Container, pod, Slurm job or environment"),
    Column("gpu_memory_mib", "GPU memory", "Device memory used by the process", "size"),
    Column("sm_percent", "SM", "SM utilization by the process over the last second", "percent"),
    Column("cpu_percent", "CPU", "100 % is one core", "percent"),
    Column("host_memory_mib", "RAM", "Host memory used by the process", "size"),
    Column("elapsed_ms", "Elapsed", "Time since the process started", "duration"),
)
LOAD_FIELDS: Final = ("gpu_memory_mib", "sm_percent", "cpu_percent", "host_memory_mib")
TOTAL_FIELDS: Final = ("count", "unknown_count", "gpu_memory_gib", "used_gib")


def layout(_services: Services) -> Component:
    """Return the card with an empty table."""
    search = dbc.Input(
        id=ids.PROCESS_FILTER,
        type="search",
        size="sm",
        placeholder="Filter",
        class_name="filter",
    )
    label = html.Label("Filter processes", htmlFor=ids.PROCESS_FILTER, className="visually-hidden")
    table = html.Table(
        [
            html.Caption("Processes on this GPU", className="visually-hidden"),
            html.Thead(html.Tr([_column_header(column) for column in COLUMNS])),
            html.Tbody(**attributes(data_processes="")),
        ],
        className="processes",
    )
    body = [
        html.Div(table, className="table-scroll", tabIndex=0, role="region", **attributes(aria_label="Processes")),
        html.P(className="table-empty", **attributes(data_empty="")),
        html.Div(
            [
                html.Span(className="table-summary", **attributes(data_summary="")),
                dbc.Button("Show more", size="sm", class_name="more-rows"),
            ],
            className="table-footer",
        ),
    ]
    return card(
        "Processes",
        body,
        id=ids.PANEL_PROCESSES,
        aside=html.Div([label, search]),
        class_name="needs-gpu only-single full-width",
    )


def _column_header(column: Column) -> Component:
    button = html.Button(
        column.title,
        className="sort-button",
        title=column.help,
        **attributes(data_column=column.field, data_cell_format=column.format),
    )
    class_name = "" if column.format == "text" else "numeric"
    return html.Th(button, scope="col", className=class_name, **attributes(aria_sort="none"))


def live_data(_sample: Sample, gpu: Gpu | None) -> dict[str, Any]:
    """Add the processes by pid: static facts in `processes`, and in the same order what changes in `process_loads`.

    Values are null where they are not known. `process_totals` covers all processes: `unknown_count` is the number of
    those of unknown size; `used_gib` is the memory in use, null if the GPU shares the host's memory.
    """
    if gpu is None:
        return {
            "processes": [],
            "process_loads": Table(LOAD_FIELDS, []),
            "process_totals": Table(TOTAL_FIELDS, [[0, 0, 0, None]]),
            "words": {_EMPTY_TEXT: ""},
        }
    error = gpu.unavailable.get(PROCESSES)
    largest = sorted(gpu.processes, key=lambda each: -(each.gpu_memory_bytes or 0))[:MAX_ROWS]
    largest.sort(key=attrgetter("pid"))
    return {
        "processes": [_encode_facts(each) for each in largest],
        "process_loads": Table(LOAD_FIELDS, [_encode_load(each) for each in largest]),
        "process_totals": Table(TOTAL_FIELDS, [_encode_totals(gpu)]),
        "words": {_EMPTY_TEXT: _NO_PROCESSES if error is None else f"Processes not available: {error.value}."},
    }


def _encode_facts(process: GpuProcess) -> dict[str, Any]:
    info = process.info
    return {
        "pid": process.pid,
        "type": process.kind,
        "name": info.name,
        "user": info.username,
        "context": describe_context(process),
        "started_ms": info.started_ms,
        "foreign": info.foreign,
    }


def _encode_load(process: GpuProcess) -> list[float | None]:
    """Return the values of `LOAD_FIELDS`."""
    return [
        _to_mib(process.gpu_memory_bytes),
        None if process.sm_percent is None else round(process.sm_percent),
        None if process.cpu_percent is None else round(process.cpu_percent, 1),
        _to_mib(process.host_memory_bytes),
    ]


def _encode_totals(gpu: Gpu) -> list[float | None]:
    """Return the values of `TOTAL_FIELDS`."""
    sizes = [each.gpu_memory_bytes for each in gpu.processes if each.gpu_memory_bytes is not None]
    used = None if gpu.device.shares_host_memory else gpu.values.get("gpu.memory.used_gb")
    return [
        len(gpu.processes),
        len(gpu.processes) - len(sizes),
        round(sum(sizes) / GIB, 2),
        None if used is None else round(used, 2),
    ]


def _to_mib(size: int | None) -> int | None:
    return None if size is None else round(size / MIB)


PANEL: Final = Panel(section=Section.CURRENT, id=ids.PANEL_PROCESSES, layout=layout, live_data=live_data)
