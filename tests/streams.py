"""A client for Server-Sent Events of a running server."""

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


class EventStream:
    """One open stream."""

    def __init__(self, connection: socket.socket) -> None:
        self._response = http.client.HTTPResponse(connection)
        self._response.begin()
        self.status = self._response.status
        self.headers = {name.lower(): value for name, value in self._response.getheaders()}

    def read_event(self) -> tuple[str, dict[str, Any]]:
        """Return id and data of the next event."""
        event_id = ""
        while line := self._response.readline():
            if line.startswith(b"id: "):
                event_id = line[4:].strip().decode()
            if line.startswith(b"data: "):
                data: dict[str, Any] = json.loads(line[6:])
                return event_id, data
        raise EOFError

    def read_rest(self) -> bytes:
        """Return everything until the server ends the stream. Raise IncompleteRead if it is cut off."""
        return self._response.read()

    def close(self) -> None:
        self._response.close()


@contextmanager
def open_stream(dashtop: Running, query: str = "", path: str = STREAM, **headers: str) -> Iterator[EventStream]:
    """Open a stream. Underscores in the names of `headers` stand for hyphens."""
    address = urlsplit(dashtop.url)
    with socket.create_connection((address.hostname, address.port or 0), timeout=20) as connection:
        extra = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        connection.sendall(f"GET {path}{query} HTTP/1.1\r\nHost: localhost\r\n{extra}\r\n".encode())
        with closing(EventStream(connection)) as stream:
            yield stream
