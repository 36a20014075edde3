"""What a panel is. A panel is one file that ends in a `Panel`, and one line in the tuple of `panels/__init__.py`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dash import Dash
    from dash.development.base_component import Component

    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, ProcessSpan, Sample, SeriesSet
    from dashtop.ui.charts.base_figure import Canvas, Figure

Json = Any


class Place(Enum):
    """Where on the page a panel stands."""

    HEADER = "header"
    TRENDS = "trends"
    CARDS = "cards"
    COMPARE = "compare"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChartData:
    """What a chart is drawn from: series in equal buckets, and what processes held on the chosen GPU meanwhile.

    A reading stands for the `interval_ms` until the next.
    """

    series: SeriesSet
    processes: tuple[ProcessSpan, ...]
    interval_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A history chart: the series it needs (and whether it needs processes), and how it is drawn from them.

    `draw` answers None where there is nothing to draw for (no GPU): the chart is then left as it is.
    """

    id: str
    metrics: tuple[str, ...]
    draw: Callable[[ChartData, Sample, Gpu | None, Canvas], Figure | None]
    processes: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """A part of the page: where it stands, what it looks like, and what it adds to each live frame.

    A panel with an `id` adds to the frame only while a browser shows the element of that id. What it adds under "words"
    is text by the name that stands in an element's data-text.
    """

    place: Place
    id: str = ""
    layout: Callable[[Services], Component]
    frame: Callable[[Sample, Gpu | None], Mapping[str, Json]] | None = None
    charts: tuple[Chart, ...] = ()
    register: Callable[[Dash, Services], None] | None = None
