"""Real processes on fake GPUs, through the real command: owners are shown, hostile names are sanitized."""

from __future__ import annotations

import getpass
import json
from typing import TYPE_CHECKING

from tests.hostile import hostile_processes
from tests.processes import eventually, running

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fake_nvml.fixtures import WorldFactory

ALL = "/api/v1/system/monitoring/all"
MIB = 2**20


def test_hostile_process_names_are_sanitized(nvml_world: WorldFactory, tmp_path: Path) -> None:
    world = nvml_world("rtx3090")
    with hostile_processes(tmp_path, "\x1b[2Jtrain") as hostile:
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
