"""The service worker (assets/sw.js), served below the prefix of the pages: its scope is the folder of its address."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flask import Blueprint, Response

from dashtop.ui.dash_internals import FILE_PATHS
from dashtop.version import __version__

if TYPE_CHECKING:
    from dash import Dash

FILE: Final = "sw.js"


def register(app: Dash, *, url_prefix: str) -> None:
    """Serve the script. Browsers ask for it again at each visit: an old one could not be got rid of otherwise."""
    routes = Blueprint("service_worker", __name__)
    folder = Path(app.config.assets_folder)
    script = (folder / FILE).read_text(encoding="utf-8")
    for placeholder, value in {"VERSION": _calculate_version(folder), "FILE_PATHS": FILE_PATHS}.items():
        script = script.replace(f'"{placeholder}"', json.dumps(value), 1)

    @routes.get(f"/{FILE}")
    def _serve() -> Response:
        # The scope is relative to the script: a proxy may serve dashtop below a path that it does not know.
        headers = {"Cache-Control": "no-cache", "Service-Worker-Allowed": "./"}
        return Response(script, mimetype="text/javascript", headers=headers)

    app.server.register_blueprint(routes, url_prefix=url_prefix)


def _calculate_version(folder: Path) -> str:
    """Return a version that changes with every file of the page, so that browsers drop what they keep of another."""
    files = [f"{path.name} {path.stat().st_mtime_ns}" for path in sorted(folder.rglob("*")) if path.is_file()]
    return hashlib.blake2b(repr((__version__, version("dash"), files)).encode(), digest_size=8).hexdigest()
