"""Line charts of metrics as plain dicts: series in, Plotly JSON out. Pure functions."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dashtop.model.metric import Unit
from dashtop.ui.charts.base_figure import annotation, base_figure, capacity_axis, encode_float32, hline
from dashtop.ui.theme import with_alpha

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dashtop.model.metric import Metric, Thresholds
    from dashtop.model.sample import Series, SeriesSet
    from dashtop.ui.charts.base_figure import ChartStyle, Figure

# Powers of two, far finer than a pixel: rounding clears mantissa bits, and the arrays compress to about a third.
_DENOMINATORS = {Unit.PERCENT: 16, Unit.CELSIUS: 16, Unit.GIBIBYTE: 64, Unit.WATT: 4}


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a chart. `total` is the capacity that its values are a part of (memory), if known."""

    series: Series
    metric: Metric[Any]
    name: str
    colour: str
    total: float | None = None


def utilization(data: SeriesSet, lines: Sequence[Line], style: ChartStyle) -> Figure:
    """Return the utilization chart, 0 to 100 %."""
    axis = {"range": [0, 103], "tickvals": [0, 25, 50, 75, 100], "ticktext": ["0", "25", "50", "75", "100%"]}
    return _line_chart(data, [(line, "y") for line in lines], {"yaxis": axis}, style)


def memory(data: SeriesSet, lines: Sequence[Line], style: ChartStyle) -> Figure:
    """Return the memory chart: each line has its own axis from 0 to its total, so that both show a fill level."""
    axes: dict[str, Any] = {}
    annotations: list[dict[str, Any]] = []
    shapes: list[dict[str, Any]] = []
    curves: list[tuple[Line, str]] = []
    has_two_axes = len(lines) > 1
    for line, axis, side in zip(lines, ("y", "y2"), ("left", "right"), strict=False):
        capacity = line.total or max(_maximum(line.series) * 1.25, 1.0)
        axes[f"yaxis{axis[1:]}"] = {
            **capacity_axis(capacity),
            **({"tickfont": {"color": line.colour}} if has_two_axes else {}),
            **({"overlaying": "y", "side": "right", "showgrid": False} if axis == "y2" else {}),
        }
        if line.total is not None:
            text = f"{line.name} {line.total:.1f} GiB"
            annotations.append(annotation(text, capacity, style.theme.muted, axis=axis, side=side))
            shapes.append(hline(capacity, style.theme.neutral, axis=axis))
        curves.append((line, axis))
    # Both totals are at the same height, so one line marks them.
    right = 38 if has_two_axes else 12
    return _line_chart(data, curves, axes, style, shapes=shapes[:1], annotations=annotations, right=right)


def temperature(
    data: SeriesSet, line: Line, thresholds: Thresholds | None, style: ChartStyle, *, critical: str = "critical"
) -> Figure:
    """Return the temperature chart in °C, with a line at each threshold; `critical` is the name of the upper one."""
    levels = (
        []
        if thresholds is None
        else [
            (name, level, colour)
            for name, level, colour in (
                ("warning", thresholds.warning, style.theme.warning),
                (critical, thresholds.critical, style.theme.critical),
            )
            if level is not None
        ]
    )
    top = max([_maximum(line.series) + 5, *(level + 9 for _, level, _ in levels)])
    axis = {"range": [min(20.0, _minimum(line.series) - 5), top], "dtick": 20, "ticksuffix": "°"}
    return _line_chart(
        data,
        [(line, "y")],
        {"yaxis": axis},
        style,
        shapes=[hline(level, colour) for _, level, colour in levels],
        annotations=[
            annotation(f"{name} {level:.0f} °C", level, colour, above=name == critical)
            for name, level, colour in levels
        ],
    )


def power(data: SeriesSet, line: Line, limit: float | None, style: ChartStyle) -> Figure:
    """Return the power chart in W from 0 to above the power limit, which is marked by a line."""
    top = max(_maximum(line.series) * 1.1, (limit or 0) * 1.17, 10.0)
    axis = {"range": [0, top], "nticks": 5, "ticksuffix": " W", "showticksuffix": "last"}
    shapes, annotations = [], []
    if limit is not None:
        shapes.append(hline(limit, style.theme.warning))
        annotations.append(annotation(f"limit {limit:.0f} W", limit, style.theme.warning))
    return _line_chart(data, [(line, "y")], {"yaxis": axis}, style, shapes=shapes, annotations=annotations)


