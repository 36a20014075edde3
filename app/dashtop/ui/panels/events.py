"""The page of events: the health timeline, the list of events with its filters, and the memory errors of each GPU."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from dash import html

from dashtop.metrics import METRICS
from dashtop.model.metric import Severity
from dashtop.model.sample import EVENT_KINDS, EventFilter, SeriesKey
from dashtop.model.timerange import DAY_MS, HOUR_MS, MAX_SPAN_MS, MINUTE_MS, SECOND_MS
from dashtop.ui import health_timeline, ids
from dashtop.ui.charts.resolution import RANGES_MS, Window, build_window, build_zoom_window
from dashtop.ui.components import attributes, card, scroll_region
from dashtop.ui.gpu_series import label_gpu, read_gpu_series, read_stored_gpus
from dashtop.ui.health_timeline import GpuHistory
from dashtop.ui.panels.base import Panel, Section
from dashtop.ui.parts import Part, calculate_version

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dash.development.base_component import Component
    from numpy.typing import NDArray

    from dashtop.model.ports import Services
    from dashtop.model.run import Run
    from dashtop.model.sample import Event, Gpu, Sample, Series
    from dashtop.ui.panels.base import PanelContext

MAX_ROWS: Final = 200
"""Events in the list: the newest."""
# The events of a range of up to the first length are read in the second period, once for all viewers.
_EVENTS_PERIODS_MS: Final = (
    (HOUR_MS, 5 * SECOND_MS), (DAY_MS, 15 * SECOND_MS), (MAX_SPAN_MS, MINUTE_MS)
)  # fmt: skip

# Buckets of the timeline: as many as a chart of this width has.
_TIMELINE_WIDTH_PX: Final = 400
# How far back to look for the event that explains why a GPU has no readings at the start of the range.
_STATE_EVENTS_MS: Final = 30 * DAY_MS
_ANY: Final = "all"

KIND_TITLES: Final[Mapping[str, str]] = {
    "xid": "XID error",
    "ecc": "ECC error",
    "reset_pending": "Reset pending",
    "remap_failed": "Row remap failed",
    "gpu_lost": "GPU lost",
    "gpu_back": "GPU back",
    "gpu_added": "GPU added",
    "gpu_removed": "GPU removed",
    "driver_changed": "Driver changed",
    "driver_silent": "Driver silent",
    "driver_back": "Driver back",
    "throttle_begin": "Throttling begins",
    "throttle_end": "Throttling ends",
    "process_start": "Process starts",
    "process_end": "Process ends",
    "restart": "dashtop started",
    "history_replaced": "History replaced",
    "history_damaged": "History damaged",
    "oom_kill": "Killed for lack of memory",
    "alert_firing": "Alert",
    "alert_resolved": "Alert resolved",
}
_PROCESS_KINDS: Final = ("process_start", "process_end")
_DEFAULT_KINDS: Final = tuple(kind for kind in EVENT_KINDS if kind not in _PROCESS_KINDS)


# --- what is asked for ----------------------------------------------------------------------------------------------


def find_window(context: PanelContext) -> Window:
    """Return the buckets of the chosen range or zoom. The last one of a range contains the present."""
    request, now_ms = context.request, context.sample.time_ms
    interval_ms = round(context.services.latest.interval_s * 1000)
    if request.zoom is not None:
        # The sample is that of the end of the zoom; what the history still keeps depends on the present.
        return build_zoom_window(request.zoom, context.services.clock.now_ms(), _TIMELINE_WIDTH_PX, interval_ms)
    window = build_window(now_ms, RANGES_MS[request.range], _TIMELINE_WIDTH_PX, interval_ms)
    return Window(window.start_ms, (now_ms // window.step_ms + 1) * window.step_ms, window.step_ms)


def find_bounds(context: PanelContext) -> tuple[int, int]:
    """Return start and end of the chosen range or zoom, rounded so that viewers share the result of a query."""
    if context.request.zoom is not None:
        return context.request.zoom.start_ms, context.request.zoom.end_ms
    span_ms = RANGES_MS[context.request.range]
    period_ms = next(period_ms for longest_ms, period_ms in _EVENTS_PERIODS_MS if span_ms <= longest_ms)
    end_ms = (context.sample.time_ms // period_ms + 1) * period_ms
    return end_ms - span_ms, end_ms


def parse_filter(options: Mapping[str, str], sample: Sample, stored: Mapping[int, str]) -> EventFilter:
    """Return the filter that a browser asks for; what is not valid selects nothing less.

    `stored`: the UUIDs of GPUs of the history by index, for a GPU that is not present. Without a choice, processes that
    start and end are left out: on a busy machine nothing else would be seen.
    """
    kind, severity, gpu = (options.get(name, "") for name in ("event_kind", "event_severity", "event_gpu"))
    kinds = tuple(name for name in dict.fromkeys(kind.split(",")) if name in EVENT_KINDS)
    known = {each.value: each for each in Severity}
    severities = tuple(known[name] for name in dict.fromkeys(severity.split(",")) if name in known)
    uuid: str | None = None
    if gpu.isdecimal() and len(gpu) <= len(str(2**31)):
        present = sample.gpu(int(gpu))
        uuid = present.device.uuid if present is not None else stored.get(int(gpu))
    return EventFilter(
        kinds=kinds or (() if kind == _ANY else _DEFAULT_KINDS),
        severities=severities,
        gpu_uuid=uuid,
    )


# --- timeline -------------------------------------------------------------------------------------------------------


def timeline_parts(context: PanelContext) -> list[Part]:
    """Return the part "health_timeline": new when a bucket is complete, and when something happens."""
    window = find_window(context)
    bounds = find_bounds(context)
    outages = context.services.history.read_status().version
    conditions = ",".join(f"{gpu.device.uuid} {gpu.state_text} {gpu.state_since_ms}" for gpu in context.sample.gpus)
    runs = ",".join(f"{run.id} {run.end_ms} {run.gpus}" for run in _find_runs(context, window))
    moment = f"{window.start_ms}|{window.end_ms}|{window.step_ms}|{outages}|{conditions}|{runs}"
    newest = context.cache.get_or_create(f"health-events|{bounds}|{moment}", lambda: _tag_events(context, bounds))
    version = calculate_version(f"{moment}|{newest}")

    def build() -> dict[str, Any]:
        return context.cache.get_or_create(f"health|{version}", lambda: _build_timeline(context, window))

    return [Part("health_timeline", version, build)]


def _find_runs(context: PanelContext, window: Window) -> list[Run]:
    """Return the runs that held a GPU in the time range."""
    return [
        run
        for run in context.services.runs.recent()
        if run.gpus and run.begin_ms < window.end_ms and (run.end_ms is None or run.end_ms > window.start_ms)
    ]


def _tag_events(context: PanelContext, bounds: tuple[int, int]) -> str:
    """Return a text that is different when there are other events."""
    events = context.services.history.events(*bounds, EventFilter(kinds=health_timeline.EVENT_KINDS))
    return f"{len(events)}|{events[0].time_ms if events else 0}|{events[-1].time_ms if events else 0}"


def _build_timeline(context: PanelContext, window: Window) -> dict[str, Any]:
    history = context.services.history
    wanted, changes = (EventFilter(kinds=kinds) for kinds in (health_timeline.EVENT_KINDS, health_timeline.STATE_KINDS))
    events = history.events(window.start_ms, window.end_ms, wanted)
    # From long before the range: what began there may last.
    states = history.events(window.start_ms - _STATE_EVENTS_MS, window.end_ms, changes)
    gpus, runs = read_stored_gpus(context), _find_runs(context, window)
    present = {gpu.device.uuid: gpu for gpu in context.sample.gpus}
    absent = {event.gpu_uuid for event in events if event.gpu_uuid is not None} - set(present)
    host = [SeriesKey(metric) for metric in health_timeline.HOST_METRICS]
    is_recorded = _find_recorded(history.query(host, window.start_ms, window.end_ms, window.step_ms).series)
    found = []
    uuids = [*present, *sorted(absent)]
    bounds = window.start_ms, window.end_ms, window.step_ms
    for uuid, series in read_gpu_series(history, uuids, health_timeline.METRICS, bounds):
        is_recorded |= _find_recorded(list(series.values()))
        found.append(
            GpuHistory(
                label=label_gpu(uuid, gpus),
                name=gpus.get(uuid, (None, None))[1] or "",
                series=series,
                events=[event for event in events if event.gpu_uuid == uuid],
                state_events=[event for event in states if event.gpu_uuid in {uuid, None}],
                gpu=present.get(uuid),
                runs=[run for run in runs if uuid in run.gpus],
            )
        )
    notes = [event for event in events if event.gpu_uuid is None]
    return health_timeline.build_timeline(window, found, is_recorded, notes, history.read_status().error or "")


def _find_recorded(series: Sequence[Series]) -> NDArray[np.bool_]:
    recorded: NDArray[np.bool_] = np.isfinite(np.array([each.mean for each in series])).any(axis=0)
    return recorded


# --- list -----------------------------------------------------------------------------------------------------------


def list_parts(context: PanelContext) -> list[Part]:
    """Return the part "events": the newest events that match the filters, and how many there are."""
    bounds, status = find_bounds(context), context.services.history.read_status()
    gpus = read_stored_gpus(context)
    by_index = {index: uuid for uuid, (index, _) in gpus.items() if index is not None}
    wanted = parse_filter(context.request.options, context.sample, by_index)

    def create() -> tuple[str, dict[str, Any]]:
        found = context.services.history.events(*bounds, wanted)
        body = {
            "total": len(found),
            "error": status.error,
            "gpus": sorted((index, name) for index, name in gpus.values() if index is not None),
            "rows": [_encode_event(event, gpus) for event in reversed(found[-MAX_ROWS:])],
        }
        return calculate_version(json.dumps(body)), body

    key = f"events|{bounds}|{wanted}|{status.version}|{sorted(by_index.items())}"
    version, body = context.cache.get_or_create(key, create)
    return [Part("events", version, lambda: body)]


def _encode_event(event: Event, gpus: Mapping[str, tuple[int | None, str | None]]) -> list[Any]:
    uuid = event.gpu_uuid
    index = gpus.get(uuid, (None, None))[0] if uuid is not None else None
    label = "Host" if uuid is None else label_gpu(uuid, gpus)
    title = KIND_TITLES.get(event.kind, event.kind)
    return [event.time_ms, label, index, event.severity.value, title, event.text, event.advice]


# --- memory errors --------------------------------------------------------------------------------------------------

_MEMORY_HEALTH: Final = (
    ("gpu.ecc.volatile_corrected", "ECC corrected (since reload)"),
    ("gpu.ecc.volatile_uncorrected", "ECC uncorrected (since reload)"),
    ("gpu.ecc.aggregate_corrected", "ECC corrected (lifetime)"),
    ("gpu.ecc.aggregate_uncorrected", "ECC uncorrected (lifetime)"),
    ("gpu.remapped_rows.corrected", "Rows remapped, corrected"),
    ("gpu.remapped_rows.uncorrected", "Rows remapped, uncorrected"),
    ("gpu.remapped_rows.pending", "Row remap pending"),
    ("gpu.remapped_rows.failure", "Row remap failed"),
    ("gpu.retired_pages.single_bit", "Pages retired, single-bit"),
    ("gpu.retired_pages.double_bit", "Pages retired, double-bit"),
    ("gpu.retired_pages.pending", "Page retirement pending"),
)
_NO_MEMORY_HEALTH: Final = "Not supported: no GPU reports ECC errors, remapped rows or retired pages."
_YES_NO: Final = frozenset({"gpu.remapped_rows.pending", "gpu.remapped_rows.failure", "gpu.retired_pages.pending"})


def memory_health(context: PanelContext) -> dict[str, Any]:
    """Add `memory_health`: the counters of each GPU. A column that no GPU reports is left out."""
    gpus = context.sample.gpus
    columns = [(key, title) for key, title in _MEMORY_HEALTH if any(gpu.values.get(key) is not None for gpu in gpus)]
    rows = [[gpu.device.index, gpu.device.name, *(_encode_count(gpu, key) for key, _ in columns)] for gpu in gpus]
    error = context.sample.common_error
    return {
        "memory_health": {
            "columns": [title for _, title in columns],
            "rows": rows if columns else [],
            "empty": f"Not available: {error.text}." if error is not None else _NO_MEMORY_HEALTH,
        }
    }


def _encode_count(gpu: Gpu, key: str) -> list[str]:
    """Return the text of a counter, its level ("warning", "critical" or ""), and why there is none."""
    value = gpu.values.get(key)
    if value is None:
        reason = gpu.unavailable.get(key)
        return ["N/A", "", reason.text if reason is not None else gpu.state_text]
    thresholds = METRICS[key].thresholds_for(gpu.device)
    severity = thresholds.severity(value) if thresholds is not None else None
    text = ("yes" if value else "no") if key in _YES_NO else f"{value:,.0f}".replace(",", " ")
    return [text, severity.value if severity is not None else "", ""]


# --- layout ---------------------------------------------------------------------------------------------------------


def timeline_layout(_services: Services) -> Component:
    """Return the card; the browser draws the lanes (assets/events.js). The list below is its text."""
    return card(
        "Health timeline",
        [
            html.P(
                "Arrow keys move from mark to mark, Enter shows the charts at that time.", className="visually-hidden"
            ),
            html.Div(className="timeline", role="group", **attributes(data_timeline="", aria_label="Health timeline")),
            html.Div(className="timeline-legend", **attributes(data_timeline_legend="", aria_hidden="true")),
        ],
        id=ids.PANEL_HEALTH,
        class_name="timeline-card",
    )


def list_layout(_services: Services) -> Component:
    """Return the card with the filters; the browser fills the rows."""
    kinds = {"": "All but process start and end", _ANY: "All kinds"} | dict(KIND_TITLES)
    severities = {"": "All severities", "warning,critical": "Warning and critical"}
    severities |= {"critical": "Critical", "warning": "Warning", "info": "Info"}
    filters = html.Div(
        [
            _build_filter("event_gpu", "GPU", {"": "All GPUs"}),
            _build_filter("event_severity", "Severity", severities),
            _build_filter("event_kind", "Kind", kinds),
        ],
        className="event-filters",
    )
    head = html.Thead(
        html.Tr([html.Th(title, scope="col") for title in ("Time", "GPU", "Severity", "Kind", "Event and advice")])
    )
    table = html.Table([head, html.Tbody(**attributes(data_events=""))], className="events-table")
    return card(
        "Events",
        [
            scroll_region(table, "Events"),
            html.P(className="table-empty", role="status", **attributes(data_events_empty="")),
            html.Button(
                "Show more", className="btn show-more", type="button", hidden=True, **attributes(data_events_more="")
            ),
            html.P(className="table-note", **attributes(data_events_note="")),
        ],
        id=ids.PANEL_EVENTS,
        aside=filters,
        class_name="events-card",
    )


def _build_filter(name: str, label: str, options: Mapping[str, str]) -> Component:
    choices = [html.Option(text, value=value) for value, text in options.items()]
    return html.Select(choices, className="form-select", **attributes(data_event_filter=name, aria_label=label))


def memory_layout(_services: Services) -> Component:
    """Return the card of memory errors; the browser fills it, since GPUs come and go."""
    title = "ECC errors and remapped rows"
    return card(
        title,
        [
            scroll_region(html.Table(className="memory-table", **attributes(data_memory_health="")), title),
            html.P(className="table-empty", role="status", **attributes(data_memory_empty="")),
        ],
        id=ids.PANEL_ECC,
        class_name="needs-gpu",
    )


TIMELINE: Final = Panel(section=Section.EVENTS, id=ids.PANEL_HEALTH, layout=timeline_layout, parts=timeline_parts)
EVENTS: Final = Panel(section=Section.EVENTS, id=ids.PANEL_EVENTS, layout=list_layout, parts=list_parts)
MEMORY: Final = Panel(section=Section.EVENTS, id=ids.PANEL_ECC, layout=memory_layout, live_data=memory_health)
