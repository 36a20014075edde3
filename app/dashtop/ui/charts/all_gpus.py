"""The chart of one metric of every GPU: GPUs that differ from the others have their name and full colour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from dashtop.metrics import METRICS
from dashtop.model.metric import Unit
from dashtop.ui.charts.base_figure import base_figure, encode_float32, message_figure, round_axis
from dashtop.ui.theme import gpu_colour, with_alpha

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from dashtop.model.sample import Gpu, SeriesSet
    from dashtop.ui.charts.base_figure import ChartStyle, Figure

METRIC_OPTION: Final = "metric"
CHOICES: Final = {
    "utilization": "gpu.utilization.gpu",
    "sm": "gpu.utilization.compute",
    "vram": "gpu.memory.used_percent",
    "temperature": "gpu.temperature",
    "power": "gpu.power.current_watts",
    "clock": "gpu.clocks.sm_mhz",
    "pcie-rx": "gpu.pcie.rx_mbps",
    "nvlink-rx": "gpu.nvlink.rx_mbps",
}
"""What the chart can show: the name in the address, and the key of the metric."""
DEFAULT_CHOICE: Final = "utilization"

_UTILIZATION: Final = "gpu.utilization.gpu"
_MIN_BUSY_PERCENT: Final = 10.0
_MIN_BUSY_GPUS: Final = 3
_RECENT_SHARE: Final = 1 / 6
"""The part of the time range, at its end, whose mean is compared."""
_MIN_DEVIATION: Final = {Unit.PERCENT: 20.0, Unit.CELSIUS: 10.0}
_MIN_RELATIVE_DEVIATION: Final = 0.25
_FENCE: Final = 1.5
"""Tukey's fences: interquartile ranges outside of the quartiles."""
_CALM_ALPHA: Final = 0.5


class _Line(NamedTuple):
    gpu: Gpu
    values: NDArray[np.float32]
    recent: float


def choose_metric(options: Mapping[str, str]) -> str:
    """Return the key of the metric that a browser has chosen; that of the default for an unknown name."""
    return CHOICES.get(options.get(METRIC_OPTION, ""), CHOICES[DEFAULT_CHOICE])


def find_outliers(recent: Mapping[int, float], unit: Unit) -> frozenset[int]:
    """Return the GPUs whose recent mean is far from the median of all busy ones.

    `recent`: means by index, of busy GPUs. Far: outside of Tukey's fences, and further from the median than a minimum
    that depends on the unit, so that GPUs which are all alike have no outlier. Fewer than three GPUs have none.
    """
    values = np.array(list(recent.values()))
    if len(values) < _MIN_BUSY_GPUS:
        return frozenset()
    lower, median, upper = (float(each) for each in np.percentile(values, (25, 50, 75)))
    margin = _FENCE * (upper - lower)
    least = _MIN_DEVIATION.get(unit, _MIN_RELATIVE_DEVIATION * abs(median))
    return frozenset(
        index
        for index, value in recent.items()
        if not lower - margin <= value <= upper + margin and abs(value - median) > least
    )


def figure(data: SeriesSet, gpus: Sequence[Gpu], key: str, style: ChartStyle) -> Figure:
    """Return the chart of metric `key`. GPUs that do not report it have no line."""
    metric = METRICS[key]
    lines = _find_lines(data, gpus, key)
    if not lines:
        return message_figure(f"No GPU reports this metric: {metric.title}.", style)
    busy = _find_busy(gpus)
    recent = {line.gpu.device.index: line.recent for line in lines if line.gpu.device.index in busy}
    outliers = find_outliers({index: mean for index, mean in recent.items() if np.isfinite(mean)}, metric.unit)
    # Outliers are drawn last, above the others.
    lines.sort(key=lambda line: line.gpu.device.index in outliers)
    traces = [_build_trace(line, data, metric.unit, is_outlier=line.gpu.device.index in outliers) for line in lines]
    annotations = [_label(line) for line in lines if line.gpu.device.index in outliers]
    return base_figure(
        data,
        traces,
        {"y": metric.unit},
        {"yaxis": _build_axis(lines, metric.unit)},
        style,
        annotations=annotations,
    )


def _find_lines(data: SeriesSet, gpus: Sequence[Gpu], key: str) -> list[_Line]:
    series = {each.key.gpu_uuid: each.mean for each in data.series if each.key.metric == key}
    count = max(1, round(data.count * _RECENT_SHARE))
    found = []
    for gpu in gpus:
        values = series.get(gpu.device.uuid)
        if values is None or not np.isfinite(values).any():
            continue
        tail = values[-count:]
        known = tail[np.isfinite(tail)]
        found.append(_Line(gpu, values, float(known.mean()) if len(known) else np.nan))
    return found


def _find_busy(gpus: Sequence[Gpu]) -> frozenset[int]:
    return frozenset(gpu.device.index for gpu in gpus if (gpu.values.get(_UTILIZATION) or 0.0) >= _MIN_BUSY_PERCENT)


def _build_trace(line: _Line, data: SeriesSet, unit: Unit, *, is_outlier: bool) -> dict[str, Any]:
    index = line.gpu.device.index
    colour = gpu_colour(index)
    return {
        "type": "scatter",
        "mode": "lines",
        "legendgroup": str(index),
        "x0": data.start_ms,
        "dx": data.step_ms,
        "yaxis": "y",
        "connectgaps": False,
        "y": encode_float32(line.values, 4),
        "line": {
            "color": colour if is_outlier else with_alpha(colour, _CALM_ALPHA),
            "width": 2.5 if is_outlier else 1.25,
        },
        # For the cursor (assets/chart-cursor.js).
        "meta": {"label": f"GPU {index}", "unit": unit.symbol, "digits": unit.digits},
    }


def _label(line: _Line) -> dict[str, Any]:
    """Return the name of an outlier, above its last value."""
    last = int(np.flatnonzero(np.isfinite(line.values))[-1])
    return {
        "text": f"GPU {line.gpu.device.index}",
        "xref": "paper",
        "x": 1,
        "xanchor": "right",
        "yref": "y",
        "y": float(line.values[last]),
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"size": 11, "color": gpu_colour(line.gpu.device.index)},
    }


def _build_axis(lines: Sequence[_Line], unit: Unit) -> dict[str, Any]:
    if unit is Unit.PERCENT:
        return {"range": [0, 103], "tickvals": [0, 25, 50, 75, 100], "ticktext": ["0", "25", "50", "75", "100%"]}
    highest = max((float(np.nanmax(line.values)) for line in lines), default=1.0)
    if unit is Unit.CELSIUS:
        return {"range": [20, max(highest + 5, 60)], "dtick": 20, "ticksuffix": "°"}
    return round_axis(highest, unit)
