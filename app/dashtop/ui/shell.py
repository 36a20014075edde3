"""The page's frame: header, banner, sections, footer; and the Dash application that serves it."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import dash_bootstrap_components as dbc
from dash import ClientsideFunction, Dash, Input, Output, dcc, html

from dashtop.ui import embed, ids, tick
from dashtop.ui.panels import PANELS, Place
from dashtop.ui.timeline import DEFAULT_RANGE, RANGES_MS
from dashtop.ui.value import attributes, metrics_in
from dashtop.version import __version__

if TYPE_CHECKING:
    from dash.development.base_component import Component
    from flask import Flask

    from dashtop.domain.services import Services

_RANGE_NAMES: Final = {
    "5m": "5 min", "15m": "15 min", "1h": "1 h", "6h": "6 h", "24h": "24 h", "7d": "7 d", "30d": "30 d"
}  # fmt: skip

# The theme is applied by a small script before anything is painted; everything else loads after the body.
_INDEX: Final = """<!DOCTYPE html>
<html lang="en" data-live="loading" data-plotly="PLOTLY">
  <head>
    {%metas%}
    <title>{%title%}</title>
    <script src="THEME_SCRIPT"></script>
    <link rel="icon" type="image/svg+xml" href="ICON">
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
    "THEME_SCRIPT": "head/theme.js",
    "ICON": "head/icon.svg",
    "PLOTLY": "vendor/plotly-basic.min.js",
}

# Dash says nothing to the page when a request fails. This hook is told of every answer, and paints it (assets/poll.js).
_HOOKS: Final[Any] = {"callback_resolved": "function(callback, result) { window.dashtop.resolved(callback, result); }"}


def create_dash(
    services: Services, *, server: Flask, assets_folder: str, interval_s: float, url_prefix: str = "/"
) -> Dash:
    """Return the page as a Dash application on `server`, polling every `interval_s` seconds."""
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
    app.index_string = _INDEX
    for mark, path in _NOT_BY_DASH.items():
        app.index_string = app.index_string.replace(mark, _fingerprinted(app, path))
    app.layout = lambda: layout(services, interval_s)
    _gate(app)
    tick.register(app, services, metrics_in(layout(services, interval_s)))
    embed.register(app, embed.panels_in(layout(services, interval_s)), url_prefix=url_prefix)
    for panel in PANELS:
        if panel.register is not None:
            panel.register(app, services)
    return app


def _fingerprinted(app: Dash, path: str) -> str:
    url: str = app.get_asset_url(path)
    return f"{url}?m={int(Path(app.config.assets_folder, path).stat().st_mtime)}"


def _gate(app: Dash) -> None:
    """Let the browser decide when to ask: one request at a time."""
    in_browser: Any = app.clientside_callback
    in_browser(
        ClientsideFunction("dashtop", "gate"),
        Output(ids.ASK, "data"),
        Input(ids.TICK, "n_intervals"),
        Input(ids.GPU_SELECTOR, "value"),
        Input(ids.TIME_RANGE, "value"),
    )


def layout(services: Services, interval_s: float) -> Component:
    """Return the page as it stands before the first answer."""
    return html.Div(
        [
            html.A("Skip to content", href="#content", className="skip-link"),
            _header(services),
            html.Main(
                [_banner(), _skeleton(), html.Div(_sections(services), className="sections")],
                id="content",
                className="page",
            ),
            _footer(),
            dcc.Interval(id=ids.TICK, interval=round(interval_s * 1000)),
            dcc.Store(id=ids.ASK),
            dcc.Store(id=ids.LIVE),
        ],
        className="app",
        **attributes(data_interval=str(interval_s)),
    )


def _placed(place: Place, services: Services) -> list[Component]:
    return [panel.layout(services) for panel in PANELS if panel.place is place]


def _header(services: Services) -> Component:
    state = html.Div(
        [
            html.Span(className="dot", **attributes(aria_hidden="true")),
            html.Span("Connecting", className="live-state"),
            # The age changes every second: a screen reader is told the state alone.
            html.Span(className="live-age", **attributes(aria_hidden="true")),
        ],
        id=ids.LIVE_INDICATOR,
        className="live",
        role="status",
        **attributes(aria_live="polite"),
    )
    selector = dbc.Select(
        id=ids.GPU_SELECTOR,
        options=[],
        value="0",
        size="sm",
        persistence=True,
        persistence_type="local",
    )
    return html.Header(
        [
            html.Div(
                [
                    html.Span(className="mark", **attributes(aria_hidden="true")),
                    html.H1("dashtop", className="name"),
                    dbc.Badge("Simulated", className="when-simulated", title="These GPUs are simulated (--demo)."),
                ],
                className="brand",
            ),
            state,
            *_placed(Place.HEADER, services),
            html.Div(
                [html.Label("GPU", htmlFor=ids.GPU_SELECTOR, className="visually-hidden"), selector],
                className="gpu-choice many-gpus",
            ),
            _theme_toggle(),
        ],
        className="bar-top",
    )


def _theme_toggle() -> Component:
    """Return the button; which of its three faces is seen is decided by the root element's data-theme-choice."""
    faces = [
        html.Span(
            [
                html.Span(className=f"icon icon-{choice}", **attributes(aria_hidden="true")),
                html.Span(f"Theme: {choice}", className="visually-hidden"),
            ],
            className=f"face face-{choice}",
        )
        for choice in ("system", "light", "dark")
    ]
    button: Component = dbc.Button(
        faces, id=ids.THEME_TOGGLE, color="link", className="icon-button", title="Theme: system, light or dark"
    )
    return button


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


def _sections(services: Services) -> list[Component]:
    ranges = dbc.RadioItems(
        id=ids.TIME_RANGE,
        options=[{"label": _RANGE_NAMES[name], "value": name} for name in RANGES_MS],
        value=DEFAULT_RANGE,
        inline=True,
        className="segments",
        input_class_name="btn-check",
        label_class_name="segment",
        persistence=True,
        persistence_type="local",
    )
    since = html.Span(className="since", **attributes(data_text="since"))
    unzoom = dbc.Button("Reset zoom", id=ids.ZOOM_RESET, size="sm", color="light", title="Or double click on a chart")
    return [
        html.Section(
            [
                html.Div([html.H2("History"), since, unzoom, ranges], className="section-head"),
                html.Div(_placed(Place.TRENDS, services), className="grid trends"),
            ],
            className="only-single",
            **attributes(aria_label="History"),
        ),
        *_placed(Place.COMPARE, services),
        html.Section(
            [
                html.Div(html.H2("Now"), className="section-head"),
                html.Div(_placed(Place.CARDS, services), className="grid cards"),
            ],
            **attributes(aria_label="Now"),
        ),
    ]


def _footer() -> Component:
    return html.Footer([html.Span(platform.node()), html.Span(f"dashtop {__version__}")], className="foot")
