"""`dashtop doctor --record`: what it writes, that the fake library replays it, and calls that hang or crash."""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from dashtop.app import build_sampler
from dashtop.doctor import record
from dashtop.doctor.record import RecordError
from dashtop.model.ports import SystemClock
from dashtop.settings import Settings
from dashtop.sources.simulated.reader import SimulatedGpuReader
from tests.fake_nvml.build import exported_functions
from tests.fake_nvml.world import World
from tests.processes import DASHTOP

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dashtop.model.sample import Sample
    from tests.fake_nvml.fixtures import WorldFactory

GPU_IS_LOST, UNKNOWN = 15, 999
# These change from second to second, or the recorder measures them over a second.
RATES = {
    *("gpu.energy.wh_per_hour", "gpu.energy.total_wh", "gpu.pcie.tx_mbps", "gpu.pcie.rx_mbps"),
    *("gpu.nvlink.tx_mbps", "gpu.nvlink.rx_mbps"),
}


class Machine:
    """A machine with a driver on which dashtop records, and the folder of the recording."""

    def __init__(self, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file = folder / "machine.json"
        self._cache, self._monkeypatch = cache, monkeypatch

    def use(self, world: World) -> None:
        for name, value in world.env().items():
            self._monkeypatch.setenv(name, value)

    def record(self, world: World) -> dict[str, Any]:
        self.use(world)
        record.record(self.file)
        found: dict[str, Any] = json.loads(self.file.read_text())
        return found

    def replay(self) -> World:
        return World.read(self.file, self.file.with_suffix(".world"), self._cache)

    def sample(self, worlds: Sequence[World]) -> list[Sample]:
        """Return a settled sample of each world."""
        samplers = []
        for world in worlds:
            self.use(world)
            samplers.append(build_sampler(Settings()))
            samplers[-1].sample(5.0)  # starts the worker
        deadline = time.monotonic() + 20
        samples = [sampler.sample(5.0) for sampler in samplers]
        while any(_is_pending(sample) for sample in samples) and time.monotonic() < deadline:
            time.sleep(0.2)
            samples = [sampler.sample(5.0) for sampler in samplers]
        for sampler in samplers:
            sampler.close()
        return samples


def _is_pending(sample: Sample) -> bool:
    return any(reason.is_pending for gpu in sample.gpus for reason in gpu.unavailable.values())


@pytest.fixture
def machine(tmp_path: Path, fake_nvml_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, fake_nvml_cache, monkeypatch)


@pytest.mark.parametrize("name", ["a100_mig", "driver_r470", "lost_gpu", "rtx3090"])
def test_a_recording_replays_what_was_recorded(nvml_world: WorldFactory, machine: Machine, name: str) -> None:
    world = nvml_world(name)
    machine.record(world)
    original, replayed = machine.sample([world, machine.replay()])
    shown = SimulatedGpuReader(machine.file, clock=SystemClock()).read(1.0)

    assert replayed.gpu_error == original.gpu_error
    assert len(replayed.gpus) == len(original.gpus) > 0
    for before, demo in zip(original.gpus, shown.gpus, strict=True):
        assert demo.state == before.state
        for key, value in before.values.items():
            assert (demo.values[key] is None) == (value is None), key
            assert key in RATES or demo.values[key] == pytest.approx(value), key
    for before, after in zip(original.gpus, replayed.gpus, strict=True):
        assert after.unavailable == before.unavailable
        assert after.state == before.state
        for key, value in before.values.items():
            is_rate = key in RATES and value is not None
            assert after.values[key] == (pytest.approx(value, rel=0.3, abs=2) if is_rate else value), key
        for fact in ("name", "architecture", "pci_bus_id", "compute_capability", "driver_version", "mig_profile"):
            assert getattr(after.device, fact) == getattr(before.device, fact)
        assert [(each.kind, each.gpu_memory_bytes) for each in after.processes] == [
            (each.kind, each.gpu_memory_bytes) for each in before.processes
        ]


def test_private_values_are_replaced(nvml_world: WorldFactory, machine: Machine) -> None:
    world = nvml_world("a100_mig")
    machine.record(world)
    text = machine.file.read_text()

    gpu = world.gpu(0)
    instances = gpu["mig"]["instances"]
    private = [gpu["uuid"], gpu["serial"], *(each["uuid"] for each in instances), "python3", "7713", "7714"]
    assert [value for value in private if value in text] == []
    recorded = json.loads(text)["gpus"][0]
    assert [each["name"] for each in recorded["processes"]] == ["program-1", "program-2"]
    assert recorded["name"] == gpu["name"]
    assert len({recorded["uuid"], *(each["uuid"] for each in recorded["mig"]["instances"])}) == 3


def test_every_call_is_written_with_code_latency_and_result(nvml_world: WorldFactory, machine: Machine) -> None:
    world = nvml_world("rtx3090").set_return("nvmlDeviceGetTemperature", UNKNOWN, gpu=0)
    world.set_latency("nvmlDeviceGetPowerUsage", 30_000, gpu=0)
    recorded = machine.record(world)
    calls = {call["function"]: call for call in recorded["calls"]}

    assert calls["nvmlDeviceGetTemperature"] | {"latency_us": 0} == {
        "gpu": "0", "function": "nvmlDeviceGetTemperature", "arguments": [0], "code": UNKNOWN, "latency_us": 0,
        "value": None,
    }  # fmt: skip
    assert calls["nvmlDeviceGetPowerUsage"]["latency_us"] >= 30_000
    assert calls["nvmlDeviceGetMemoryInfo_v2"]["value"]["total"] == 25769803776
    (gpu,) = recorded["gpus"]
    assert gpu["returns"]["nvmlDeviceGetTemperature"] == UNKNOWN
    assert 30_000 <= gpu["latency_us"]["nvmlDeviceGetPowerUsage"] < 1_000_000
    assert {call["function"] for call in recorded["calls"]} <= exported_functions()


def test_calls_that_hang_or_crash(nvml_world: WorldFactory, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "CALL_TIMEOUT_S", 3.0)
    world = nvml_world("t4").set_hang("nvmlDeviceGetUtilizationRates", gpu=0).set_crash("nvmlDeviceGetFanSpeed", gpu=0)
    world.save()
    recorded = machine.record(world)

    (gpu,) = recorded["gpus"]
    assert gpu["hang"] == ["nvmlDeviceGetUtilizationRates"]
    assert gpu["crash"] == ["nvmlDeviceGetFanSpeed"]
    assert gpu["temperature"] == world.gpu(0)["temperature"]


def test_a_gpu_that_is_lost(nvml_world: WorldFactory, machine: Machine) -> None:
    world = nvml_world("h100x8")
    del world.gpus[2:]
    world.set_return("*", GPU_IS_LOST, gpu=1).save()
    first, second = machine.record(world)["gpus"]

    assert "returns" not in first or GPU_IS_LOST not in first["returns"].values()
    assert GPU_IS_LOST in second["returns"].values()
    assert machine.sample([machine.replay()])[0].gpus[1].state is not None


def test_a_driver_that_is_not_loaded(nvml_world: WorldFactory, machine: Machine) -> None:
    world = nvml_world("t4")
    world.set_return("nvmlInit_v2", 9).save()
    recorded = machine.record(world)

    assert (recorded["gpus"], recorded["returns"]) == ([], {"nvmlInit_v2": 9})


def test_command(nvml_world: WorldFactory, tmp_path: Path) -> None:
    file = tmp_path / "machine.json"
    done = subprocess.run(
        [DASHTOP, "doctor", "--record", file],
        env=nvml_world("t4").env(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{file}: " in done.stdout
    assert "1 GPU." in done.stdout
    assert list(tmp_path.glob(".machine*")) == []


def test_nothing_to_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    with pytest.raises(RecordError, match="was not found"):
        record.record(tmp_path / "machine.json")


def test_a_file_that_cannot_be_written(nvml_world: WorldFactory, machine: Machine) -> None:
    machine.use(nvml_world("t4"))
    with pytest.raises(RecordError, match="cannot be written"):
        record.record(machine.file.parent / "missing" / "machine.json")
