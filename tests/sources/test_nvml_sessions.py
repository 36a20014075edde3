"""The child and its session with the driver: hangs, crashes, drivers that come and go, GPUs that come, go and sleep."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pynvml
import pytest

from dashtop.model.metric import Severity
from dashtop.model.unavailable import UnavailableReason
from dashtop.sources.nvml import subprocess_reader
from tests.processes import eventually
from tests.sources.nvml_fixtures import children, of_size, reading, settled, well, when

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dashtop.model.sample import Event, GpuReading
    from dashtop.sources.nvml.subprocess_reader import SubprocessGpuReader
    from tests.fake_nvml.fixtures import WorldFactory


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same course of things, sooner."""
    monkeypatch.setattr(subprocess_reader, "HANG_TIMEOUT_S", 1.0)
    monkeypatch.setattr(subprocess_reader, "STALE_AFTER_S", 0.2)


@pytest.mark.parametrize("function", ["nvmlDeviceGetTemperature", "nvmlDeviceGetFanSpeed"])
def test_a_crash_costs_the_child_alone(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    """In the tick, and in the thread beside it."""
    world = of_size(nvml_world("rtx3090"), 2)
    with reading(world, monkeypatch) as gpus:
        assert gpus.read(20).gpus
        world.set_crash(function).save()
        found = when(gpus, lambda found: gpus.failures() >= 1)
        assert [gpu.unavailable["gpu.temperature"] for gpu in found.gpus] == [UnavailableReason.DRIVER_ERROR] * 2
        world.clear_faults().save()
        assert when(gpus, well).gpus[1].values["gpu.temperature"] == 31
        assert len(children()) == 1


@pytest.mark.parametrize("function", ["nvmlInit_v2", "nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2"])
def test_a_driver_that_crashes_whoever_opens_it(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    world = of_size(nvml_world("rtx3090"), 2).set_crash(function)
    with reading(world, monkeypatch) as gpus:
        when(gpus, lambda _: gpus.failures() >= 2 and len(children()) <= 2)
        assert gpus.read(0.1).error is UnavailableReason.DRIVER_ERROR
        world.clear_faults().save()
        assert when(gpus, well).gpus[1].values["gpu.temperature"] == 31
        assert len(children()) == 1


@pytest.mark.usefixtures("_impatient")
@pytest.mark.parametrize("unkillable", [False, True])
@pytest.mark.parametrize("function", ["nvmlDeviceGetTemperature", "nvmlDeviceGetCount_v2", "nvmlInit_v2"])
def test_a_hung_driver_never_blocks_and_is_found_again(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, function: str, unkillable: bool
) -> None:
    world = of_size(nvml_world("rtx3090"), 1)
    with reading(world, monkeypatch) as gpus:
        if function == "nvmlDeviceGetTemperature":
            assert gpus.read(20).gpus
        world.set_hang(function, unkillable=unkillable).save()
        if not gpus.read(0.1).gpus:
            assert gpus.read(0.1).error is not None
        watched = hang_watched(gpus, seconds=3)
        assert max(watched.blocked) < 0.5
        assert watched.most_children <= 2
        assert UnavailableReason.DRIVER_SILENT in watched.reasons
        world.clear_faults().save()
        when(gpus, well)
        eventually(lambda: well(gpus.read(0.1)) and len(children()) == 1)


class Watched:
    """What was seen while the driver hung."""

    def __init__(self) -> None:
        self.blocked: list[float] = []
        self.most_children = 0
        self.reasons: set[UnavailableReason | None] = set()


def hang_watched(gpus: SubprocessGpuReader, *, seconds: float) -> Watched:
    watched, end = Watched(), time.monotonic() + seconds
    while time.monotonic() < end:
        started = time.monotonic()
        found = gpus.read(0.05)
        watched.blocked.append(time.monotonic() - started)
        watched.most_children = max(watched.most_children, len(children()))
        watched.reasons |= {found.error} | {reason for gpu in found.gpus for reason in gpu.unavailable.values()}
    return watched


def test_a_hang_in_shutdown_does_not_keep_anybody(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = of_size(nvml_world("rtx3090"), 1)
    with reading(world, monkeypatch) as gpus:
        assert gpus.read(20).gpus
        world.set_hang("nvmlShutdown", unkillable=True).save()
        started = time.monotonic()
        gpus.close()
        assert time.monotonic() - started < 2
        assert children() == []


def test_a_hang_in_a_costly_question_leaves_the_rest(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = of_size(nvml_world("rtx3090"), 2)
    with reading(world, monkeypatch) as gpus:
        settled(gpus)
        world.set_hang("nvmlDeviceGetFanSpeed").save()
        found = when(
            gpus, lambda found: found.gpus[0].unavailable.get("gpu.fan_speed") is UnavailableReason.STALE, timeout_s=15
        )
        assert [gpu.values["gpu.temperature"] for gpu in found.gpus] == [30, 31]
        world.clear_faults().save()
        when(gpus, lambda found: found.gpus[1].values["gpu.fan_speed"] is not None)


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


def test_a_driver_installed_later_is_found(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = of_size(nvml_world("rtx3090"), 1)
    world.save().unload_driver()
    environment = world.library.env(world.file)
    monkeypatch.setattr(world, "env", lambda: environment)
    with reading(world, monkeypatch) as gpus:
        assert gpus.read(20).error is UnavailableReason.NO_DRIVER
        world.save()
        assert when(gpus, well).error is None


def test_a_driver_upgraded_under_way_is_told_and_found_again(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = of_size(nvml_world("rtx3090"), 1)
    world.set_return("nvmlInit_v2", pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
    with reading(world, monkeypatch) as gpus:
        assert gpus.read(20).error is UnavailableReason.DRIVER_MISMATCH
        first = set(children())
        # Not waited for: a child that has given its answer is ended at once, and would rarely be seen.
        eventually(lambda: gpus.read(0).error is UnavailableReason.DRIVER_MISMATCH and set(children()) - first)
        assert len(children()) <= 2
        world.clear_faults().save()
        when(gpus, well)
        assert gpus.failures() == 0


def test_a_driver_reloaded_is_found_again(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = of_size(nvml_world("rtx3090"), 2)
    with reading(world, monkeypatch) as gpus:
        settled(gpus)
        world.set_return("*", pynvml.NVML_ERROR_UNKNOWN).save()
        found = when(gpus, lambda found: bool(found.gpus) and found.gpus[0].state is not None)
        assert found.gpus[0].state is UnavailableReason.DRIVER_ERROR
        world.clear_faults().save()
        when(gpus, well)


def test_a_lost_gpu_is_shown_as_such_and_noticed_when_back(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = of_size(nvml_world("rtx3090"), 4)
    with reading(world, monkeypatch) as gpus:
        settled(gpus)
        world.set_return("*", pynvml.NVML_ERROR_GPU_IS_LOST, gpu=2).save()
        found = when(gpus, lambda found: len(found.gpus) > 2 and found.gpus[2].state is UnavailableReason.GPU_LOST)
        assert [gpu.values["gpu.temperature"] for gpu in found.gpus] == [30, 31, None, 33]
        assert set(found.gpus[2].unavailable.values()) == {UnavailableReason.GPU_LOST}
        world.clear_faults().save()
        assert [gpu.values["gpu.temperature"] for gpu in when(gpus, well).gpus] == [30, 31, 32, 33]


def test_a_gpu_lost_at_the_start_hides_no_other(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = nvml_world("lost_gpu")
    with reading(world, monkeypatch) as gpus:
        found = gpus.read(20).gpus
    assert [gpu.state for gpu in found].count(UnavailableReason.GPU_LOST) == 1
    assert sum(gpu.values["gpu.temperature"] is not None for gpu in found) == 3


def test_gpus_added_removed_and_reordered_are_noticed(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = of_size(nvml_world("rtx3090"), 3)
    third = world.data["gpus"].pop()
    bus = tmp_path / "driver" / "nvidia" / "gpus"

    def show() -> None:
        for gpu in world.gpus:
            (bus / gpu["pci"]["bus_id"].lower()).mkdir(parents=True, exist_ok=True)
        for listed in bus.iterdir():
            if listed.name not in {gpu["pci"]["bus_id"].lower() for gpu in world.gpus}:
                listed.rmdir()
        world.save()

    show()
    with reading(world, monkeypatch, proc=tmp_path) as gpus:
        assert len(gpus.read(20).gpus) == 2
        world.data["gpus"].insert(0, third)
        show()
        found = when(gpus, lambda found: len(found.gpus) == 3)
        assert [gpu.device.uuid for gpu in found.gpus] == [gpu["uuid"] for gpu in world.gpus]
        assert [gpu.values["gpu.temperature"] for gpu in found.gpus] == [32, 30, 31]
        del world.data["gpus"][1]
        show()
        found = when(gpus, lambda found: len(found.gpus) == 2)
        assert [gpu.values["gpu.temperature"] for gpu in found.gpus] == [32, 31]


def test_a_sleeping_laptop_gpu_is_left_asleep(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = nvml_world("rtx4090_laptop_asleep")
    world.count_calls()
    world.write_sysfs(tmp_path)
    with reading(world, monkeypatch, sys_root=tmp_path) as gpus:
        (asleep,) = when(gpus, lambda found: bool(found.gpus)).gpus
        assert asleep.state is UnavailableReason.ASLEEP
        assert set(asleep.unavailable.values()) == {UnavailableReason.ASLEEP}
        assert not world.calls()
        world.gpu(0)["runtime_status"] = "active"
        world.write_sysfs(tmp_path)
        awake = when(gpus, well)
        assert awake.gpus[0].state is None
        settled(gpus)
        world.gpu(0)["runtime_status"] = "suspended"
        world.write_sysfs(tmp_path)
        when(gpus, lambda found: found.gpus[0].state is UnavailableReason.ASLEEP)
        asked = world.calls()
        for _ in range(20):
            assert gpus.read(20).gpus[0].state is UnavailableReason.ASLEEP
        assert not {function for function, uuid in world.calls() - asked if uuid}


def test_mig_instances_are_devices_of_their_own(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = nvml_world("a100_mig")
    instances = world.gpu(0)["mig"]["instances"]
    with reading(world, monkeypatch) as gpus:
        parent, *parts = settled(gpus)
    assert parent.unavailable["gpu.utilization.gpu"] is UnavailableReason.MIG_PARENT
    assert parent.unavailable["gpu.fan_speed"] is UnavailableReason.NOT_SUPPORTED
    assert parent.values["gpu.mig_mode"] == 1
    assert [part.device.uuid for part in parts] == [instance["uuid"] for instance in instances]
    assert [part.device.index for part in parts] == [1, 2]
    for part, instance in zip(parts, instances, strict=True):
        assert part.device.mig_parent_uuid == parent.device.uuid
        assert part.device.mig_profile == "3g.20gb"
        assert part.values["gpu.memory.total_gb"] == pytest.approx(instance["memory"]["total"] / 2**30)
        assert part.unavailable["gpu.temperature"] is UnavailableReason.MIG_INSTANCE


def test_shared_memory_is_the_hosts(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 125829120 kB\nMemFree: 1 kB\nMemAvailable: 31457280 kB\n")
    with reading(nvml_world("gb10"), monkeypatch, proc=tmp_path) as gpus:
        (gpu,) = settled(gpus)
    assert gpu.device.shares_host_memory
    assert gpu.values["gpu.memory.total_gb"] == 120
    assert gpu.values["gpu.memory.used_gb"] == 90
    assert gpu.unavailable["gpu.memory.reserved_gb"] is UnavailableReason.UNIFIED_MEMORY
    assert gpu.values["gpu.clocks.gpu_mhz"] is not None
    assert gpu.values["gpu.clocks.memory_mhz"] is None


def test_under_windows_what_is_missing_is_windows_doing(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "version").write_text("Linux version 5.15.153.1-microsoft-standard-WSL2 (root@x) #1 SMP\n")
    with reading(nvml_world("wsl"), monkeypatch, proc=tmp_path) as gpus:
        (gpu,) = settled(gpus)
    assert UnavailableReason.WDDM in gpu.unavailable.values()
    assert UnavailableReason.NOT_SUPPORTED not in gpu.unavailable.values()
    assert gpu.values["gpu.memory.used_gb"] is not None
    assert {process.gpu_memory_bytes for process in gpu.processes} == {None}


def test_an_old_driver_tells_what_it_can(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = nvml_world("driver_r470")
    with reading(world, monkeypatch) as gpus:
        first = settled(gpus)[0]
    memory = world.gpu(0)["memory"]
    reserved = memory.get("reserved", 0)
    assert first.values["gpu.memory.used_gb"] == pytest.approx((memory["used"] + reserved) / 2**30)
    assert first.values["gpu.clocks.event_reasons"] == world.gpu(0)["clocks_event_reasons"]
    assert first.unavailable["gpu.memory.reserved_gb"] is UnavailableReason.LIBRARY_TOO_OLD
    assert first.values["gpu.pcie.tx_mbps"] is not None


def test_an_xid_is_told_in_words_with_what_to_do(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = of_size(nvml_world("h100x8"), 2)
    heard: list[Event] = []

    def listen(found: GpuReading) -> bool:
        heard.extend(found.events)
        return len(heard) >= 3

    with reading(world, monkeypatch) as gpus:
        settled(gpus)
        world.add_event(1, "xid", 79).add_event(0, "xid", 31).add_event(0, "double_bit_ecc").save()
        when(gpus, listen)
    lost = next(event for event in heard if event.code == 79)
    assert (lost.kind, lost.severity, lost.gpu_uuid) == ("xid", Severity.CRITICAL, world.gpu(1)["uuid"])
    assert "fallen off the bus" in lost.text
    assert "Reboot" in lost.advice
    assert abs(lost.time_ms - time.time() * 1000) < 20_000
    assert {event.kind for event in heard} == {"xid", "ecc"}


@pytest.fixture(autouse=True)
def _no_child_is_left() -> Iterator[None]:
    yield
    eventually(lambda: children() == [])
