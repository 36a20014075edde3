"""The tables of processes: those on the selected GPU, those on all GPUs, and those that have ended.

The browser builds, groups, sorts and filters them (assets/panels-processes.js).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import dash_bootstrap_components as dbc
from dash import html

from dashtop.metrics.gpu_state import MAX_IDLE_PEAK_PERCENT, MIN_IDLE_MS, Condition
from dashtop.model.metric import GIB, MIB
from dashtop.model.sample import PROCESSES
from dashtop.model.timerange import MINUTE_MS
from dashtop.ui import ids
from dashtop.ui.charts.process_memory import describe_context
from dashtop.ui.charts.resolution import RANGES_MS
from dashtop.ui.components import attributes, card, scroll_region
from dashtop.ui.gpu_series import label_gpu, read_stored_gpus
from dashtop.ui.gpu_state import read_state, read_states
from dashtop.ui.panels.base import Panel, Section
from dashtop.ui.parts import Part, Table, calculate_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from dash.development.base_component import Component

    from dashtop.metrics.gpu_state import GpuState
    from dashtop.model.ports import Alerts, Services
    from dashtop.model.sample import Gpu, GpuProcess, ProcessSpan, Sample
    from dashtop.ui.panels.base import PanelContext

_EMPTY_TEXT: Final = "processes.empty"
_NO_PROCESSES: Final = "No processes on this GPU."
_ALL_EMPTY_TEXT: Final = "all_processes.empty"
_ALL_NO_PROCESSES: Final = "No processes on any GPU."
MAX_ROWS: Final = 200
"""Number of processes on one GPU that are sent: the largest ones. Each costs some bytes at every tick."""
MAX_ALL_ROWS: Final = 500
MAX_ENDED_ROWS: Final = 200
_ENDED_INTERVAL_MS: Final = MINUTE_MS

_FOREIGN: Final = (
    "The driver reports a PID of another PID namespace. Run dashtop on the host, or its container with --pid host."
)
_UNNAMED: Final = "The process has ended, or the operating system does not show it to this user."


@dataclass(frozen=True, slots=True)
class ProcessRow:
    """A process with the sums of its GPUs. `by_gpu`: the index of each GPU, and the process as it is on that GPU.

    `service`: the id of the service that it is, if any.
    """

    process: GpuProcess
    by_gpu: tuple[tuple[int, GpuProcess], ...]
    time_ms: int
    service: str | None = None


@dataclass(frozen=True, slots=True)
class EndedRow:
    """A process that has ended. `peak_bytes`: the sum of its highest memory on each GPU.

    `gpus`: indexes. `gone_gpus`: labels of GPUs that the machine has no more, whose index may be another GPU's by now.
    """

    process: ProcessSpan
    gpus: tuple[int, ...]
    gone_gpus: tuple[str, ...]
    start_ms: int
    end_ms: int
    peak_bytes: int | None


class Field(NamedTuple):
    """A field of each process that the page receives. One with a title is a column of the table.

    `read` returns None for what is not known. `format`: how assets/panels-processes.js shows the value.
    `of_all_gpus`: only in the table of all GPUs.
    """

    name: str
    read: Callable[[Any], Any]
    title: str = ""
    help: str = ""
    format: str = "text"
    of_all_gpus: bool = False

    @property
    def is_load(self) -> bool:
        """Whether the value changes with every sample: it travels in a table of its own."""
        return self.format in {"size", "percent", "idle", "shares"}


def _mib(name: str) -> Callable[[Any], int | None]:
    read = attrgetter(name)
    return lambda row: None if (size := read(row)) is None else round(size / MIB)


def _percent(name: str, digits: int | None = None) -> Callable[[Any], float | None]:
    read = attrgetter(name)
    return lambda row: None if (percent := read(row)) is None else round(percent, digits)


def _describe_unnamed(row: ProcessRow | EndedRow) -> str:
    """Return why the name of a process is not known; "" if it is."""
    info = row.process.info
    if info.foreign:
        return _FOREIGN
    return "" if info.name else _UNNAMED


def _count_idle_minutes(row: ProcessRow) -> int | None:
    """Return for how many minutes a process with GPU memory has used none of its GPUs; None if it is not idle."""
    since = [process.idle_since_ms for _, process in row.by_gpu]
    known = [each for each in since if each is not None]
    if not known or len(known) < len(since) or row.process.gpu_memory_bytes == 0:
        return None
    idle_ms = row.time_ms - max(known)
    return idle_ms // MINUTE_MS if idle_ms >= MIN_IDLE_MS else None


def _list_shares(row: ProcessRow) -> list[list[float | None]] | None:
    """Return MiB and SM percent of a process on each of its GPUs; None if there is one."""
    if len(row.by_gpu) < 2:  # noqa: PLR2004
        return None
    memory, sm = _mib("gpu_memory_bytes"), _percent("sm_percent")
    return [[memory(process), sm(process)] for _, process in row.by_gpu]


_NAME_HELP: Final = "Name of the executable, and type: C compute, G graphics, M MPS client"
_SM_HELP: Final = "SM utilization by the process over the last second; 100 % is one GPU"

_USER: Final = Field("user", attrgetter("process.info.username"), "User", "Owner of the process")
_NAME: Final = Field("name", attrgetter("process.info.name"), "Name", _NAME_HELP)
_TYPE: Final = Field("type", attrgetter("process.kind"))
_CONTEXT: Final = Field(
    "context",
    lambda row: describe_context(row.process),
    "Container / job",
    "Notebook, container, pod, Slurm job or environment",
)
_PID: Final = Field("pid", attrgetter("process.pid"), "PID", "Process ID")
_STARTED: Final = attrgetter("process.info.started_ms")
_FOREIGN_FIELD: Final = Field("foreign", attrgetter("process.info.foreign"))
_UNNAMED_FIELD: Final = Field("unnamed", _describe_unnamed)

FIELDS: Final = (
    _USER,
    _NAME,
    _TYPE,
    Field("gpus", lambda row: [index for index, _ in row.by_gpu], "GPU", "GPUs in use", "gpus", of_all_gpus=True),
    Field("gpu_memory_mib", _mib("process.gpu_memory_bytes"), "GPU memory", "Device memory in use", "size"),
    Field("sm_percent", _percent("process.sm_percent"), "SM", _SM_HELP, "percent"),
    Field("cpu_percent", _percent("process.cpu_percent", 1), "CPU", "100 % is one core", "percent"),
    Field("host_memory_mib", _mib("process.host_memory_bytes"), "RAM", "Host memory used by the process", "size"),
    _CONTEXT,
    _PID,
    Field("started_ms", _STARTED, "Elapsed", "Time since the process started", "elapsed"),
    _FOREIGN_FIELD,
    _UNNAMED_FIELD,
    Field("service", attrgetter("service")),
    Field("paused", attrgetter("process.is_paused")),
    Field("idle_minutes", _count_idle_minutes, format="idle"),
    Field("shares", _list_shares, format="shares", of_all_gpus=True),
)
"""All that the page shows of a process: a new field is one row here."""

ENDED_FIELDS: Final = (
    _USER,
    _NAME,
    _TYPE,
    Field("gpus", lambda row: list(row.gpus), "GPU", "GPUs it has used", "gpus"),
    Field("gone_gpus", lambda row: list(row.gone_gpus)),
    Field("peak_mib", _mib("peak_bytes"), "Peak GPU memory", "Highest device memory", "size"),
    Field("duration_ms", lambda row: row.end_ms - row.start_ms, "Duration", "Time on the GPU", "duration"),
    Field("ended_ms", attrgetter("end_ms"), "Ended", "When it was seen last", "moment"),
    _CONTEXT,
    _PID,
    _FOREIGN_FIELD,
    _UNNAMED_FIELD,
)

TOTAL_FIELDS: Final = ("count", "unknown_count", "gpu_memory_gib", "used_gib")


# --- layout -----------------------------------------------------------------------------------------------------------


def _table(source: str, fields: Iterable[Field], caption: str, body: dict[str, Any]) -> Component:
    """Return an empty table; the browser fills it from the part `source`."""
    table = html.Table(
        [
            html.Caption(caption, className="visually-hidden"),
            html.Thead(html.Tr([_column_header(field) for field in fields if field.title], role="row")),
            html.Tbody(**body, role="rowgroup"),
        ],
        className="processes",
        role="table",
        **attributes(data_source=source),
    )
    return scroll_region(table, caption)


def _footer() -> Component:
    return html.Div(
        [
            html.Span(className="table-summary", role="status", **attributes(data_summary="")),
            dbc.Button("Show more", size="sm", class_name="more-rows"),
        ],
        className="table-footer",
    )


def _column_header(field: Field) -> Component:
    button = html.Button(
        field.title,
        className="sort-button",
        **attributes(data_tip=field.help, data_column=field.name, data_cell_format=field.format),
    )
    class_name = "" if field.format in {"text", "gpus"} else "numeric"
    header: Component = html.Th(
        button, scope="col", role="columnheader", className=class_name, **attributes(aria_sort="none")
    )
    return header


def layout(_services: Services) -> Component:
    """Return the card with an empty table."""
    fields = [field for field in FIELDS if not field.of_all_gpus]
    body = [
        _table("processes", fields, "Processes on this GPU", attributes(data_processes="")),
        html.P(className="table-empty", **attributes(data_empty=_EMPTY_TEXT)),
        _footer(),
    ]
    tools = html.Div(className="process-tools", **attributes(data_process_tools="process"))
    return card(
        "Processes",
        body,
        id=ids.PANEL_PROCESSES,
        aside=tools,
        class_name="needs-gpu only-single full-width",
    )


def all_layout(_services: Services) -> Component:
    """Return the card with an empty table of the processes on all GPUs, and a folded one of those that have ended."""
    ended = html.Details(
        [
            html.Summary([html.Span("Ended"), html.Span(className="ended-count", **attributes(data_ended_count=""))]),
            html.Div(
                [
                    _table("ended_processes", ENDED_FIELDS, "Ended processes", attributes(data_ended_processes="")),
                    html.P(className="table-empty", **attributes(data_empty="ended_processes.empty")),
                    _footer(),
                ],
                **attributes(data_process_view=""),
            ),
        ],
        className="ended-processes",
    )
    running = html.Div(
        [
            _table("all_processes", FIELDS, "Processes on all GPUs", attributes(data_all_processes="")),
            html.P(className="table-empty", **attributes(data_empty=_ALL_EMPTY_TEXT)),
            _footer(),
        ],
        **attributes(data_process_view=""),
    )
    tools = html.Div(className="process-tools", **attributes(data_process_tools="all-process", data_groups="true"))
    return card("Processes", [running, ended], id=ids.PANEL_ALL_PROCESSES, aside=tools, class_name="full-width")


# --- running processes ------------------------------------------------------------------------------------------------


def live_data(context: PanelContext) -> dict[str, Any]:
    """Add the processes by pid: static facts in `processes`, and in the same order what changes in `process_loads`.

    Values are null where they are not known. `process_totals` covers all processes: `unknown_count` is the number of
    those of unknown size; `used_gib` is the memory in use, null if the GPU shares the host's memory.
    """
    gpu, time_ms = context.gpu, context.sample.time_ms
    processes = _add_idle_times(gpu, read_state(context, gpu)) if gpu is not None else ()
    rows = [ProcessRow(process, ((gpu.device.index, process),), time_ms) for process in processes] if gpu else []
    largest = _mark_services(_select_largest(rows, MAX_ROWS), context.services.alerts)
    facts, loads = _encode(largest, [field for field in FIELDS if not field.of_all_gpus])
    used = None if gpu is None or gpu.device.shares_host_memory else gpu.values.get("gpu.memory.used_gb")
    return {
        "processes": facts,
        "process_loads": loads,
        "process_totals": Table(TOTAL_FIELDS, [_encode_totals(processes, used)]),
        "texts": {_EMPTY_TEXT: _describe_empty(gpu)},
    }


def all_live_data(context: PanelContext) -> dict[str, Any]:
    """Add the processes of all GPUs, a row for each pid, as `live_data` does; built once for all viewers."""
    sample, alerts = context.sample, context.services.alerts

    def build() -> dict[str, Any]:
        states = read_states(context)
        gpus = (replace(gpu, processes=_add_idle_times(gpu, states[gpu.device.uuid])) for gpu in sample.gpus)
        return _build_all(replace(sample, gpus=tuple(gpus)), alerts)

    return context.cache.get_or_create_for_sample(sample, "processes", build)


def _add_idle_times(gpu: Gpu, state: GpuState) -> tuple[GpuProcess, ...]:
    """Return the processes of a GPU; those on one that is idle but held are idle for as long.

    The driver reports some percent of SM utilization of idle processes, too: 0 is not needed there.
    """
    since_ms = state.since_ms
    if state.condition is not Condition.IDLE_HELD or since_ms is None:
        return gpu.processes

    def add(process: GpuProcess) -> GpuProcess:
        if process.sm_percent is not None and process.sm_percent > MAX_IDLE_PEAK_PERCENT:
            return process
        held_since_ms = max(since_ms, process.info.started_ms or since_ms)
        return replace(process, idle_since_ms=min(process.idle_since_ms or held_since_ms, held_since_ms))

    return tuple(map(add, gpu.processes))


def _build_all(sample: Sample, alerts: Alerts) -> dict[str, Any]:
    rows = list_rows(sample)
    facts, loads = _encode(_mark_services(_select_largest(rows, MAX_ALL_ROWS), alerts), FIELDS)
    return {
        "all_processes": facts,
        "all_process_loads": loads,
        "all_process_totals": Table(TOTAL_FIELDS, [_encode_totals([row.process for row in rows], None)]),
        "texts": {_ALL_EMPTY_TEXT: _describe_all_empty(sample)},
    }


def list_rows(sample: Sample) -> list[ProcessRow]:
    """Return the processes of all GPUs, one row for each pid. Its memory and SM utilization are sums over its GPUs."""
    found: dict[int, list[tuple[int, GpuProcess]]] = {}
    for gpu in sample.gpus:
        for process in gpu.processes:
            found.setdefault(process.pid, []).append((gpu.device.index, process))
    return [ProcessRow(_merge(by_gpu), tuple(by_gpu), sample.time_ms) for by_gpu in found.values()]


def _merge(by_gpu: Sequence[tuple[int, GpuProcess]]) -> GpuProcess:
    processes = [process for _, process in by_gpu]
    if len(processes) == 1:
        return processes[0]
    return replace(
        processes[0],
        kind="+".join(sorted({kind for process in processes for kind in process.kind.split("+")})),
        gpu_memory_bytes=_add(process.gpu_memory_bytes for process in processes),
        sm_percent=_add(process.sm_percent for process in processes),
    )


def _add(values: Iterable[Any]) -> Any:
    """Return the sum of the known values, None if there is none."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _mark_services(rows: list[ProcessRow], alerts: Alerts) -> list[ProcessRow]:
    """Return the rows with the service that each process is."""
    if not alerts.services():
        return rows
    found = [alerts.find_service(row.process.info) for row in rows]
    return [
        row if service is None else replace(row, service=service.id) for row, service in zip(rows, found, strict=True)
    ]


