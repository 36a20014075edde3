"""Where dashtop keeps and serves: the history, and the port."""

from __future__ import annotations

import errno
import http.client
import json
import os
import shlex
import shutil
import socket
from typing import TYPE_CHECKING

from dashtop.app import build_database, data_folder, is_on_server
from dashtop.doctor.report import Finding, State
from dashtop.history.database import DatabaseReadError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dashtop.history.database import Database
    from dashtop.settings import Settings

HISTORY = "History"
PAGE = "Page"
ANSWER_TIMEOUT_S = 1.0
LITTLE_BYTES = 2**30


def data_and_port(settings: Settings) -> Iterator[Finding]:
    """Look at what `dashtop serve` will need."""
    yield _engine(build_database(settings))
    if not is_on_server(settings):
        yield _folder(data_folder(settings))
    yield _port(settings)


def _engine(database: Database) -> Finding:
    try:
        return Finding(area=HISTORY, text=database.describe())
    except DatabaseReadError as error:
        return Finding(area=HISTORY, state=State.FAIL, text=str(error), mend=f"psql {shlex.quote(database.location)}")
    finally:
        database.close()


def _folder(folder: Path | None) -> Finding:
    if folder is None:
        return Finding(area=HISTORY, text="kept in memory only: nothing outlives the process")
    there = next(each for each in (folder, *folder.parents) if each.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        text = f"{folder} cannot be written to: history would be kept in memory only"
        return Finding(area=HISTORY, state=State.FAIL, text=text, mend="dashtop --data-dir DIRECTORY")
    free = shutil.disk_usage(there).free
    text = f"{folder} can be written to; {free / 2**30:.1f} GiB free"
    if free < LITTLE_BYTES:
        return Finding(area=HISTORY, state=State.WARN, text=text, mend="dashtop --keep-mb 50")
    return Finding(area=HISTORY, text=text)


def _port(settings: Settings) -> Finding:
    host, port = settings.host, settings.port
    where = f"{host}:{port}" if ":" not in host else f"[{host}]:{port}"
    if port == 0:
        return Finding(area=PAGE, text=f"{host}: a free port will be taken")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            # As the server does, or a connection that has just been closed would count.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
    except OSError as error:
        return _taken(where, settings, error)
    return Finding(area=PAGE, text=f"{where} is free")


def _taken(where: str, settings: Settings, error: OSError) -> Finding:
    if error.errno == errno.EADDRINUSE:
        if _is_dashtop(settings):
            return Finding(area=PAGE, text=f"dashtop is running at {where}")
        return Finding(area=PAGE, state=State.FAIL, text=f"{where} is in use", mend="dashtop --port 0")
    if error.errno in {errno.EACCES, errno.EPERM}:
        text = f"{where}: a port below 1024 needs more rights than this user has"
        return Finding(area=PAGE, state=State.FAIL, text=text, mend="dashtop --port 8050")
    text = f"cannot listen on {where}: {error.strerror or error}"
    return Finding(area=PAGE, state=State.FAIL, text=text, mend="dashtop --host 127.0.0.1")


def _is_dashtop(settings: Settings) -> bool:
    """Tell whether whoever listens there answers as dashtop's readiness check does."""
    nearby = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    connection = http.client.HTTPConnection(nearby, settings.port, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.request("GET", f"{settings.url_prefix}readyz")
        body = json.loads(connection.getresponse().read(1_000))
    except (OSError, ValueError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return isinstance(body, dict) and "ready" in body
