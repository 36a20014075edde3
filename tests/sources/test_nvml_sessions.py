"""The NVML worker and its session: hangs, crashes, driver changes; added, lost and suspended GPUs."""

from __future__ import annotations

import copy
import errno
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pynvml
import pytest

from dashtop.model.metric import Severity
from dashtop.model.unavailable import UnavailableReason
from dashtop.sources.nvml import quarantine, subprocess_reader, worker, worker_process
from dashtop.sources.nvml.bindings import get_reason
from tests.processes import eventually
from tests.sources.nvml_fixtures import (
    is_healthy,
    open_reader,
    read_complete,
    read_until,
    resize_world,
    set_in_workers,
    worker_pids,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from dashtop.model.sample import Event, GpuReading
    from dashtop.sources.nvml.subprocess_reader import SubprocessGpuReader
    from tests.fake_nvml import World
    from tests.fake_nvml.fixtures import WorldFactory


@pytest.fixture(autouse=True)
def _short_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the intervals at which GPUs are looked for."""
    checks = ("REOPEN_DELAY_S", "BUS_CHECK_INTERVAL_S", "RECOVERY_INTERVAL_S", "MIG_CHECK_INTERVAL_S")
    intervals = [*(f"session.{name}" for name in checks), "power.CONTROL_INTERVAL_S"]
    set_in_workers(monkeypatch, dict.fromkeys(intervals, 0.5))


@pytest.fixture
def _short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the timeouts."""
    monkeypatch.setattr(worker_process, "HANG_TIMEOUT_S", 1.0)
    monkeypatch.setattr(worker_process, "INIT_TIMEOUT_S", 1.0)
    monkeypatch.setattr(subprocess_reader, "STALE_AFTER_S", 0.2)


@pytest.mark.parametrize("function", ["nvmlDeviceGetTemperature", "nvmlDeviceGetFanSpeed"])
def test_crashed_worker_is_replaced(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    """In a query of the sample, and in one of the background thread."""
    world = resize_world(nvml_world("rtx3090"), 2)
    with open_reader(world, monkeypatch) as gpus:
        assert gpus.read(20).gpus
        world.set_crash(function).save()
        found = read_until(gpus, lambda found: gpus.failures() >= 1)
        assert [gpu.unavailable["gpu.temperature"] for gpu in found.gpus] == [UnavailableReason.DRIVER_ERROR] * 2
        world.clear_faults().save()
        assert read_until(gpus, is_healthy).gpus[1].values["gpu.temperature"] == 31
        assert len(worker_pids()) == 1


@pytest.mark.parametrize("function", ["nvmlInit_v2", "nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2"])
def test_crash_during_initialization_is_retried(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    monkeypatch.setattr(quarantine, "RELEASE_AFTER_S", 1.0)
    world = resize_world(nvml_world("rtx3090"), 2).set_crash(function)
    with open_reader(world, monkeypatch) as gpus:
        read_until(gpus, lambda _: gpus.failures() >= 2)
        assert gpus.read(0.1).error is UnavailableReason.DRIVER_ERROR
        world.clear_faults().save()
        assert read_until(gpus, is_healthy).gpus[1].values["gpu.temperature"] == 31
        read_until(gpus, lambda found: is_healthy(found) and len(worker_pids()) == 1)


@pytest.mark.usefixtures("_short_timeouts")
@pytest.mark.parametrize("unkillable", [False, True])
@pytest.mark.parametrize("function", ["nvmlDeviceGetTemperature", "nvmlDeviceGetCount_v2", "nvmlInit_v2"])
def test_hung_driver_does_not_block_and_recovers(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, function: str, unkillable: bool
) -> None:
    world = resize_world(nvml_world("rtx3090"), 1)
    with open_reader(world, monkeypatch) as gpus:
        if function == "nvmlDeviceGetTemperature":
            assert gpus.read(20).gpus
        world.set_hang(function, unkillable=unkillable).save()
        if not gpus.read(0.1).gpus:
            assert gpus.read(0.1).error is not None
        observed = observe(gpus, seconds=3, until=UnavailableReason.DRIVER_SILENT)
        assert max(observed.blocked) < 2, "a busy machine may delay a reading; the driver hangs for ever"
        assert observed.max_workers <= 2
        assert UnavailableReason.DRIVER_SILENT in observed.reasons
        world.clear_faults().save()
        monkeypatch.setattr(worker_process, "INIT_TIMEOUT_S", 60.0)  # on a busy machine a worker starts slowly
        read_until(gpus, is_healthy)
        eventually(lambda: is_healthy(gpus.read(0.1)) and len(worker_pids()) == 1)


class Observations:
    """Observations while the driver hangs."""

    def __init__(self) -> None:
        self.blocked: list[float] = []
        self.max_workers = 0
        self.reasons: set[UnavailableReason | None] = set()


def observe(gpus: SubprocessGpuReader, *, seconds: float, until: UnavailableReason) -> Observations:
    """Read for some seconds, and until a reason is seen."""
    observed, end = Observations(), time.monotonic() + seconds
    while time.monotonic() < end or (until not in observed.reasons and time.monotonic() < end + 20):
        started = time.monotonic()
        found = gpus.read(0.05)
        observed.blocked.append(time.monotonic() - started)
        observed.max_workers = max(observed.max_workers, len(worker_pids()))
        observed.reasons |= {found.error} | {reason for gpu in found.gpus for reason in gpu.unavailable.values()}
    return observed


def test_hang_in_shutdown_does_not_block_close(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = resize_world(nvml_world("rtx3090"), 1)
    with open_reader(world, monkeypatch) as gpus:
        assert gpus.read(20).gpus
        world.set_hang("nvmlShutdown", unkillable=True).save()
        started = time.monotonic()
        gpus.close()
        assert time.monotonic() - started < 2
        assert worker_pids() == []


def test_hang_in_a_background_query_makes_only_its_value_stale(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = resize_world(nvml_world("rtx3090"), 2)
    set_in_workers(monkeypatch, {"background_poller.STALE_AFTER_S": 1.0})
    monkeypatch.setattr(worker_process, "HANG_TIMEOUT_S", 60.0)  # the worker is not replaced
    with open_reader(world, monkeypatch) as gpus:
        read_complete(gpus)
        world.set_hang("nvmlDeviceGetFanSpeed").save()
        found = read_until(
            gpus, lambda found: found.gpus[0].unavailable.get("gpu.fan_speed") is UnavailableReason.STALE, timeout_s=30
        )
        assert [gpu.values["gpu.temperature"] for gpu in found.gpus] == [30, 31]
        world.clear_faults().save()
        read_until(gpus, lambda found: found.gpus[1].values["gpu.fan_speed"] is not None)


def test_worker_that_cannot_be_started_is_retried(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    world = resize_world(nvml_world("rtx3090"), 1)
    with open_reader(world, monkeypatch) as gpus:
        with monkeypatch.context() as patch:
            patch.setattr(subprocess, "Popen", fail)
            assert gpus.read(0.1).error is UnavailableReason.INTERNAL_ERROR
        read_until(gpus, is_healthy)


def test_message_of_another_version_is_an_internal_error(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package was upgraded under a running server."""

    def fail(*_: object) -> None:
        raise ValueError("zip() argument 2 is longer than argument 1")

    world = resize_world(nvml_world("rtx3090"), 1)
    with open_reader(world, monkeypatch) as gpus:
        with monkeypatch.context() as patch:
            patch.setattr(worker.Decoder, "decode", fail)
            read_until(gpus, lambda found: found.error is UnavailableReason.INTERNAL_ERROR)
        read_until(gpus, is_healthy)


def test_slow_initialization_is_shown_and_waited_for(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = resize_world(nvml_world("rtx3090"), 2).set_latency("nvmlInit_v2", 4_000_000)
    monkeypatch.setattr(worker_process, "HANG_TIMEOUT_S", 2.0)
    with open_reader(world, monkeypatch) as gpus:
        read_until(gpus, lambda found: found.error is UnavailableReason.INITIALIZING)
        found = read_until(gpus, lambda found: found.error is not UnavailableReason.INITIALIZING, timeout_s=15)
        assert is_healthy(found)
        assert gpus.failures() == 0


@pytest.mark.parametrize("sick", [(2,), (1, 2)], ids=["one", "two"])
@pytest.mark.parametrize("kind", ["hang", "crash"])
def test_gpu_that_hangs_or_crashes_leaves_the_others_alone(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, sick: tuple[int, ...], kind: str
) -> None:
    world = resize_world(nvml_world("rtx3090"), 8)
    monkeypatch.setattr(quarantine, "RELEASE_AFTER_S", 1.0)
    reason = UnavailableReason.NOT_RESPONDING if kind == "hang" else UnavailableReason.DRIVER_ERROR
    with open_reader(world, monkeypatch) as gpus:
        before = [gpu.device for gpu in read_complete(gpus)]
        for index in sick:
            set_fault = world.set_hang if kind == "hang" else world.set_crash
            set_fault("nvmlDeviceGetUtilizationRates", gpu=index)
        world.save()
        started_ms = time.time() * 1000

        def are_others_back(found: GpuReading) -> bool:
            healthy = [gpu.values["gpu.temperature"] is not None for gpu in found.gpus]
            return found.age_s == 0 and healthy == [index not in sick for index in range(8)]

        found = read_until(gpus, are_others_back, timeout_s=20)
        for index in sick:
            gpu = found.gpus[index]
            assert gpu.state is reason
            assert set(gpu.unavailable.values()) == {reason}
            assert gpu.state_since_ms is not None
            assert started_ms - 1000 < gpu.state_since_ms < started_ms + 10_000
        assert [gpu.device for gpu in found.gpus] == before
        end = time.monotonic() + 3
        while time.monotonic() < end:  # the probes of the sick GPU hang or crash meanwhile
            assert are_others_back(gpus.read(0.5))
        world.clear_faults().save()
        read_until(gpus, is_healthy)
        read_until(gpus, lambda found: is_healthy(found) and len(worker_pids()) == 1, timeout_s=20)
        assert [gpu.device for gpu in gpus.read(20).gpus] == before


@pytest.mark.long
def test_gpu_whose_slow_calls_hang_leaves_those_of_others_alone(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = resize_world(nvml_world("rtx3090"), 4)
    set_in_workers(monkeypatch, {"background_poller.STALE_AFTER_S": 3.0})
    with open_reader(world, monkeypatch) as gpus:
        read_complete(gpus)
        world.set_hang("nvmlDeviceGetFanSpeed", gpu=2).save()

        def has_fan_speeds(found: GpuReading) -> bool:
            others = [gpu for gpu in found.gpus if gpu.device.index != 2]
            return found.gpus[2].values["gpu.fan_speed"] is None and all(
                gpu.values["gpu.fan_speed"] is not None and gpu.values["gpu.temperature"] is not None for gpu in others
            )

        def is_read_apart(found: GpuReading) -> bool:
            others = [gpu for gpu in found.gpus if gpu.device.index != 2]
            assert found.age_s == 0
            assert all(gpu.values["gpu.temperature"] is not None for gpu in others), "the worker goes on meanwhile"
            is_stale = found.gpus[2].unavailable.get("gpu.fan_speed") is UnavailableReason.STALE
            return has_fan_speeds(found) and is_stale and len(worker_pids()) == 2

        found = read_until(gpus, is_read_apart, timeout_s=20)
        assert found.gpus[2].values["gpu.temperature"] == 32, "its other values are still read"
        assert found.gpus[2].state is None
        end = time.monotonic() + 5  # longer than the interval of fan speeds and STALE_AFTER_S
        while time.monotonic() < end:
            assert has_fan_speeds(gpus.read(0.5))
            time.sleep(0.1)
        world.clear_faults().save()
        read_until(
            gpus,
            lambda found: found.gpus[2].values["gpu.fan_speed"] is not None and len(worker_pids()) == 1,
            timeout_s=20,
        )


def test_successor_that_crashes_is_replaced(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose slow calls hang goes on until its successor takes over, which here crashes at its start."""
    monkeypatch.setattr(worker_process, "HANG_TIMEOUT_S", 1.0)
    world = resize_world(nvml_world("rtx3090"), 2)
    with open_reader(world, monkeypatch) as gpus:
        read_complete(gpus)
        world.set_hang("nvmlDeviceGetFanSpeed", gpu=1).set_crash("nvmlInit_v2").save()
        read_until(gpus, lambda _: gpus.failures() >= 2, timeout_s=20)
        world.clear_faults().save()
        read_until(gpus, lambda found: is_healthy(found) and len(worker_pids()) == 1, timeout_s=20)


def test_worker_ignores_sigint_and_exits_on_close(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_reader(resize_world(nvml_world("rtx3090"), 1), monkeypatch) as gpus:
        assert gpus.read(20).gpus
        (worker,) = worker_pids()
        os.kill(worker, signal.SIGINT)
        assert gpus.read(20).age_s == 0
        started = time.monotonic()
        gpus.close()
        assert time.monotonic() - started < 2
        assert worker_pids() == []


def test_driver_loaded_later_is_found(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = resize_world(nvml_world("rtx3090"), 1)
    world.save().unload_driver()
    environment = world.library.env(world.file)
    monkeypatch.setattr(world, "env", lambda: environment)
    with open_reader(world, monkeypatch) as gpus:
        assert gpus.read(20).error is UnavailableReason.NO_DRIVER
        world.save()
        assert read_until(gpus, is_healthy).error is None


def test_driver_upgrade_restarts_the_worker(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = resize_world(nvml_world("rtx3090"), 1)
    world.set_return("nvmlInit_v2", pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
    with open_reader(world, monkeypatch) as gpus:
        assert gpus.read(20).error is UnavailableReason.DRIVER_MISMATCH
        first = set(worker_pids())
        # Timeout 0: a worker that has answered exits at once and would rarely be seen.
        eventually(lambda: gpus.read(0).error is UnavailableReason.DRIVER_MISMATCH and set(worker_pids()) - first)
        assert len(worker_pids()) <= 2
        world.clear_faults().save()
        read_until(gpus, is_healthy)
        assert gpus.failures() == 0


def test_reloaded_driver_recovers(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = resize_world(nvml_world("rtx3090"), 2)
    with open_reader(world, monkeypatch) as gpus:
        read_complete(gpus)
        world.set_return("*", pynvml.NVML_ERROR_UNKNOWN).save()
        found = read_until(gpus, lambda found: bool(found.gpus) and found.gpus[0].state is not None)
        assert found.gpus[0].state is UnavailableReason.DRIVER_ERROR
        world.clear_faults().save()
        read_until(gpus, is_healthy)


def test_lost_gpu_has_its_state_and_recovers(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = resize_world(nvml_world("rtx3090"), 4)
    with open_reader(world, monkeypatch) as gpus:
        read_complete(gpus)
        world.set_return("*", pynvml.NVML_ERROR_GPU_IS_LOST, gpu=2).save()
        found = read_until(
            gpus, lambda found: len(found.gpus) > 2 and found.gpus[2].state is UnavailableReason.GPU_LOST
        )
        assert [gpu.values["gpu.temperature"] for gpu in found.gpus] == [30, 31, None, 33]
        assert set(found.gpus[2].unavailable.values()) == {UnavailableReason.GPU_LOST}
        world.clear_faults().save()
        assert [gpu.values["gpu.temperature"] for gpu in read_until(gpus, is_healthy).gpus] == [30, 31, 32, 33]


def identify(found: GpuReading) -> list[tuple[object, ...]]:
    return [(gpu.device.uuid, gpu.device.name, gpu.device.index, gpu.device.pci_bus_id) for gpu in found.gpus]


def test_lost_gpu_keeps_its_identity_and_leaves_the_others_alone(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = pynvml.NVML_ERROR_GPU_IS_LOST
    world = resize_world(nvml_world("rtx3090"), 4).count_calls()
    with open_reader(world, monkeypatch) as gpus:
        complete = read_until(gpus, lambda found: has_rates(found, range(4)), timeout_s=15)
        before = identify(complete)
        world.set_return("*", code, gpu=2).save()
        read_until(gpus, lambda found: found.gpus[2].state is not None)
        lookups = count_calls(world, "nvmlDeviceGetHandleByIndex_v2")

        def is_looked_for_twice(found: GpuReading) -> bool:
            assert identify(found) == before
            assert found.gpus[2].state is get_reason(code)
            assert has_rates(found, (0, 1, 3)), "a value of a healthy GPU is missing"
            return count_calls(world, "nvmlDeviceGetHandleByIndex_v2") >= lookups + 2

        read_until(gpus, is_looked_for_twice, timeout_s=20)
        assert count_calls(world, "nvmlInit_v2") == 1
        os.kill(worker_pids()[0], signal.SIGKILL)
        read_until(gpus, lambda found: found.age_s == 0 and found.gpus[2].state is get_reason(code), timeout_s=15)
        assert identify(gpus.read(20)) == before
        world.clear_faults().save()
        assert identify(read_until(gpus, is_healthy)) == before


def test_forbidden_gpu_leaves_the_others_alone(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    code = pynvml.NVML_ERROR_NO_PERMISSION
    world = resize_world(nvml_world("rtx3090"), 4).set_return("*", code, gpu=2).count_calls()
    with open_reader(world, monkeypatch) as gpus:
        read_until(gpus, lambda found: has_rates(found, (0, 1, 3)), timeout_s=15)
        lookups = count_calls(world, "nvmlDeviceGetHandleByIndex_v2")

        def is_looked_for_again(found: GpuReading) -> bool:
            assert found.gpus[2].state is get_reason(code)
            assert has_rates(found, (0, 1, 3)), "a value of a healthy GPU is missing"
            return count_calls(world, "nvmlDeviceGetHandleByIndex_v2") > lookups

        read_until(gpus, is_looked_for_again)
        assert count_calls(world, "nvmlInit_v2") == 1


def count_calls(world: World, function: str) -> int:
    """Return how often a function was called, for any GPU."""
    return sum(count for (called, _), count in world.calls().items() if called == function)


def has_rates(found: GpuReading, indexes: Iterable[int]) -> bool:
    """Return whether these GPUs have the values that a new session lacks for a while, and their processes."""
    keys = ("gpu.pcie.tx_mbps", "gpu.energy.total_wh", "gpu.fan_speed", "gpu.temperature")
    return bool(found.gpus) and all(
        found.gpus[index].values[key] is not None and found.gpus[index].processes for index in indexes for key in keys
    )


def test_gpu_without_uuid_is_identified_by_its_pci_address(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = resize_world(nvml_world("rtx3090"), 3).set_return("nvmlDeviceGetUUID", pynvml.NVML_ERROR_UNKNOWN, gpu=1)
    with open_reader(world, monkeypatch) as gpus:
        found = read_until(gpus, is_healthy)
        uuids = [gpu["uuid"] for gpu in world.gpus]
        assert [gpu.device.uuid for gpu in found.gpus] == [uuids[0], "PCI-00000000:02:00.0", uuids[2]]


def test_lost_gpu_is_identified_by_the_files_of_the_driver(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = resize_world(nvml_world("rtx3090"), 2).set_return("*", pynvml.NVML_ERROR_GPU_IS_LOST, gpu=1)
    for gpu in world.gpus:
        folder = tmp_path / "driver" / "nvidia" / "gpus" / gpu["pci"]["bus_id"].lower()[4:]
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t\t {gpu['name']}\nGPU UUID: \t {gpu['uuid']}\n")
    with open_reader(world, monkeypatch, proc=tmp_path) as gpus:
        _, lost = gpus.read(20).gpus
    assert lost.state is UnavailableReason.GPU_LOST
    assert (lost.device.uuid, lost.device.name) == (world.gpu(1)["uuid"], world.gpu(1)["name"])
    assert lost.device.pci_bus_id == "0000:02:00.0"


def test_gpu_lost_at_the_start_does_not_affect_other_gpus(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = nvml_world("lost_gpu")
    with open_reader(world, monkeypatch) as gpus:
        found = gpus.read(20).gpus
    assert [gpu.state for gpu in found].count(UnavailableReason.GPU_LOST) == 1
    assert sum(gpu.values["gpu.temperature"] is not None for gpu in found) == 3


def test_added_removed_and_reordered_gpus_are_listed(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = resize_world(nvml_world("rtx3090"), 3)
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
    with open_reader(world, monkeypatch, proc=tmp_path) as gpus:
        assert len(gpus.read(20).gpus) == 2
        world.data["gpus"].insert(0, third)
        show()
        found = read_until(gpus, lambda found: len(found.gpus) == 3)
        assert [gpu.device.uuid for gpu in found.gpus] == [gpu["uuid"] for gpu in world.gpus]
        assert [gpu.values["gpu.temperature"] for gpu in found.gpus] == [32, 30, 31]
        del world.data["gpus"][1]
        show()
        found = read_until(gpus, lambda found: len(found.gpus) == 2)
        assert [gpu.values["gpu.temperature"] for gpu in found.gpus] == [32, 31]


def test_suspended_laptop_gpu_is_not_woken(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    world = nvml_world("rtx4090_laptop_asleep")
    world.count_calls()
    world.write_sysfs(tmp_path)
    with open_reader(world, monkeypatch, sys_root=tmp_path) as gpus:
        (asleep,) = read_until(gpus, lambda found: bool(found.gpus)).gpus
        assert asleep.state is UnavailableReason.ASLEEP
        assert set(asleep.unavailable.values()) == {UnavailableReason.ASLEEP}
        assert not world.calls()
        world.gpu(0)["runtime_status"] = "active"
        world.write_sysfs(tmp_path)
        awake = read_until(gpus, is_healthy)
        assert awake.gpus[0].state is None
        read_complete(gpus)
        world.gpu(0)["runtime_status"] = "suspended"
        world.write_sysfs(tmp_path)
        read_until(gpus, lambda found: found.gpus[0].state is UnavailableReason.ASLEEP)
        before = world.calls()
        for _ in range(20):
            assert gpus.read(20).gpus[0].state is UnavailableReason.ASLEEP
        assert not {function for function, uuid in world.calls() - before if uuid}


def test_gpu_that_may_suspend_later_is_not_woken(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`power/control` is turned to auto while dashtop runs."""
    world = nvml_world("rtx4090_laptop_asleep")
    world.gpu(0)["runtime_status"] = "active"
    (device,) = (world.write_sysfs(tmp_path) / "bus" / "pci" / "devices").iterdir()
    (device / "power" / "control").write_text("on\n")
    with open_reader(world, monkeypatch, sys_root=tmp_path) as gpus:
        read_until(gpus, is_healthy)
        (device / "power" / "control").write_text("auto\n")
        (device / "power" / "runtime_status").write_text("suspended\n")
        read_until(gpus, lambda found: found.gpus[0].state is UnavailableReason.ASLEEP)


@pytest.mark.parametrize("driver", ["nouveau", "vfio-pci", None])
def test_suspended_gpu_of_another_driver_is_not_asleep(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, driver: str | None
) -> None:
    world = nvml_world("rtx4090_laptop_asleep").save().unload_driver()
    environment = world.library.env(world.file)
    monkeypatch.setattr(world, "env", lambda: environment)
    for device in (world.write_sysfs(tmp_path) / "bus" / "pci" / "devices").iterdir():
        (device / "driver").unlink()
        if driver is not None:
            (device / "driver").symlink_to(f"../../../bus/pci/drivers/{driver}")
    with open_reader(world, monkeypatch, sys_root=tmp_path) as gpus:
        found = gpus.read(20)
    assert (found.gpus, found.error) == ((), UnavailableReason.NO_DRIVER)


def test_mig_instances_are_listed_as_devices(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = nvml_world("a100_mig")
    instances = world.gpu(0)["mig"]["instances"]
    with open_reader(world, monkeypatch) as gpus:
        parent, *parts = read_complete(gpus)
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


def test_mig_instances_made_and_removed_are_found(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = nvml_world("a100_mig").count_calls()
    world.gpus.append(nvml_world("rtx3090").gpu(0))
    instances = world.gpu(0)["mig"]["instances"]
    first, second = instances
    added = {**copy.deepcopy(second), "uuid": "MIG-12345678-1111-4222-8333-444455556666"}

    def list_instances(found: GpuReading) -> list[str]:
        for gpu in found.gpus:
            assert gpu.state is None, "a removed instance is not lost"
        return [gpu.device.uuid for gpu in found.gpus if gpu.device.mig_parent_uuid is not None]

    with open_reader(world, monkeypatch) as gpus:
        read_complete(gpus)
        instances[:] = [second]  # removed
        world.save()
        read_until(gpus, lambda found: list_instances(found) == [second["uuid"]])
        instances[:] = [second, added]  # made
        world.save()
        found = read_until(gpus, lambda found: list_instances(found) == [second["uuid"], added["uuid"]])
        assert [gpu.device.index for gpu in found.gpus] == [0, 1, 2, 3]
        instances[:] = [first]  # re-cut
        world.save()
        found = read_until(gpus, lambda found: list_instances(found) == [first["uuid"]])
        assert found.gpus[2].values["gpu.memory.used_gb"] == pytest.approx(first["memory"]["used"] / 2**30)
        world.set_return("nvmlDeviceGetMigMode", pynvml.NVML_ERROR_UNKNOWN, gpu=0).save()
        checks = count_calls(world, "nvmlDeviceGetMigMode")
        read_until(gpus, lambda found: count_calls(world, "nvmlDeviceGetMigMode") > checks + 4)
        assert list_instances(gpus.read(20)) == [first["uuid"]], "a failing call does not remove instances"
        assert count_calls(world, "nvmlInit_v2") == 1


def test_unified_memory_is_the_memory_of_the_host(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 125829120 kB\nMemFree: 1 kB\nMemAvailable: 31457280 kB\n")
    with open_reader(nvml_world("gb10"), monkeypatch, proc=tmp_path) as gpus:
        (gpu,) = read_complete(gpus)
    assert gpu.device.shares_host_memory
    assert gpu.values["gpu.memory.total_gb"] == 120
    assert gpu.values["gpu.memory.used_gb"] == 90
    assert gpu.unavailable["gpu.memory.reserved_gb"] is UnavailableReason.UNIFIED_MEMORY
    assert gpu.values["gpu.clocks.gpu_mhz"] is not None
    assert gpu.values["gpu.clocks.memory_mhz"] is None


@pytest.mark.parametrize("total", [0, 120 * 2**30])
def test_gpu_with_the_memory_of_the_host_shares_it(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, total: int
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 125829120 kB\nMemFree: 1 kB\nMemAvailable: 31457280 kB\n")
    world = nvml_world("gb10").set(0, "name", "NVIDIA N7")
    world.set(0, "memory", {"total": total, "used": 0, "reserved": 0})
    world.gpus.append({**nvml_world("rtx3090").gpu(0)})
    with open_reader(world, monkeypatch, proc=tmp_path) as gpus:
        shared, own = read_complete(gpus)
    assert shared.device.shares_host_memory
    assert shared.device.memory_total_bytes is None
    assert (shared.values["gpu.memory.used_gb"], shared.values["gpu.memory.total_gb"]) == (90, 120)
    assert not own.device.shares_host_memory


def test_wsl_reason_is_wddm(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "version").write_text("Linux version 5.15.153.1-microsoft-standard-WSL2 (root@x) #1 SMP\n")
    with open_reader(nvml_world("wsl"), monkeypatch, proc=tmp_path) as gpus:
        (gpu,) = read_complete(gpus)
    assert UnavailableReason.WDDM in gpu.unavailable.values()
    assert UnavailableReason.NOT_SUPPORTED not in gpu.unavailable.values()
    assert gpu.values["gpu.memory.used_gb"] is not None
    assert {process.gpu_memory_bytes for process in gpu.processes} == {None}


def test_old_driver_uses_older_functions(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = nvml_world("driver_r470")
    with open_reader(world, monkeypatch) as gpus:
        first = read_complete(gpus)[0]
    memory = world.gpu(0)["memory"]
    reserved = memory.get("reserved", 0)
    assert first.values["gpu.memory.used_gb"] == pytest.approx((memory["used"] + reserved) / 2**30)
    assert first.values["gpu.clocks.event_reasons"] == world.gpu(0)["clocks_event_reasons"]
    assert first.unavailable["gpu.memory.reserved_gb"] is UnavailableReason.LIBRARY_TOO_OLD
    assert first.values["gpu.pcie.tx_mbps"] is not None


def test_xid_event_has_text_severity_and_advice(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = resize_world(nvml_world("h100x8"), 2)
    world.gpu(0)["event_types"] |= 0xC00  # retirement of memory and its failure
    events: list[Event] = []

    def collect_events(found: GpuReading) -> bool:
        events.extend(found.events)
        return len(events) >= 5

    with open_reader(world, monkeypatch) as gpus:
        read_complete(gpus)
        world.add_event(1, "xid", 79).add_event(0, "xid", 31).add_event(0, "double_bit_ecc")
        world.add_event(0, "dram_retirement").add_event(0, "dram_retirement_failure").save()
        read_until(gpus, collect_events)
    lost = next(event for event in events if event.code == 79)
    assert (lost.kind, lost.severity, lost.gpu_uuid) == ("xid", Severity.CRITICAL, world.gpu(1)["uuid"])
    assert "fallen off the bus" in lost.text
    assert "Reboot" in lost.advice
    assert abs(lost.time_ms - time.time() * 1000) < 20_000
    assert sorted((event.kind, event.severity.value) for event in events) == [
        ("ecc", "critical"),
        ("ecc", "critical"),
        ("ecc", "warning"),
        ("xid", "critical"),
        ("xid", "warning"),
    ]


def test_storm_of_one_xid_does_not_displace_another(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = resize_world(nvml_world("h100x8"), 2)
    codes: list[int | None] = []

    def is_over(found: GpuReading) -> bool:
        codes.extend(event.code for event in found.events)
        return 45 in codes

    with open_reader(world, monkeypatch) as gpus:
        read_complete(gpus)
        world.add_event(1, "xid", 79)
        for _ in range(600):
            world.add_event(0, "xid", 31)
        world.add_event(0, "xid", 45).save()
        read_until(gpus, is_over, timeout_s=20)
    assert codes == [79, 31, 45]


@pytest.fixture(autouse=True)
def _no_worker_is_left() -> Iterator[None]:
    yield
    eventually(lambda: worker_pids() == [])
