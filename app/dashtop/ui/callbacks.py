"""The callbacks of the page.

`dcc.Interval` ticks -> `send_request` (clientside) lets one request out at a time -> the store "request" -> `tick` on
the server -> the stores "live" and "figures" -> `paint_live` and `draw_figures` (clientside) show them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dash import ClientsideFunction, Input, Output, no_update

from dashtop.model.text import sanitize_text
from dashtop.ui import ids
from dashtop.ui import snapshot as snapshots
from dashtop.ui.charts.renderer import ChartRenderer
from dashtop.ui.dash_internals import answer_directly
from dashtop.ui.panels import PANELS, PanelContext
from dashtop.ui.parts import DeltaEncoder, Part, RenderCache
from dashtop.ui.past import PastSamples
from dashtop.ui.request import ViewRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dash import Dash
    from flask import Flask

    from dashtop.model.metric import Metric
    from dashtop.model.ports import Services

# A sentence about the history may name a path of any length.
_MAX_HISTORY_STATUS_CHARS: Final = 2000

# The order is that of the parameters of `applyControls` in assets/settings.js.
_CONTROLS: Final = (
    ids.GPU_SELECTOR,
    ids.TIME_RANGE,
    ids.VIEW_MODE,
    ids.UPDATE_INTERVAL,
    ids.TEMPERATURE_UNIT,
    ids.MEMORY_UNIT,
    ids.TIME_ZONE,
    ids.BAR_COLOURS,
)


class PageUpdater:
    """Answer the ticks of all browsers. Thread-safe."""

    def __init__(self, services: Services, metrics: Sequence[Metric[Any]], server: Flask) -> None:
        self._services = services
        self._metrics = metrics
        self._cache = RenderCache(server)
        self._charts = ChartRenderer(services, self._cache)
        self._past = PastSamples(services, self._cache)
        self._delta = DeltaEncoder()
        self._panel_ids = frozenset(panel.id for panel in PANELS)
        # A browser asks for the same panels with every tick.
        self._list_builders = lru_cache(maxsize=64)(list_builders)

    def update(self, request: ViewRequest) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Return the live snapshot for `request`, and its figures; None if the browser has the newest."""
        latest = self._services.latest
        interval_s = latest.request_interval(request.interval_s or latest.interval_s)
        newest = latest.latest()
        if newest is None:
            return snapshots.build_waiting_snapshot(interval_s), None
        sample = newest if request.zoom is None else self._past.find(request.zoom.end_ms, newest)
        gpu = snapshots.find_gpu(sample, request.gpu)
        context = PanelContext(
            services=self._services,
            cache=self._cache,
            sample=sample,
            gpu=gpu,
            request=request,
            is_past=sample is not newest,
        )
        age_s = self._services.clock.monotonic() - newest.monotonic_s
        snapshot, parts = self._build_snapshot(context, interval_s, age_s)
        live = self._delta.encode(snapshot, request.versions, parts)
        figures = self._charts.render(sample, gpu, request, now_ms=newest.time_ms)
        return live, _add_figures(figures, context, self._find_builders(request))

    def _find_builders(self, request: ViewRequest) -> Builders:
        visible = request.visible_panels
        return self._list_builders(self._panel_ids if visible is None else self._panel_ids & visible)

    def _build_snapshot(
        self, context: PanelContext, interval_s: float, age_s: float
    ) -> tuple[dict[str, Any], list[Part]]:
        """Return the snapshot with the data of all visible panels, and their parts.

        `age_s` is the age of the latest sample, also if another one is shown.
        """
        sample, request = context.sample, context.request
        snapshot = snapshots.build_snapshot(
            sample,
            context.gpu,
            self._metrics,
            age_s=age_s,
            interval_s=interval_s,
            alive=self._services.latest.alive(),
        )
        snapshot["is_past"] = context.is_past
        status = sanitize_text(self._services.history.status_message() or "", _MAX_HISTORY_STATUS_CHARS)
        texts = {"history_status": status}
        builders = self._find_builders(request)
        for build_live in builders.live:
            added = dict(build_live(context))
            texts |= added.pop("texts", {})
            snapshot |= added
        parts = {part.name: part for build in builders.parts for part in build(context)}
        return snapshot | {"texts": texts}, list(parts.values())


class Builders(NamedTuple):
    """The functions that build what a page shows, each once: panels may share one."""

    live: tuple[Callable[[PanelContext], Mapping[str, Any]], ...]
    parts: tuple[Callable[[PanelContext], Sequence[Part]], ...]
    figures: tuple[Callable[[PanelContext], Sequence[Part]], ...]


def list_builders(visible: frozenset[str]) -> Builders:
    """Return the functions of the panels with these ids, and of those without one, which are on every page."""
    shown = [panel for panel in PANELS if not panel.id or panel.id in visible]
    return Builders(
        live=tuple(dict.fromkeys(panel.live_data for panel in shown if panel.live_data is not None)),
        parts=tuple(dict.fromkeys(panel.parts for panel in shown if panel.parts is not None)),
        figures=tuple(dict.fromkeys(panel.figures for panel in shown if panel.figures is not None)),
    )


def _add_figures(figures: dict[str, Any] | None, context: PanelContext, builders: Builders) -> dict[str, Any] | None:
    """Return the figures with those of other data than the history that the browser does not have."""
    request = context.request
    parts = [
        part for build in builders.figures for part in build(context) if request.versions.get(part.name) != part.version
    ]
    if not parts:
        return figures
    known = figures or {"charts": {}, "versions": {}}
    return known | {
        "charts": known["charts"] | {part.name: part.build() for part in parts},
        "versions": known["versions"] | {part.name: part.version for part in parts},
    }


def register_callbacks(app: Dash, services: Services, metrics: Sequence[Metric[Any]]) -> None:
    """Register the callbacks of the page on `app`. `metrics` are those that the page shows."""
    updater = PageUpdater(services, metrics, app.server)

    # Figures go through a store: Dash would hold back an answer to the graphs until all of plotly.js is loaded.
    outputs = Output(ids.LIVE, "data"), Output(ids.FIGURES, "data")

    @app.callback(*outputs, Input(ids.REQUEST, "data"), prevent_initial_call=True)
    def tick(request: object) -> tuple[Any, Any]:
        live, figures = updater.update(ViewRequest.parse(request))
        return live, no_update if figures is None else figures

    answer_directly(app, outputs, tick)
    _register_clientside_callbacks(app)


def _register_clientside_callbacks(app: Dash) -> None:
    register: Any = app.clientside_callback
    register(_function("send_request"), Output(ids.REQUEST, "data"), Input(ids.TICK, "n_intervals"))
    register(_function("paint_live"), Input(ids.LIVE, "data"), prevent_initial_call=True)
    register(_function("draw_figures"), Input(ids.FIGURES, "data"), prevent_initial_call=True)
    register(_function("apply_controls"), *(Input(control, "value") for control in _CONTROLS))
    register(
        _function("toggle_settings"),
        Output(ids.SETTINGS_MODAL, "is_open"),
        Input(ids.SETTINGS_BUTTON, "n_clicks"),
        Input(ids.SETTINGS_DONE, "n_clicks"),
        prevent_initial_call=True,
    )


def _function(name: str) -> ClientsideFunction:
    return ClientsideFunction("dashtop", name)
