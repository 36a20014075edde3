"""The history charts of a browser's view: new when a bucket is complete, and rendered once for all viewers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dashtop.ui.charts.base_figure import ChartStyle
from dashtop.ui.charts.resolution import RANGES_MS, Window, build_window, build_zoom_window, choose_span
from dashtop.ui.panels import CHARTS, ChartData
from dashtop.ui.panels.charts import series_key
from dashtop.ui.parts import Part, calculate_version
from dashtop.ui.theme import chart_theme

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, ProcessSpan, Sample, SeriesKey, SeriesSet
    from dashtop.ui.panels import Chart
    from dashtop.ui.parts import RenderCache
    from dashtop.ui.request import ViewRequest


class ChartRenderer:
    """Render charts from the history. Thread-safe."""

    def __init__(self, services: Services, cache: RenderCache) -> None:
        self._services = services
        self._cache = cache

    def render(self, sample: Sample, gpu: Gpu | None, request: ViewRequest, *, now_ms: int) -> Part | None:
        """Return the part "figures": figures of the visible charts by id, or None if no chart is visible.

        `sample` may be of the past; `now_ms` is the time of the latest one.

        `since` is the start of a history shorter than its range. The version depends on the view and its last complete
        bucket, so only what is sent is drawn.
        """
        charts = tuple(chart for chart in CHARTS if request.is_visible(f"panel-{chart.id}"))
        if not charts:
            return None
        keys = _list_series(charts, gpu, sample)
        gpus = ",".join(dict.fromkeys(key.gpu_uuid or "" for key in keys))
        view = f"{request.view_key}|{gpus}|{','.join(chart.id for chart in charts)}"
        first_ms: int | None = None
        outages = self._services.history.read_status().version  # what is rendered during one lacks a part
        if request.zoom is not None:
            window = build_zoom_window(request.zoom, now_ms, request.width_px, self._interval_ms)
        else:
            first_ms = self._cache.get_or_create(
                f"start|{view}|{outages}", lambda: self._find_start(sample, keys, request)
            )
            window = self._window(sample, request, first_ms)
        # Not the start: it moves to the next bucket at another moment than the end.
        version = calculate_version(f"{view}|{first_ms}|{window.end_ms}|{outages}")

        def draw() -> dict[str, Any]:
            style = ChartStyle(
                theme=chart_theme(dark=request.dark),
                width_px=request.width_px,
                revision=request.span_key,
                zoom=request.zoom,
            )
            data = self._read_data(charts, keys, window, gpu)
            figures = {chart.id: chart.draw(data, sample, gpu, style) for chart in charts}
            return {name: figure for name, figure in figures.items() if figure is not None}

        def build() -> dict[str, Any]:
            drawn = self._cache.get_or_create(f"charts|{version}", draw)
            is_short = first_ms is not None and first_ms > self._window(sample, request, 0).start_ms
            return {"charts": drawn, "since": first_ms if is_short else None}

        return Part("figures", version, build)

    @property
    def _interval_ms(self) -> int:
        return round(self._services.latest.interval_s * 1000)

    def _window(self, sample: Sample, request: ViewRequest, first_ms: int) -> Window:
        """Return the buckets of the chosen range, if the history begins at `first_ms`."""
        span_ms = choose_span(RANGES_MS[request.range], sample.time_ms - first_ms, self._interval_ms)
        return build_window(sample.time_ms, span_ms, request.width_px, self._interval_ms)

    def _find_start(self, sample: Sample, keys: Sequence[SeriesKey], request: ViewRequest) -> int:
        """Return when the history begins, to the bucket; the sample's time if there is none.

        A short history begins somewhere in the first wide bucket, so search again with the window that it would have.
        """
        window = self._window(sample, request, 0)
        while True:
            first_ms = _find_first_value(self._read(keys, window), sample.time_ms)
            narrower = self._window(sample, request, first_ms)
            if narrower.start_ms <= window.start_ms:
                return first_ms
            window = narrower

    def _read_data(
        self, charts: Sequence[Chart], keys: Sequence[SeriesKey], window: Window, gpu: Gpu | None
    ) -> ChartData:
        processes: tuple[ProcessSpan, ...] = ()
        if gpu is not None and any(chart.needs_processes for chart in charts):
            processes = self._services.history.processes(gpu.device.uuid, window.start_ms, window.end_ms)
        return ChartData(series=self._read(keys, window), processes=processes, interval_ms=self._interval_ms)

    def _read(self, keys: Sequence[SeriesKey], window: Window) -> SeriesSet:
        return self._services.history.query(keys, window.start_ms, window.end_ms, window.step_ms)


def _list_series(charts: Sequence[Chart], gpu: Gpu | None, sample: Sample) -> list[SeriesKey]:
    """Return the series that the charts need: of the host, the chosen GPU, or all GPUs."""
    keys: dict[SeriesKey, None] = {}
    for chart in charts:
        gpus = sample.gpus if chart.all_gpus else [gpu] if gpu is not None else []
        for metric in chart.metrics:
            owners = gpus if metric.startswith("gpu.") else [None]
            keys |= dict.fromkeys(series_key(metric, owner) for owner in owners)
    return list(keys)


def _find_first_value(data: SeriesSet, default_ms: int) -> int:
    """Return the start of the first bucket with a value."""
    present = [np.isfinite(series.mean) for series in data.series]
    starts = [int(np.argmax(mask)) for mask in present if mask.any()]
    return data.start_ms + min(starts) * data.step_ms if starts else default_ms
