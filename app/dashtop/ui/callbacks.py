"""The answer to a tick: the live frame, and those charts whose newest bucket has become complete.

One callback serves the whole page, so a browser has one small request a tick and never two at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dash import Input, Output

from dashtop.model.text import sanitize_text
from dashtop.ui import ids
from dashtop.ui import snapshot as frames
from dashtop.ui.charts.renderer import ChartRenderer
from dashtop.ui.delta import Held
from dashtop.ui.gpu_grid import GpuGrid
from dashtop.ui.panels import PANELS
from dashtop.ui.render_cache import RenderCache
from dashtop.ui.request import ViewRequest
from dashtop.ui.sparklines import trail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dash import Dash

    from dashtop.model.metric import Metric
    from dashtop.model.ports import Services

_LONGEST: Final = 2000  # of a sentence about the history, which may name a path of any bytes


def register(app: Dash, services: Services, metrics: Sequence[Metric[Any]]) -> None:
    """Answer ticks on `app` with these metrics."""
    shared = RenderCache(app.server)
    trends, fleet, held = ChartRenderer(services, shared), GpuGrid(services, shared), Held()

    # Charts travel in the frame: Dash would hold back an answer to them until all of plotly.js has been loaded.
    @app.callback(Output(ids.LIVE, "data"), Input(ids.ASK, "data"), prevent_initial_call=True)
    def tick(asked: object) -> dict[str, Any]:
        return answer(services, trends, fleet, held, metrics=metrics, request=ViewRequest.parse(asked))


def answer(
    services: Services,
    trends: ChartRenderer,
    fleet: GpuGrid,
    held: Held,
    *,
    metrics: Sequence[Metric[Any]],
    request: ViewRequest,
) -> dict[str, Any]:
    """Return the live frame for `request`; its `figures` are the charts to draw anew, by id, and often none."""
    interval_s = services.latest.request_interval(request.interval_s or services.latest.interval_s)
    sample = services.latest.latest()
    if sample is None:
        return frames.waiting(interval_s)
    gpu = frames.chosen_gpu(sample, request.gpu)
    live = frames.build_snapshot(
        sample,
        gpu,
        metrics,
        age_s=services.clock.monotonic() - sample.monotonic_s,
        interval_s=interval_s,
        alive=services.latest.alive(),
    )
    words = {"trouble": sanitize_text(services.history.status_message() or "", _LONGEST)}
    for panel in PANELS:
        if panel.live_data is not None and (not panel.id or request.shown is None or panel.id in request.shown):
            added = dict(panel.live_data(sample, gpu))
            words |= added.pop("words", {})
            live |= added
    live = held.withhold(live | {"words": words}, request.held)
    if request.compare:
        return live | fleet.frame(sample, request)
    return live | trail(services, sample, gpu, request.trail) | trends.drawn(sample, gpu, request)
