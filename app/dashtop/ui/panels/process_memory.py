"""The chart of which processes held the chosen GPU's memory, and who they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from dash import html

from dashtop.ui import ids
from dashtop.ui.charts import process_memory as holdings
from dashtop.ui.charts import stacked_area as stacked
from dashtop.ui.components import attributes
from dashtop.ui.panels.base import Chart, ChartData, Panel, Place
from dashtop.ui.panels.card import card
from dashtop.ui.panels.charts import graph, series_key
from dashtop.ui.theme import gpu_colour

if TYPE_CHECKING:
    from dash.development.base_component import Component

    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, Sample
    from dashtop.ui.charts.base_figure import Canvas, Figure

_USED: Final = "gpu.memory.used_gb"
_TOTAL: Final = "gpu.memory.total_gb"


def layout(_services: Services) -> Component:
    """Return the card; the browser writes the names of the layers (assets/plots.js)."""
    names = html.Div(className="legend", **attributes(data_names=ids.CHART_PROCESSES))
    return card(
        "GPU memory by process",
        [graph(ids.CHART_PROCESSES)],
        id=f"panel-{ids.CHART_PROCESSES}",
        aside=names,
        shape="needs-gpu row",
    )


def _draw(past: ChartData, _sample: Sample, gpu: Gpu | None, canvas: Canvas) -> Figure | None:
    if gpu is None:
        return None
    data, found = past.series, {series.key: series for series in past.series.series}
    used = found[series_key(_USED, gpu)].mean.astype(np.float64)
    running = {process.pid for process in gpu.processes}
    layers = holdings.layers(past.processes, running, data, used, interval_ms=past.interval_ms)
    rest = holdings.remainder(layers, used)
    known = np.isfinite(used)
    if not known.any() and layers:
        # A GPU that shares the host's memory has none in use by itself: what processes hold is all there is.
        known = np.any([layer.covered > 0 for layer in layers], axis=0)
    total = gpu.values.get(_TOTAL)
    colour = gpu_colour(gpu.device.index)
    return stacked.memory_by_process(data, layers, rest, known, canvas, colour=colour, total=total)


CHART: Final = Chart(id=ids.CHART_PROCESSES, metrics=(_USED,), draw=_draw, processes=True)
PANEL: Final = Panel(place=Place.TRENDS, layout=layout, charts=(CHART,))