def empty() -> Figure:
    """Return a figure that shows nothing, until the first one arrives."""
    clear = "rgba(0,0,0,0)"
    axis = {"visible": False}
    return {"data": [], "layout": {"paper_bgcolor": clear, "plot_bgcolor": clear, "xaxis": axis, "yaxis": axis}}


def _line_chart(
    data: SeriesSet,
    curves: Sequence[tuple[Line, str]],
    axes: dict[str, Any],
    style: ChartStyle,
    *,
    shapes: Sequence[dict[str, Any]] = (),
    annotations: Sequence[dict[str, Any]] = (),
    right: int = 12,
) -> Figure:
    traces = [trace for line, axis in curves for trace in _traces(line, axis, data.start_ms, data.step_ms)]
    units = {axis: line.metric.unit for line, axis in curves}
    return base_figure(data, traces, units, axes, style, shapes=shapes, annotations=annotations, right=right)


def _traces(line: Line, axis: str, start: int, step: int) -> list[dict[str, Any]]:
    """Return the traces of one line: the band from minimum to maximum if they differ, then the mean."""
    series, unit = line.series, line.metric.unit
    denominator = _DENOMINATORS.get(unit, 16)
    common = {"type": "scatter", "x0": start, "dx": step, "yaxis": axis, "legendgroup": line.metric.key}
    present = np.isfinite(series.mean)
    has_band = present.any() and not np.array_equal(series.minimum[present], series.maximum[present])
    symbol = f" {unit.symbol}" if unit.symbol else ""
    template = f"{line.name}: %{{y:.1f}}{symbol}"
    if has_band:
        # assets/charts.js fills customdata from the two traces of the band: minimum, maximum and their text.
        template += "%{customdata[2]}"
    mean: dict[str, Any] = {
        **common,
        "name": line.name,
        "mode": "lines",
        "connectgaps": False,
        "y": encode_float32(series.mean, denominator),
        "line": {"color": line.colour, "width": 1.75},
        "hovertemplate": f"{template}<extra></extra>",  # otherwise Plotly adds "name : "
    }
    isolated = _isolated(present)
    if isolated.any():
        # A line needs two points: a value between two gaps would be invisible without a marker.
        sizes = {"dtype": "u1", "bdata": base64.b64encode((isolated * 5).astype(np.uint8).tobytes()).decode()}
        mean |= {"mode": "lines+markers", "marker": {"size": sizes, "color": line.colour, "line": {"width": 0}}}
    return [*(_band(line, common, denominator) if has_band else ()), mean]


def _band(line: Line, common: dict[str, Any], denominator: int) -> list[dict[str, Any]]:
    series = line.series
    present = np.isfinite(series.mean)
    # From the first value to the last: outside of them there is no gap to bridge.
    first, last = int(np.argmax(present)), len(present) - int(np.argmax(present[::-1]))
    low, high = (
        encode_float32(_bridge_gaps(values, present, series.mean)[first:last], denominator)
        for values in (series.minimum, series.maximum)
    )
    start = common["x0"] + first * common["dx"]
    edge = {**common, "x0": start, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    return [{**edge, "y": low}, {**edge, "fill": "tonexty", "fillcolor": with_alpha(line.colour, 0.16), "y": high}]


def _bridge_gaps(
    values: NDArray[np.float32], present: NDArray[np.bool_], mean: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Give the band a height of zero in gaps: Plotly would fill across them."""
    if present.all():
        return values
    positions = np.arange(len(values))
    interpolated = np.interp(positions, positions[present], mean[present]).astype(np.float32)
    return np.where(present, values, interpolated)


def _isolated(present: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which values have a gap on both sides."""
    isolated = present.copy()
    isolated[1:] &= ~present[:-1]
    isolated[:-1] &= ~present[1:]
    return isolated


def _maximum(series: Series) -> float:
    return float(np.nanmax(series.maximum)) if np.isfinite(series.maximum).any() else 0.0


def _minimum(series: Series) -> float:
    return float(np.nanmin(series.minimum)) if np.isfinite(series.minimum).any() else 25.0
