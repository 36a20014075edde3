"""Real processes on fake GPUs through the real command: owners arrive, and hostile names arrive cleaned."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.processes import eventually, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.fake_nvml.fixtures import WorldFactory

ALL = "/api/v1/system/monitoring/all"
MIB = 2**20
# prctl(PR_SET_NAME) is what a program may call to take any name of 15 bytes.
_RENAMED = (
    "import ctypes, sys, time; name = bytes.fromhex(sys.argv[1]);"
    "assert ctypes.CDLL(None).prctl(15, name, 0, 0, 0) == 0; print('ready', flush=True); time.sleep(120)"
)
NAMES = {
    b"\x1b[31mred\r\nx": "\ufffd[31mred\ufffd\ufffdx",
    b"<img src=x>": "<img src=x>",
    b"\xff\xfe\xc3": "\ufffd\ufffd\ufffd",
    b"a\xe2\x80\xaegnp.exe": "a\ufffdgnp.exe",
}


@pytest.fixture
def hostile(tmp_path: Path) -> Iterator[dict[int, str]]:
    """Running processes with names that should do harm: by pid, what may be shown of them."""
    # The kernel keeps 15 bytes of a program's name; the first argument, 4 KiB here, tells the rest.
    program = tmp_path / ("n" * 20)
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    env = {**os.environ, "VIRTUAL_ENV": "/nowhere/\x1b[2Jtrain", "CONDA_DEFAULT_ENV": "x"}
    with ExitStack() as stack:
        long = subprocess.Popen(["n" * 4096, "120"], executable=program, env=env)
        stack.callback(end, long)
        started = {long.pid: "n" * 63 + "…"}
        for name, shown in NAMES.items():
            process = subprocess.Popen([sys.executable, "-c", _RENAMED, name.hex()], stdout=subprocess.PIPE, env=env)
            stack.callback(end, process)
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            started[process.pid] = shown
        yield started


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def test_hostile_names_and_owners_arrive_cleaned(nvml_world: WorldFactory, hostile: dict[int, str]) -> None:
    world = nvml_world("rtx3090")
    world.gpu(0)["processes"] = [{"pid": pid, "used_memory": 100 * MIB, "type": "C"} for pid in hostile]
    world.save()
    with running(env=world.env()) as dashtop:

        def complete() -> bytes | None:
            answer = dashtop.get(ALL)
            found = json.loads(answer)["gpu_processes"]
            return answer if found and all(process["cpu_percent"] is not None for process in found) else None

        raw = eventually(complete, every_s=0.2)
    found = {process["pid"]: process for process in json.loads(raw)["gpu_processes"]}
    assert {pid: process["process_name"] for pid, process in found.items()} == hostile
    for process in found.values():
        assert process["username"] == getpass.getuser()
        assert process["environment"] == "\ufffd[2Jtrain"
        assert process["host_memory_mb"] > 1
        assert 0 <= process["running_seconds"] < 120
        assert process["foreign"] is False
    assert not [byte for byte in raw if byte < 0x20]
    assert b"nowhere" not in raw
    assert b"\\u001b" not in raw