def _select_largest(rows: Sequence[ProcessRow], count: int) -> list[ProcessRow]:
    largest = sorted(rows, key=lambda row: -(row.process.gpu_memory_bytes or 0))[:count]
    return sorted(largest, key=lambda row: row.process.pid)


def _encode(rows: Sequence[ProcessRow], fields: Sequence[Field]) -> tuple[list[dict[str, Any]], Table]:
    """Return the static facts of the rows, and what changes with every sample."""
    facts, loads = ([field for field in fields if field.is_load is is_load] for is_load in (False, True))
    return [{field.name: field.read(row) for field in facts} for row in rows], Table(
        [field.name for field in loads], [[field.read(row) for field in loads] for row in rows]
    )


def _describe_empty(gpu: Gpu | None) -> str:
    """Return why the table is empty, if it is."""
    if gpu is None:
        return ""
    error = gpu.unavailable.get(PROCESSES)
    return _NO_PROCESSES if error is None else f"Processes not available: {error.value}."


def _describe_all_empty(sample: Sample) -> str:
    """Return why there are no processes, or of which GPUs they are not known."""
    if not sample.gpus:
        return "No GPU, no processes."
    unknown = [(gpu.device.index, gpu.unavailable[PROCESSES]) for gpu in sample.gpus if PROCESSES in gpu.unavailable]
    if not unknown:
        return _ALL_NO_PROCESSES
    reasons = {reason.text for _, reason in unknown}
    if len(unknown) == len(sample.gpus) and len(reasons) == 1:
        return f"Processes not available: {reasons.pop()}."
    return " ".join(f"GPU {index}: processes not available: {reason.text}." for index, reason in unknown)


