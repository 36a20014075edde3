"""Several processes on one machine: gunicorn workers, or two dashtops on one data folder. Each collects for itself."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.history.conftest import Storage
from tests.processes import Running, environment, eventually, running

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.fake_nvml.fixtures import WorldFactory
    from tests.postgresql import Postgres

WORKERS = 2
ALL = "api/v1/system/monitoring/all"


@contextmanager
def gunicorn(folder: Path, env: Mapping[str, str], *options: str, is_open: bool = True) -> Iterator[Running]:
    """Run gunicorn with two workers and its log in `folder`; wait for both, if the API `is_open` without a token."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).parent / "gunicorn"), "--workers", str(WORKERS), "--threads", "4"]
    command += [
        "--graceful-timeout",
        "1",
        "--timeout",
        "120",
        "--bind",
        f"127.0.0.1:{port}",
        *options,
        "dashtop.wsgi:server",
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env={**environment(), **env}, stdout=log, stderr=log, text=True)
    server = Running(process, f"http://127.0.0.1:{port}/")
    try:
        if is_open:
            eventually(lambda: len(children(process.pid)) == WORKERS, timeout_s=30)
            eventually(lambda: all(server.status("/readyz")[0] == 200 for _ in range(4 * WORKERS)), timeout_s=30)
        yield server
        assert server.stop() == 0
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
            with suppress(FileNotFoundError):  # a thread may end meanwhile
                found += [int(child) for child in (tasks / "children").read_text().split()]
    return found


@contextmanager
def only(worker: int, server: Running) -> Iterator[None]:
    """Stop all other workers, so that this one answers."""
    others = set(children(server.process.pid)) - {worker}
    try:
        for other in others:
            os.kill(other, signal.SIGSTOP)
        yield
    finally:
        for other in others:
            with suppress(ProcessLookupError):
                os.kill(other, signal.SIGCONT)


def ready_details(server: Running) -> dict[int, str | None]:
    """Return why each worker that is ready does not write the history; None for the one that does."""
    details = {}
    for worker in children(server.process.pid):
        with only(worker, server):
            status, body = server.status("/readyz")
            if status == 200:
                details[worker] = body.get("detail")
    return details


def writer_and_readers(server: Running) -> tuple[int, list[int]] | None:
    """Return the worker that writes and those that name it as the writer; None while workers start or take over."""
    details = ready_details(server)
    writers = [worker for worker, message in details.items() if message is None]
    if len(writers) != 1:
        return None
    readers = [worker for worker, message in details.items() if message and f"Process {writers[0]} on " in message]
    return (writers[0], readers) if len(readers) == WORKERS - 1 else None


def newest_ms(server: Running) -> int:
    return int(server.json(ALL)["timestamp"])


def detail(server: Running) -> str | None:
    """Return why the process does not write the history; None if it does."""
    body: dict[str, Any] = server.status("/readyz")[1]
    return body.get("detail")


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "sqlite":
        return Storage(tmp_path)
    server: Postgres = request.getfixturevalue("postgres")
    schema = f"workers_{os.getpid()}"
    server.query_sql(f"CREATE SCHEMA {schema}")
    return Storage(tmp_path, server, schema)


def count_late_ticks(dashtop: Running) -> int:
    found = re.search(r"^dashtop_skipped_ticks_total (\S+)$", dashtop.get("/metrics").decode(), re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


@pytest.mark.long
def test_second_dashtop_reads_names_the_first_and_takes_over_without_a_gap(storage: Storage) -> None:
    env = {"DASHTOP_INTERVAL": "0.5", "DASHTOP_DATA_DIR": str(storage.folder)}
    if storage.url is not None:
        env["DASHTOP_HISTORY_URL"] = storage.url
    with running("--no-gpu", env=env) as first:
        started_ms = newest_ms(first)
        eventually(lambda: newest_ms(first) > started_ms + 2000)
        with running("--no-gpu", env=env) as second:
            message = str(eventually(lambda: detail(second)))
            assert f"Process {first.process.pid} on {socket.gethostname()} writes the history in" in message
            assert detail(first) is None
            eventually(lambda: any(message in line for line in second.lines))
            second_ms = newest_ms(second)
            eventually(lambda: newest_ms(second) > second_ms + 2000)
            late_ticks = count_late_ticks(first)
            first.process.kill()
            first.process.wait()
            killed_ms = time.time_ns() // 10**6
            eventually(lambda: detail(second) is None, timeout_s=20)
            eventually(lambda: newest_ms(second) > killed_ms + 3000)
            assert sum(message in line for line in second.lines) == 1
            late_ticks += count_late_ticks(second)
    times = [time_ms for (time_ms,) in storage.query_sql("SELECT time_ms FROM head WHERE tier = 0 ORDER BY id")]
    assert times[0] < second_ms < killed_ms + 3000 <= times[-1]
    longest_ms = max(later - earlier for earlier, later in pairwise(times))
    assert longest_ms < 1500 + 500 * late_ticks, "one sample may be late, and what a busy machine has skipped"


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["", "preloaded"])
def test_each_worker_collects_and_one_writes(
    options: tuple[str, ...], tmp_path: Path, nvml_world: WorldFactory
) -> None:
    env = {"DASHTOP_HOST": "127.0.0.1", "DASHTOP_INTERVAL": "0.5", "DASHTOP_DATA_DIR": str(tmp_path / "data")}
    with gunicorn(tmp_path, {**nvml_world("rtx3090").env(), **env}, *options) as server:
        writer, readers = eventually(lambda: writer_and_readers(server), timeout_s=20)
        assert all(len(children(worker)) == 1 for worker in (writer, *readers)), "each has an NVML worker"
        os.kill(writer, signal.SIGKILL)

        def has_successor() -> bool:
            found = writer_and_readers(server)
            return found is not None and found[0] != writer

        eventually(has_successor, timeout_s=20)


def addresses(log: Path) -> list[str]:
    return [line.split()[-1] for line in log.read_text().splitlines() if "page opens at" in line]


def is_accepted(server: Running, token: str) -> bool:
    request = urllib.request.Request(server.url + ALL, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return bool(answer.status == 200)


def test_workers_share_a_generated_token(tmp_path: Path) -> None:
    with gunicorn(tmp_path, {"DASHTOP_DATA_DIR": str(tmp_path / "data")}, is_open=False) as server:
        eventually(lambda: len(addresses(tmp_path / "log")) == WORKERS, timeout_s=30)
        (path,) = set(addresses(tmp_path / "log"))
        token = path.rpartition("=")[2]
        assert len(token) == 32
        for worker in children(server.process.pid):
            with only(worker, server):
                eventually(lambda: is_accepted(server, token))
    file = tmp_path / "data" / "token"
    assert file.read_text().strip() == token
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "DASHTOP_TOKEN" not in (tmp_path / "log").read_text()


def test_workers_without_a_data_folder_require_a_token(tmp_path: Path) -> None:
    with gunicorn(tmp_path, {"DASHTOP_DEMO": "2"}, is_open=False):
        eventually(lambda: len(addresses(tmp_path / "log")) == WORKERS, timeout_s=30)
        assert len(set(addresses(tmp_path / "log"))) == WORKERS
        assert "Set DASHTOP_TOKEN" in (tmp_path / "log").read_text()
