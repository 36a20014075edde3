"""The page's frame: header, banner, sections, footer; and the Dash application that serves it."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import dash_bootstrap_components as dbc
from dash import ClientsideFunction, Dash, Input, Output, dcc, html
from dash.exceptions import DependencyException
from flask import abort, jsonify

from dashtop.ui import callbacks as tick
from dashtop.ui import embed, ids
from dashtop.ui.charts.resolution import DEFAULT_RANGE, RANGES_MS
from dashtop.ui.components import attributes, find_metrics, segmented_control
from dashtop.ui.layout.header import header
from dashtop.ui.layout.settings_modal import settings_modal
from dashtop.ui.panels import PANELS, Section
from dashtop.ui.snapshot import listed
from dashtop.ui.static_tree import still
from dashtop.version import __version__

if TYPE_CHECKING:
    from dash.development.base_component import Component
    from flask import Flask, Response

    from dashtop.model.ports import Services

_RANGE_NAMES: Final = {
    "5m": "5 min", "15m": "15 min", "1h": "1 h", "6h": "6 h", "24h": "24 h", "7d": "7 d", "30d": "30 d"
}  # fmt: skip

# What was chosen is applied by small scripts before anything is painted; everything else loads after the body.
_INDEX: Final = """<!DOCTYPE html>
<html lang="en" data-live="loading" data-plotly="PLOTLY" data-ranges="RANGES" data-range="RANGE">
  <head>
    {%metas%}
    <title>{%title%}</title>
    <script src="STATE_SCRIPT"></script>
    <script src="THEME_SCRIPT"></script>
    <link rel="icon" type="image/svg+xml" href="ICON">
    EARLY
    {%css%}
  </head>
  <body>
    {%app_entry%}
    <footer>
      {%config%}
      {%scripts%}
      {%renderer%}
    </footer>
  </body>
</html>"""

# Files that the page loads at another time than Dash would (see assets/view.js for plotly.js).
_NOT_BY_DASH: Final = {
    "STATE_SCRIPT": "head/state.js",
    "THEME_SCRIPT": "head/theme.js",
    "ICON": "head/icon.svg",
    "PLOTLY": "vendor/plotly-basic.min.js",
}

# In the order in which assets/settings.js is told of them.
_CONTROLS: Final = (
    ids.GPU_SELECTOR,
    ids.TIME_RANGE,
    ids.VIEW_MODE,
    ids.UPDATE_INTERVAL,
    ids.TEMPERATURE_UNIT,
    ids.MEMORY_UNIT,
)

# What fits into one packet is not sooner there for being compressed, and a tick fits.
_ONE_PACKET: Final = 1200

# Dash says nothing to the page when a request fails. This hook is told of every answer, and paints it (assets/poll.js).
_HOOKS: Final[Any] = {"callback_resolved": "function(callback, result) { window.dashtop.resolved(callback, result); }"}


def create_dash(
    services: Services, *, server: Flask, assets_folder: str, interval_s: float, url_prefix: str = "/"
) -> Dash:
    """Return the page as a Dash application on `server`, polling every `interval_s` seconds."""
    server.config["COMPRESS_MIN_SIZE"] = _ONE_PACKET
    # Dash's own annotations know neither a Flask server nor a page whose title stays as it is.
    unannotated: dict[str, Any] = {"server": server, "update_title": None}
    app = Dash(
        name="dashtop",
        title="dashtop",
        assets_folder=assets_folder,
        assets_path_ignore=["^head$", "^vendor$"],
        url_base_pathname=url_prefix,
        serve_locally=True,
        compress=True,
        hooks=_HOOKS,
        meta_tags=[{"name": "color-scheme", "content": "light dark"}, {"name": "robots", "content": "noindex"}],
        **unannotated,
    )
    app.index_string = _INDEX.replace("RANGES", " ".join(RANGES_MS)).replace("RANGE", DEFAULT_RANGE)
    for mark, path in _NOT_BY_DASH.items():
        app.index_string = app.index_string.replace(mark, _fingerprinted(app, path))
    app.index_string = app.index_string.replace("EARLY", _early(app))
    app.layout = lambda: still(layout(services, interval_s))
    server.register_error_handler(DependencyException, _no_such_file)
    server.view_functions[f"{url_prefix}<path:path>"] = _nothing_here
    _gate(app)
    tick.register(app, services, listed(find_metrics(layout(services, interval_s))))
    embed.register(app, embed.find_panels(layout(services, interval_s)), url_prefix=url_prefix)
    for panel in PANELS:
        if panel.register is not None:
            panel.register(app, services)
    return app


def _nothing_here(path: str) -> NoReturn:  # noqa: ARG001 - Flask passes it
    """Refuse what is not the page's address, where Dash would answer with its page, to a mistyped health check too."""
    abort(404, "There is nothing at this path.")


def _no_such_file(_error: Exception) -> tuple[Response, int]:
    """Answer for a file of Dash's components that is not there, which Dash takes for a failure of the server."""
    return jsonify(detail="There is no such file; load the page again."), 404


