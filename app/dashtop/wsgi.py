"""For WSGI servers such as gunicorn: `dashtop.wsgi:server`, with settings from the environment.

Run one worker with threads: each worker collects for itself.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from dashtop.app import Dashtop, create_app, data_folder
from dashtop.settings import Settings, load

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

log = logging.getLogger("dashtop")


class Application:
    """A WSGI application that collects in the process that serves it.

    Threads do not survive a fork. A server that imports the application before it forks (gunicorn --preload) ends
    collection there, and each of its workers starts its own.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._dashtop = self._build()
        os.register_at_fork(before=self._close, after_in_child=self._rebuild)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        return self._dashtop.server(environ, start_response)

    def _close(self) -> None:
        self._dashtop.close()

    def _rebuild(self) -> None:
        self._dashtop = self._build()

    def _build(self) -> Dashtop:
        dashtop = create_app(self._settings)
        if dashtop.path != self._settings.url_prefix:
            log.warning("The page opens at %s", dashtop.path)
            if data_folder(self._settings) is None:
                log.warning(
                    "Each worker generates its own access token. Set DASHTOP_TOKEN if there are several workers."
                )
        return dashtop


def _load_settings() -> Settings:
    settings = load()
    if "host" not in settings.model_fields_set:
        # Only the WSGI server knows the address it listens on. Assume that other machines can connect.
        settings = settings.model_copy(update={"host": "0.0.0.0"})  # noqa: S104
    return settings


server = Application(_load_settings())
