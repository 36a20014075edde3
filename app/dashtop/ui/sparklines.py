"""The last minutes of one GPU, for sparklines: sent once, for an open page goes on with what each frame says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dashtop.model.sample import SeriesKey
from dashtop.model.timerange import MINUTE_MS
from dashtop.ui.charts.resolution import window_ending

if TYPE_CHECKING:
    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, Sample

TRAIL_MS: Final = 5 * MINUTE_MS
TRAIL_METRICS: Final = ("gpu.utilization.gpu", "gpu.temperature", "gpu.power.current_watts", "gpu.fan_speed")
_WIDTH_PX: Final = 225


def trail(services: Services, sample: Sample, gpu: Gpu | None, held: str) -> dict[str, Any]:
    """Return {"trail": …} for a browser that has the trail of another GPU than `gpu`, or of none; else nothing.

    `gpu`: the UUID; `start`, `step` and `span` in epoch milliseconds; `highest`: by metric, the highest reading of each
    bucket, null where there is none.
    """
    if gpu is None or gpu.device.uuid == held:
        return {}
    uuid = gpu.device.uuid
    window = window_ending(sample.time_ms, TRAIL_MS, _WIDTH_PX, round(services.latest.interval_s * 1000))
    keys = [SeriesKey(metric, uuid) for metric in TRAIL_METRICS]
    found = services.history.query(keys, window.start_ms, window.end_ms, window.step_ms)
    highest = {
        series.key.metric: [round(float(value), 1) if np.isfinite(value) else None for value in series.maximum]
        for series in found.series
    }
    return {
        "trail": {
            "gpu": uuid,
            "start": window.start_ms,
            "step": window.step_ms,
            "span": TRAIL_MS,
            "highest": highest,
        }
    }