def _early(app: Dash) -> str:
    """Have the browser fetch at once what it would find out last that it needs: the layout, and what draws charts."""
    prefix = app.config.requests_pathname_prefix
    asked = [
        f'<link rel="preload" as="fetch" crossorigin href="{prefix}_dash-{name}">'
        for name in ("layout", "dependencies")
    ]
    drawn = [_fingerprinted(app, _NOT_BY_DASH["PLOTLY"]), f"{prefix}_dash-component-suites/dash/dcc/async-graph.js"]
    return "\n    ".join([*asked, *(f'<link rel="preload" as="script" href="{each}">' for each in drawn)])


def _fingerprinted(app: Dash, path: str) -> str:
    url: str = app.get_asset_url(path)
    return f"{url}?m={int(Path(app.config.assets_folder, path).stat().st_mtime)}"


def _gate(app: Dash) -> None:
    """Let the browser decide when to ask (one request at a time), and keep what is chosen."""
    in_browser: Any = app.clientside_callback
    in_browser(ClientsideFunction("dashtop", "gate"), Output(ids.ASK, "data"), Input(ids.TICK, "n_intervals"))
    in_browser(
        ClientsideFunction("dashtop", "chosen"),
        *(Input(control, "value") for control in _CONTROLS),
    )
    in_browser(
        ClientsideFunction("dashtop", "settings"),
        Output(ids.SETTINGS_MODAL, "is_open"),
        Input(ids.SETTINGS_BUTTON, "n_clicks"),
        Input(ids.SETTINGS_DONE, "n_clicks"),
        prevent_initial_call=True,
    )


def layout(services: Services, interval_s: float) -> Component:
    """Return the page as it stands before the first answer."""
    placed = {section: _placed(section, services) for section in Section}
    return html.Div(
        [
            html.A("Skip to content", href="#content", className="skip-link"),
            header(placed[Section.HEADER]),
            html.Main(
                [_banner(), _gpu_gone(), _skeleton(), html.Div(_sections(placed), className="sections")],
                id="content",
                className="page",
            ),
            _footer(),
            settings_modal({"History": placed[Section.HISTORY], "Current": placed[Section.CURRENT]}, interval_s),
            dcc.Interval(id=ids.TICK, interval=round(interval_s * 1000)),
            dcc.Store(id=ids.ASK),
            dcc.Store(id=ids.LIVE),
        ],
        className="app",
        **attributes(data_interval=str(interval_s)),
    )


def _placed(section: Section, services: Services) -> list[Component]:
    return [panel.layout(services) for panel in PANELS if panel.section is section]


def _banner() -> Component:
    return html.Div(
        [
            html.Span(className="icon icon-alert", **attributes(aria_hidden="true")),
            html.Div([html.Strong(className="banner-title"), html.Span(className="banner-detail")], className="words"),
            dbc.Button("Retry", id=ids.RETRY_BUTTON, size="sm", color="light"),
        ],
        id=ids.ERROR_BANNER,
        className="banner",
        role="alert",
        hidden=True,
    )


def _skeleton() -> Component:
    shapes = ("chart", "chart", "chart", "chart", "card wide", "card wide")
    blocks = [html.Div(className=f"ghost ghost-{shape}") for shape in shapes]
    return html.Div(
        [*blocks, html.P("Waiting for the first reading", className="visually-hidden")],
        id=ids.LOADING_SKELETON,
        className="skeleton grid trends",
        role="status",
    )


def _gpu_gone() -> Component:
    """Return what says that the GPU which was stored or linked to is not there."""
    keep = dbc.Button("Use this GPU", id=ids.GPU_GONE_KEEP, size="sm", color="light")
    return html.Div([html.Span(), keep], id=ids.GPU_GONE, className="remark", role="status", hidden=True)


def _sections(placed: dict[Section, list[Component]]) -> list[Component]:
    names = {name: _RANGE_NAMES[name] for name in RANGES_MS}
    ranges = segmented_control(ids.TIME_RANGE, names, DEFAULT_RANGE, "Time range")
    since = html.Span(className="since", **attributes(data_text="since"))
    trouble = html.P(className="remark", role="status", **attributes(data_text="trouble"))
    unzoom = dbc.Button("Reset zoom", id=ids.ZOOM_RESET, size="sm", color="light", title="Or double-click a chart")
    return [
        html.Section(
            [
                html.Div([html.H2("History"), since, unzoom, ranges], className="section-head"),
                trouble,
                html.Div(placed[Section.HISTORY], className="grid trends"),
            ],
            className="only-single",
            **attributes(aria_label="History"),
        ),
        *placed[Section.ALL_GPUS],
        html.Section(
            [
                html.Div(html.H2("Current"), className="section-head"),
                html.Div(placed[Section.CURRENT], className="grid cards"),
            ],
            className="only-single",
            **attributes(aria_label="Current"),
        ),
    ]


def _footer() -> Component:
    return html.Footer([html.Span(platform.node()), html.Span(f"dashtop {__version__}")], className="foot")
