"""The history charts. A chart's card shows the present value of each line in its legend, so it is never behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dash import dcc, html

from dashtop.metrics import METRICS
from dashtop.model.sample import SeriesKey
from dashtop.ui import ids
from dashtop.ui.charts import figures
from dashtop.ui.charts.figures import Line
from dashtop.ui.components import attributes, value
from dashtop.ui.panels.base import Chart, Panel, Place
from dashtop.ui.panels.card import card
from dashtop.ui.theme import HOST, gpu_colour

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, Sample, SeriesSet
    from dashtop.ui.charts.base_figure import Canvas, Figure
    from dashtop.ui.panels.base import ChartData

_GPU_BUSY, _CPU_BUSY = "gpu.utilization.gpu", "system.cpu.usage_percent"
_VRAM, _RAM = "gpu.memory.used_gb", "system.memory.used_gb"
_VRAM_TOTAL, _RAM_TOTAL = "gpu.memory.total_gb", "system.memory.total_gb"
_TEMPERATURE: Final = "gpu.temperature"
_POWER, _POWER_LIMIT = "gpu.power.current_watts", "gpu.power.max_watts"

_NAMES: Final = {
    _GPU_BUSY: "GPU", _CPU_BUSY: "CPU", _VRAM: "VRAM", _RAM: "RAM", _TEMPERATURE: "GPU", _POWER: "GPU"
}  # fmt: skip
# A double click is ours: it leaves the zoom of all charts (assets/plots.js).
_CONFIG: Final[Any] = {
    "displayModeBar": False, "responsive": True, "showTips": False, "scrollZoom": False, "doubleClick": False
}  # fmt: skip


def _lines(data: SeriesSet, gpu: Gpu | None, *keys: str, totals: tuple[float | None, ...] = ()) -> list[Line]:
    by_key = {series.key: series for series in data.series}
    found: list[Line] = []
    for position, key in enumerate(keys):
        series = by_key.get(series_key(key, gpu))
        if series is not None:
            total = totals[position] if totals else None
            of_gpu = gpu is not None and key.startswith("gpu.")
            colour = gpu_colour(gpu.device.index) if gpu is not None and of_gpu else HOST
            found.append(Line(series=series, metric=METRICS[key], name=_NAMES[key], colour=colour, total=total))
    return found


def series_key(metric: str, gpu: Gpu | None) -> SeriesKey:
    """Name the series of `metric`: the chosen GPU's, or the host's."""
    of_gpu = metric.startswith("gpu.") and gpu is not None
    return SeriesKey(metric, gpu.device.uuid if of_gpu and gpu is not None else None)


def _utilization(past: ChartData, _sample: Sample, gpu: Gpu | None, canvas: Canvas) -> Figure:
    return figures.utilization(past.series, _lines(past.series, gpu, _GPU_BUSY, _CPU_BUSY), canvas)


def _memory(past: ChartData, sample: Sample, gpu: Gpu | None, canvas: Canvas) -> Figure:
    vram = gpu.values.get(_VRAM_TOTAL) if gpu is not None else None
    totals = (vram, sample.host.values.get(_RAM_TOTAL))
    return figures.memory(past.series, _lines(past.series, gpu, _VRAM, _RAM, totals=totals), canvas)


def _temperature(past: ChartData, _sample: Sample, gpu: Gpu | None, canvas: Canvas) -> Figure | None:
    lines = _lines(past.series, gpu, _TEMPERATURE)
    if gpu is None or not lines:
        return None
    limits = METRICS[_TEMPERATURE].thresholds_for(gpu.device)
    own = gpu.device.slowdown_celsius is not None
    return figures.temperature(past.series, lines[0], limits, canvas, critical="slowdown" if own else "critical")


def _power(past: ChartData, _sample: Sample, gpu: Gpu | None, canvas: Canvas) -> Figure | None:
    lines = _lines(past.series, gpu, _POWER)
    if gpu is None or not lines:
        return None
    return figures.power(past.series, lines[0], gpu.values.get(_POWER_LIMIT), canvas)


def _legend(*keys: str) -> Component:
    """Return the present values, each of which hides its line and shows it again (assets/plots.js)."""
    return html.Div(
        [
            html.Button(
                [f"{_NAMES[key]} ", value(key, shape="percent")],
                className="legend-item of-gpu needs-gpu" if key.startswith("gpu.") else "legend-item",
                type="button",
                title="Hide or show this line",
                **attributes(data_line=key, aria_pressed="true"),
            )
            for key in keys
        ],
        className="legend",
    )


def graph(name: str) -> Component:
    """Return the place of a chart, empty."""
    return html.Div(dcc.Graph(id=name, figure=figures.empty(), config=_CONFIG), className="chart")


def _panel(title: str, chart: Chart) -> Panel:
    def layout(_services: Services) -> Component:
        of_gpu = all(key.startswith("gpu.") for key in chart.metrics)
        shape = "needs-gpu" if of_gpu else ""
        return card(title, [graph(chart.id)], id=f"panel-{chart.id}", aside=_legend(*chart.metrics), shape=shape)

    return Panel(place=Place.TRENDS, layout=layout, charts=(chart,))


PANELS: Final[tuple[Panel, ...]] = (
    _panel("Utilization", Chart(id=ids.CHART_UTILIZATION, metrics=(_GPU_BUSY, _CPU_BUSY), draw=_utilization)),
    _panel("Memory", Chart(id=ids.CHART_MEMORY, metrics=(_VRAM, _RAM), draw=_memory)),
    _panel("Temperature", Chart(id=ids.CHART_TEMPERATURE, metrics=(_TEMPERATURE,), draw=_temperature)),
    _panel("Power", Chart(id=ids.CHART_POWER, metrics=(_POWER,), draw=_power)),
)
