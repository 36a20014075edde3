"""The base of every chart: layout, axes, threshold lines, annotations, event ticks and the encoding of arrays.

Arrays are sent as base64 float32, and time as `x0` and `dx`: a fraction of the bytes and of the CPU time of lists of
timestamps or of `go.Figure`. No template is set, so Plotly's default template (6 kB) is not sent either. The page draws
cursor and values itself (assets/chart-cursor.js): Plotly's hover costs 10 ms a chart, and its label hides the lines.
"""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from dashtop.ui.theme import FONT, with_alpha

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from dashtop.model.metric import Unit
    from dashtop.model.sample import SeriesSet
    from dashtop.ui.charts.resolution import TimeSpan
    from dashtop.ui.theme import ChartTheme

Figure = dict[str, Any]

# Memory sizes are powers of two, and 1.25 and 1.5 times those: 4, 5, 6, 8, 10, 12, …
_TICK_DISTANCES: Final = (0.25, 0.5, 1, 2, 3, *(step << power for power in range(20) for step in (4, 5, 6)))
_HEADROOM: Final = 1.17
"""End of an axis as a multiple of the capacity (also in assets/units.js)."""
_LEFT_PX, _RIGHT_PX = 54, 12
"""Margins of all charts: their time axes are aligned."""
_PX_PER_TICK: Final = 76
_MAX_TIME_TICKS: Final = 8
_LARGER_UNITS: Final = {"MB/s": "GB/s", "Mbit/s": "Gbit/s", "Wh": "kWh"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ChartStyle:
    """How charts are drawn for one browser: its theme, its width in pixels and its zoom.

    `revision` becomes Plotly's `uirevision`: while it is the same, Plotly keeps what the user has changed.
    `recorded_from_ms`: when the history begins, if that is later than the chosen range. `options`: choices of the
    browser that a chart may depend on.
    """

    theme: ChartTheme
    width_px: int
    revision: str
    zoom: TimeSpan | None = None
    recorded_from_ms: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)


_STRIP_HEIGHT: Final = 0.035
"""Of a strip at the upper edge, as a share of the chart's height."""
_AXIS_STRIP_PX: Final = (-2, -6)
"""Edges of a strip below the time axis, where no line or label is."""
_LABEL_DISTANCE_PX, _AXIS_STRIP_LABEL_DISTANCE_PX = 3, 7
"""Between the time axis and its labels, without and with a strip there."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A tick at the time axis, and its text. `severity`: "", "info", "warning" or "critical"."""

    time_ms: int
    text: str
    severity: str = ""


@dataclass(frozen=True, slots=True)
class Band:
    """A coloured span [start_ms, end_ms) of time, and its text.

    `strip`: only a strip, at the upper edge of the chart or below its time axis; None: the whole height.
    """

    start_ms: int
    end_ms: int
    text: str
    colour: str
    strip: Literal["top", "axis"] | None = None


