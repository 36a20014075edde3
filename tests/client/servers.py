"""Servers that take runs as dashtop does, or not."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from tests.processes import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Recorder:
    """What a server was asked. `status` answers everything with this instead; `hangs` until it is set.

    `refused`: how many further requests are answered with `refusal` and Retry-After: 1.
    """

    url: str = ""
    requests: list[tuple[str, str, Any, str | None]] = field(default_factory=list)
    status: int | None = None
    refused: int = 0
    refusal: int = 429
    released: threading.Event = field(default_factory=threading.Event)

    def bodies(self, method: str, end: str = "") -> list[Any]:
        return [body for verb, path, body, _ in list(self.requests) if verb == method and path.endswith(end)]

    def wait_for(self, method: str, end: str = "", count: int = 1) -> list[Any]:
        eventually(lambda: len(self.bodies(method, end)) >= count, 30.0)
        return self.bodies(method, end)

    def marks(self) -> list[str]:
        sent = [body for verb, _, body, _ in list(self.requests) if verb != "GET"]
        return [mark["text"] for body in sent for mark in body.get("marks", ())]


REPORT = {
    "run": {"id": "0123456789abcdef", "name": "a", "status": "finished", "end": 1},
    "marks": [],
    "report": {
        "duration_s": 3723.0,
        "coverage": 0.97,
        "gpus": [],
        "host": {"peak_memory_gb": 12.0, "mean_cpu_percent": None},
        "unavailable": {"gpus": "no process of this run has held a GPU"},
    },
}


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, *_arguments: object) -> None:
        """Say nothing of clients that do not wait."""


@contextmanager
def recording(*, hangs: bool = False, status: int | None = None) -> Iterator[Recorder]:
    recorder = Recorder(status=status)
    if not hangs:
        recorder.released.set()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            recorder.requests.append((self.command, self.path, body, self.headers.get("Authorization")))
            recorder.released.wait(60)
            content = json.dumps(REPORT if self.command == "GET" else {"id": "0123456789abcdef"}).encode()
            if recorder.refused > 0:
                recorder.refused -= 1
                self.send_response(recorder.refusal)
                self.send_header("Retry-After", "1")
            else:
                self.send_response(recorder.status or 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = answer  # noqa: N815 - names of http.server

        def log_message(self, *_arguments: object) -> None:
            pass

    server = _QuietServer(("127.0.0.1", 0), Handler)
    recorder.url = f"http://127.0.0.1:{server.server_address[1]}/"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield recorder
    finally:
        recorder.released.set()
        server.shutdown()
        server.server_close()


@contextmanager
def silent() -> Iterator[str]:
    """Yield the address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
