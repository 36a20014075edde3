"""Run the real `dashtop` command in tests."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tests.fork_server import can_fork, fork_dashtop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import pytest

ROOT = Path(__file__).resolve().parent.parent
DASHTOP = Path(sys.executable).parent / "dashtop"
START_TIMEOUT_S = 30.0
UNHURRIED = "1000/second"
"""Rate limit for tests, which poll until a condition holds."""


def eventually(condition: Callable[[], Any], timeout_s: float = 10.0, every_s: float = 0.02) -> Any:
    """Poll `condition` and return its first true result. OSError counts as false. Fail after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while True:
        try:
            answer = condition()
        except OSError:
            answer = None
        if answer:
            return answer
        assert time.monotonic() < end, f"not within {timeout_s} s: {condition}"
        time.sleep(every_s)


def refuse_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no thread start, as where the user or the container has as many as it may."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)


def find_free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@dataclass
class Running:
    """A server that is up at `url`."""

    process: subprocess.Popen[str]
    url: str
    lines: list[str] = field(default_factory=list)

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path.removeprefix("/"), timeout=10) as answer:
            body: bytes = answer.read()
        return body

    def json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def status(self, path: str) -> tuple[int, Any]:
        """Return status and JSON body, also of an error response."""
        try:
            return 200, self.json(path)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def stop(self, sent: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(sent)
        return self.process.wait(10)


@contextmanager
def running(
    *arguments: str,
    command: Path = DASHTOP,
    port: int = 0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    ready: bool = True,
    is_forked: bool = True,
) -> Iterator[Running]:
    """Run `dashtop` with the arguments; yield once it has printed its address (and, if `ready`, taken a sample).

    `is_forked`: it may be started from a process that has imported it, which takes less time.

    The data folder is a temporary one unless `env` sets it: two dashtops with one folder show the same samples.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        given, whole = [f"--port={port}", *arguments], {**environment(), "DASHTOP_DATA_DIR": folder, **(env or {})}
        process: subprocess.Popen[str]
        if is_forked and command == DASHTOP and cwd is None and can_fork(env or {}):
            process = fork_dashtop(given, whole)
        else:
            process = subprocess.Popen(
                [command, *given],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=cwd,
                env=whole,
            )
        with _listening(process, ready=ready) as server:
            yield server


def environment() -> dict[str, str]:
    """Return the environment without DASHTOP_* variables, and with a rate limit that tests do not reach."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DASHTOP_")}
    return {**inherited, "DASHTOP_RATE_LIMIT": UNHURRIED}


@contextmanager
def _listening(process: subprocess.Popen[str], *, ready: bool) -> Iterator[Running]:
    lines: list[str] = []
    addresses: queue.Queue[str] = queue.Queue()

    def listen(stream: IO[str]) -> None:
        for line in stream:
            lines.append(line)
            if line.startswith("dashtop ") and "http://" in line:
                addresses.put(line[line.index("http://") :].strip())

    assert process.stdout is not None
    listener = threading.Thread(target=listen, args=(process.stdout,), daemon=True)
    listener.start()
    try:
        try:
            url = addresses.get(timeout=START_TIMEOUT_S)
        except queue.Empty:
            raise AssertionError("dashtop did not start:\n" + "".join(lines)) from None
        server = Running(process, url, lines)
        if ready:
            eventually(lambda: server.status("/readyz")[0] == 200)
        yield server
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        listener.join(5)
        process.stdout.close()
