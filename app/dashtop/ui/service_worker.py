"""The service worker (assets/sw.js), served below the prefix of the pages: its scope is the folder of its address."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from flask import Blueprint, Response

if TYPE_CHECKING:
    from dash import Dash

FILE: Final = "sw.js"


def register(app: Dash, *, url_prefix: str) -> None:
    """Serve the script. Browsers ask for it again at each visit: an old one could not be got rid of otherwise."""
    routes = Blueprint("service_worker", __name__)
    script = Path(app.config.assets_folder, FILE).read_text(encoding="utf-8")

    @routes.get(f"/{FILE}")
    def _serve() -> Response:
        # The scope is relative to the script: a proxy may serve dashtop below a path that it does not know.
        headers = {"Cache-Control": "no-cache", "Service-Worker-Allowed": "./"}
        return Response(script, mimetype="text/javascript", headers=headers)

    app.server.register_blueprint(routes, url_prefix=url_prefix)
