"""Streams of a running server, read as they come."""

from __future__ import annotations

import json
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader

    from tests.processes import Running

STREAM = "/api/v1/system/stream"


class Opened:
    """One open stream, read as it comes."""

    def __init__(self, connection: socket.socket, lines: BufferedReader) -> None:
        self.connection = connection
        self.lines = lines
        self.status = int(lines.readline().split()[1])
        self.headers = {}
        while (line := lines.readline().strip()) != b"":
            name, _, value = line.decode().partition(": ")
            self.headers[name.lower()] = value

    def event(self) -> tuple[str, dict[str, Any]]:
        """Return id and data of the next event."""
        event_id = ""
        while line := self.lines.readline():
            if line.startswith(b"id: "):
                event_id = line[4:].strip().decode()
            if line.startswith(b"data: "):
                data: dict[str, Any] = json.loads(line[6:])
                return event_id, data
        raise EOFError


@contextmanager
def opened(dashtop: Running, query: str = "", **headers: str) -> Iterator[Opened]:
    address = urlsplit(dashtop.url)
    with socket.create_connection((address.hostname, address.port or 0), timeout=20) as connection:
        extra = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        connection.sendall(f"GET {STREAM}{query} HTTP/1.1\r\nHost: localhost\r\n{extra}\r\n".encode())
        with connection.makefile("rb") as lines:
            yield Opened(connection, lines)
