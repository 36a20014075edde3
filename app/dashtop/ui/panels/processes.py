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
from dashtop.ui.panels.base import Panel, Section
from dashtop.ui.parts import Table

if TYPE_CHECKING:
    from collections.abc import Callable

    from dash.development.base_component import Component

    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, GpuProcess
    from dashtop.ui.panels.base import PanelContext

_EMPTY_TEXT: Final = "processes.empty"
_NO_PROCESSES: Final = "No processes on this GPU."
MAX_ROWS: Final = 200
"""Number of processes that are sent: the largest ones. Each costs some bytes at every tick."""


class Field(NamedTuple):
    """A field of each process that the page receives. One with a title is a column of the table.

    `read` returns None for what is not known. `format`: how assets/panels-processes.js shows the value.
    """

    name: str
    read: Callable[[GpuProcess], Any]
    title: str = ""
    help: str = ""
    format: str = "text"

    @property
    def is_load(self) -> bool:
        """Whether the value changes with every sample: it travels in `process_loads`."""
        return self.format in {"size", "percent"}


def _mib(name: str) -> Callable[[GpuProcess], int | None]:
    return lambda process: None if (size := getattr(process, name)) is None else round(size / MIB)


def _percent(name: str, digits: int | None = None) -> Callable[[GpuProcess], float | None]:
    return lambda process: None if (percent := getattr(process, name)) is None else round(percent, digits)


_NAME_HELP: Final = "Name of the executable, and type: C compute, G graphics, M MPS client"
_SM_HELP: Final = "SM utilization by the process over the last second"

FIELDS: Final = (
    Field("pid", attrgetter("pid"), "PID", "Process ID"),
    Field("name", attrgetter("info.name"), "Name", _NAME_HELP),
    Field("type", attrgetter("kind")),
    Field("user", attrgetter("info.username"), "User", "Owner of the process"),
    Field("context", describe_context, "Container / job", "Container, pod, Slurm job or environment"),
    Field("gpu_memory_mib", _mib("gpu_memory_bytes"), "GPU memory", "Device memory used by the process", "size"),
    Field("sm_percent", _percent("sm_percent"), "SM", _SM_HELP, "percent"),
    Field("cpu_percent", _percent("cpu_percent", 1), "CPU", "100 % is one core", "percent"),
    Field("host_memory_mib", _mib("host_memory_bytes"), "RAM", "Host memory used by the process", "size"),
    Field("started_ms", attrgetter("info.started_ms"), "Elapsed", "Time since the process started", "elapsed"),
    Field("foreign", attrgetter("info.foreign")),
)
"""All that the page shows of a process: a new field is one row here."""

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
            html.Thead(html.Tr([_column_header(field) for field in FIELDS if field.title])),
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


def _column_header(field: Field) -> Component:
    button = html.Button(
        field.title,
        className="sort-button",
        title=field.help,
        **attributes(data_column=field.name, data_cell_format=field.format),
    )
    class_name = "" if field.format == "text" else "numeric"
    return html.Th(button, scope="col", className=class_name, **attributes(aria_sort="none"))


def live_data(context: PanelContext) -> dict[str, Any]:
    """Add the processes by pid: static facts in `processes`, and in the same order what changes in `process_loads`.

    Values are null where they are not known. `process_totals` covers all processes: `unknown_count` is the number of
    those of unknown size; `used_gib` is the memory in use, null if the GPU shares the host's memory.
    """
    gpu = context.gpu
    facts, loads = (tuple(field for field in FIELDS if field.is_load is is_load) for is_load in (False, True))
    largest = (
        sorted(gpu.processes, key=lambda each: -(each.gpu_memory_bytes or 0))[:MAX_ROWS] if gpu is not None else []
    )
    largest.sort(key=attrgetter("pid"))
    return {
        "processes": [{field.name: field.read(process) for field in facts} for process in largest],
        "process_loads": Table(
            [field.name for field in loads], [[field.read(process) for field in loads] for process in largest]
        ),
        "process_totals": Table(TOTAL_FIELDS, [[0, 0, 0, None] if gpu is None else _encode_totals(gpu)]),
        "texts": {_EMPTY_TEXT: _describe_empty(gpu)},
    }


def _describe_empty(gpu: Gpu | None) -> str:
    """Return why the table is empty, if it is."""
    if gpu is None:
        return ""
    error = gpu.unavailable.get(PROCESSES)
    return _NO_PROCESSES if error is None else f"Processes not available: {error.value}."


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


PANEL: Final = Panel(section=Section.CURRENT, id=ids.PANEL_PROCESSES, layout=layout, live_data=live_data)
