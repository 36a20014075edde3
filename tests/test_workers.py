"""gunicorn with several workers: one collects, all answer alike, and another takes over when that one is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dashtop.collector.seat import SOCKET
from tests.processes import Running, environment, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.fake_nvml.fixtures import WorldFactory

WORKERS = 3
ALL = "api/v1/system/monitoring/all"
CPU = "system.cpu.usage_percent"


@contextmanager
def gunicorn(folder: Path, env: Mapping[str, str], *, ready: bool = True) -> Iterator[Running]:
    """Run gunicorn with its workers; what it says is in `folder`/log."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).parent / "gunicorn"), "--workers", str(WORKERS), "--threads", "4"]
    command += ["--graceful-timeout", "1", "--timeout", "120", "--bind", f"127.0.0.1:{port}", "dashtop.wsgi:server"]
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, env={**environment(), "XDG_RUNTIME_DIR": str(runtime), **env}, stdout=log, stderr=log, text=True
        )
    server = Running(process, f"http://127.0.0.1:{port}/")
    try:
        if ready:
            eventually(lambda: followed(server) == WORKERS - 1, timeout_s=30)
            eventually(lambda: all(server.status("/readyz")[0] == 200 for _ in range(4 * WORKERS)))
        yield server
        assert server.stop() == 0
        assert list((runtime / f"dashtop-{os.geteuid()}").iterdir()) == []
    finally:
        for worker in children(process.pid):
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT)
        process.kill()
        process.wait()
        print((folder / "log").read_text())


def children(pid: int) -> list[int]:
    found = []
    with suppress(FileNotFoundError):
        for tasks in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError):  # threads end
                found += [int(child) for child in (tasks / "children").read_text().split()]
    return found


def followed(server: Running) -> int:
    """How many connections to others the worker that collects has."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    shared = {f"socket:[{line.split()[6]}]" for line in lines if line.endswith(f"/{SOCKET}")}
    most = 0
    for worker in children(server.process.pid):
        with suppress(FileNotFoundError):
            most = max(most, sum(str(fd.readlink()) in shared for fd in Path(f"/proc/{worker}/fd").iterdir()))
    return most - 1  # one is the socket that listens


def collecting(server: Running) -> list[int]:
    """The workers that have an NVML child, each as often as it has one."""
    return [worker for worker in children(server.process.pid) for _ in children(worker)]


@contextmanager
def only(worker: int, server: Running) -> Iterator[None]:
    """Hold up all other workers, so that this one answers."""
    others = set(children(server.process.pid)) - {worker}
    try:
        for other in others:
            os.kill(other, signal.SIGSTOP)
        yield
    finally:
        for other in others:
            with suppress(ProcessLookupError):
                os.kill(other, signal.SIGCONT)


def newest_ms(server: Running) -> int:
    return int(server.json(ALL)["timestamp"])


def cpu(server: Running, start_ms: int, end_ms: int) -> list[float | None]:
    query = f"start={start_ms}&end={end_ms}&points=1000&metrics={CPU}"
    found: list[float | None] = server.json(f"api/v1/system/history?{query}")["series"][CPU]["mean"]
    return found


@pytest.mark.timeout(180)
def test_one_worker_collects_all_answer_alike_and_another_takes_over(tmp_path: Path, nvml_world: WorldFactory) -> None:
    env = {"DASHTOP_HOST": "127.0.0.1", "DASHTOP_INTERVAL": "0.5", "DASHTOP_DATA_DIR": str(tmp_path / "data")}
    with gunicorn(tmp_path, {**nvml_world("rtx3090").env(), **env}) as server:
        (leader,) = eventually(lambda: collecting(server))
        followers = sorted(set(children(server.process.pid)) - {leader})
        begun_ms = newest_ms(server)
        eventually(lambda: newest_ms(server) > begun_ms + 2000)
        pasts, newest = [], []
        for worker in (leader, *followers):
            with only(worker, server):
                pasts.append(cpu(server, begun_ms - 1000, begun_ms + 1500))
                newest.append(newest_ms(server))
                assert server.status("/readyz") == (200, {"ready": True})
        assert pasts[0] == pasts[1] == pasts[2]
        assert sum(value is not None for value in pasts[0]) >= 2
        assert max(newest[1:]) - min(newest[1:]) <= 500  # between the two the one that collects had its turn, or none
        os.kill(leader, signal.SIGKILL)
        killed, killed_ms = time.monotonic(), time.time_ns() // 10**6
        eventually(lambda: newest_ms(server) > killed_ms, timeout_s=5)
        assert time.monotonic() - killed < 5
        (successor,) = eventually(lambda: collecting(server))
        assert successor in followers
        eventually(lambda: followed(server) == WORKERS - 1)
        eventually(lambda: newest_ms(server) > killed_ms + 3000)
        assert collecting(server) == [successor]
        around = cpu(server, killed_ms - 2000, killed_ms + 3000)
        assert sum(value is None for value in around) <= 4  # of these one is a rate's first reading
        (told,) = [event for event in events(server, killed_ms) if event["kind"] == "restart"]
        assert "taken over" in told["text"]


def events(server: Running, since_ms: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.json(f"api/v1/system/events?start={since_ms}&end={since_ms + 60_000}")
    return found


def test_workers_that_keep_nothing_have_one_history_and_one_token(tmp_path: Path) -> None:
    def addresses() -> list[str]:
        return [line.split()[-1] for line in (tmp_path / "log").read_text().splitlines() if "page opens at" in line]

    def pasts() -> list[list[float | None]]:
        found = []
        for worker in children(server.process.pid):
            with only(worker, server):
                found.append(cpu(server, begun_ms - 500, begun_ms + 500))
        return found

    with gunicorn(tmp_path, {"DASHTOP_DEMO": "2", "DASHTOP_INTERVAL": "0.5", "DASHTOP_HOST": "127.0.0.1"}) as server:
        begun_ms = newest_ms(server)
        eventually(lambda: newest_ms(server) > begun_ms + 1000)
        known = pasts()
        assert len(known) == WORKERS
        assert known[0] == known[1] == known[2]
        assert any(value is not None for value in known[0])
    (tmp_path / "runtime").rename(tmp_path / "before")
    with gunicorn(tmp_path, {"DASHTOP_DEMO": "2"}, ready=False):
        eventually(lambda: len(addresses()) == WORKERS, timeout_s=30)
        assert len(set(addresses())) == 1
