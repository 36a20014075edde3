"""The NVML reader with real pynvml, a real worker process and a fake driver: values and processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from dashtop.model.ports import SystemClock
from dashtop.model.sample import PROCESSES
from dashtop.model.unavailable import UnavailableReason
from dashtop.sources.nvml.subprocess_reader import SubprocessGpuReader
from tests.processes import eventually
from tests.sources.nvml_fixtures import GIB, open_reader, read_complete, resize_world

if TYPE_CHECKING:
    from dashtop.model.sample import Gpu
    from tests.fake_nvml.fixtures import WorldFactory


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
def test_values_match_the_world(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    world = resize_world(nvml_world(name), count)
    with open_reader(world, monkeypatch) as gpus:
        found = read_complete(gpus)
    assert [gpu.device.uuid for gpu in found] == [gpu["uuid"] for gpu in world.gpus]
    for gpu, described in zip(found, world.gpus, strict=True):
        for key, value in expected(described).items():
            assert gpu.values[key] == pytest.approx(value), key
        (process,) = gpu.processes
        assert process.pid == described["processes"][0]["pid"]
        assert process.gpu_memory_bytes == described["processes"][0]["used_memory"]
        assert gpu.device.name == described["name"]
        assert gpu.device.slowdown_celsius == described["temperature_thresholds"]["slowdown"]


def test_missing_fan_affects_only_the_fan_speed(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = resize_world(nvml_world("rtx3090"), 2).set_return("nvmlDeviceGetFanSpeed", 3, gpu=1)
    with open_reader(world, monkeypatch) as gpus:
        first, second = read_complete(gpus)
    assert first.values["gpu.fan_speed"] is not None
    assert second.values["gpu.fan_speed"] is None
    assert second.unavailable["gpu.fan_speed"] is UnavailableReason.NOT_SUPPORTED
    assert second.values["gpu.temperature"] == 31


def test_impossible_values_are_missing_and_counted(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = resize_world(nvml_world("rtx3090"), 2)
    impossible = {
        "utilization": {"gpu": 991, "memory": 5}, "temperature": 255, "power.usage": 2**32 - 1,
        "clocks.graphics": 2**32 - 1, "memory.used": 2**50,
    }  # fmt: skip
    for path, value in impossible.items():
        world.set(0, path, value)
    world.set(1, "fan_speed", 115)
    with open_reader(world, monkeypatch) as gpus:
        counted = gpus.read(20).implausible_count
        first, second = read_complete(gpus)
    keys = {
        "gpu.utilization.gpu", "gpu.temperature", "gpu.power.current_watts", "gpu.power.usage_percent",
        "gpu.clocks.gpu_mhz", "gpu.memory.used_gb", "gpu.memory.used_percent",
    }  # fmt: skip
    found = {key for key, reason in first.unavailable.items() if reason is UnavailableReason.IMPLAUSIBLE}
    assert found - {"gpu.power.instant_watts", "gpu.power.average_watts"} == keys
    assert counted >= len(keys) - 1  # the power limit, and so the share of it, is read in the background
    assert first.values["gpu.utilization.memory"] == 5
    assert first.values["gpu.memory.total_gb"] is not None
    assert first.state is None
    assert second.values["gpu.fan_speed"] == 115
    assert UnavailableReason.IMPLAUSIBLE not in second.unavailable.values()


def test_changed_value_is_read(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = resize_world(nvml_world("rtx3090"), 1)
    with open_reader(world, monkeypatch) as gpus:
        assert gpus.read(20).gpus[0].values["gpu.temperature"] == 30
        world.set(0, "temperature", 71).save()
        assert gpus.read(20).gpus[0].values["gpu.temperature"] == 71


def test_missing_library_means_no_gpus(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    gpus = SubprocessGpuReader(clock=SystemClock())
    try:
        found = gpus.read(20)
    finally:
        gpus.close()
    assert (found.gpus, found.error) == ((), UnavailableReason.NO_LIBRARY)


def test_pcie_throughput_from_byte_counters(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = resize_world(nvml_world("rtx3090"), 1)
    world.set(0, "pcie.tx_bytes", {"value": 2**33, "per_second": 50_000_000})
    world.set(0, "pcie.rx_bytes", {"value": 2**33, "per_second": 20_000_000})

    def measured(gpus: SubprocessGpuReader) -> Gpu | None:
        gpu = gpus.read(20).gpus[0]
        return gpu if gpu.values["gpu.pcie.tx_mbps"] is not None else None

    with open_reader(world, monkeypatch) as gpus:
        assert gpus.read(20).gpus[0].unavailable["gpu.pcie.tx_mbps"] is UnavailableReason.FIRST_READING
        gpu = eventually(lambda: measured(gpus))
    assert gpu.values["gpu.pcie.tx_mbps"] == pytest.approx(50, rel=0.1)
    assert gpu.values["gpu.pcie.rx_mbps"] == pytest.approx(20, rel=0.1)


def test_sm_activity_of_hopper(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = nvml_world("h100x8")
    with open_reader(world, monkeypatch) as gpus:
        value = eventually(lambda: gpus.read(20).gpus[0].values["gpu.utilization.compute"])
    assert 0 < value <= 100


def test_process_in_several_lists_is_merged(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = resize_world(nvml_world("rtx3090"), 1)
    world.gpu(0)["processes"] = [
        {"pid": 77, "used_memory": 5 * 2**20, "type": "C"},
        {"pid": 77, "used_memory": 5 * 2**20, "type": "G"},
        {"pid": 78, "used_memory": None, "type": "G"},
    ]
    with open_reader(world, monkeypatch) as gpus:
        processes = read_complete(gpus)[0].processes
    assert [(process.pid, process.kind, process.gpu_memory_bytes) for process in processes] == [
        (77, "C+G", 5 * 2**20),
        (78, "G", None),
    ]


@pytest.mark.parametrize("name", ["driver_r470", "rtx4090", "h100x8"])
def test_process_list_versions_of_drivers(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """R470 has only an older list; in R535 before 535.98 the entries of the list are larger."""
    world = nvml_world(name)
    with open_reader(world, monkeypatch) as gpus:
        found = read_complete(gpus)
    for gpu, described in zip(found, world.gpus, strict=True):
        listed = [(each["pid"], each["type"], each["used_memory"]) for each in described["processes"]]
        listed.sort(key=lambda each: -each[2])
        assert [(each.pid, each.kind, each.gpu_memory_bytes) for each in gpu.processes] == listed


def test_unreadable_processes_are_unavailable_not_empty(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = resize_world(nvml_world("rtx3090"), 3)
    for gpu, kinds in ((0, ("Compute",)), (1, ("Compute", "Graphics", "MPSCompute"))):
        for kind in kinds:
            world.set_return(f"nvmlDeviceGet{kind}RunningProcesses_v3", 4, gpu=gpu)
    with open_reader(world, monkeypatch) as gpus:
        found = read_complete(gpus)
    assert [gpu.processes for gpu in found[:2]] == [(), ()]
    assert [gpu.unavailable.get(PROCESSES) for gpu in found] == [
        UnavailableReason.NO_PERMISSION,
        UnavailableReason.NO_PERMISSION,
        None,
    ]
    assert len(found[2].processes) == 1