def base_figure(
    data: SeriesSet,
    traces: list[dict[str, Any]],
    units: Mapping[str, Unit],
    axes: dict[str, Any],
    style: ChartStyle,
    *,
    shapes: Sequence[dict[str, Any]] = (),
    annotations: Sequence[dict[str, Any]] = (),
    marks: Sequence[Mark] = (),
    bands: Sequence[Band] = (),
) -> Figure:
    """Return a figure of `traces` over the time range of `data`.

    `axes` maps "yaxis" to its layout, `units` maps "y" to the unit of its values. Beside what Plotly draws the figure
    has `marks` and `bands` with their texts, for the cursor.
    """
    theme = style.theme
    axis_defaults = {
        "gridcolor": theme.grid,
        "zeroline": False,
        "fixedrange": True,
        "ticks": "",
        "automargin": False,
        "tickangle": 0,
    }
    x_axis = {
        **axis_defaults,
        "type": "date",  # Plotly shows numbers on a date axis in the browser's time zone
        "range": _time_range(data, style.zoom),
        "showgrid": False,
        "showline": True,
        "linecolor": theme.grid,
        "nticks": min(max(style.width_px // _PX_PER_TICK, 2), _MAX_TIME_TICKS),
        "tickformatstops": [
            {"dtickrange": [None, 60_000], "value": "%H:%M:%S"},
            {"dtickrange": [60_000, 86_400_000], "value": "%H:%M"},
            {"dtickrange": [86_400_000, None], "value": "%b %d"},
        ],
        "ticklabelstandoff": (
            _AXIS_STRIP_LABEL_DISTANCE_PX if any(band.strip == "axis" for band in bands) else _LABEL_DISTANCE_PX
        ),
        "fixedrange": False,
    }
    shapes = [*shapes, *map(_band_shape, bands), *(_mark_shape(mark, theme) for mark in marks)]
    missing = _missing_trace(data, axes, style)
    layout = {
        "margin": {"l": _LEFT_PX, "r": _RIGHT_PX, "t": 6, "b": 24},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 11, "color": theme.muted},
        "showlegend": False,
        "hovermode": False,
        "dragmode": "zoom",
        "uirevision": style.revision,
        "xaxis": x_axis,
        "shapes": shapes,
        "annotations": list(annotations),
        "meta": {axis: unit.symbol for axis, unit in units.items()},  # assets/units.js converts units by it
    }
    for name, axis in axes.items():
        layout[name] = {**axis_defaults, **axis}
    figure: Figure = {"data": [*missing, *traces], "layout": layout}
    if marks:
        figure["marks"] = [[mark.time_ms, mark.text] for mark in marks]
    if bands:
        figure["bands"] = [[band.start_ms, band.end_ms, band.text] for band in bands]
    return figure


def message_figure(text: str, style: ChartStyle) -> Figure:
    """Return a figure without axes that says why there is nothing to draw."""
    hidden = {"visible": False, "fixedrange": True}
    note = {
        "text": text,
        "xref": "paper",
        "yref": "paper",
        "x": 0.5,
        "y": 0.5,
        "showarrow": False,
        "font": {"size": 13, "color": style.theme.muted},
    }
    return {
        "data": [],
        "layout": {
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": FONT},
            "hovermode": False,
            "margin": {"l": _RIGHT_PX, "r": _RIGHT_PX, "t": 6, "b": 24},
            "xaxis": hidden,
            "yaxis": hidden,
            "shapes": [],
            "annotations": [note],
        },
        "message": text,
    }


def encode_float32(values: NDArray[np.floating], denominator: int) -> dict[str, str]:
    """Return values as base64 float32 for Plotly, rounded to multiples of 1 / `denominator`."""
    rounded = (np.round(values * denominator) / denominator).astype("<f4")
    return {"dtype": "f4", "bdata": base64.b64encode(rounded.tobytes()).decode()}


def capacity_axis(capacity: float) -> dict[str, Any]:
    """Return a y axis from 0 to `capacity` in GiB with round ticks, and room above for an annotation."""
    distance = next(each for each in _TICK_DISTANCES if each >= capacity / 4)
    # A GPU of 24 GiB reports 23.99: its last tick is 24.
    ticks = [number * distance for number in range(int(1.005 * capacity / distance) + 1)]
    return {"range": [0, capacity * _HEADROOM], "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def round_axis(highest: float, unit: Unit) -> dict[str, Any]:
    """Return a y axis from 0 to above `highest` with at most five round ticks; the last one has the unit."""
    top = max(highest * 1.1, 1.0)
    power = 10.0 ** math.floor(math.log10(top / 4))
    distance = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= top / 4)
    ticks = [number * distance for number in range(int(top / distance) + 1)]
    symbol, factor = unit.symbol, 1.0
    if symbol in _LARGER_UNITS and ticks[-1] >= 1000:  # noqa: PLR2004 - from kilo to mega
        symbol, factor = _LARGER_UNITS[symbol], 1000.0
    texts = [f"{tick / factor:g}" for tick in ticks]
    if symbol:
        texts[-1] = f"{texts[-1]} {symbol}"
    return {"range": [0, top], "tickvals": ticks, "ticktext": texts}


def hline(level: float, colour: str, axis: str = "y") -> dict[str, Any]:
    """Return a dashed horizontal line across the chart."""
    line = {"color": with_alpha(colour, 0.75), "width": 1, "dash": "4px,3px"}
    position = {"xref": "paper", "x0": 0, "x1": 1, "yref": axis, "y0": level, "y1": level}
    return {"type": "line", **position, "line": line, "layer": "below"}


def annotation(
    text: str, level: float, colour: str, axis: str = "y", side: str = "right", *, above: bool = True
) -> dict[str, Any]:
    """Return a text at a level of the chart, at its right or left edge."""
    return {
        "text": text,
        "xref": "paper",
        "x": 1 if side == "right" else 0,
        "xanchor": side,
        "yref": axis,
        "y": level,
        "yanchor": "bottom" if above else "top",
        "showarrow": False,
        "borderpad": 1,
        "font": {"size": 11, "color": colour},
    }


def _time_range(data: SeriesSet, zoom: TimeSpan | None) -> list[int]:
    if zoom is not None:
        return [zoom.start_ms, zoom.end_ms]
    return [data.start_ms, data.start_ms + max(data.count - 1, 1) * data.step_ms]


def _band_shape(band: Band) -> dict[str, Any]:
    shape = {
        "type": "rect",
        "x0": band.start_ms,
        "x1": band.end_ms,
        "yref": "paper",
        "y0": 0 if band.strip is None else 1 - _STRIP_HEIGHT,
        "y1": 1,
        "line": {"width": 0},
        "fillcolor": with_alpha(band.colour, 0.18 if band.strip is None else 0.45),
        "layer": "below",
    }
    if band.strip == "axis":
        low, high = _AXIS_STRIP_PX
        shape |= {"ysizemode": "pixel", "yanchor": 0, "y0": low, "y1": high, "layer": "above"}
    return shape


def _mark_shape(mark: Mark, theme: ChartTheme) -> dict[str, Any]:
    colour = {"warning": theme.warning, "critical": theme.critical}.get(mark.severity, theme.neutral)
    position = {"x0": mark.time_ms, "x1": mark.time_ms, "yref": "paper", "y0": 0, "y1": 0.07}
    return {"type": "line", **position, "line": {"color": colour, "width": 2}}


def _missing_trace(data: SeriesSet, axes: Mapping[str, Any], style: ChartStyle) -> list[dict[str, Any]]:
    """Return the hatched area of the time before the history begins."""
    end_ms = style.recorded_from_ms
    if end_ms is None or end_ms <= data.start_ms + data.step_ms or "range" not in axes["yaxis"]:
        return []
    high = axes["yaxis"]["range"][1]
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "x0": data.start_ms,
            "dx": end_ms - data.start_ms,
            "yaxis": "y",
            "y": encode_float32(np.array([high, high]), 16),
            "fill": "tozeroy",
            "fillcolor": "rgba(0,0,0,0)",
            "fillpattern": {"shape": "/", "size": 7, "solidity": 0.15, "fgcolor": style.theme.border},
            "line": {"width": 0},
            "meta": "missing",
        }
    ]
