"""What a panel is. Each panel is a module of this package that ends in a `Panel`, listed in `panels/__init__.py`."""

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
    from dashtop.ui.charts.base_figure import ChartStyle, Figure

Json = Any


class Section(Enum):
    """The section of the page that a panel belongs to."""

    HEADER = "header"
    HISTORY = "history"
    CURRENT = "current"
    ALL_GPUS = "all-gpus"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChartData:
    """The data of a chart: series in equal buckets, and the processes on the selected GPU in the same time range.

    A sample covers the `interval_ms` until the next one.
    """

    series: SeriesSet
    processes: tuple[ProcessSpan, ...]
    interval_ms: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A history chart: the series it needs, and the function that draws it.

    `draw` returns None where there is nothing to draw (no GPU): the browser then keeps the chart as it is.
    """

    id: str
    metrics: tuple[str, ...]
    draw: Callable[[ChartData, Sample, Gpu | None, ChartStyle], Figure | None]
    needs_processes: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """A part of the page: its section, its layout, and the data it adds to each live snapshot.

    A panel with an `id` adds data only while the browser shows the element with that id. The key "texts" of that data
    holds texts by the name in an element's `data-text`.
    """

    section: Section
    id: str = ""
    layout: Callable[[Services], Component]
    live_data: Callable[[Sample, Gpu | None], Mapping[str, Json]] | None = None
    charts: tuple[Chart, ...] = ()
    register: Callable[[Dash, Services], None] | None = None
