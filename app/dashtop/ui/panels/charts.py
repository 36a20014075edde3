"""The panels of the charts of the chosen GPU, and charts of any other metric that a user adds.

The legend of a chart shows the current value of each line at every tick; the cursor and the table are drawn in the
browser (assets/chart-cursor.js, assets/chart-table.js).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from dash import html

from dashtop.metrics import ALL_METRICS, METRICS
from dashtop.metrics.throttle_reasons import THROTTLE_REASONS
from dashtop.model.metric import Kind, Unit
from dashtop.model.sample import SeriesKey
from dashtop.model.timerange import SECOND_MS
from dashtop.model.unavailable import UnavailableReason
from dashtop.ui import ids
from dashtop.ui.charts import figures, process_memory
from dashtop.ui.charts.base_figure import message_figure
from dashtop.ui.charts.figures import Line, Notes
from dashtop.ui.charts.notes import (
    build_alert_bands,
    build_marks,
    build_run_bands,
    build_run_marks,
    build_throttle_bands,
)
from dashtop.ui.charts.resolution import RANGES_MS, build_window, build_zoom_window
from dashtop.ui.components import attributes, card, icon, value
from dashtop.ui.dash_internals import LazyGraph
from dashtop.ui.panels.base import Chart, ChartData, Panel, Section
from dashtop.ui.panels.chart_topics import RAM, RAM_TOTAL, TEMPERATURE, TOPICS, VRAM, VRAM_TOTAL, Topic
from dashtop.ui.theme import HOST, SERIES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dash.development.base_component import Component

    from dashtop.model.metric import Metric
    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, Sample, SeriesSet
    from dashtop.ui.charts.base_figure import ChartStyle, Figure, Mark
    from dashtop.ui.panels.base import PanelContext

_TOTALS: Final = {VRAM: VRAM_TOTAL, RAM: RAM_TOTAL, "system.swap.used_gb": "system.swap.total_gb"}
_EVENT_REASONS: Final = "gpu.clocks.event_reasons"

# A double click resets the zoom of all charts (assets/charts.js), so Plotly's own reaction is off.
_GRAPH_CONFIG: Final[Any] = {
    "displayModeBar": False,
    "responsive": True,
    "showTips": False,
    "scrollZoom": False,
    "doubleClick": False,
}

_STATES: Final[Mapping[str, tuple[tuple[int, str], ...]]] = {
    _EVENT_REASONS: tuple((reason.bit, reason.name) for reason in THROTTLE_REASONS),
    "gpu.compute_mode": ((0, "Default"), (2, "Prohibited"), (3, "Exclusive Process")),
    "gpu.persistence_mode": ((0, "Disabled"), (1, "Enabled")),
    "gpu.mig_mode": ((0, "Disabled"), (1, "Enabled")),
    "gpu.performance_state": tuple((number, f"P{number}") for number in range(16)),
}


# assets/charts.css writes the question above the title.
_QUESTION_CLASSES: Final = {
    "Busy?": "asks-busy",
    "Fed?": "asks-fed",
    "Throttled?": "asks-throttled",
    "Memory": "asks-memory",
}
# A chart without any other reason than these has never anything to show.
_PERMANENT: Final = frozenset(
    {
        UnavailableReason.NOT_SUPPORTED,
        UnavailableReason.LIBRARY_TOO_OLD,
        UnavailableReason.NO_PERMISSION,
        UnavailableReason.MIG_PARENT,
        UnavailableReason.MIG_INSTANCE,
        UnavailableReason.WDDM,
        UnavailableReason.UNIFIED_MEMORY,
    }
)
# Whether a GPU that cannot be read has values in the shown time span.
_RECORDED_INTERVAL_MS: Final = 10 * SECOND_MS
_RECORDED_BUCKETS: Final = 100
# Without a GPU these show what another chart shows instead.
_ONLY_BESIDE_A_GPU: Final = frozenset({ids.CHART_CPU, ids.CHART_RAM})


def series_key(metric: str, gpu: Gpu | None) -> SeriesKey:
    """Return the key of a series: of the selected GPU, or of the host."""
    is_gpu_metric = metric.startswith("gpu.")
    return SeriesKey(metric, gpu.device.uuid if gpu is not None and is_gpu_metric else None)


# --- drawing ----------------------------------------------------------------------------------------------------------


def find_reason(sample: Sample, gpu: Gpu | None, keys: Mapping[str, Any] | tuple[str, ...]) -> str:
    """Return why none of these metrics has a value at present; "" if one has."""
    known = {**sample.host.values, **(gpu.values if gpu is not None else {})}
    if any(known.get(key) is not None for key in keys):
        return ""
    if gpu is not None and gpu.state is not None:
        return gpu.state_text
    reasons = {**sample.host.unavailable, **(gpu.unavailable if gpu is not None else {})}
    return next((reasons[key].text for key in keys if key in reasons), UnavailableReason.NOT_SUPPORTED.text)


def _draw(topic: Topic) -> Callable[[ChartData, Sample, Gpu | None, ChartStyle], Figure | None]:
    def draw(data: ChartData, sample: Sample, gpu: Gpu | None, style: ChartStyle) -> Figure | None:
        if gpu is None and (topic.needs_gpu or topic.id in _ONLY_BESIDE_A_GPU):
            return None
        names = topic.host_lines if gpu is None and topic.host_lines is not None else topic.lines
        if topic.id == ids.CHART_PROCESSES and gpu is not None:
            return _draw_processes(data, sample, gpu, style)
        lines = _build_lines(data.series, gpu, names)
        if not lines:
            return message_figure(_explain(find_reason(sample, gpu, names), topic.title), style)
        has_gpu_line = any(line.metric.key.startswith("gpu.") for line in lines)
        notes = _build_notes(data, gpu if has_gpu_line else None, style)
        return _draw_lines(topic, data.series, lines, sample, gpu, style, notes)

    return draw


def _draw_lines(  # noqa: PLR0917 - what is drawn, and how
    topic: Topic, data: SeriesSet, lines: list[Line], sample: Sample, gpu: Gpu | None, style: ChartStyle, notes: Notes
) -> Figure:
    values = {**sample.host.values, **(gpu.values if gpu is not None else {})}
    unit = lines[0].metric.unit
    if unit is Unit.PERCENT:
        return figures.percent(data, lines, style, notes)
    if unit is Unit.GIBIBYTE:
        total = values.get(_TOTALS[lines[0].metric.key])
        if total == 0:
            return message_figure(_explain("there is none on this machine", topic.title), style)
        return figures.memory(data, _with_total(lines[0], total), style, notes)
    if unit is Unit.CELSIUS and gpu is not None:
        critical = "slowdown" if gpu.device.slowdown_celsius is not None else "critical"
        thresholds = METRICS[TEMPERATURE].thresholds_for(gpu.device)
        return figures.temperature(data, lines, thresholds, style, notes, critical=critical)
    limit = values.get(topic.limit)
    if topic.id == ids.CHART_PCIE and limit is not None:
        limit *= 1000
    if topic.id == ids.CHART_CLOCK:
        flags = next((each for each in data.series if each.key.metric == _EVENT_REASONS), None)
        notes = Notes(marks=notes.marks, bands=(*build_throttle_bands(flags, data, style.theme), *notes.bands))
    is_warning = topic.id == ids.CHART_POWER
    return figures.limited(data, lines, limit, style, notes, name=topic.limit_name, is_warning=is_warning)


def _with_total(line: Line, total: float | None) -> Line:
    return Line(series=line.series, metric=line.metric, name=line.name, colour=line.colour, total=total)


def _build_lines(data: SeriesSet, gpu: Gpu | None, names: Mapping[str, str]) -> list[Line]:
    """Return a line for each metric that has a value in this time range."""
    by_key = {series.key: series for series in data.series}
    lines: list[Line] = []
    host_colours = iter((HOST, *SERIES[2:]))
    gpu_colours = iter(SERIES if not any(key.startswith("system.") for key in names) else (SERIES[0], *SERIES[2:]))
    for key, name in names.items():
        colour = next(gpu_colours if key.startswith("gpu.") else host_colours)
        series = by_key.get(series_key(key, gpu))
        if series is not None and np.isfinite(series.mean).any():
            states = _STATES.get(key, ())
            lines.append(Line(series=series, metric=METRICS[key], name=name, colour=colour, states=states))
    return lines


def _build_notes(data: ChartData, gpu: Gpu | None, style: ChartStyle) -> Notes:
    """Return what a chart shows beside its lines: one of a GPU its events and runs, another one all runs."""
    runs = [(run, marks) for run, marks in data.runs if gpu is None or gpu.device.uuid in run.gpus]
    bands = build_run_bands((run for run, _ in runs), data.series)
    marks = build_run_marks(runs, data.series, style.width_px)
    if gpu is None:
        return Notes(marks=marks, bands=bands)
    alerts = build_alert_bands(data.events, data.series, style.theme)
    return Notes(marks=[*_build_marks(data, gpu), *marks], bands=[*alerts, *bands])


def _build_marks(data: ChartData, gpu: Gpu) -> list[Mark]:
    series = data.series
    end_ms = series.start_ms + series.count * series.step_ms
    running = [process.pid for process in gpu.processes]
    marks = build_marks(data.events, data.processes, running, gpu.device.memory_total_bytes)
    return [mark for mark in marks if series.start_ms <= mark.time_ms < end_ms]


def _explain(reason: str, title: str) -> str:
    return f"{title}: {reason}" if reason else f"{title}: no values in this time range"


def _draw_processes(data: ChartData, sample: Sample, gpu: Gpu, style: ChartStyle) -> Figure:
    series = {each.key: each for each in data.series.series}
    used = series[series_key(VRAM, gpu)].mean.astype(np.float64)
    running = {process.pid for process in gpu.processes}
    layers = process_memory.build_layers(data.processes, running, data.series, used, interval_ms=data.interval_ms)
    known = np.isfinite(used)
    if not known.any() and layers:
        # A GPU that shares the host's memory reports no memory in use: show the sum of the processes.
        known = np.any([layer.coverage > 0 for layer in layers], axis=0)
    if not known.any():
        return message_figure(_explain(find_reason(sample, gpu, (VRAM,)), "Memory"), style)
    notes = _build_notes(data, gpu, style)
    return process_memory.figure(
        data.series,
        layers,
        process_memory.build_remainder(layers, used),
        known,
        style,
        total=gpu.values.get(VRAM_TOTAL),
        marks=notes.marks,
        bands=notes.bands,
    )


# --- charts that a user adds --------------------------------------------------------------------------------------

ADDED_OPTION: Final = "charts"
"""Name of the option with the keys of added metrics, joined by commas."""
MAX_ADDED: Final = 12
_ADDED_PREFIX: Final = "chart-added-"


def is_chartable(metric: Metric[Any]) -> bool:
    """Return whether a metric is stored, so that it can be charted."""
    return not metric.constant


def added_id(key: str) -> str:
    """Return the id of the chart of an added metric."""
    return f"{_ADDED_PREFIX}{key.replace('.', '-').replace('_', '-')}"


def find_added(option: str) -> tuple[Chart, ...]:
    """Return the charts of the metrics in an option of a request, which is untrusted."""
    keys = dict.fromkeys(option.split(","))
    known = [METRICS[key] for key in keys if key in METRICS and is_chartable(METRICS[key])]
    return tuple(_ADDED[metric.key] for metric in known[:MAX_ADDED])


def _draw_added(metric: Metric[Any]) -> Callable[[ChartData, Sample, Gpu | None, ChartStyle], Figure | None]:
    topic = Topic(id=added_id(metric.key), title=metric.title, question="", lines={metric.key: metric.title})

    def draw(data: ChartData, sample: Sample, gpu: Gpu | None, style: ChartStyle) -> Figure | None:
        lines = _build_lines(data.series, gpu, topic.lines)
        if not lines:
            return message_figure(_explain(find_reason(sample, gpu, topic.lines), topic.title), style)
        notes = _build_notes(data, gpu if metric.key.startswith("gpu.") else None, style)
        if lines[0].states:
            return figures.states(data.series, lines[0], style, notes)
        if metric.unit is Unit.CELSIUS or metric.kind is Kind.COUNTER or metric.unit.is_difference:
            return figures.free(data.series, lines, style, notes)
        if metric.unit is Unit.GIBIBYTE:
            return figures.limited(data.series, lines, None, style, notes)
        return _draw_lines(topic, data.series, lines, sample, gpu, style, notes)

    return draw


_ADDED: Final = {
    metric.key: Chart(
        id=added_id(metric.key),
        metrics=(metric.key,),
        draw=_draw_added(metric),
        needs_events=metric.key.startswith("gpu."),
    )
    for metric in ALL_METRICS
    if is_chartable(metric)
}


def _list_chartable() -> list[dict[str, str]]:
    """Return what the picker offers: key, title, help and unit of every stored metric."""
    return [
        {
            "key": metric.key,
            "id": added_id(metric.key),
            "title": metric.title,
            "help": metric.help,
            "unit": metric.unit.symbol,
        }
        for metric in ALL_METRICS
        if is_chartable(metric)
    ]


# --- cards ------------------------------------------------------------------------------------------------------------


def graph(name: str, title: str, *, density: float = 1.0) -> Component:
    """Return an empty chart. Arrow keys move the cursor (assets/chart-cursor.js).

    `density`: the number of points it shows for each point that its width has room for.
    """
    return html.Div(
        LazyGraph(id=name, config=_GRAPH_CONFIG),
        className="chart",
        role="group",
        tabIndex=0,
        **attributes(aria_label=title, aria_roledescription="chart", data_title=title, data_density=f"{density:g}"),
    )


def _legend(topic: Topic) -> Component:
    """Return the current values; a click on one hides or shows its line (assets/charts.js)."""
    items = [_legend_item(key, name, SERIES[at], "needs-gpu") for at, (key, name) in enumerate(topic.lines.items())]
    if all(key.startswith("system.") for key in topic.lines):
        colours = (HOST, *SERIES[2:])
        items = [_legend_item(key, name, colours[at]) for at, (key, name) in enumerate(topic.lines.items())]
    for key, name in (topic.host_lines or {}).items():
        items.append(_legend_item(key, name, HOST, "no-gpu"))
    return html.Div(items, className="legend")


def _legend_item(key: str, name: str, colour: str, class_name: str = "") -> Component:
    return html.Button(
        [
            f"{name} ",
            value(key, class_name="percent"),
            html.Span(className="legend-period", **attributes(data_period=key)),
        ],
        className=f"legend-item {class_name}".strip(),
        type="button",
        style={"--series": colour},
        **attributes(data_tip="Hide or show this line", data_line=key, aria_pressed="true"),
    )


def build_panel(topic: Topic, section: Section = Section.HISTORY) -> Panel:
    """Return the panel of a chart."""
    is_by_process = topic.id == ids.CHART_PROCESSES
    keys = (*topic.lines, *(topic.host_lines or ()))
    extra = (_EVENT_REASONS,) if topic.id == ids.CHART_CLOCK else ()

    def layout(_services: Services) -> Component:
        legend = html.Div(className="legend", **attributes(data_legend=topic.id)) if is_by_process else _legend(topic)
        # On a focused chart Enter does the same: the button is no tab stop.
        table = html.Button(
            icon("table", f"Show {topic.title} as table"),
            type="button",
            className="chart-button",
            tabIndex=-1,
            **attributes(data_table="", data_tip="Show as table"),
        )
        needs_gpu = topic.needs_gpu or topic.id in _ONLY_BESIDE_A_GPU
        return card(
            topic.title,
            [graph(topic.id, topic.title)],
            id=f"panel-{topic.id}",
            aside=html.Div([legend, table], className="chart-aside"),
            class_name=" ".join(
                filter(None, ["chart-card", _QUESTION_CLASSES.get(topic.question), "needs-gpu" if needs_gpu else ""])
            ),
        )

    chart = Chart(
        id=topic.id,
        metrics=(*keys, *extra),
        draw=_draw(topic),
        needs_events=any(key.startswith("gpu.") for key in keys),
    )
    return Panel(section=section, layout=layout, charts=(chart,))


def _build_more(_services: Services) -> Component:
    """Return what is below the charts: those that are left out and why, and the picker of further ones."""
    return html.Section(
        [
            html.Button("Add chart", id=ids.ADD_CHART, type="button", className="btn"),
            html.Button(
                "Arrange",
                id=ids.ARRANGE_BUTTON,
                type="button",
                className="btn",
                **attributes(data_tip="Move and hide panels on this page", data_arrange_start=""),
            ),
            html.P(className="left-out", **attributes(data_text="charts.left_out")),
        ],
        id=ids.CHARTS_MORE,
        className="charts-more full-width",
        **attributes(aria_label="More charts", data_metrics=json.dumps(_list_chartable())),
    )


def live_data(context: PanelContext) -> dict[str, Any]:
    """Add the charts that are left out because they have nothing to show, and a text that says why.

    The GPU reports none of their metrics; or it cannot be read, and the history has none in the shown time span.
    """
    gpu, sample = context.gpu, context.sample
    if gpu is None:
        return {"left_out": [], "texts": {"charts.left_out": ""}}
    by_reason: dict[str, list[str]] = {}
    left_out = []
    for topic in TOPICS:
        if topic.is_of_gpu and not _has_values(topic, context, gpu):
            left_out.append(f"panel-{topic.id}")
            by_reason.setdefault(find_reason(sample, gpu, topic.lines), []).append(topic.title)
    text = " · ".join(f"{', '.join(titles)}: {reason}" for reason, titles in by_reason.items())
    return {"left_out": left_out, "texts": {"charts.left_out": f"Not shown: {text}" if text else ""}}


def _has_values(topic: Topic, context: PanelContext, gpu: Gpu) -> bool:
    """Return whether the chart of a GPU has something to show, now or in its time span."""
    if gpu.state is not None:
        return not _find_recorded(context, gpu).isdisjoint(topic.lines)
    missing = [gpu.unavailable.get(key) for key in topic.lines if gpu.values.get(key) is None]
    return len(missing) < len(topic.lines) or any(reason not in _PERMANENT for reason in missing)


def _find_recorded(context: PanelContext, gpu: Gpu) -> frozenset[str]:
    """Return which metrics of the charts the history has in the shown time span; looked up every ten seconds."""
    request, history = context.request, context.services.history
    interval_ms = round(context.services.latest.interval_s * SECOND_MS)
    now_ms = context.sample.time_ms // _RECORDED_INTERVAL_MS * _RECORDED_INTERVAL_MS
    if request.zoom is not None:
        window = build_zoom_window(request.zoom, now_ms, _RECORDED_BUCKETS, interval_ms)
    else:
        window = build_window(now_ms, RANGES_MS[request.range], _RECORDED_BUCKETS, interval_ms)

    def read() -> frozenset[str]:
        keys = [series_key(metric, gpu) for topic in TOPICS if topic.is_of_gpu for metric in topic.lines]
        data = history.query(list(dict.fromkeys(keys)), window.start_ms, window.end_ms, window.step_ms)
        return frozenset(series.key.metric for series in data.series if np.isfinite(series.mean).any())

    key = f"recorded|{gpu.device.uuid}|{request.span_key}|{now_ms}|{history.read_status().version}"
    return context.cache.get_or_create(key, read)


PANELS: Final[tuple[Panel, ...]] = (
    *map(build_panel, TOPICS),
    Panel(section=Section.HISTORY, id=ids.CHARTS_MORE, layout=_build_more, live_data=live_data),
)
