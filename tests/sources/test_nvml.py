"""Real binding, real child process, fake driver: every value as the world says, and a child that may be lost."""

from __future__ import annotations

import copy
import os
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dashtop.domain.errors import Reason
from dashtop.sources import isolated
from dashtop.sources.clock import SystemClock
from dashtop.sources.isolated import IsolatedGpus
from tests.processes import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dashtop.domain.sample import Gpu, GpuReading
    from tests.fake_nvml import World
    from tests.fake_nvml.fixtures import WorldFactory

GIB = 2**30
RATES = (
    "gpu.pcie.tx_mbps", "gpu.pcie.rx_mbps", "gpu.nvlink.tx_mbps", "gpu.nvlink.rx_mbps", "gpu.energy.wh_per_hour",
    "gpu.utilization.compute", "gpu.utilization.sm_occupancy", "gpu.utilization.tensor", "gpu.utilization.dram",
)  # fmt: skip


@contextmanager
def reading(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[IsolatedGpus]:
    for name, value in world.env().items():
        monkeypatch.setenv(name, value)
    gpus = IsolatedGpus(clock=SystemClock())
    try:
        yield gpus
    finally:
        gpus.close()


def settled(gpus: IsolatedGpus, *ignored: str) -> tuple[Gpu, ...]:
    """Read until the questions beside the main path are answered too, save rates, which need a second reading."""

    def read() -> tuple[Gpu, ...] | None:
        found = gpus.read(20)
        waiting = {key for gpu in found.gpus for key, why in gpu.unavailable.items() if why is Reason.FIRST_READING}
        return found.gpus if found.gpus and not waiting - set(RATES) - set(ignored) else None

    answer: tuple[Gpu, ...] = eventually(read)
    return answer


def children() -> list[int]:
    """Pids of this process's children that are not zombies."""
    me = os.getpid()
    found = []
    for tasks in Path(f"/proc/{me}/task").iterdir():
        found += [int(pid) for pid in (tasks / "children").read_text().split()]
    return found


def of_size(world: World, count: int) -> World:
    """Give the world `count` GPUs, each with values of its own."""
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


def expected(gpu: dict[str, Any]) -> dict[str, float]:
    memory, power = gpu["memory"], gpu["power"]
    return {
        "gpu.utilization.gpu": gpu["utilization"]["gpu"],
        "gpu.utilization.memory": gpu["utilization"]["memory"],
        "gpu.memory.used_gb": memory["used"] / GIB,
        "gpu.memory.total_gb": memory["total"] / GIB,
        "gpu.memory.used_percent": 100 * memory["used"] / memory["total"],
        "gpu.temperature": gpu["temperature"],
        "gpu.power.current_watts": power["usage"] / 1000,
        "gpu.power.max_watts": power["enforced_limit"] / 1000,
        "gpu.power.usage_percent": 100 * power["usage"] / power["enforced_limit"],
        "gpu.clocks.gpu_mhz": gpu["clocks"]["graphics"],
        "gpu.clocks.gpu_max_mhz": gpu["max_clocks"]["graphics"],
        "gpu.clocks.memory_mhz": gpu["clocks"]["memory"],
        "gpu.clocks.memory_max_mhz": gpu["max_clocks"]["memory"],
        "gpu.pcie.generation": gpu["pcie"]["generation"],
        "gpu.pcie.width": gpu["pcie"]["width"],
        "gpu.pcie.max_generation": gpu["pcie"]["max_generation"],
        "gpu.clocks.sm_mhz": gpu["clocks"]["sm"],
        "gpu.clocks.video_mhz": gpu["clocks"]["video"],
        "gpu.clocks.event_reasons": gpu["clocks_event_reasons"],
        "gpu.performance_state": gpu["performance_state"],
        "gpu.memory.reserved_gb": memory["reserved"] / GIB,
        "gpu.memory.bar1_total_gb": gpu["bar1"]["total"] / GIB,
        "gpu.memory.bar1_used_gb": gpu["bar1"]["used"] / GIB,
        "gpu.temperature_slowdown": gpu["temperature_thresholds"]["slowdown"],
        "gpu.power.limit_default_watts": power["default_limit"] / 1000,
        "gpu.power.limit_min_watts": power["min_limit"] / 1000,
        "gpu.power.limit_max_watts": power["max_limit"] / 1000,
        "gpu.compute_mode": gpu["compute_mode"],
        "gpu.persistence_mode": gpu["persistence_mode"],
    }


@pytest.mark.parametrize(("name", "count"), [("rtx3090", 1), ("rtx3090", 8), ("h100x8", 16)])
def test_every_value_is_the_worlds(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    world = of_size(nvml_world(name), count)
    with reading(world, monkeypatch) as gpus:
        found = settled(gpus)
    assert [gpu.device.uuid for gpu in found] == [gpu["uuid"] for gpu in world.gpus]
    for gpu, described in zip(found, world.gpus, strict=True):
        for key, value in expected(described).items():
            assert gpu.values[key] == pytest.approx(value), key
        (process,) = gpu.processes
        assert process.pid == described["processes"][0]["pid"]
        assert process.gpu_memory_bytes == described["processes"][0]["used_memory"]
        assert gpu.device.name == described["name"]
        assert gpu.device.slowdown_celsius == described["temperature_thresholds"]["slowdown"]


def test_a_card_without_fan_says_so_and_keeps_the_rest(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = of_size(nvml_world("rtx3090"), 2).set_return("nvmlDeviceGetFanSpeed", 3, gpu=1)
    with reading(world, monkeypatch) as gpus:
        first, second = settled(gpus)
    assert first.values["gpu.fan_speed"] is not None
    assert second.values["gpu.fan_speed"] is None
    assert second.unavailable["gpu.fan_speed"] is Reason.NOT_SUPPORTED
    assert second.values["gpu.temperature"] == 31


def test_a_change_of_the_world_is_seen(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = of_size(nvml_world("rtx3090"), 1)
    with reading(world, monkeypatch) as gpus:
        assert gpus.read(20).gpus[0].values["gpu.temperature"] == 30
        world.set(0, "temperature", 71).save()
        assert gpus.read(20).gpus[0].values["gpu.temperature"] == 71


def test_without_library_there_are_no_gpus(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    gpus = IsolatedGpus(clock=SystemClock())
    try:
        found = gpus.read(20)
    finally:
        gpus.close()
    assert (found.gpus, found.trouble) == ((), Reason.NO_LIBRARY)


def test_pcie_traffic_is_counted(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = of_size(nvml_world("rtx3090"), 1)
    world.set(0, "pcie.tx_bytes", {"value": 2**33, "per_second": 50_000_000})
    world.set(0, "pcie.rx_bytes", {"value": 2**33, "per_second": 20_000_000})

    def measured(gpus: IsolatedGpus) -> Gpu | None:
        gpu = gpus.read(20).gpus[0]
        return gpu if gpu.values["gpu.pcie.tx_mbps"] is not None else None

    with reading(world, monkeypatch) as gpus:
        assert gpus.read(20).gpus[0].unavailable["gpu.pcie.tx_mbps"] is Reason.FIRST_READING
        gpu = eventually(lambda: measured(gpus))
    assert gpu.values["gpu.pcie.tx_mbps"] == pytest.approx(50, rel=0.1)
    assert gpu.values["gpu.pcie.rx_mbps"] == pytest.approx(20, rel=0.1)


def test_sm_activity_of_a_hopper(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = nvml_world("h100x8")
    with reading(world, monkeypatch) as gpus:
        value = eventually(lambda: gpus.read(20).gpus[0].values["gpu.utilization.compute"])
    assert 0 < value <= 100


def test_a_process_in_several_lists_is_one(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = of_size(nvml_world("rtx3090"), 1)
    world.gpu(0)["processes"] = [
        {"pid": 77, "used_memory": 5 * 2**20, "type": "C"},
        {"pid": 77, "used_memory": 5 * 2**20, "type": "G"},
        {"pid": 78, "used_memory": None, "type": "G"},
    ]
    with reading(world, monkeypatch) as gpus:
        processes = settled(gpus)[0].processes
    assert [(process.pid, process.kind, process.gpu_memory_bytes) for process in processes] == [
        (77, "C+G", 5 * 2**20),
        (78, "G", None),
    ]


def fresh(gpus: IsolatedGpus) -> GpuReading | None:
    found = gpus.read(0.1)
    return found if found.gpus and found.age_s == 0 and found.gpus[0].values["gpu.temperature"] is not None else None


def test_a_crash_costs_the_child_alone(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = of_size(nvml_world("rtx3090"), 2)
    with reading(world, monkeypatch) as gpus:
        assert gpus.read(20).gpus
        world.set_crash("nvmlDeviceGetTemperature").save()
        eventually(lambda: gpus.read(0.1).gpus[0].unavailable.get("gpu.temperature") is Reason.DRIVER_ERROR)
        assert gpus.failures() >= 1
        world.clear_faults().save()
        assert eventually(lambda: fresh(gpus), timeout_s=10).gpus[1].values["gpu.temperature"] == 31
        assert len(children()) == 1


@pytest.mark.parametrize("unkillable", [False, True])
def test_a_hung_driver_never_blocks_and_is_left(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, unkillable: bool
) -> None:
    monkeypatch.setattr(isolated, "HANG_S", 0.5)
    monkeypatch.setattr(isolated, "STALE_S", 0.2)
    world = of_size(nvml_world("rtx3090"), 1)
    with reading(world, monkeypatch) as gpus:
        assert gpus.read(20).gpus
        world.set_hang("nvmlDeviceGetTemperature", unkillable=unkillable).save()
        end = time.monotonic() + 3
        reasons = set()
        while time.monotonic() < end:
            started = time.monotonic()
            found = gpus.read(0.05)
            assert time.monotonic() - started < 0.5
            assert len(found.gpus) == 1
            reasons |= set(found.gpus[0].unavailable.values())
            assert len(children()) <= 2
        assert {Reason.STALE, Reason.DRIVER_SILENT} <= reasons
        world.clear_faults().save()
        eventually(lambda: fresh(gpus), timeout_s=10)
        eventually(lambda: fresh(gpus) and len(children()) == 1, timeout_s=10)


def test_the_child_ends_with_its_parents_interest(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    with reading(of_size(nvml_world("rtx3090"), 1), monkeypatch) as gpus:
        assert gpus.read(20).gpus
        (child,) = children()
        os.kill(child, signal.SIGINT)
        assert gpus.read(20).age_s == 0
        started = time.monotonic()
        gpus.close()
        assert time.monotonic() - started < 2
        assert children() == []
