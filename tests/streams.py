"""Streams of a running server, read as they come."""

from __future__ import annotations

import http.client
import json
import socket
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.processes import Running

STREAM = "/api/v1/system/stream"


class Opened:
    """One open stream, read as it comes."""

    def __init__(self, connection: socket.socket) -> None:
        self._answer = http.client.HTTPResponse(connection)
        self._answer.begin()
        self.status = self._answer.status
        self.headers = {name.lower(): value for name, value in self._answer.getheaders()}

    def event(self) -> tuple[str, dict[str, Any]]:
        """Return id and data of the next event."""
        event_id = ""
        while line := self._answer.readline():
            if line.startswith(b"id: "):
                event_id = line[4:].strip().decode()
            if line.startswith(b"data: "):
                data: dict[str, Any] = json.loads(line[6:])
                return event_id, data
        raise EOFError

    def rest(self) -> bytes:
        """Return all that comes until the server ends the stream. Raises IncompleteRead where it is cut off."""
        return self._answer.read()

    def close(self) -> None:
        self._answer.close()


@contextmanager
def opened(dashtop: Running, query: str = "", path: str = STREAM, **headers: str) -> Iterator[Opened]:
    address = urlsplit(dashtop.url)
    with socket.create_connection((address.hostname, address.port or 0), timeout=20) as connection:
        extra = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        connection.sendall(f"GET {path}{query} HTTP/1.1\r\nHost: localhost\r\n{extra}\r\n".encode())
        with closing(Opened(connection)) as stream:
            yield stream
