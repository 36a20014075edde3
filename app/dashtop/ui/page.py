"""The page: its layout, its scripts, and the Dash application that serves it."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import dash_bootstrap_components as dbc
from dash import Dash, dcc, html

from dashtop.ui import embed, ids
from dashtop.ui.callbacks import register_callbacks
from dashtop.ui.charts.resolution import DEFAULT_RANGE, RANGES_MS
from dashtop.ui.components import attributes, find_metrics, segmented_control
from dashtop.ui.dash_internals import HOOKS, build_preload_links, refuse_unknown_paths
from dashtop.ui.layout.header import header
from dashtop.ui.layout.settings_modal import settings_modal
from dashtop.ui.panels import PANELS, Section
from dashtop.ui.snapshot import select_metrics
from dashtop.ui.static_tree import build_static_tree
from dashtop.version import __version__

if TYPE_CHECKING:
    from dash.development.base_component import Component
    from flask import Flask

    from dashtop.model.ports import Services

_RANGE_NAMES: Final = {
    "5m": "5 min", "15m": "15 min", "1h": "1 h", "6h": "6 h", "24h": "24 h", "7d": "7 d", "30d": "30 d"
}  # fmt: skip

# The scripts of assets/, in the order in which they run: each may use those before it. Dash's own scan of the folder
# finds style sheets only. Those in <head> apply stored settings before anything is painted.
HEAD_SCRIPTS: Final = ("dash-internals.js", "settings-store.js", "theme.js")
SCRIPTS: Final = (
    "units.js",
    "live-values.js",
    "store-delta.js",
    "static-tree.js",
    "panels.js",
    "panels-hardware.js",
    "panels-processes.js",
    "sparklines.js",
    "gpu-grid.js",
    "charts.js",
    "view-request.js",
    "polling.js",
    "settings.js",
    "settings-export.js",
    "compact.js",
)
_ICON: Final = "icon.svg"
_PLOTLY: Final = "vendor/plotly-basic.min.js"

_INDEX: Final = """<!DOCTYPE html>
<html lang="en" data-live="loading" data-plotly="PLOTLY" data-ranges="RANGES" data-range="RANGE">
  <head>
    {%metas%}
    <title>{%title%}</title>
    HEAD_SCRIPTS
    <link rel="icon" type="image/svg+xml" href="ICON">
    PRELOADS
    {%css%}
  </head>
  <body>
    {%app_entry%}
    <footer>
      {%config%}
      {%scripts%}
      BODY_SCRIPTS
      {%renderer%}
    </footer>
  </body>
