"""The base of every chart: layout, axes, threshold lines, annotations and the encoding of arrays.

Arrays are sent as base64 float32, and time as `x0` and `dx`: a fraction of the bytes and of the CPU time of lists of
timestamps or of `go.Figure`. No template is set, so Plotly's default template (6 kB) is not sent either.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

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


@dataclass(frozen=True, kw_only=True, slots=True)
class ChartStyle:
    """How charts are drawn for one browser: its theme, its width in pixels and its zoom.

    `revision` becomes Plotly's `uirevision`: while it is the same, Plotly keeps what the user has changed.
    """

    theme: ChartTheme
    width_px: int
    revision: str
    zoom: TimeSpan | None = None


def base_figure(
    data: SeriesSet,
    traces: list[dict[str, Any]],
    units: Mapping[str, Unit],
    axes: dict[str, Any],
    style: ChartStyle,
    *,
    shapes: Sequence[dict[str, Any]] = (),
    annotations: Sequence[dict[str, Any]] = (),
    right: int = 12,
) -> Figure:
    """Return a figure of `traces` over the time range of `data`.

    `axes` maps "yaxis", "yaxis2" to their layout, `units` maps "y", "y2" to the unit of their values, and `right` is
    the right margin in pixels.
    """
    theme = style.theme
    axis_defaults = {
        "gridcolor": theme.grid,
        "zeroline": False,
        "fixedrange": True,
        "ticks": "",
        "automargin": False,
    }
    x_axis = {
        **axis_defaults,
        "type": "date",  # Plotly shows numbers on a date axis in the browser's time zone
        "range": _time_range(data, style.zoom),
        "hoverformat": "%b %d, %H:%M:%S",
        "showgrid": False,
        "showline": True,
        "linecolor": theme.grid,
        "tickangle": 0,
        "tickformatstops": [
            {"dtickrange": [None, 60_000], "value": "%H:%M:%S"},
            {"dtickrange": [60_000, 86_400_000], "value": "%H:%M"},
            {"dtickrange": [86_400_000, None], "value": "%b %d"},
        ],
        "ticklabelstandoff": 3,
        "spikemode": "across",
        "spikecolor": theme.neutral,
        "spikedash": "solid",
        "spikethickness": -2,  # Plotly adds 2 px of contrast around a spike; this leaves one thin line
        "fixedrange": False,
    }
    layout = {
        "margin": {"l": 42, "r": right, "t": 6, "b": 24},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 11, "color": theme.muted},
        "showlegend": False,
        "hovermode": "x unified",
        "hoverlabel": {
            "bgcolor": theme.surface,
            "bordercolor": theme.border,
            "font": {"color": theme.text, "size": 12},
        },
        "dragmode": "zoom",
        "uirevision": style.revision,
        "xaxis": x_axis,
        "shapes": list(shapes),
        "annotations": list(annotations),
        "meta": {axis: unit.symbol for axis, unit in units.items()},  # assets/units.js converts units by it
    }
    for name, axis in axes.items():
        layout[name] = {**axis_defaults, **axis}
    return {"data": traces, "layout": layout}


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
