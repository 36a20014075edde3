"""Charts as plain dicts: series in, Plotly's JSON out. Pure functions."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dashtop.model.metric import Unit
from dashtop.ui.charts.base_figure import framed, note, packed, rule, short
from dashtop.ui.theme import translucent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dashtop.model.metric import Metric, Thresholds
    from dashtop.model.sample import Series, SeriesSet
    from dashtop.ui.charts.base_figure import Canvas, Figure

# Dyadic fractions far below what a chart can show: the freed mantissa bits make the arrays compress to about a third.
_GRAIN = {Unit.PERCENT: 16, Unit.CELSIUS: 16, Unit.GIBIBYTE: 64, Unit.WATT: 4}


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One curve: its values, what they mean, its short name and colour. `total`: the level where it would be full."""

    series: Series
    metric: Metric[Any]
    name: str
    colour: str
    total: float | None = None


def utilization(data: SeriesSet, lines: Sequence[Line], canvas: Canvas) -> Figure:
    """Percent busy, 0 to 100."""
    axis = {"range": [0, 103], "tickvals": [0, 25, 50, 75, 100], "ticktext": ["0", "25", "50", "75", "100%"]}
    return _figure(data, [(line, "y") for line in lines], {"yaxis": axis}, canvas)


def memory(data: SeriesSet, lines: Sequence[Line], canvas: Canvas) -> Figure:
    """Fill of each memory on an axis of its own, from nothing to its total, so that both show how full they are."""
    axes: dict[str, Any] = {}
    notes: list[dict[str, Any]] = []
    rules: list[dict[str, Any]] = []
    curves: list[tuple[Line, str]] = []
    several = len(lines) > 1
    for line, axis, side in zip(lines, ("y", "y2"), ("left", "right"), strict=False):
        ceiling = line.total or max(_peak(line.series) * 1.25, 1.0)
        marks = [ceiling * part / 4 for part in range(5)]
        axes[f"yaxis{axis[1:]}"] = {
            "range": [0, ceiling * 1.17],
            "tickvals": marks,
            "ticktext": [short(mark) for mark in marks],
            **({"tickfont": {"color": line.colour}} if several else {}),
            **({"overlaying": "y", "side": "right", "showgrid": False} if axis == "y2" else {}),
        }
        if line.total is not None:
            notes.append(note(f"{line.name} {line.total:.1f} GiB", ceiling, canvas.look.muted, axis=axis, side=side))
            rules.append(rule(ceiling, canvas.look.neutral, axis=axis))
        curves.append((line, axis))
    # Both totals lie at the same height, so one line marks them.
    return _figure(data, curves, axes, canvas, shapes=rules[:1], notes=notes, right=38 if several else 12)


def temperature(
    data: SeriesSet, line: Line, limits: Thresholds | None, canvas: Canvas, *, critical: str = "critical"
) -> Figure:
    """°C, with lines where it becomes a warning and where it becomes critical, which has a name of its own."""
    marks = (
        []
        if limits is None
        else [
            (name, level, colour)
            for name, level, colour in (
                ("warning", limits.warning, canvas.look.warning),
                (critical, limits.critical, canvas.look.critical),
            )
            if level is not None
        ]
    )
    top = max([_peak(line.series) + 5, *(level + 9 for _, level, _ in marks)])
    axis = {"range": [min(20.0, _floor(line.series) - 5), top], "dtick": 20, "ticksuffix": "°"}
    return _figure(
        data,
        [(line, "y")],
        {"yaxis": axis},
        canvas,
        shapes=[rule(level, colour) for _, level, colour in marks],
        notes=[note(f"{name} {level:.0f} °C", level, colour, above=name == critical) for name, level, colour in marks],
    )


def power(data: SeriesSet, line: Line, limit: float | None, canvas: Canvas) -> Figure:
    """Watts from nothing to the limit that the board is held to at present, which has a line."""
    top = max(_peak(line.series) * 1.1, (limit or 0) * 1.17, 10.0)
    axis = {"range": [0, top], "nticks": 5}
    rules, notes = [], []
    if limit is not None:
        rules.append(rule(limit, canvas.look.warning))
        notes.append(note(f"limit {limit:.0f} W", limit, canvas.look.warning))
    return _figure(data, [(line, "y")], {"yaxis": axis}, canvas, shapes=rules, notes=notes)


