"""The chart of the memory of the selected GPU by process and user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from dash import html

from dashtop.ui import ids
from dashtop.ui.charts import process_memory
from dashtop.ui.components import attributes, card
from dashtop.ui.panels.base import Chart, ChartData, Panel, Section
from dashtop.ui.panels.charts import graph, series_key
from dashtop.ui.theme import gpu_colour

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, Sample
    from dashtop.ui.charts.base_figure import ChartStyle, Figure

_USED: Final = "gpu.memory.used_gb"
_TOTAL: Final = "gpu.memory.total_gb"


def layout(_services: Services) -> Component:
    """Return the card; the browser fills the legend (assets/charts.js)."""
    legend = html.Div(className="legend", **attributes(data_legend=ids.CHART_PROCESSES))
    return card(
        "GPU memory by process",
        [graph(ids.CHART_PROCESSES)],
        id=f"panel-{ids.CHART_PROCESSES}",
        aside=legend,
        class_name="needs-gpu full-width",
    )


def _draw(data: ChartData, _sample: Sample, gpu: Gpu | None, style: ChartStyle) -> Figure | None:
    if gpu is None:
        return None
    series = {each.key: each for each in data.series.series}
    used = series[series_key(_USED, gpu)].mean.astype(np.float64)
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
        total=gpu.values.get(_TOTAL),
    )


PANEL: Final = Panel(
    section=Section.HISTORY,
    layout=layout,
    charts=(Chart(id=ids.CHART_PROCESSES, metrics=(_USED,), draw=_draw, needs_processes=True),),
)