def _encode_totals(processes: Sequence[GpuProcess], used: float | None) -> list[float | None]:
    """Return the values of `TOTAL_FIELDS`."""
    sizes = [each.gpu_memory_bytes for each in processes if each.gpu_memory_bytes is not None]
    return [
        len(processes),
        len(processes) - len(sizes),
        round(sum(sizes) / GIB, 2),
        None if used is None else round(used, 2),
    ]


# --- ended processes --------------------------------------------------------------------------------------------------


def build_parts(context: PanelContext) -> list[Part]:
    """Return the processes that have ended in the chosen range: new every minute, and when a process ends."""
    sample, request, changes = context.sample, context.request, 0
    running = sorted({process.pid for gpu in sample.gpus for process in gpu.processes})
    if request.zoom is not None:
        start_ms, end_ms = request.zoom.start_ms, request.zoom.end_ms
    else:
        end_ms = sample.time_ms // _ENDED_INTERVAL_MS * _ENDED_INTERVAL_MS
        start_ms = end_ms - RANGES_MS[request.range]
        end_ms += _ENDED_INTERVAL_MS
        # A process may start and end within a minute.
        changes = context.cache.count_changes("running", running)
    outages = context.services.history.read_status().version
    gpus = ",".join(gpu.device.uuid for gpu in sample.gpus)
    stored = read_stored_gpus(context)
    present = {gpu.device.uuid for gpu in sample.gpus}
    gone = {uuid: label_gpu(uuid, stored) for uuid in stored if uuid not in present}
    version = calculate_version(f"{start_ms}|{end_ms}|{changes}|{running}|{outages}|{gpus}|{gone}")

    def read() -> dict[str, Any]:
        rows = find_ended(context.services, sample, start_ms, end_ms, gone)
        newest = [{field.name: field.read(row) for field in ENDED_FIELDS} for row in rows[:MAX_ENDED_ROWS]]
        return {"rows": newest, "count": len(rows)}

    return [Part("ended_processes", version, lambda: context.cache.get_or_create(f"ended_processes|{version}", read))]


