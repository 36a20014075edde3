"""What all charts are made of: the frame, lines and words across it, packed numbers. What one costs is decided here.

Arrays travel as base64 float32 with `x0` and `dx` in place of timestamps: a fraction of the bytes and of the time
that lists or `go.Figure` take. No template is set, so none of Plotly's 6 kB default travels either.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dashtop.ui.theme import FONT, translucent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from dashtop.model.metric import Unit
    from dashtop.model.sample import SeriesSet
    from dashtop.ui.charts.resolution import Span
    from dashtop.ui.theme import Look

Figure = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Canvas:
    """How and for whom a chart is drawn."""

    look: Look
    width_px: int
    revision: str
    zoom: Span | None = None


def framed(
    data: SeriesSet,
    traces: list[dict[str, Any]],
    units: Mapping[str, Unit],
    axes: dict[str, Any],
    canvas: Canvas,
    *,
    shapes: Sequence[dict[str, Any]] = (),
    notes: Sequence[dict[str, Any]] = (),
    right: int = 12,
) -> Figure:
    """Return a chart of `traces` over the time of `data`; `axes` and `units` are those of its values, by axis."""
    look = canvas.look
    base = {
        "gridcolor": look.grid,
        "zeroline": False,
        "fixedrange": True,
        "ticks": "",
        "automargin": False,
    }
    x_axis = {
        **base,
        "type": "date",  # Plotly shows numbers on it in the viewer's own time zone
        "range": _shown(data, canvas.zoom),
        "hoverformat": "%b %d, %H:%M:%S",
        "showgrid": False,
        "showline": True,
        "linecolor": look.grid,
        "tickformatstops": [
            {"dtickrange": [None, 60_000], "value": "%H:%M:%S"},
            {"dtickrange": [60_000, 86_400_000], "value": "%H:%M"},
            {"dtickrange": [86_400_000, None], "value": "%b %d"},
        ],
        "ticklabelstandoff": 3,
        "spikemode": "across",
        "spikecolor": look.neutral,
        "spikedash": "solid",
        "spikethickness": -2,  # Plotly adds 2 px of contrast around a spike; this leaves one thin line
        "fixedrange": False,
    }
    layout = {
        "margin": {"l": 38, "r": right, "t": 6, "b": 24},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 11, "color": look.muted},
        "showlegend": False,
        "hovermode": "x unified",
        "hoverlabel": {"bgcolor": look.surface, "bordercolor": look.border, "font": {"color": look.text, "size": 12}},
        "dragmode": "zoom",
        "uirevision": canvas.revision,
        "xaxis": x_axis,
        "shapes": list(shapes),
        "annotations": list(notes),
        "meta": {axis: unit.symbol for axis, unit in units.items()},  # assets/units.js converts by it
    }
    for name, axis in axes.items():
        layout[name] = {**base, **axis}
    return {"data": traces, "layout": layout}


def packed(values: NDArray[np.floating], grain: int) -> dict[str, str]:
    """Return numbers as base64 float32, rounded to parts of `grain`."""
    rounded = (np.round(values * grain) / grain).astype("<f4")
    return {"dtype": "f4", "bdata": base64.b64encode(rounded.tobytes()).decode()}


def short(value: float) -> str:
    """Return a number for an axis."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}".removesuffix(".0")  # noqa: PLR2004


def rule(level: float, colour: str, axis: str = "y") -> dict[str, Any]:
    """Return a line across the chart."""
    line = {"color": translucent(colour, 0.75), "width": 1, "dash": "4px,3px"}
    where = {"xref": "paper", "x0": 0, "x1": 1, "yref": axis, "y0": level, "y1": level}
    return {"type": "line", **where, "line": line, "layer": "below"}


def note(
    text: str, level: float, colour: str, axis: str = "y", side: str = "right", *, above: bool = True
) -> dict[str, Any]:
    """Return words at a level of the chart, at its right or left end."""
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


def _shown(data: SeriesSet, zoom: Span | None) -> list[int]:
    if zoom is not None:
        return [zoom.start_ms, zoom.end_ms]
    return [data.start_ms, data.start_ms + max(data.count - 1, 1) * data.step_ms]
