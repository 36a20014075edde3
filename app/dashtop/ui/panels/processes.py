"""The table of the processes on the selected GPU. The browser builds, sorts and filters it."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import dash_bootstrap_components as dbc
from dash import html

from dashtop.model.sample import PROCESSES
from dashtop.ui import ids
from dashtop.ui.charts.process_memory import describe_context
from dashtop.ui.components import attributes, card
from dashtop.ui.panels.base import Panel, Section

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, GpuProcess, Sample

_EMPTY_TEXT: Final = "processes.none"
_NO_PROCESSES: Final = "No processes on this GPU."
_MIB: Final = 2**20
_GIB: Final = 2**30
MAX_ROWS: Final = 200
"""Number of processes that are sent: the largest ones. Each costs some bytes at every tick."""


class Column(NamedTuple):
    """A column of the table: title, help text, and whether it is a number."""

    title: str
    help: str
    is_numeric: bool = True


# assets/panels-processes.js uses the same order.
COLUMNS: Final = (
    Column("PID", "Process ID", is_numeric=False),
    Column("Name", "Name of the executable, and type: C compute, G graphics, M MPS client", is_numeric=False),
    Column("User", "Owner of the process", is_numeric=False),
    Column("Container / job", "Container, pod, Slurm job or environment", is_numeric=False),
    Column("GPU memory", "Device memory used by the process"),
    Column("SM", "SM utilization by the process over the last second"),
    Column("CPU", "100 % is one core"),
    Column("RAM", "Host memory used by the process"),
    Column("Elapsed", "Time since the process started"),
)


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
            html.Thead(html.Tr([_column_header(position, column) for position, column in enumerate(COLUMNS)])),
            html.Tbody(**attributes(data_processes="")),
        ],
        className="processes",
    )
    body = [
        html.Div(table, className="scrolls", tabIndex=0, role="region", **attributes(aria_label="Processes")),
        html.P(className="none", **attributes(data_none="")),
        html.Div(
            [
                html.Span(className="sum", **attributes(data_sum="")),
                dbc.Button("Show more", size="sm", class_name="more-rows"),
            ],
            className="table-foot",
        ),
    ]
    return card(
        "Processes",
        body,
        id=ids.PANEL_PROCESSES,
        aside=html.Div([label, search]),
        class_name="needs-gpu only-single row",
    )


def _column_header(position: int, column: Column) -> Component:
    button = html.Button(column.title, className="sort", title=column.help, **attributes(data_sort=str(position)))
    class_name = "numeric" if column.is_numeric else ""
    return html.Th(button, scope="col", className=class_name, **attributes(aria_sort="none"))


def live_data(_sample: Sample, gpu: Gpu | None) -> dict[str, Any]:
    """Add the processes by pid: static facts (`processes`) and, in the same order, changing values (`loads`).

    A row is [pid, type, name, user, context, start in epoch ms, foreign], and [GPU memory in MiB, SM %, CPU %, RAM in
    MiB]; null for a value that is not known. `totals` is [memory of all processes in GiB, number of processes without a
    known size, memory in use in GiB (null if the GPU shares the host's memory), number of processes]. `words` has the
    text of an empty table.
    """
    if gpu is None:
        return {"processes": [], "loads": [], "totals": [0, 0, None, 0], "words": {_EMPTY_TEXT: ""}}
    error = gpu.unavailable.get(PROCESSES)
    largest = sorted(gpu.processes, key=lambda each: -(each.gpu_memory_bytes or 0))[:MAX_ROWS]
    largest.sort(key=attrgetter("pid"))
    sizes = [each.gpu_memory_bytes for each in gpu.processes if each.gpu_memory_bytes is not None]
    used = None if gpu.device.shares_host_memory else gpu.values.get("gpu.memory.used_gb")
    return {
        "processes": [_static_row(each) for each in largest],
        "loads": [_load_row(each) for each in largest],
        "totals": [
            round(sum(sizes) / _GIB, 2),
            len(gpu.processes) - len(sizes),
            None if used is None else round(used, 2),
            len(gpu.processes),
        ],
        "words": {_EMPTY_TEXT: _NO_PROCESSES if error is None else f"Processes not available: {error.text}."},
    }


def _static_row(process: GpuProcess) -> list[Any]:
    info, context = process.info, describe_context(process)
    return [process.pid, process.kind, info.name, info.username, context, info.started_ms, info.foreign]


def _load_row(process: GpuProcess) -> list[float | None]:
    return [
        _to_mib(process.gpu_memory_bytes),
        None if process.sm_percent is None else round(process.sm_percent),
        None if process.cpu_percent is None else round(process.cpu_percent, 1),
        _to_mib(process.host_memory_bytes),
    ]


def _to_mib(size: int | None) -> int | None:
    return None if size is None else round(size / _MIB)


PANEL: Final = Panel(section=Section.CURRENT, id=ids.PANEL_PROCESSES, layout=layout, live_data=live_data)
