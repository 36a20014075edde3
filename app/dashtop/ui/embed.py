"""Embedding: /embed/<panel> is the page with one panel visible, for an iframe, and /embed/ lists all panels."""

from __future__ import annotations

import platform
from html import escape
from typing import TYPE_CHECKING, Any, Final

from dash.development.base_component import Component
from flask import Blueprint, Response, render_template, request

from dashtop.ui import ids
from dashtop.ui.charts.resolution import DEFAULT_RANGE, RANGES_MS
from dashtop.ui.dash_internals import PAGE_PATHS, render_index
from dashtop.ui.panels.gpu_status import COMPACT_PATH

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dash import Dash

    from dashtop.model.ports import Services

EMBED_PATHS: Final = (*PAGE_PATHS, "embed", COMPACT_PATH)
"""What an embedded panel requests, below the prefix of the server's addresses."""

_PREFIXES: Final = ("chart-", "panel-", "fleet-")
_CHART_CARD_PREFIX: Final = "panel-chart-"
_SPECIAL_PANELS: Final = {"compact": ids.COMPACT_STATUS, "compare": ids.COMPARE}
_SPECIAL_TITLES: Final = {"compact": "Status bar", "compare": "All GPUs"}
_OF_ALL_GPUS: Final = frozenset(
    {
        "compare",
        "panel-alert-log",
        "panel-alerts",
        "panel-all-processes",
        "chart-all-gpus",
        "panel-gpus",
        "panel-problems",
        "panel-recent-events",
        "panel-summary",
        "panel-ecc",
        "panel-events",
        "panel-health",
        "panel-notifications",
        "panel-silences",
        "chart-host-cpu",
        "chart-host-disk",
        "chart-host-load",
        "chart-host-network",
        "chart-host-ram",
        "chart-host-swap",
        "panel-host-cpu",
        "panel-host-io",
        "panel-host-memory",
        "panel-host-storage",
        "panel-processes",
        "panel-storage",
        "panel-system",
        "panel-usage",
        "panel-usage-gpus",
        "panel-usage-users",
        *(ids.CHART_CPU, ids.CHART_DISK, ids.CHART_RAM),
        *(ids.FLEET_SUMMARY, ids.FLEET_GRID, ids.FLEET_FREE, ids.FLEET_HOLDERS, ids.FLEET_ATTENTION, ids.FLEET_NODES),
        *(ids.FLEET_TREND, ids.FLEET_NODE, ids.CHART_FLEET_TREND, ids.CHART_FLEET_NODE),
    }
)
_SCRIPT: Final = "embed.js"

# Hides all but the panel, its card, and their ancestors and contents.
_STYLE: Final = (
    "<style>html[data-embed] .app :not(:has(#ID)):not(#ID):not(#ID *):not(.panel:has(#ID) *) {display: none !important}"
    "</style>"
)
# Painted with the rest of the page (assets/live-values.js).
_CAPTION: Final = (
    '<h2 class="embed-caption"><span data-text="gpuIndex"></span> <span data-text="gpuName"></span> '
    '<span data-text="gpu.part"></span> ({}) <strong data-gpu-gone></strong></h2>'
)


def find_panels(page: object) -> dict[str, str]:
    """Return the titles of the panels of a page that can be embedded, by name."""
    titles = dict(_find_titles(page, ""))
    return dict(sorted({**_SPECIAL_TITLES, **titles}.items()))


def register(app: Dash, services: Services, panels: Mapping[str, str], *, url_prefix: str) -> None:
    """Serve each panel at /embed/<name>, and the list of them with live previews at /embed/."""
    routes = Blueprint("embed", __name__, template_folder="templates")

    @routes.get("/embed")
    @routes.get("/embed/")
    def _serve_gallery() -> str:
        sample = services.latest.latest()
        return render_template(
            "gallery.html",
            base="../" if request.path.endswith("/") else "./",
            panels=panels,
            without_gpu=_OF_ALL_GPUS,
            gpus=[gpu.device for gpu in sample.gpus] if sample is not None else [],
            ranges=list(RANGES_MS),
            default_range=DEFAULT_RANGE,
        )

    @routes.get("/embed/<path:name>")
    def _serve_panel(name: str) -> Response:
        if name.startswith(_CHART_CARD_PREFIX):
            name = name.removeprefix("panel-")
        if name not in panels:
            names = "\n".join(panels)
            return Response(
                f"No panel has this name. Panels that can be embedded:\n\n{names}\n", 404, mimetype="text/plain"
            )
        style = _STYLE.replace("ID", _SPECIAL_PANELS.get(name, name))
        page = render_index(app).replace("<html", f'<html data-embed="{name}"', 1)
        page = page.replace("</head>", f'{style}<script src="../assets/{_SCRIPT}"></script>\n  </head>', 1)
        return Response(page.replace("<body>", f"<body>{_build_head(name, panels[name])}", 1))

    app.server.register_blueprint(routes, url_prefix=url_prefix)


def _build_head(name: str, title: str) -> str:
    """Return the headings above a panel: its title, which only screen readers need, and its GPU or the host."""
    node = escape(platform.node())
    host = f'<h2 class="visually-hidden">{node}</h2>'
    # The status bar is in the header of the page, so that nothing of <main> is left.
    landmark = "main" if _SPECIAL_PANELS.get(name) == ids.COMPACT_STATUS else "section"
    headings = (
        f'<h1 class="visually-hidden">{escape(title)}</h1>{host if name in _OF_ALL_GPUS else _CAPTION.format(node)}'
    )
    return f'<{landmark} aria-label="Panel">{headings}</{landmark}>'


def _find_titles(part: Any, title: str) -> Iterator[tuple[str, str]]:
    """Yield name and title of each panel in a component and its contents. A chart has the title of its card."""
    if isinstance(part, (list, tuple)):
        for each in part:
            yield from _find_titles(each, title)
    if not isinstance(part, Component):
        return
    properties = vars(part)
    name, children = properties.get("id"), properties.get("children")
    if isinstance(name, str) and name.startswith(_PREFIXES):
        title = next(_find_headings(children), properties.get("aria-label") or title)
        if not name.startswith(_CHART_CARD_PREFIX):
            yield name, title
    yield from _find_titles(children, title)


def _find_headings(part: Any) -> Iterator[str]:
    if isinstance(part, (list, tuple)):
        for each in part:
            yield from _find_headings(each)
    elif isinstance(part, Component):
        properties = vars(part)
        if properties.get("className") == "card-title" and isinstance(properties["children"], str):
            yield properties["children"]
        yield from _find_headings(properties.get("children"))
