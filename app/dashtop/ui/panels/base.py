"""What a panel is. Each panel is a module of this package that ends in a `Panel`, listed in `panels/__init__.py`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dash import Dash
    from dash.development.base_component import Component

    from dashtop.model.ports import Services
    from dashtop.model.run import Run, RunMark
    from dashtop.model.sample import Event, Gpu, ProcessSpan, Sample, SeriesSet
    from dashtop.ui.charts.base_figure import ChartStyle, Figure
    from dashtop.ui.parts import Part, RenderCache
    from dashtop.ui.request import ViewRequest

Json = Any


class Section(Enum):
    """The section that a panel belongs to. `ui.layout` puts sections on pages."""

    HEADER = "header"
    BUTTONS = "buttons"
    ALERTS = "alerts"
    OVERVIEW = "overview"
    GPU_HEAD = "gpu-head"
    CURRENT = "current"
    GPU_PROCESSES = "gpu-processes"
    HISTORY = "history"
    DETAILS = "details"
    ALL_GPUS = "all-gpus"
    PROCESSES = "processes"
    EVENTS = "events"
    RUNS = "runs"
    USAGE = "usage"
    HOST = "host"
    FLEET = "fleet"


@dataclass(frozen=True, kw_only=True, slots=True)
class PanelContext:
    """What the data of a panel are built from: a sample, and what one browser looks at. `gpu`: the chosen GPU.

    `is_past`: the sample is of a past moment (ui.past), which each viewer chooses, and not the latest one.
    `cache` is shared by all browsers: a key names the moment and everything else that its value depends on.
    """

    services: Services
    cache: RenderCache
    sample: Sample
    gpu: Gpu | None
    request: ViewRequest
    is_past: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ChartData:
    """The data of a chart: series in equal buckets; processes and events of the selected GPU in the same time range.

    A sample covers the `interval_ms` until the next one. `runs`: those of all GPUs, each with its newest marks.
    """

    series: SeriesSet
    processes: tuple[ProcessSpan, ...]
    interval_ms: int
    events: tuple[Event, ...] = ()
    runs: tuple[tuple[Run, tuple[RunMark, ...]], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A history chart: the series it needs, and the function that draws it. Its panel has the id `panel-<id>`.

    `draw` returns None where there is nothing to draw (no GPU): the browser then keeps the chart as it is.
    `needs_events`: also the processes and events of the chosen GPU. `all_gpus`: the series of every GPU, instead of
    those of the chosen one. `choose_metrics`: returns which of the metrics the options of a request ask for, None: all
    of them. `draw` finds the options in its style.
    """

    id: str
    metrics: tuple[str, ...]
    draw: Callable[[ChartData, Sample, Gpu | None, ChartStyle], Figure | None]
    needs_events: bool = False
    all_gpus: bool = False
    choose_metrics: Callable[[Mapping[str, str]], tuple[str, ...]] | None = None

    def list_metrics(self, options: Mapping[str, str]) -> tuple[str, ...]:
        """Return the metrics that are drawn for a request with these options."""
        return self.metrics if self.choose_metrics is None else self.choose_metrics(options)


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """A part of the page: its section, its layout, and the data it adds to each live snapshot.

    A panel with an `id` adds data only while the browser shows the element with that id. `live_data` returns what
    changes with every sample; its key "texts" holds texts by the name in an element's `data-text`. `parts` are sent
    only to browsers that do not have their version, and built only then: results of history queries. `figures` are
    parts that are charts of other data than this machine's history, by the id of the chart.
    """

    section: Section
    id: str = ""
    layout: Callable[[Services], Component]
    live_data: Callable[[PanelContext], Mapping[str, Json]] | None = None
    parts: Callable[[PanelContext], Sequence[Part]] | None = None
    charts: tuple[Chart, ...] = ()
    figures: Callable[[PanelContext], Sequence[Part]] | None = None
    register: Callable[[Dash, Services], None] | None = None
