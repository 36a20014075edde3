"""Real processes on fake GPUs through the real command: owners arrive, and hostile names arrive cleaned."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.processes import eventually, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fake_nvml.fixtures import WorldFactory

ALL = "/api/v1/system/monitoring/all"
MIB = 2**20
# prctl(PR_SET_NAME) is what a program may call to take any name of 15 bytes.
_RENAMED = (
    "import ctypes, sys; name = bytes.fromhex(sys.argv[1]);"
    "assert ctypes.CDLL(None).prctl(15, name, 0, 0, 0) == 0; print('ready', flush=True); sys.stdin.read()"
)
NAMES = {
    b"\x1b[31mred\r\nx": "\ufffd[31mred\ufffd\ufffdx",
    b"<img src=x>": "<img src=x>",
    b"\xff\xfe\xc3": "\ufffd\ufffd\ufffd",
    b"a\xe2\x80\xaegnp.exe": "a\ufffdgnp.exe",
}


@pytest.fixture
def hostile() -> Iterator[dict[int, str]]:
    """Running processes with names that should do harm: by pid, what may be shown of them."""
    started = {}
    long = "n" * 4096
    for name, shown in {**NAMES, long.encode(): "n" * 63 + "…"}.items():
        # The kernel keeps 15 bytes; the program's own first argument tells the rest.
        arguments = [long if len(name) > 15 else "python", "-c", _RENAMED, name.hex()]
        process = subprocess.Popen(
            arguments,
            executable=sys.executable,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "VIRTUAL_ENV": "/nowhere/\x1b[2Jtrain", "CONDA_DEFAULT_ENV": "x"},
        )
        started[process] = shown
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    yield {process.pid: shown for process, shown in started.items()}
    for process in started:
        process.kill()
        process.communicate()


def test_hostile_names_and_owners_arrive_cleaned(nvml_world: WorldFactory, hostile: dict[int, str]) -> None:
    world = nvml_world("rtx3090")
    world.gpu(0)["processes"] = [{"pid": pid, "used_memory": 100 * MIB, "type": "C"} for pid in hostile]
    world.save()
    with running(env=world.env()) as dashtop:

        def described() -> dict[int, dict[str, Any]] | None:
            found = {process["pid"]: process for process in dashtop.json(ALL)["gpu_processes"]}
            complete = found and all(process["cpu_percent"] is not None for process in found.values())
            return found if complete else None

        found = eventually(described)
        raw = dashtop.get(ALL)
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
