"""Limits of threads and processes (`ulimit -u`): too low for the start, and reached while dashtop runs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.processes import DASHTOP, environment, eventually, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fake_nvml.fixtures import WorldFactory
    from tests.processes import Running

ALL = "/api/v1/system/monitoring/all"
CAPABILITIES = "-all,+dac_read_search,+dac_override"
"""To read Python and write temporary files, which belong to root in some containers."""
RESTART_S = 15.0
SPARE_THREADS = 100


def count_threads(uid: int) -> int:
    """Return the number of threads of all processes of a user."""
    count = 0
    for status in Path("/proc").glob("[0-9]*/task/*/status"):
        try:
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        except (FileNotFoundError, ProcessLookupError):
            continue
        count += lines["Uid"].split()[0] == str(uid)
    return count


def list_children(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


@pytest.fixture
def uid() -> int:
    """A user to whom the limit applies: the kernel ignores it for root."""
    return os.geteuid() or 50_000 + os.getpid() % 10_000


def build_prefix(uid: int) -> list[str]:
    """Return the words that run a command as a user."""
    if shutil.which("prlimit") is None or (os.geteuid() == 0 and shutil.which("setpriv") is None):
        pytest.skip("prlimit and setpriv (util-linux) are not installed: tests with a limit of threads are skipped")
    if os.geteuid() != 0:
        return []
    bounds = [f"--{name}={CAPABILITIES}" for name in ("inh-caps", "ambient-caps", "bounding-set")]
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *bounds]


def write_command(folder: Path, uid: int, threads: int) -> Path:
    """Write a script that runs dashtop as a user who may have so many threads more than now."""
    words = [*build_prefix(uid), "prlimit", f"--nproc={count_threads(uid) + threads}", str(DASHTOP)]
    script = folder / "limited"
    script.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n')
    script.chmod(0o755)
    return script


@contextmanager
def many_processes(uid: int) -> Iterator[None]:
    """Let a user have as many processes as any limit of these tests allows."""
    command = [*build_prefix(uid), "sh", "-c", f"for _ in $(seq {SPARE_THREADS}); do sleep 300 & done; echo; wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as crowd:
        try:
            assert crowd.stdout is not None
            crowd.stdout.read(1)
            yield
        finally:
            os.killpg(crowd.pid, signal.SIGKILL)


@pytest.mark.parametrize("threads", [1, 2, 4, 20])
def test_too_low_limit_of_threads_is_one_line(tmp_path: Path, uid: int, threads: int) -> None:
    command = write_command(tmp_path, uid, threads)
    arguments = [str(command), "--no-gpu", "--no-persist", "--port", "0"]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False, env=environment())
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("dashtop: Not enough memory or threads (")
    assert "ulimit -u" in line


@pytest.mark.long
@pytest.mark.timeout(120)
def test_server_whose_limit_is_reached_goes_on_and_reads_the_gpus_when_it_can(
    tmp_path: Path, uid: int, nvml_world: WorldFactory
) -> None:
    world = nvml_world("rtx4090").save()
    with running(command=write_command(tmp_path, uid, SPARE_THREADS), env=world.env()) as server:
        eventually(lambda: read_temperature(server), 20)
        (worker,) = list_children(server.process.pid)
        with many_processes(uid):
            os.kill(worker, signal.SIGKILL)
            eventually(lambda: any("reads the GPUs cannot be started" in line for line in server.lines), RESTART_S)
            for path in ("/healthz", "/readyz", "/", ALL, "/api/v1/system/history?range=1h"):
                assert server.get(path)
        eventually(lambda: read_temperature(server), RESTART_S)
        assert not any("Traceback" in line for line in server.lines)


def read_temperature(server: Running) -> float | None:
    metrics = server.json(ALL)["gpu_metrics"]
    return metrics["temperature"] if metrics else None
