"""One panel alone, for an iframe: the same page, of which everything else is left unseen and unasked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dash.development.base_component import Component
from flask import Response

from dashtop.ui import ids

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dash import Dash

_PREFIXES: Final = ("chart-", "panel-")
_NAMED: Final = {"compact": ids.COMPACT_STATUS, "compare": ids.COMPARE}

# All but the panel's ancestors, the card that frames it, and what stands in them.
_ALONE: Final = (
    "<style>html[data-embed] .app :not(:has(#ID)):not(#ID):not(#ID *):not(.panel:has(#ID) *) {display: none !important}"
    "</style>"
)


def panels_in(page: object) -> dict[str, str]:
    """Return the panels of a page that can be embedded: their names, and the ids of their elements."""
    return dict(sorted({**_NAMED, **{id_: id_ for id_ in _ids(page) if id_.startswith(_PREFIXES)}}.items()))


def register(app: Dash, panels: Mapping[str, str], *, url_prefix: str) -> None:
    """Serve each panel at /embed/ and its name."""
    unannotated: Any = app

    def embedded(name: str) -> Response:
        if name not in panels:
            there = "\n".join(panels)
            return Response(f"There is no such panel. These can be embedded:\n\n{there}\n", 404, mimetype="text/plain")
        page: str = unannotated.index()
        page = page.replace("<html", f'<html data-embed="{name}"', 1)
        return Response(page.replace("</head>", f"{_ALONE.replace('ID', panels[name])}\n  </head>", 1))

    unannotated.server.add_url_rule(f"{url_prefix}embed/<path:name>", view_func=embedded)


def _ids(part: object) -> set[str]:
    if isinstance(part, (list, tuple)):
        return set().union(*map(_ids, part))
    if not isinstance(part, Component):
        return set()
    own = vars(part)
    return _ids(own.get("children")) | ({own["id"]} if isinstance(own.get("id"), str) else set())
