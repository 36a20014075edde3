"""Line charts of metrics as plain dicts: series in, Plotly JSON out. Pure functions."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dashtop.model.metric import Kind, Unit
from dashtop.ui.charts.base_figure import (
    annotation,
    base_figure,
    capacity_axis,
    encode_float32,
    hline,
    round_axis,
)
from dashtop.ui.theme import with_alpha

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dashtop.model.metric import Metric, Thresholds
    from dashtop.model.sample import Series, SeriesSet
    from dashtop.ui.charts.base_figure import Band, ChartStyle, Figure, Mark

# Powers of two, far finer than a pixel: rounding clears mantissa bits, and the arrays compress to about a third.
_DENOMINATORS = {Unit.PERCENT: 16, Unit.CELSIUS: 16, Unit.GIBIBYTE: 64, Unit.WATT: 4}
# In charts a mean has a digit more than the value of a moment.
_DIGITS = {Unit.PERCENT: 1, Unit.CELSIUS: 1, Unit.WATT: 1}


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a chart. `total` is the capacity that its values are a part of (memory), if known.

    `states` names the values of a metric that is a state or a set of flags, for the cursor.
    """

    series: Series
    metric: Metric[Any]
    name: str
    colour: str
    total: float | None = None
    states: Sequence[tuple[int, str]] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Notes:
    """What a chart shows beside its lines: event ticks at the time axis, and coloured spans of time."""

    marks: Sequence[Mark] = ()
    bands: Sequence[Band] = ()


NO_NOTES: Final = Notes()


def percent(data: SeriesSet, lines: Sequence[Line], style: ChartStyle, notes: Notes = NO_NOTES) -> Figure:
    """Return a chart from 0 to 100 %."""
    axis = {"range": [0, 103], "tickvals": [0, 25, 50, 75, 100], "ticktext": ["0", "25", "50", "75", "100 %"]}
    return _line_chart(data, lines, axis, style, notes)


def memory(data: SeriesSet, line: Line, style: ChartStyle, notes: Notes = NO_NOTES) -> Figure:
    """Return a memory chart: from 0 to the capacity, which is marked by a line."""
    capacity = line.total or max(_maximum(line.series) * 1.25, 1.0)
    shapes, annotations = [], []
    if line.total is not None:
        shapes.append(hline(capacity, style.theme.neutral))
        annotations.append(annotation(f"{line.name} {line.total:.1f} GiB", capacity, style.theme.muted))
    return _line_chart(data, [line], capacity_axis(capacity), style, notes, shapes=shapes, annotations=annotations)


def temperature(
    data: SeriesSet,
    lines: Sequence[Line],
    thresholds: Thresholds | None,
    style: ChartStyle,
    notes: Notes = NO_NOTES,
    *,
    critical: str = "critical",
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
    highest, lowest = (max(_maximum(line.series) for line in lines), min(_minimum(line.series) for line in lines))
    top = max([highest + 5, *(level + 9 for _, level, _ in levels)])
    axis = {"range": [min(20.0, lowest - 5), top], "dtick": 20, "ticksuffix": "°"}
    return _line_chart(
        data,
        lines,
        axis,
        style,
        notes,
        shapes=[hline(level, colour) for _, level, colour in levels],
        annotations=[
            annotation(f"{name} {level:.0f} °C", level, colour, above=name == critical)
            for name, level, colour in levels
        ],
    )


def limited(
    data: SeriesSet,
    lines: Sequence[Line],
    limit: float | None,
    style: ChartStyle,
    notes: Notes = NO_NOTES,
    *,
    name: str = "limit",
    is_warning: bool = False,
) -> Figure:
    """Return a chart from 0 to above its highest value, or above `limit`, which is marked by a line.

    A limit far above all values is not shown: the lines would be flat.
    """
    unit = lines[0].metric.unit
    highest = max(_maximum(line.series) for line in lines)
    shapes, annotations = [], []
    if limit is not None and (is_warning or highest > limit / 4):
        colour = style.theme.warning if is_warning else style.theme.muted
        shapes.append(hline(limit, colour))
        annotations.append(annotation(f"{name} {_format(limit, unit)}", limit, colour))
        highest = max(highest, limit * 1.06)
    axis = round_axis(highest, unit)
    return _line_chart(data, lines, axis, style, notes, shapes=shapes, annotations=annotations)


def states(data: SeriesSet, line: Line, style: ChartStyle, notes: Notes = NO_NOTES) -> Figure:
    """Return the chart of a state or of flags: steps without a scale; the cursor names the state."""
    axis = {**round_axis(max(_maximum(line.series), 1.0), line.metric.unit), "showticklabels": False}
    return _line_chart(data, [line], axis, style, notes)


def free(data: SeriesSet, lines: Sequence[Line], style: ChartStyle, notes: Notes = NO_NOTES) -> Figure:
    """Return a chart whose axis follows the values: of a count that only grows, or of temperatures."""
    return _line_chart(data, lines, {"nticks": 5, "tickformat": "~s"}, style, notes)


def _format(value: float, unit: Unit) -> str:
    if unit is Unit.MEGABYTE_PER_SECOND and value >= 1000:  # noqa: PLR2004 - from kilo to mega
        return f"{value / 1000:.1f} GB/s"
    return f"{value:.0f} {unit.symbol}"


def _line_chart(
    data: SeriesSet,
    lines: Sequence[Line],
    axis: dict[str, Any],
    style: ChartStyle,
    notes: Notes,
    *,
    shapes: Sequence[dict[str, Any]] = (),
    annotations: Sequence[dict[str, Any]] = (),
) -> Figure:
    traces = [trace for line in lines for trace in _traces(line, data.start_ms, data.step_ms)]
    units = {"y": lines[0].metric.unit}
    return base_figure(
        data,
        traces,
        units,
        {"yaxis": axis},
        style,
        shapes=shapes,
        annotations=annotations,
        marks=notes.marks,
        bands=notes.bands,
    )


def _traces(line: Line, start: int, step: int) -> list[dict[str, Any]]:
    """Return the traces of one line: the band from minimum to maximum if they differ, then the mean.

    `meta` of the mean is for the cursor (assets/chart-cursor.js): label, unit, digits, and names of states.
    """
    series, unit = line.series, line.metric.unit
    denominator = _DENOMINATORS.get(unit, 16)
    common = {"type": "scatter", "x0": start, "dx": step, "yaxis": "y", "legendgroup": line.metric.key}
    present = np.isfinite(series.mean)
    is_state = bool(line.states)
    has_band = not is_state and present.any() and not np.array_equal(series.minimum[present], series.maximum[present])
    meta: dict[str, Any] = {"label": line.name, "unit": unit.symbol, "digits": _DIGITS.get(unit, unit.digits)}
    if has_band:
        meta["band"] = True
    if is_state:
        meta |= {"states": [list(state) for state in line.states], "flags": line.metric.kind is Kind.FLAGS}
    mean: dict[str, Any] = {
        **common,
        "mode": "lines",
        "connectgaps": False,
        "y": encode_float32(series.mean, denominator),
        "line": {"color": line.colour, "width": 1.75, **({"shape": "hv"} if is_state else {})},
        "meta": meta,
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
    edge = {**common, "x0": start, "mode": "lines", "line": {"width": 0}}
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
