"""Starts `dashtop serve` from a process that has imported it: a start takes 0.6 instead of 1.9 s of CPU time.

It is the same command with the same arguments, environment and signals, in a process of its own. What depends on how
Python itself starts (its path, locale, preloaded libraries) needs a start of its own: see `can_fork`.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
MODULES = (
    "app",
    "cli",
    "server",
    "ui.page",
    "ui.embed",
    "web.api.blueprint",
    "web.prometheus.exporter",
    "history.sqlite",
)
OWN_START = ("LD_PRELOAD", "PYTHON", "LC_", "LANG", "TZ", "OPENBLAS", "COVERAGE")
"""Beginnings of environment variables that count when Python starts."""
MAX_REQUEST_BYTES = 1_000_000
MAX_DESCRIPTORS = 1024
POLL_S = 0.01


def can_fork(env: Mapping[str, str]) -> bool:
    """Return whether a process with these additional variables can be forked instead of started."""
    return not any(name.startswith(OWN_START) for name in env)


class ForkedProcess(subprocess.Popen[str]):
    """A process that the fork server has started and waits for."""

    def __init__(self, server: ForkServer, arguments: Sequence[str], env: Mapping[str, str]) -> None:
        self._server = server
        self.args = ["dashtop", *arguments]
        self.stdin = self.stderr = None
        self.returncode = None
        self._waitpid_lock = threading.Lock()
        self._child_created = False  # Popen waits for its own children when it is deleted
        reading, writing = os.pipe()
        try:
            self.pid = server.request({"arguments": list(arguments), "env": dict(env)}, [writing])
        finally:
            os.close(writing)
        self.stdout = os.fdopen(reading, "r", encoding="utf-8", errors="replace")

    def _internal_poll(self, _deadstate: int | None = None) -> int | None:
        if self.returncode is None:
            self.returncode = self._server.request({"poll": self.pid})
        return self.returncode

    def _wait(self, timeout: float | None) -> int:
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self._internal_poll()) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            time.sleep(POLL_S)
        return code


class ForkServer:
    """The process that forks. One for each process of pytest; it ends with it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        code = f"from dashtop.cli import main; from tests.fork_server import serve; serve({theirs.fileno()}); main()"
        env = {name: value for name, value in os.environ.items() if not name.startswith("DASHTOP_")}
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**env, "OPENBLAS_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        atexit.register(self.close)

    def close(self) -> None:
        self._socket.close()
        self._process.wait(10)

    def request(self, content: Mapping[str, Any], descriptors: Sequence[int] = ()) -> Any:
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(content).encode()], descriptors)
            answer = self._socket.recv(MAX_REQUEST_BYTES)
        assert answer, "the fork server has ended"
        return json.loads(answer)


_servers: list[ForkServer] = []


def fork_dashtop(arguments: Sequence[str], env: Mapping[str, str]) -> ForkedProcess:
    """Start `dashtop` with these arguments and this environment. Its output is read as with Popen."""
    if not _servers:
        _servers.append(ForkServer())
    return ForkedProcess(_servers[0], arguments, env)


def serve(descriptor: int) -> None:
    """Fork on request, until pytest ends. Return in each process that is to be `dashtop`."""
    for name in MODULES:
        import_module(f"dashtop.{name}")
    requests = socket.socket(fileno=descriptor)
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST_BYTES, 1)
        if not message:
            sys.exit()
        request = json.loads(message)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                requests.detach()
                _prepare(request["arguments"], request["env"], descriptors[0])
                return
            os.close(descriptors[0])
        requests.send(json.dumps(answer).encode())


def _prepare(arguments: Sequence[str], env: Mapping[str, str], output: int) -> None:
    """Give the forked process what Popen would have given it."""
    os.dup2(output, 1)
    os.dup2(output, 2)
    # Those of the fork server may be files.
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.closerange(3, MAX_DESCRIPTORS)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = ["dashtop", *arguments]
