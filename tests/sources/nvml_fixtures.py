"""Helpers for tests of the NVML reader: open it in a world, and read until a condition holds."""

from __future__ import annotations

import copy
import importlib
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dashtop.model.ports import SystemClock
from dashtop.model.unavailable import UnavailableReason
from dashtop.sources.nvml import worker_process
from dashtop.sources.nvml.subprocess_reader import SubprocessGpuReader
from tests.processes import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import pytest

    from dashtop.model.sample import Gpu, GpuReading
    from tests.fake_nvml import World

GIB = 2**30
RATES = (
    "gpu.pcie.tx_mbps", "gpu.pcie.rx_mbps", "gpu.nvlink.tx_mbps", "gpu.nvlink.rx_mbps", "gpu.energy.wh_per_hour",
    "gpu.utilization.compute", "gpu.utilization.sm_occupancy", "gpu.utilization.tensor", "gpu.utilization.dram",
)  # fmt: skip


@contextmanager
def open_reader(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    *,
    proc: Path = Path("/proc"),
    sys_root: Path = Path("/sys"),
) -> Iterator[SubprocessGpuReader]:
    """Open a reader whose worker processes load the library of `world`."""
    for name, value in world.env().items():
        monkeypatch.setenv(name, value)
    gpus = SubprocessGpuReader(clock=SystemClock(), proc=proc, sys_root=sys_root)
    try:
        yield gpus
    finally:
        gpus.close()


def set_in_workers(monkeypatch: pytest.MonkeyPatch, constants: Mapping[str, float]) -> None:
    """Set constants of `dashtop.sources.nvml` in the worker processes that start from now on: {"session.NAME": 1.0}."""
    statements = []
    for constant, value in constants.items():
        module, name = constant.split(".")
        assert hasattr(importlib.import_module(f"dashtop.sources.nvml.{module}"), name), constant
        statements.append(f"from dashtop.sources.nvml import {module}; {constant} = {value}; ")
    monkeypatch.setattr(worker_process, "_START", "".join(statements) + worker_process._START)


def read_complete(gpus: SubprocessGpuReader) -> tuple[Gpu, ...]:
    """Read until the background queries have results; rates, which need a second reading, can still be missing."""

    def read() -> tuple[Gpu, ...] | None:
        found = gpus.read(20)
        waiting = {
            key for gpu in found.gpus for key, why in gpu.unavailable.items() if why is UnavailableReason.FIRST_READING
        }
        return found.gpus if found.gpus and not waiting - set(RATES) else None

    answer: tuple[Gpu, ...] = eventually(read)
    return answer


def read_until(
    gpus: SubprocessGpuReader, condition: Callable[[GpuReading], Any], timeout_s: float = 10.0
) -> GpuReading:
    """Read ten times a second until the condition holds, and return that reading."""

    def read() -> GpuReading | None:
        found = gpus.read(0.1)
        return found if condition(found) else None

    answer: GpuReading = eventually(read, timeout_s=timeout_s, every_s=0.1)
    return answer


def is_healthy(found: GpuReading) -> bool:
    """Return whether every GPU has a temperature and the reading is new."""
    return (
        bool(found.gpus) and found.age_s == 0 and all(gpu.values["gpu.temperature"] is not None for gpu in found.gpus)
    )


def worker_pids() -> list[int]:
    """Return the pids of this process's NVML workers."""
    found = []
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        found += [int(pid) for pid in (task / "children").read_text().split()]
    return [pid for pid in found if _reads(pid)]


def _reads(pid: int) -> bool:
    try:
        return b"dashtop.sources.nvml.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def resize_world(world: World, count: int) -> World:
    """Give the world `count` GPUs with different values."""
    template = world.gpus[0]
    world.data["gpus"] = [copy.deepcopy(template) for _ in range(count)]
    for index, gpu in enumerate(world.gpus):
        gpu["uuid"] = f"GPU-{index:08d}-1111-4222-8333-444455556666"
        gpu["pci"]["bus_id"] = f"00000000:{index + 1:02X}:00.0"
        gpu["utilization"] = {"gpu": 3 * index, "memory": index}
        gpu["temperature"] = 30 + index
        gpu["memory"]["used"] = (index + 1) * GIB
        gpu["power"]["usage"] = 1000 * (100 + index)
        gpu["processes"] = [{"pid": 4_000_000 + index, "used_memory": (index + 1) * 2**20, "type": "C"}]
    return world