def empty() -> Figure:
    """Return a chart with nothing on it: what stands there until the first one has arrived."""
    clear = "rgba(0,0,0,0)"
    axis = {"visible": False}
    return {"data": [], "layout": {"paper_bgcolor": clear, "plot_bgcolor": clear, "xaxis": axis, "yaxis": axis}}


def _figure(
    data: SeriesSet,
    curves: Sequence[tuple[Line, str]],
    axes: dict[str, Any],
    canvas: Canvas,
    *,
    shapes: Sequence[dict[str, Any]] = (),
    notes: Sequence[dict[str, Any]] = (),
    right: int = 12,
) -> Figure:
    traces = [trace for line, axis in curves for trace in _traces(line, axis, data.start_ms, data.step_ms)]
    units = {axis: line.metric.unit for line, axis in curves}
    return framed(data, traces, units, axes, canvas, shapes=shapes, notes=notes, right=right)


def _traces(line: Line, axis: str, start: int, step: int) -> list[dict[str, Any]]:
    series, unit = line.series, line.metric.unit
    colour = line.colour
    place = {"type": "scatter", "x0": start, "dx": step, "yaxis": axis, "legendgroup": line.metric.key}
    quiet = {**place, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    grain = _GRAIN.get(unit, 16)
    traces: list[dict[str, Any]] = []
    present = np.isfinite(series.mean)
    if present.any() and not np.array_equal(series.minimum[present], series.maximum[present]):
        # From the first reading to the last: beyond them there is nothing to close a gap to.
        first, last = int(np.argmax(present)), len(present) - int(np.argmax(present[::-1]))
        quiet["x0"] = start + first * step
        low, high = (
            packed(_closed(values, present, series.mean)[first:last], grain)
            for values in (series.minimum, series.maximum)
        )
        fill = {"fill": "tonexty", "fillcolor": translucent(colour, 0.16)}
        traces += [{**quiet, "y": low}, {**quiet, **fill, "y": high}]
    symbol = f" {unit.symbol}" if unit.symbol else ""
    curve: dict[str, Any] = {
        **place,
        "name": line.name,
        "mode": "lines",
        "connectgaps": False,
        "y": packed(series.mean, grain),
        "line": {"color": colour, "width": 1.75},
        "hovertemplate": f"%{{y:.1f}}{symbol}",
    }
    if traces:
        # The browser knows these two of each bucket from the band (assets/plots.js).
        curve["hovertemplate"] = f"%{{y:.1f}}{symbol}  (%{{customdata[0]:.1f}} to %{{customdata[1]:.1f}})"
    alone = _alone(present)
    if alone.any():
        # A line needs two points; a reading between two gaps would be invisible without a dot.
        sizes = {"dtype": "u1", "bdata": base64.b64encode((alone * 5).astype(np.uint8).tobytes()).decode()}
        curve |= {"mode": "lines+markers", "marker": {"size": sizes, "color": colour, "line": {"width": 0}}}
    return [*traces, curve]


def _closed(values: NDArray[np.float32], present: NDArray[np.bool_], mean: NDArray[np.float32]) -> NDArray[np.float32]:
    """Close the band over gaps: Plotly would fill across them, and a band without height paints nothing."""
    if present.all():
        return values
    where = np.arange(len(values))
    bridge = np.interp(where, where[present], mean[present]).astype(np.float32)
    return np.where(present, values, bridge)


def _alone(present: NDArray[np.bool_]) -> NDArray[np.bool_]:
    alone = present.copy()
    alone[1:] &= ~present[:-1]
    alone[:-1] &= ~present[1:]
    return alone


def _peak(series: Series) -> float:
    return float(np.nanmax(series.maximum)) if np.isfinite(series.maximum).any() else 0.0


def _floor(series: Series) -> float:
    return float(np.nanmin(series.minimum)) if np.isfinite(series.minimum).any() else 25.0
