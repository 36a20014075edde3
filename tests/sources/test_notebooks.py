"""The notebook of a process, with real processes that look like kernels and a server that answers as Jupyter does."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import uuid
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from dashtop.model.ports import SystemClock
from dashtop.model.sample import GpuProcess
from dashtop.sources.host.notebooks import SESSIONS_INTERVAL_S, JupyterSessions, Kernel, NotebookFinder, parse_sessions
from dashtop.sources.host.processes import ProcessReader
from tests.clock import FakeClock
from tests.processes import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KERNEL_ID = "0b7e6a3a-5c1f-4f9a-9f6e-2f1f3f0f7a11"
# A kernel that starts a chain of processes, of which the last one says its pid and waits.
KERNEL = """
import subprocess, sys
depth = int(sys.argv[1])
if depth:
    child = subprocess.Popen([sys.executable, "-c", sys.argv[2], str(depth - 1), sys.argv[2]], stdin=sys.stdin)
    sys.exit(child.wait())
import os
print(os.getpid(), flush=True)
sys.stdin.read()
"""


@contextmanager
def kernel(depth: int = 0, *, session: str = "/home/ada/secret folder/train.ipynb") -> Iterator[tuple[int, int]]:
    """Run a process that looks like a kernel; yield its pid and that of its descendant `depth` below."""
    arguments = [str(depth), KERNEL, "-f", f"/run/user/1000/jupyter/runtime/kernel-{KERNEL_ID}.json"]
    with subprocess.Popen(
        [sys.executable, "-c", KERNEL, *arguments],
        env={"JPY_SESSION_NAME": session, "SECRET": "hidden"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield process.pid, int(process.stdout.readline())
        finally:
            process.stdin.close()


@pytest.mark.parametrize(("depth", "is_found"), [(0, True), (3, True), (5, True), (6, False)])
def test_a_kernel_and_its_workers_have_its_notebook(depth: int, is_found: bool) -> None:
    finder = NotebookFinder()
    with kernel(depth) as (root, pid):
        found = finder.find_kernel(pid)
        assert found == (Kernel(root, KERNEL_ID) if is_found else None)
        if found is not None:
            assert finder.find_name(found) == "train.ipynb"


def test_the_fact_is_read_with_the_others_of_a_process() -> None:
    with kernel(1) as (_, pid):
        process = GpuProcess(pid=pid, kind="C", gpu_memory_bytes=1)
        for notebooks, expected in ((NotebookFinder(), "train.ipynb"), (None, None)):
            reader = ProcessReader(clock=SystemClock(), notebooks=notebooks)
            for _ in range(2):
                reader.begin()
                (found,) = reader.add_host_info([process])
                assert found.info.notebook == expected
                assert "secret" not in json.dumps(found.info.to_json())


def test_the_environment_of_other_users_is_not_read() -> None:
    with kernel() as (root, _):
        found = Kernel(root, KERNEL_ID)
        assert NotebookFinder(uid=4711).find_name(found) is None
        assert NotebookFinder(uid=0).find_name(found) == "train.ipynb"


def test_hostile_and_missing_names(tmp_path: Path) -> None:
    process = tmp_path / "77"
    process.mkdir()
    for environ, expected in (
        (b"JPY_SESSION_NAME=a/b\x1b[2J.ipynb\0", "b\N{REPLACEMENT CHARACTER}[2J.ipynb"),
        (b"X=1\0JPY_SESSION_NAME=/\0", None),
        (b"NOT_JPY_SESSION_NAME=a\0", None),
        (b"", None),
    ):
        (process / "environ").write_bytes(environ)
        assert NotebookFinder(proc=tmp_path, uid=0).find_name(Kernel(77, KERNEL_ID)) == expected
    assert NotebookFinder(proc=tmp_path).find_kernel(78) is None
    (process / "cmdline").write_bytes(b"python\0-f\0/run/kernel-not-a-uuid.json\0")
    (process / "stat").write_bytes(b"77 (x) S 1 0 0")
    assert NotebookFinder(proc=tmp_path).find_kernel(77) is None


# --- a Jupyter server -------------------------------------------------------------------------------------------------


@contextmanager
def jupyter(sessions: Any, status: int = 200) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    requests: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append((self.path, self.headers.get("Authorization")))
            content = json.dumps(sessions).encode() if not isinstance(sessions, bytes) else sessions
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            if status == 302:
                self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/user/ada/?token=secret", requests
    finally:
        server.shutdown()
        server.server_close()


def session(path: str, kernel_id: str = KERNEL_ID) -> dict[str, Any]:
    return {"id": str(uuid.uuid4()), "path": path, "type": "notebook", "kernel": {"id": kernel_id, "name": "python3"}}


def test_a_server_knows_the_notebook_of_a_kernel() -> None:
    clock = FakeClock()
    sessions = [session("work/renamed.ipynb")]
    with jupyter(sessions) as (url, requests), kernel() as (root, _):
        finder = NotebookFinder(sessions=JupyterSessions(url, clock=clock))
        found = Kernel(root, KERNEL_ID)
        eventually(lambda: finder.find_name(found) == "renamed.ipynb")
        assert requests == [("/user/ada/api/sessions", "token secret")]
        sessions[:] = [session("work/again.ipynb")]
        clock.advance(SESSIONS_INTERVAL_S)
        eventually(lambda: finder.find_name(found) == "again.ipynb")
        assert finder.find_name(Kernel(1, "another")) is None


@pytest.mark.parametrize(("sessions", "status"), [([], 403), (b"<html>", 200), ([], 302), (b"[" * 100_000, 200)])
def test_a_server_that_answers_something_else(sessions: Any, status: int, caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    with jupyter(sessions, status) as (url, requests):
        known = JupyterSessions(url, clock=clock)
        for count in (1, 2):
            assert known.get(KERNEL_ID) is None
            eventually(lambda count=count: len(requests) == count and not known._thread.is_alive())  # type: ignore[misc, union-attr]
            clock.advance(SESSIONS_INTERVAL_S)
    assert len(caplog.records) == 1
    assert "secret" not in caplog.text


def test_sessions_that_are_not_as_described() -> None:
    assert parse_sessions({"a": 1}) == {}
    assert (
        parse_sessions([None, {}, {"kernel": None}, {"kernel": {"id": 1}, "path": "a"}, {"kernel": {"id": "a"}}]) == {}
    )
    assert parse_sessions([{"kernel": {"id": "a"}, "path": "", "name": "x/console"}]) == {"a": "console"}