def find_ended(
    services: Services, sample: Sample, start_ms: int, end_ms: int, gone: Mapping[str, str] | None = None
) -> list[EndedRow]:
    """Return the processes that ended in [start_ms, end_ms) before `sample`, the newest first.

    `gone`: by UUID the labels of the GPUs that were stored, and are not in the sample.
    """
    gone = gone or {}
    indexes = {gpu.device.uuid: gpu.device.index for gpu in sample.gpus}
    running = {_identify(process) for gpu in sample.gpus for process in gpu.processes}
    spans_of: dict[tuple[Any, ...], list[ProcessSpan]] = {}
    for span in services.history.processes((*indexes, *gone), start_ms, end_ms):
        spans_of.setdefault(_identify(span), []).append(span)
    rows = [
        _build_ended(spans, indexes, gone)
        for identity, spans in spans_of.items()
        if identity not in running and max(span.end_ms for span in spans) < min(end_ms, sample.time_ms)
    ]
    return sorted(rows, key=lambda row: -row.end_ms)


def _identify(process: GpuProcess | ProcessSpan) -> tuple[Any, ...]:
    """Return what is the same for all spans of a process: a pid alone is used again."""
    return process.pid, process.info.started_ms, process.info.name


def _build_ended(spans: Sequence[ProcessSpan], indexes: Mapping[str, int], gone: Mapping[str, str]) -> EndedRow:
    peaks: dict[str, int] = {}
    for span in spans:
        sizes = [size for size in (span.gpu_memory_bytes, span.peak_gpu_memory_bytes) if size is not None]
        if sizes:
            peaks[span.gpu_uuid] = max(peaks.get(span.gpu_uuid, 0), *sizes)
    return EndedRow(
        process=spans[-1],
        gpus=tuple(sorted({indexes[span.gpu_uuid] for span in spans if span.gpu_uuid in indexes})),
        gone_gpus=tuple(sorted({gone[span.gpu_uuid] for span in spans if span.gpu_uuid in gone})),
        start_ms=min(span.start_ms for span in spans),
        end_ms=max(span.end_ms for span in spans),
        peak_bytes=sum(peaks.values()) if peaks else None,
    )


PANEL: Final = Panel(section=Section.GPU_PROCESSES, id=ids.PANEL_PROCESSES, layout=layout, live_data=live_data)
ALL_GPUS: Final = Panel(
    section=Section.PROCESSES,
    id=ids.PANEL_ALL_PROCESSES,
    layout=all_layout,
    live_data=all_live_data,
    parts=build_parts,
)
