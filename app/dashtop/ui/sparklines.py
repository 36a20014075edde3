"""The last minutes of one GPU for its sparklines. They are sent once; the page then adds the value of each snapshot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dashtop.model.sample import SeriesKey
from dashtop.model.timerange import MINUTE_MS
from dashtop.ui.charts.resolution import build_window
from dashtop.ui.delta import Part

if TYPE_CHECKING:
    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, Sample

SPARKLINE_SPAN_MS: Final = 5 * MINUTE_MS
SPARKLINE_METRICS: Final = ("gpu.utilization.gpu", "gpu.temperature", "gpu.power.current_watts", "gpu.fan_speed")
_WIDTH_PX: Final = 225


def build_sparklines_part(services: Services, sample: Sample, gpu: Gpu) -> Part:
    """Return the sparklines of `gpu`. Their version is the UUID: the page needs them again only for another GPU."""
    return Part("sparklines", gpu.device.uuid, lambda: _read_sparklines(services, sample, gpu.device.uuid))


def _read_sparklines(services: Services, sample: Sample, uuid: str) -> dict[str, Any]:
    """Return the highest reading of each bucket by metric, null where there is none, and the buckets' times."""
    window = build_window(sample.time_ms, SPARKLINE_SPAN_MS, _WIDTH_PX, round(services.latest.interval_s * 1000))
    keys = [SeriesKey(metric, uuid) for metric in SPARKLINE_METRICS]
    data = services.history.query(keys, window.start_ms, window.end_ms, window.step_ms)
    return {
        "start_ms": window.start_ms,
        "step_ms": window.step_ms,
        "span_ms": SPARKLINE_SPAN_MS,
        "maximum": {
            series.key.metric: [round(float(value), 1) if np.isfinite(value) else None for value in series.maximum]
            for series in data.series
        },
    }
