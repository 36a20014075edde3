"""The history charts of a browser's view: drawn when a bucket is complete, and once for all who look at the same."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from flask_caching import Cache

from dashtop.ui.figures import Canvas
from dashtop.ui.panels import CHARTS
from dashtop.ui.panels.charts import series_key
from dashtop.ui.theme import look
from dashtop.ui.timeline import RANGES_MS, Window, span_for, window_ending, window_within

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask

    from dashtop.domain.sample import Gpu, Sample, SeriesKey, SeriesSet
    from dashtop.domain.services import Services
    from dashtop.ui.request import ViewRequest

_MOST_RENDERINGS: Final = 64
# A rendering is named by its buckets, so it never grows old: this only bounds how long one that nobody asks for stays.
_KEPT_S: Final = 300


class Trends:
    """Draws charts from the history. Thread-safe; `server` is the Flask application that the cache belongs to."""

    def __init__(self, services: Services, server: Flask) -> None:
        self._services = services
        self._cache = Cache(
            server,
            config={
                "CACHE_TYPE": "SimpleCache",
                "CACHE_THRESHOLD": _MOST_RENDERINGS,
                "CACHE_DEFAULT_TIMEOUT": _KEPT_S,
            },
        )
        self._drawing = threading.Lock()

    def drawn(self, sample: Sample, gpu: Gpu | None, request: ViewRequest) -> dict[str, Any]:
        """Return the charts to draw anew, by id, and what the browser is to remember of those it has."""
        view = request.view(gpu.device.uuid if gpu is not None else None)
        window = self._windows(sample, request)
        before = request.drawn if request.drawn is not None and request.drawn.view == view else None
        if before is not None and window(before.first_ms).end_ms == before.end_ms:
            return {"figures": {}, **_remembered(view, before.first_ms, window(before.first_ms), request)}
        with self._drawing:  # whoever else looks at the same waits for it instead of drawing it as well
            first_ms, shown, figures = self._rendering(view, sample, gpu, request)
        return {"figures": figures, **_remembered(view, first_ms, shown, request)}

    def _rendering(
        self, view: str, sample: Sample, gpu: Gpu | None, request: ViewRequest
    ) -> tuple[int, Window, dict[str, Any]]:
        """Return when the history begins, the buckets shown, and the figures; kept ones where there are any."""
        window = self._windows(sample, request)
        begun_ms: int | None = self._cache.get(view)
        if begun_ms is not None:
            figures: dict[str, Any] | None = self._cache.get(f"{view}|{window(begun_ms)}")
            if figures is not None:
                return begun_ms, window(begun_ms), figures
        first_ms, shown, data = self._read(sample, gpu, window)
        drawn = _figures(data, sample, gpu, request)
        self._cache.set(view, first_ms)
        self._cache.set(f"{view}|{shown}", drawn)
        return first_ms, shown, drawn

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

    def _read(self, sample: Sample, gpu: Gpu | None, window: Callable[[int], Window]) -> tuple[int, Window, SeriesSet]:
        """Return when the history begins, the buckets to show and what is in them.

        A young history begins somewhere within the first of its wide buckets: looking closer says where.
        """
        keys, shown = _keys(gpu), window(0)
        while True:
            data = self._services.history.query(keys, shown.start_ms, shown.end_ms, shown.step_ms)
            first_ms = _first(data, sample.time_ms)
            closer = window(first_ms)
            if closer.start_ms <= shown.start_ms:
                return first_ms, shown, data
            shown = closer


def _figures(data: SeriesSet, sample: Sample, gpu: Gpu | None, request: ViewRequest) -> dict[str, Any]:
    canvas = Canvas(
        look=look(dark=request.dark), width_px=request.width_px, revision=request.stretch, zoom=request.zoom
    )
    drawn = {chart.id: chart.draw(data, sample, gpu, canvas) for chart in CHARTS}
    return {name: figure for name, figure in drawn.items() if figure is not None}


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


def _first(data: SeriesSet, now_ms: int) -> int:
    """Return when the first of these readings was taken, to the bucket; now, if there is none."""
    present = [np.isfinite(series.mean) for series in data.series]
    starts = [int(np.argmax(mask)) for mask in present if mask.any()]
    return data.start_ms + min(starts) * data.step_ms if starts else now_ms
