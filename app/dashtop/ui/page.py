"""The page: its scripts, and the Dash application that serves it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dashtop.ui import bundles, embed, service_worker
from dashtop.ui.bundles import Bundle
from dashtop.ui.callbacks import register_callbacks
from dashtop.ui.charts.resolution import DEFAULT_RANGE, RANGES_MS
from dashtop.ui.components import find_metrics
from dashtop.ui.dash_internals import (
    HOOKS,
    RelativeDash,
    build_preload_links,
    build_static_tree,
    refuse_unknown_paths,
)
from dashtop.ui.layout import build_layout
from dashtop.ui.pages import find_landing, list_pages
from dashtop.ui.panels import PANELS
from dashtop.ui.snapshot import select_metrics
from dashtop.ui.time_zone import find_server_zone

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dash import Dash
    from flask import Flask

    from dashtop.model.ports import Services

# The scripts of assets/, in the order in which they run: each may use those before it. Those in <head> apply stored
# settings before anything is painted.
HEAD_SCRIPTS: Final = ("dash-internals.js", "settings-store.js", "theme.js")
SCRIPTS: Final = (
    "times.js",
    "units.js",
    "live-values.js",
    "store-delta.js",
    "static-tree.js",
    "panels.js",
    "panels-hardware.js",
    "process-tools.js",
    "panels-processes.js",
    "sparklines.js",
    "gpu-grid.js",
    "gpu-table.js",
    "overview.js",
    "charts.js",
    "chart-cursor.js",
    "chart-table.js",
    "chart-picker.js",
    "panels-gpu.js",
    "timeline.js",
    "events.js",
    "alerts.js",
    "usage.js",
    "runs.js",
    "fleet.js",
    "popover.js",
    "view-request.js",
    "stored-page.js",
    "polling.js",
    "time-span.js",
    "navigation.js",
    "notifications.js",
    "watches.js",
    "process-actions.js",
    "panel-order.js",
    "arrange.js",
    "settings.js",
    "settings-export.js",
    "help-menu.js",
    "print.js",
    "compact.js",
)
_ICON: Final = "icon.svg"
_PLOTLY: Final = "vendor/plotly-basic.min.js"

_INDEX: Final = """<!DOCTYPE html>
<html lang="en" data-live="loading" data-plotly="PLOTLY" data-ranges="RANGES" data-range="RANGE" data-pages="PAGES"
  data-server-zone="ZONE">
  <head>
    {%metas%}
    <title>{%title%}</title>
    <script src="HEAD_SCRIPTS"></script>
    <link rel="icon" type="image/svg+xml" href="ICON">
    PRELOADS
    {%css%}
    <link rel="stylesheet" href="STYLES">
  </head>
  <body>
    {%app_entry%}
    <div>
      {%config%}
      {%scripts%}
      <script src="BODY_SCRIPTS"></script>
      {%renderer%}
    </div>
  </body>
</html>"""

# A browser gets an answer of two packets as soon as one of one packet, and most ticks fit into two: compressing them
# took the server 0.1 ms and saved 0.9 kB.
_COMPRESS_MIN_BYTES: Final = 2500


def create_dash(
    services: Services,
    *,
    server: Flask,
    assets_folder: str,
    interval_s: float,
    url_prefix: str = "/",
    find_viewer: Callable[[], str | None] = lambda: None,
) -> Dash:
    """Return the page as a Dash application on `server` that polls every `interval_s` seconds.

    `find_viewer` returns the name of the user who requests the page, None if it is not known.
    """
    server.config["COMPRESS_MIN_SIZE"] = _COMPRESS_MIN_BYTES
    # Dash's annotations do not allow these two.
    untyped: dict[str, Any] = {"server": server, "update_title": None}
    app = RelativeDash(
        build_root_attributes=lambda: {"data-landing": find_landing(services)},
        name="dashtop",
        title="dashtop",
        assets_folder=assets_folder,
        assets_ignore=r"\.(js|css)$",
        assets_path_ignore=["^vendor$"],
        url_base_pathname=url_prefix,
        serve_locally=True,
        compress=True,
        hooks=HOOKS,
        meta_tags=[{"name": "color-scheme", "content": "light dark"}, {"name": "robots", "content": "noindex"}],
        **untyped,
    )
    folder = Path(assets_folder)
    made = {
        "HEAD_SCRIPTS": Bundle("head.js", folder, HEAD_SCRIPTS),
        "BODY_SCRIPTS": Bundle("body.js", folder, SCRIPTS),
        "STYLES": Bundle("styles.css", folder, sorted(path.name for path in folder.glob("*.css"))),
    }
    bundles.register(server, made.values(), url_prefix=url_prefix)
    app.index_string = _build_index(app, services, made)
    app.layout = lambda: build_static_tree(build_layout(services, interval_s, viewer=find_viewer()))
    # Assigning a layout sets this one too. Dash puts it into the HTML, where it is a second copy of what browsers load
    # as data; without it they check the callbacks against that.
    app.validation_layout = None
    refuse_unknown_paths(server, url_prefix)
    page = build_layout(services, interval_s)
    register_callbacks(app, services, select_metrics(find_metrics(page)))
    embed.register(app, services, embed.find_panels(page), url_prefix=url_prefix)
    service_worker.register(app, url_prefix=url_prefix)
    for panel in PANELS:
        if panel.register is not None:
            panel.register(app, services)
    return app


def _build_index(app: Dash, services: Services, made: Mapping[str, Bundle]) -> str:
    plotly_url = _asset_url(app, _PLOTLY)
    replacements = {
        **{name: app.config.requests_pathname_prefix + bundle.url for name, bundle in made.items()},
        "ICON": _asset_url(app, _ICON),
        "PRELOADS": build_preload_links(app, plotly_url),
        "PLOTLY": plotly_url,
        "RANGES": " ".join(RANGES_MS),
        "RANGE": DEFAULT_RANGE,
        "PAGES": " ".join(page.name for page in list_pages(services)),
        "ZONE": find_server_zone(),
    }
    index = _INDEX
    for placeholder, text in replacements.items():
        index = index.replace(placeholder, text)
    return index


def _asset_url(app: Dash, path: str) -> str:
    """Return the address of a file in assets/, with its modification time so that browsers cache no older one."""
    url: str = app.get_asset_url(path)
    return f"{url}?m={int(Path(app.config.assets_folder, path).stat().st_mtime)}"
