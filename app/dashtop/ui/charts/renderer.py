"""The history charts of a browser's view: drawn when a bucket is complete, and once for all who look at the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dashtop.ui.charts.base_figure import ChartStyle
from dashtop.ui.charts.resolution import RANGES_MS, Window, span_for, window_ending, window_within
from dashtop.ui.panels import CHARTS, ChartData
from dashtop.ui.panels.charts import series_key
from dashtop.ui.theme import chart_theme

if TYPE_CHECKING:
    from collections.abc import Callable

    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, ProcessSpan, Sample, SeriesKey, SeriesSet
    from dashtop.ui.render_cache import RenderCache
    from dashtop.ui.request import ViewRequest


class ChartRenderer:
    """Draws charts from the history. Thread-safe."""

    def __init__(self, services: Services, shared: RenderCache) -> None:
        self._services = services
        self._shared = shared

    def drawn(self, sample: Sample, gpu: Gpu | None, request: ViewRequest) -> dict[str, Any]:
        """Return the charts to draw anew, by id, and what the browser is to remember of those it has."""
        view = request.view(gpu.device.uuid if gpu is not None else None)
        window = self._windows(sample, request)
        before = request.drawn if request.drawn is not None and request.drawn.view == view else None
        if before is not None and (shown := window(before.first_ms)).end_ms == before.end_ms:
            return {"figures": {}, **_remembered(view, before.first_ms, shown, request)}
        first_ms = self._shared.once(f"begin|{view}", lambda: self._first(sample, gpu, window))
        shown = window(first_ms)
        figures = self._shared.once(f"charts|{view}|{shown}", lambda: self._figures(shown, sample, gpu, request))
        return {"figures": figures, **_remembered(view, first_ms, shown, request)}

    def _windows(self, sample: Sample, request: ViewRequest) -> Callable[[int], Window]:
        """Return which buckets to show, as a function of when the history begins."""
        interval_ms = round(self._services.latest.interval_s * 1000)
        now_ms, width_px, zoom = sample.time_ms, request.width_px, request.zoom
        if zoom is not None:
            within = window_within(zoom, now_ms, width_px, interval_ms)
            return lambda _first_ms: within

        def window(first_ms: int) -> Window:
            span_ms = span_for(RANGES_MS[request.range], now_ms - first_ms, interval_ms)
            return window_ending(now_ms, span_ms, width_px, interval_ms)

        return window

    def _read(self, gpu: Gpu | None, window: Window) -> SeriesSet:
        return self._services.history.query(_keys(gpu), window.start_ms, window.end_ms, window.step_ms)

    def _figures(self, window: Window, sample: Sample, gpu: Gpu | None, request: ViewRequest) -> dict[str, Any]:
        style = ChartStyle(
            theme=chart_theme(dark=request.dark), width_px=request.width_px, revision=request.stretch, zoom=request.zoom
        )
        wanted = [chart for chart in CHARTS if request.only in {"", chart.id}]
        spans: tuple[ProcessSpan, ...] = ()
        if gpu is not None and any(chart.needs_processes for chart in wanted):
            spans = self._services.history.processes(gpu.device.uuid, window.start_ms, window.end_ms)
        interval_ms = round(self._services.latest.interval_s * 1000)
        past = ChartData(series=self._read(gpu, window), processes=spans, interval_ms=interval_ms)
        drawn = {chart.id: chart.draw(past, sample, gpu, style) for chart in wanted}
        return {name: figure for name, figure in drawn.items() if figure is not None}

    def _first(self, sample: Sample, gpu: Gpu | None, window: Callable[[int], Window]) -> int:
        """Return when the history begins, to the bucket; now, if it has not.

        A young one begins somewhere within the first of its wide buckets: looking closer says where.
        """
        shown = window(0)
        while True:
            first_ms = _begin(self._read(gpu, shown), sample.time_ms)
            closer = window(first_ms)
            if closer.start_ms <= shown.start_ms:
                return first_ms
            shown = closer


def _remembered(view: str, first_ms: int, shown: Window, request: ViewRequest) -> dict[str, Any]:
    young = request.zoom is None and shown.end_ms - first_ms < RANGES_MS[request.range]
    return {
        "drawn": {"view": view, "first": first_ms, "end": shown.end_ms},
        "since": first_ms if young else None,
        "zoomed": request.zoom is not None,
    }


def _keys(gpu: Gpu | None) -> list[SeriesKey]:
    metrics = dict.fromkeys(key for chart in CHARTS for key in chart.metrics)
    return [series_key(key, gpu) for key in metrics if gpu is not None or not key.startswith("gpu.")]


def _begin(data: SeriesSet, now_ms: int) -> int:
    present = [np.isfinite(series.mean) for series in data.series]
    starts = [int(np.argmax(mask)) for mask in present if mask.any()]
    return data.start_ms + min(starts) * data.step_ms if starts else now_ms