</html>"""

# An answer that fits into one packet does not arrive sooner if it is compressed, and most ticks fit.
_COMPRESS_MIN_BYTES: Final = 1200


def create_dash(
    services: Services, *, server: Flask, assets_folder: str, interval_s: float, url_prefix: str = "/"
) -> Dash:
    """Return the page as a Dash application on `server` that polls every `interval_s` seconds."""
    server.config["COMPRESS_MIN_SIZE"] = _COMPRESS_MIN_BYTES
    # Dash's annotations do not allow these two.
    untyped: dict[str, Any] = {"server": server, "update_title": None}
    app = Dash(
        name="dashtop",
        title="dashtop",
        assets_folder=assets_folder,
        assets_ignore=r"\.js$",
        assets_path_ignore=["^vendor$"],
        url_base_pathname=url_prefix,
        serve_locally=True,
        compress=True,
        hooks=HOOKS,
        meta_tags=[{"name": "color-scheme", "content": "light dark"}, {"name": "robots", "content": "noindex"}],
        **untyped,
    )
    app.index_string = _build_index(app)
    app.layout = lambda: build_static_tree(layout(services, interval_s))
    refuse_unknown_paths(server, url_prefix)
    page = layout(services, interval_s)
    register_callbacks(app, services, select_metrics(find_metrics(page)))
    embed.register(app, embed.find_panels(page), url_prefix=url_prefix)
    for panel in PANELS:
        if panel.register is not None:
            panel.register(app, services)
    return app


def _build_index(app: Dash) -> str:
    plotly_url = _asset_url(app, _PLOTLY)
    replacements = {
        "HEAD_SCRIPTS": _build_script_tags(app, HEAD_SCRIPTS),
        "BODY_SCRIPTS": _build_script_tags(app, SCRIPTS),
        "ICON": _asset_url(app, _ICON),
        "PRELOADS": build_preload_links(app, plotly_url),
        "PLOTLY": plotly_url,
        "RANGES": " ".join(RANGES_MS),
        "RANGE": DEFAULT_RANGE,
    }
    index = _INDEX
    for placeholder, text in replacements.items():
        index = index.replace(placeholder, text)
    return index


def _build_script_tags(app: Dash, names: tuple[str, ...]) -> str:
    return "\n".join(f'<script src="{_asset_url(app, name)}"></script>' for name in names)


def _asset_url(app: Dash, path: str) -> str:
    """Return the address of a file in assets/, with its modification time so that browsers cache no older one."""
    url: str = app.get_asset_url(path)
    return f"{url}?m={int(Path(app.config.assets_folder, path).stat().st_mtime)}"


def layout(services: Services, interval_s: float) -> Component:
    """Return the page before the first answer."""
    panels = {section: [panel.layout(services) for panel in PANELS if panel.section is section] for section in Section}
    return html.Div(
        [
            html.A("Skip to content", href="#content", className="skip-link"),
            header(panels[Section.HEADER]),
            html.Main(
                [
                    _build_error_banner(),
                    _build_gpu_gone_notice(),
                    _build_skeleton(),
                    html.Div(_build_sections(panels), className="sections"),
                ],
                id="content",
                className="page",
            ),
            _build_footer(),
            settings_modal({"History": panels[Section.HISTORY], "Current": panels[Section.CURRENT]}, interval_s),
            dcc.Interval(id=ids.TICK, interval=round(interval_s * 1000)),
            dcc.Store(id=ids.REQUEST),
            dcc.Store(id=ids.LIVE),
            dcc.Store(id=ids.FIGURES),
        ],
        className="app",
        **attributes(data_interval=str(interval_s)),
    )


def _build_error_banner() -> Component:
    return html.Div(
        [
            html.Span(className="icon icon-alert", **attributes(aria_hidden="true")),
            html.Div(
                [html.Strong(className="banner-title"), html.Span(className="banner-detail")], className="banner-text"
            ),
            dbc.Button("Retry", id=ids.RETRY_BUTTON, size="sm", color="light"),
        ],
        id=ids.ERROR_BANNER,
        className="banner",
        role="alert",
        hidden=True,
    )


def _build_skeleton() -> Component:
    shapes = ("chart", "chart", "chart", "chart", "card wide", "card wide")
    blocks = [html.Div(className=f"skeleton-block skeleton-{shape}") for shape in shapes]
    return html.Div(
        [*blocks, html.P("Waiting for the first reading", className="visually-hidden")],
        id=ids.LOADING_SKELETON,
        className="skeleton grid trends",
        role="status",
    )


def _build_gpu_gone_notice() -> Component:
    """Return the notice that the GPU in the address or in the stored settings does not exist."""
    keep = dbc.Button("Use this GPU", id=ids.GPU_GONE_KEEP, size="sm", color="light")
    return html.Div([html.Span(), keep], id=ids.GPU_GONE, className="notice-line", role="status", hidden=True)


def _build_sections(panels: dict[Section, list[Component]]) -> list[Component]:
    names = {name: _RANGE_NAMES[name] for name in RANGES_MS}
    ranges = segmented_control(ids.TIME_RANGE, names, DEFAULT_RANGE, "Time range")
    since = html.Span(className="since", **attributes(data_since=""))
    status = html.P(className="notice-line", role="status", **attributes(data_text="history_status"))
    unzoom = dbc.Button("Reset zoom", id=ids.ZOOM_RESET, size="sm", color="light", title="Or double-click a chart")
    return [
        html.Section(
            [
                html.Div([html.H2("History"), since, unzoom, ranges], className="section-header"),
                status,
                html.Div(panels[Section.HISTORY], className="grid trends"),
            ],
            className="only-single",
            **attributes(aria_label="History"),
        ),
        *panels[Section.ALL_GPUS],
        html.Section(
            [
                html.Div(html.H2("Current"), className="section-header"),
                html.Div(panels[Section.CURRENT], className="grid cards"),
            ],
            className="only-single",
            **attributes(aria_label="Current"),
        ),
    ]


def _build_footer() -> Component:
    return html.Footer([html.Span(platform.node()), html.Span(f"dashtop {__version__}")], className="footer")
