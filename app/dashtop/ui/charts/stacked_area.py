"""The chart of who holds a GPU's memory: layers on top of each other, in shades of the GPU's one colour."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dashtop.model.metric import Unit
from dashtop.ui.charts.base_figure import framed, note, packed, rule, short
from dashtop.ui.theme import translucent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dashtop.model.sample import SeriesSet
    from dashtop.ui.charts.base_figure import Canvas, Figure
    from dashtop.ui.charts.process_memory import Layer

_GRAIN: Final = 256
# Neighbours differ in lightness, which everybody sees.
_SHADES: Final = (0.7, 0.2, 0.45, 0.1)
# Where a chart is narrower than this, its words are short.
_WIDE_PX: Final = 500


def memory_by_process(
    data: SeriesSet,
    layers: Sequence[Layer],
    rest: Layer | None,
    known: NDArray[np.bool_],
    canvas: Canvas,
    *,
    colour: str,
    total: float | None,
) -> Figure:
    """GiB of each layer upon those before it, and `rest` on top in grey; nothing where `known` is false."""
    shades = [(colour, _SHADES[number % len(_SHADES)]) for number in range(len(layers))]
    stack = [*layers, *([] if rest is None else [rest])]
    tops = np.cumsum([layer.held for layer in stack], axis=0) if stack else np.zeros((0, data.count))
    wide = canvas.width_px >= _WIDE_PX
    areas, edges = [], []
    for number, (layer, top, (tint, shade)) in enumerate(
        zip(stack, tops, [*shades, (canvas.look.neutral, 0.2)], strict=False)
    ):
        there = known & (layer.covered > 0)
        areas.append(_area(data, np.where(known, top, 0.0), translucent(tint, shade), first=number == 0))
        edges.append(_edge(data, layer, np.where(there, top, np.nan), translucent(tint, shade + 0.25), wide=wide))
    ceiling = total or max(float(tops.max(initial=0.0)) * 1.25, 1.0)
    marks = [ceiling * part / 4 for part in range(5)]
    axis = {"range": [0, ceiling * 1.17], "tickvals": marks, "ticktext": [short(mark) for mark in marks]}
    rules = [] if total is None else [rule(total, canvas.look.neutral)]
    notes = [] if total is None else [note(f"VRAM {total:.1f} GiB", total, canvas.look.muted)]
    return framed(data, [*areas, *edges], {"y": Unit.GIBIBYTE}, {"yaxis": axis}, canvas, shapes=rules, notes=notes)


def _area(data: SeriesSet, top: NDArray[np.float64], fill: str, *, first: bool) -> dict[str, Any]:
    """Fill between the layer below and `top`; without height it paints nothing."""
    return {
        **_place(data),
        "y": packed(top, _GRAIN),
        "fill": "tozeroy" if first else "tonexty",
        "fillcolor": fill,
        "line": {"width": 0, "shape": "hv"},
        "hoverinfo": "skip",
    }


def _edge(data: SeriesSet, layer: Layer, top: NDArray[np.float64], colour: str, *, wide: bool) -> dict[str, Any]:
    """Draw the upper edge of a layer, which tells what it is; `meta` is its name for the legend.

    Names come from outside, and Plotly reads tags in them.
    """
    told = np.stack([layer.held, layer.least, layer.most], axis=1)
    detail = f", {layer.detail}" if layer.detail and wide else ""
    symbol = Unit.GIBIBYTE.symbol
    value, least, most = (f"%{{customdata[{column}]:.2f}}" for column in range(3))
    return {
        **_place(data),
        "name": escape(f"{layer.name}{detail}", quote=False),
        "meta": layer.name,
        "y": packed(top, _GRAIN),
        "customdata": {**packed(told, _GRAIN), "shape": f"{len(told)},3"},
        "line": {"width": 1.5, "shape": "hv", "color": colour},
        "connectgaps": False,
        "hovertemplate": f"{value} {symbol}  ({least} to {most})",
    }


def _place(data: SeriesSet) -> dict[str, Any]:
    return {"type": "scatter", "mode": "lines", "x0": data.start_ms, "dx": data.step_ms, "yaxis": "y"}
