"""Embedding: /embed/<panel> is the page with one panel visible, for an iframe. Nothing else is shown or requested."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dash.development.base_component import Component
from flask import Response

from dashtop.ui import ids
from dashtop.ui.dash_internals import render_index

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dash import Dash

_PREFIXES: Final = ("chart-", "panel-")
_SPECIAL_PANELS: Final = {"compact": ids.COMPACT_STATUS, "compare": ids.COMPARE}

# Hides all but the panel, its card, and their ancestors and contents.
_STYLE: Final = (
    "<style>html[data-embed] .app :not(:has(#ID)):not(#ID):not(#ID *):not(.panel:has(#ID) *) {display: none !important}"
    "</style>"
)


def find_panels(page: object) -> dict[str, str]:
    """Return the panels of a page that can be embedded: the ids of their elements by name."""
    return dict(
        sorted({**_SPECIAL_PANELS, **{id_: id_ for id_ in _find_ids(page) if id_.startswith(_PREFIXES)}}.items())
    )


def register(app: Dash, panels: Mapping[str, str], *, url_prefix: str) -> None:
    """Serve each panel at /embed/<name>."""
    server: Any = app.server

    def serve_panel(name: str) -> Response:
        if name not in panels:
            names = "\n".join(panels)
            return Response(
                f"No panel has this name. Panels that can be embedded:\n\n{names}\n", 404, mimetype="text/plain"
            )
        page = render_index(app).replace("<html", f'<html data-embed="{name}"', 1)
        return Response(page.replace("</head>", f"{_STYLE.replace('ID', panels[name])}\n  </head>", 1))

    server.add_url_rule(f"{url_prefix}embed/<path:name>", view_func=serve_panel)


def _find_ids(part: object) -> set[str]:
    if isinstance(part, (list, tuple)):
        return set().union(*map(_find_ids, part))
    if not isinstance(part, Component):
        return set()
    properties = vars(part)
    own = properties.get("id")
    return _find_ids(properties.get("children")) | ({own} if isinstance(own, str) else set())
