"""Calls about the past: columns of buckets from the history."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import AfterValidator, Field

from dashtop.metrics import ALL_METRICS
from dashtop.model.sample import SeriesKey
from dashtop.web.api.context import answer, one_gpu, shown_gpu
from dashtop.web.api.params import GpuQuery, TimeRangeParams, WholeNumber, known_metrics
from dashtop.web.api.serializers import DIGITS

if TYPE_CHECKING:
    from flask import Response
    from numpy.typing import NDArray

    from dashtop.model.sample import Sample, SeriesSet
    from dashtop.web.api.context import Context

POINTS_OF_ALL = 300
"""Points at most where neither they nor metrics are named: every metric second by second is megabytes."""


class HistoryQuery(TimeRangeParams, GpuQuery):
    """Which series, how far back, how fine."""

    points: Annotated[
        int | None,
        WholeNumber,
        Field(
            ge=2,
            le=5000,
            description=f"Buckets at most; left out, as fine as is of use, or {POINTS_OF_ALL} for all metrics.",
            examples=[300],
        ),
    ] = None
    metrics: Annotated[
        str | None,
        AfterValidator(known_metrics),
        Field(
            description="Metric keys, separated by commas; all where it is left out.",
            examples=["gpu.utilization.gpu,system.cpu.usage_percent"],
        ),
    ] = None


def history(context: Context, query: HistoryQuery) -> Response:
    """Answer with the series of one GPU and the host."""
    keys = series_keys(context.sample(), query)
    points = query.points or (POINTS_OF_ALL if query.metrics is None else None)
    start_ms, end_ms, step_ms = query.stretch(context.services.clock, points)
    found = context.services.history.query(list(keys.values()), start_ms, end_ms, step_ms)
    return answer(columns(found))


def series_keys(sample: Sample, query: HistoryQuery) -> dict[str, SeriesKey]:
    """Return the series asked for by metric key. Raises as `one_gpu` does where a GPU's are asked for by name."""
    asked = query.metrics.split(",") if query.metrics is not None else None
    names = dict.fromkeys(asked or [metric.key for metric in ALL_METRICS])
    by_name = asked is not None and any(name.startswith("gpu.") for name in names)
    gpu = one_gpu(sample, query.gpu_id) if by_name else shown_gpu(sample, query.gpu_id)
    keys = {}
    for name in names:
        if not name.startswith("gpu."):
            keys[name] = SeriesKey(name)
        elif gpu is not None:
            keys[name] = SeriesKey(name, gpu.device.uuid)
    return keys


def columns(found: SeriesSet) -> dict[str, object]:
    """Return the body of an answer: NaN becomes null."""
    return {
        "timestamps": [found.start_ms + index * found.step_ms for index in range(found.count)],
        "step_ms": found.step_ms,
        "series": {
            series.key.metric: {
                "mean": _column(series.mean),
                "min": _column(series.minimum),
                "max": _column(series.maximum),
            }
            for series in found.series
        },
    }


def _column(values: NDArray[np.float32]) -> list[float | None]:
    rounded: list[float] = np.round(values.astype(np.float64), DIGITS).tolist()
    return [None if math.isnan(value) else value for value in rounded]
