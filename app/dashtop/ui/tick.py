"""The answer to a tick: the live frame, and those charts whose newest bucket has become complete.

One callback serves the whole page, so a browser has one small request a tick and never two at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from dash import Input, Output

from dashtop.ui import frame as frames
from dashtop.ui import ids
from dashtop.ui.figures import Canvas
from dashtop.ui.panels import CHARTS, PANELS
from dashtop.ui.panels.charts import series_key
from dashtop.ui.request import ViewRequest
from dashtop.ui.theme import look
from dashtop.ui.timeline import RANGES_MS, Window, span_for, window_ending

if TYPE_CHECKING:
    from collections.abc import Collection

    from dash import Dash

    from dashtop.domain.sample import Gpu, Sample, SeriesKey, SeriesSet
    from dashtop.domain.services import Services


def register(app: Dash, services: Services, keys: Collection[str]) -> None:
    """Answer ticks on `app` with the metrics named in `keys`."""

    # Charts travel in the frame: Dash would hold back an answer to them until all of plotly.js has been loaded.
    @app.callback(Output(ids.LIVE, "data"), Input(ids.ASK, "data"), prevent_initial_call=True)
    def tick(asked: object) -> dict[str, Any]:
        return answer(services, keys, ViewRequest.parse(asked))


def answer(services: Services, keys: Collection[str], request: ViewRequest) -> dict[str, Any]:
    """Return the live frame for `request`; its `figures` are the charts to draw anew, by id, and often none."""
    interval_s = services.latest.follow(request.interval_s or services.latest.interval_s)
    sample = services.latest.latest()
    if sample is None:
        return frames.waiting(interval_s)
    gpu = frames.chosen_gpu(sample, request.gpu)
    live = frames.live_frame(
        sample,
        gpu,
        keys,
        age_s=services.clock.monotonic() - sample.monotonic_s,
        interval_s=interval_s,
        alive=services.latest.alive(),
    )
    for panel in PANELS:
        if panel.frame is not None:
            live |= panel.frame(sample)
    return live | _draw(services, sample, gpu, request)


def _draw(services: Services, sample: Sample, gpu: Gpu | None, request: ViewRequest) -> dict[str, Any]:
    """Return the charts to draw anew, and what the browser is to remember of those it has."""
    interval_ms = round(services.latest.interval_s * 1000)
    range_ms = RANGES_MS[request.range]
    view = request.view(gpu.device.uuid if gpu is not None else None)

    def window(first_ms: int) -> Window:
        span = span_for(range_ms, sample.time_ms - first_ms, interval_ms)
        return window_ending(sample.time_ms, span, request.width_px, interval_ms)

    before = request.drawn if request.drawn is not None and request.drawn.view == view else None
    if before is not None and window(before.first_ms).end_ms == before.end_ms:
        return {"figures": {}, **_remembered(view, before.first_ms, before.end_ms, range_ms)}

    keys = _keys(gpu)
    whole = window(0)
    data = _query(services, keys, whole)
    first_ms = _first(data, sample.time_ms)
    shown = window(first_ms)
    if shown != whole:
        data = _query(services, keys, shown)
    canvas = Canvas(
        look=look(dark=request.dark),
        width_px=request.width_px,
        revision=request.range,
    )
    drawn = {chart.id: chart.draw(data, sample, gpu, canvas) for chart in CHARTS}
    figures = {name: figure for name, figure in drawn.items() if figure is not None}
    return {"figures": figures, **_remembered(view, first_ms, shown.end_ms, range_ms)}


def _remembered(view: str, first_ms: int, end_ms: int, range_ms: int) -> dict[str, Any]:
    since = first_ms if end_ms - first_ms < range_ms else None
    return {"drawn": {"view": view, "first": first_ms, "end": end_ms}, "since": since}


def _keys(gpu: Gpu | None) -> list[SeriesKey]:
    metrics = dict.fromkeys(key for chart in CHARTS for key in chart.metrics)
    return [series_key(key, gpu) for key in metrics if gpu is not None or not key.startswith("gpu.")]


def _query(services: Services, keys: list[SeriesKey], window: Window) -> SeriesSet:
    return services.history.query(keys, window.start_ms, window.end_ms, window.step_ms)


def _first(data: SeriesSet, now_ms: int) -> int:
    """Return when the first of these readings was taken, to the bucket; now, if there is none."""
    present = [np.isfinite(series.mean) for series in data.series]
    starts = [int(np.argmax(mask)) for mask in present if mask.any()]
    return data.start_ms + min(starts) * data.step_ms if starts else now_ms
