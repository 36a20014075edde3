"""The processes that hold memory of the chosen GPU. The browser makes the table, sorts and filters it."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import dash_bootstrap_components as dbc
from dash import html

from dashtop.model.sample import PROCESSES
from dashtop.ui import ids
from dashtop.ui.charts.process_memory import where
from dashtop.ui.components import attributes
from dashtop.ui.panels.base import Panel, Place
from dashtop.ui.panels.card import card

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, GpuProcess, Sample

_NONE: Final = "processes.none"
_NOBODY: Final = "No process holds memory of this GPU."
_MIB: Final = 2**20
_GIB: Final = 2**30
# The largest ones: a table of more is read by nobody, and every row costs each tick a few bytes.
MOST_ROWS: Final = 200


class Column(NamedTuple):
    """One column: its title, what it is for, whether it holds numbers."""

    title: str
    hint: str
    numeric: bool = True


# In the order of the cells; assets/panels-processes.js knows them by this order.
COLUMNS: Final = (
    Column("PID", "Process id", numeric=False),
    Column("Name", "Name of the executable, and C: computes, G: draws, M: client of MPS", numeric=False),
    Column("User", "Who runs it", numeric=False),
    Column("Where", "Container, pod, Slurm job or environment", numeric=False),
    Column("GPU memory", "Device memory it holds"),
    Column("SM", "Multiprocessors' time it took over the last second"),
    Column("CPU", "100 % is one core"),
    Column("RAM", "Memory of the host that it holds"),
    Column("Running", "Time since it was started"),
)


def _head(position: int, column: Column) -> Component:
    button = html.Button(column.title, className="sort", title=column.hint, **attributes(data_sort=str(position)))
    return html.Th(button, scope="col", className="numeric" if column.numeric else "", **attributes(aria_sort="none"))


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
            html.Thead(html.Tr([_head(position, column) for position, column in enumerate(COLUMNS)])),
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
        shape="needs-gpu only-single row",
    )


def frame(_sample: Sample, gpu: Gpu | None) -> dict[str, Any]:
    """Add the processes by pid: what they are (`processes`) and, row by row, what they do (`loads`).

    A row is [pid, kind, name, user, where, started in epoch ms, foreign], and [GPU memory in MiB, SM %, CPU %, RAM in
    MiB]; null where it is not told. `totals`: in GiB, what all processes hold, how many do not tell, what is used (null
    where the host uses the same memory), and how many processes there are. In words: why the table is empty if it is.
    """
    if gpu is None:
        return {"processes": [], "loads": [], "totals": [0, 0, None, 0], "words": {_NONE: ""}}
    unknown = gpu.unavailable.get(PROCESSES)
    largest = sorted(gpu.processes, key=lambda each: -(each.gpu_memory_bytes or 0))[:MOST_ROWS]
    largest.sort(key=attrgetter("pid"))
    told = [each.gpu_memory_bytes for each in gpu.processes if each.gpu_memory_bytes is not None]
    used = None if gpu.device.shares_host_memory else gpu.values.get("gpu.memory.used_gb")
    return {
        "processes": [_row(each) for each in largest],
        "loads": [_load(each) for each in largest],
        "totals": [
            round(sum(told) / _GIB, 2),
            len(gpu.processes) - len(told),
            None if used is None else round(used, 2),
            len(gpu.processes),
        ],
        "words": {_NONE: _NOBODY if unknown is None else f"The processes are not known: {unknown.value}."},
    }


def _row(of: GpuProcess) -> list[Any]:
    user = of.owner.user if of.owner is not None else None
    return [of.pid, of.kind, of.name, user, where(of), of.started_ms, of.foreign]


def _load(of: GpuProcess) -> list[float | None]:
    return [
        _whole(of.gpu_memory_bytes),
        None if of.sm_percent is None else round(of.sm_percent),
        None if of.cpu_percent is None else round(of.cpu_percent, 1),
        _whole(of.host_memory_bytes),
    ]


def _whole(size: int | None) -> int | None:
    return None if size is None else round(size / _MIB)


PANEL: Final = Panel(place=Place.CARDS, id=ids.PANEL_PROCESSES, layout=layout, frame=frame)
