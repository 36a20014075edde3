"""For WSGI servers such as gunicorn and uWSGI: `dashtop.wsgi:server`, with settings from the environment.

Run one worker with threads: each worker collects for itself.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import threading
from typing import TYPE_CHECKING, Any

from dashtop.allocator import limit_free_memory
from dashtop.app import Dashtop, create_app, data_folder
from dashtop.settings import Settings, load

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

NO_THREADS = (
    "uWSGI runs Python without threads, which dashtop needs to collect samples. Start uWSGI with --enable-threads,"
    " or better with --threads 32."
)

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
        return _create_app(self._settings)


class UwsgiApplication:
    """A WSGI application for uWSGI, which forks its workers without Python's knowledge.

    Each worker starts collection after the fork, or at its first request where uWSGI does not fork.
    """

    def __init__(self, settings: Settings, uwsgi: Any) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._dashtop: Dashtop | None = None
        self._has_threads = bool(uwsgi.has_threads)
        if self._has_threads:
            uwsgi.post_fork_hook = self._start
        else:
            log.error(NO_THREADS)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        if not self._has_threads:
            start_response("503 Service Unavailable", [("Content-Type", "application/json")])
            return [json.dumps({"detail": NO_THREADS}).encode()]
        return self._start().server(environ, start_response)

    def _start(self) -> Dashtop:
        with self._lock:
            if self._dashtop is None:
                self._dashtop = _create_app(self._settings)
            return self._dashtop


def _create_app(settings: Settings) -> Dashtop:
    limit_free_memory()
    dashtop = create_app(settings)
    if dashtop.path != settings.url_prefix:
        log.warning("The page opens at %s", dashtop.path)
        if data_folder(settings) is None:
            log.warning("Each worker generates its own access token. Set DASHTOP_TOKEN if there are several workers.")
    return dashtop


def _load_settings() -> Settings:
    settings = load()
    if "host" not in settings.model_fields_set:
        # Only the WSGI server knows the address it listens on. Assume that other machines can connect.
        settings = settings.model_copy(update={"host": "0.0.0.0"})  # noqa: S104
    return settings


def _build_server() -> Application | UwsgiApplication:
    try:
        uwsgi = importlib.import_module("uwsgi")  # exists only inside uWSGI
    except ModuleNotFoundError:
        return Application(_load_settings())
    return UwsgiApplication(_load_settings(), uwsgi)


server = _build_server()
