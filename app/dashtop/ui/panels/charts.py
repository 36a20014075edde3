"""The history charts. The legend of a chart shows the current value of each line at every tick."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from dash import dcc, html

from dashtop.metrics import METRICS
from dashtop.model.sample import SeriesKey
from dashtop.ui import ids
from dashtop.ui.charts import figures, process_memory
from dashtop.ui.charts.figures import Line
from dashtop.ui.components import attributes, card, value
from dashtop.ui.panels.base import Chart, ChartData, Panel, Section
from dashtop.ui.theme import HOST, gpu_colour

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, Sample, SeriesSet
    from dashtop.ui.charts.base_figure import ChartStyle, Figure

_GPU_UTILIZATION: Final = "gpu.utilization.gpu"
_CPU_UTILIZATION: Final = "system.cpu.usage_percent"
_VRAM, _VRAM_TOTAL = "gpu.memory.used_gb", "gpu.memory.total_gb"
_RAM, _RAM_TOTAL = "system.memory.used_gb", "system.memory.total_gb"
_TEMPERATURE: Final = "gpu.temperature"
_POWER, _POWER_LIMIT = "gpu.power.current_watts", "gpu.power.max_watts"

_LINE_NAMES: Final = {
    _GPU_UTILIZATION: "GPU",
    _CPU_UTILIZATION: "CPU",
    _VRAM: "VRAM",
    _RAM: "RAM",
    _TEMPERATURE: "GPU",
    _POWER: "GPU",
}
# A double click resets the zoom of all charts (assets/charts.js), so Plotly's own reaction is off.
_GRAPH_CONFIG: Final[Any] = {
    "displayModeBar": False,
    "responsive": True,
    "showTips": False,
    "scrollZoom": False,
    "doubleClick": False,
}


def series_key(metric: str, gpu: Gpu | None) -> SeriesKey:
    """Return the key of a series: of the selected GPU, or of the host."""
    is_gpu_metric = metric.startswith("gpu.")
    return SeriesKey(metric, gpu.device.uuid if gpu is not None and is_gpu_metric else None)


def _graph(name: str) -> Component:
    """Return an empty chart."""
    return html.Div(dcc.Graph(id=name, figure=figures.empty(), config=_GRAPH_CONFIG), className="chart")


def _lines(data: SeriesSet, gpu: Gpu | None, *keys: str, totals: tuple[float | None, ...] = ()) -> list[Line]:
    by_key = {series.key: series for series in data.series}
    lines: list[Line] = []
    for position, key in enumerate(keys):
        series = by_key.get(series_key(key, gpu))
        if series is None:
            continue
        colour = gpu_colour(gpu.device.index) if gpu is not None and key.startswith("gpu.") else HOST
        total = totals[position] if totals else None
        lines.append(Line(series=series, metric=METRICS[key], name=_LINE_NAMES[key], colour=colour, total=total))
    return lines


def _draw_utilization(data: ChartData, _sample: Sample, gpu: Gpu | None, style: ChartStyle) -> Figure:
    return figures.utilization(data.series, _lines(data.series, gpu, _GPU_UTILIZATION, _CPU_UTILIZATION), style)


def _draw_memory(data: ChartData, sample: Sample, gpu: Gpu | None, style: ChartStyle) -> Figure:
    vram_total = gpu.values.get(_VRAM_TOTAL) if gpu is not None else None
    totals = (vram_total, sample.host.values.get(_RAM_TOTAL))
    return figures.memory(data.series, _lines(data.series, gpu, _VRAM, _RAM, totals=totals), style)


def _draw_temperature(data: ChartData, _sample: Sample, gpu: Gpu | None, style: ChartStyle) -> Figure | None:
    lines = _lines(data.series, gpu, _TEMPERATURE)
    if gpu is None or not lines:
        return None
    thresholds = METRICS[_TEMPERATURE].thresholds_for(gpu.device)
    critical = "slowdown" if gpu.device.slowdown_celsius is not None else "critical"
    return figures.temperature(data.series, lines[0], thresholds, style, critical=critical)


def _draw_power(data: ChartData, _sample: Sample, gpu: Gpu | None, style: ChartStyle) -> Figure | None:
    lines = _lines(data.series, gpu, _POWER)
    if gpu is None or not lines:
        return None
    return figures.power(data.series, lines[0], gpu.values.get(_POWER_LIMIT), style)


def _draw_processes(data: ChartData, _sample: Sample, gpu: Gpu | None, style: ChartStyle) -> Figure | None:
    if gpu is None:
        return None
    series = {each.key: each for each in data.series.series}
    used = series[series_key(_VRAM, gpu)].mean.astype(np.float64)
    running = {process.pid for process in gpu.processes}
    layers = process_memory.build_layers(data.processes, running, data.series, used, interval_ms=data.interval_ms)
    known = np.isfinite(used)
    if not known.any() and layers:
        # A GPU that shares the host's memory reports no memory in use: show the sum of the processes.
        known = np.any([layer.coverage > 0 for layer in layers], axis=0)
    return process_memory.figure(
        data.series,
        layers,
        process_memory.build_remainder(layers, used),
        known,
        style,
        colour=gpu_colour(gpu.device.index),
        total=gpu.values.get(_VRAM_TOTAL),
    )


def _legend(*keys: str) -> Component:
    """Return the current values; a click on one hides or shows its line (assets/charts.js)."""
    return html.Div(
        [
            html.Button(
                [f"{_LINE_NAMES[key]} ", value(key, class_name="percent")],
                className="legend-item gpu-line needs-gpu" if key.startswith("gpu.") else "legend-item",
                type="button",
                title="Hide or show this line",
                **attributes(data_line=key, aria_pressed="true"),
            )
            for key in keys
        ],
        className="legend",
    )


def _panel(title: str, chart: Chart) -> Panel:
    def layout(_services: Services) -> Component:
        needs_gpu = all(key.startswith("gpu.") for key in chart.metrics)
        return card(
            title,
            [_graph(chart.id)],
            id=f"panel-{chart.id}",
            aside=_legend(*chart.metrics),
            class_name="needs-gpu" if needs_gpu else "",
        )

    return Panel(section=Section.HISTORY, layout=layout, charts=(chart,))


def _build_processes_card(_services: Services) -> Component:
    """Return the card; the browser fills the legend (assets/charts.js)."""
    legend = html.Div(className="legend", **attributes(data_legend=ids.CHART_PROCESSES))
    return card(
        "GPU memory by process",
        [_graph(ids.CHART_PROCESSES)],
        id=f"panel-{ids.CHART_PROCESSES}",
        aside=legend,
        class_name="needs-gpu full-width",
    )


PANELS: Final[tuple[Panel, ...]] = (
    _panel(
        "Utilization",
        Chart(id=ids.CHART_UTILIZATION, metrics=(_GPU_UTILIZATION, _CPU_UTILIZATION), draw=_draw_utilization),
    ),
    _panel("Memory", Chart(id=ids.CHART_MEMORY, metrics=(_VRAM, _RAM), draw=_draw_memory)),
    _panel("Temperature", Chart(id=ids.CHART_TEMPERATURE, metrics=(_TEMPERATURE,), draw=_draw_temperature)),
    _panel("Power", Chart(id=ids.CHART_POWER, metrics=(_POWER,), draw=_draw_power)),
    Panel(
        section=Section.HISTORY,
        layout=_build_processes_card,
        charts=(Chart(id=ids.CHART_PROCESSES, metrics=(_VRAM,), draw=_draw_processes, needs_processes=True),),
    ),
)
