"""The scripts and style sheets of assets/, served as one file for each of three places in the page.

Browsers request the 41 scripts and 20 style sheets of the page over six connections, and so waited for the last of them
for a third of the time to the first chart (`benchmarks/page.py`). The files themselves stay as small as their subjects.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

from flask import Blueprint, Response, request

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flask import Flask

_TYPES: Final = {".js": "text/javascript", ".css": "text/css"}
_MAX_AGE_S: Final = 365 * 86_400


class Bundle:
    """Files of a folder as one, read when the bundle is made. `url` has a version that changes with the content."""

    def __init__(self, name: str, folder: Path, files: Iterable[str]) -> None:
        parts = [f"/* assets/{file} */\n{(folder / file).read_text(encoding='utf-8')}" for file in files]
        self._content = "\n".join(parts).encode()
        self._version = hashlib.blake2b(self._content, digest_size=8).hexdigest()
        self.path = f"assets/{name}"
        self.url = f"{self.path}?m={self._version}"

    def respond(self) -> Response:
        """Return the answer to a request for the bundle."""
        response = Response(self._content, mimetype=_TYPES[Path(self.path).suffix])
        response.set_etag(self._version)
        if request.args.get("m") == self._version:
            response.cache_control.public = True
            response.cache_control.max_age = _MAX_AGE_S
        response.make_conditional(request)
        return response


def register(server: Flask, bundles: Iterable[Bundle], *, url_prefix: str) -> None:
    """Serve the bundles beside the other files of assets/."""
    routes = Blueprint("bundles", __name__)
    for bundle in bundles:
        routes.add_url_rule(
            f"/{bundle.path}", endpoint=bundle.path.rpartition("/")[2].replace(".", "-"), view_func=bundle.respond
        )
    server.register_blueprint(routes, url_prefix=url_prefix)
