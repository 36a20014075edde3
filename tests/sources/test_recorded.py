"""`--demo FILE`: the GPUs of a recording."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from dashtop.cli import parse
from dashtop.demo import build_past
from dashtop.metrics import GPU_METRICS
from dashtop.model.errors import SettingsError
from dashtop.model.metric import GIB
from dashtop.model.unavailable import UnavailableReason
from dashtop.settings import describe_demo, load
from dashtop.sources.simulated.reader import SimulatedGpuReader, load_world
from tests.clock import FakeClock
from tests.fake_nvml.world import world_names

if TYPE_CHECKING:
    from pathlib import Path

    from dashtop.model.sample import Gpu

GPU_IS_LOST, RESET_REQUIRED, UNKNOWN = 15, 16, 999


def write(folder: Path, world: dict[str, Any]) -> Path:
    file = folder / "machine.json"
    file.write_text(json.dumps(world))
    return file


def read(file: Path, clock: FakeClock | None = None) -> tuple[Gpu, ...]:
    return SimulatedGpuReader(file, clock=clock or FakeClock()).read(1.0).gpus


def copy_world(name: str) -> dict[str, Any]:
    copied: dict[str, Any] = json.loads(json.dumps(load_world(name)))
    return copied


def test_values_are_the_recorded_ones(tmp_path: Path) -> None:
    (gpu,) = read(write(tmp_path, load_world("rtx3090")))

    assert gpu.device.uuid == "GPU-4fb6ac9a-29e1-b611-4af7-b61a99e3b92d"
    assert (gpu.device.name, gpu.device.pci_bus_id) == ("NVIDIA GeForce RTX 3090", "00000000:09:00.0")
    expected = {
        "gpu.utilization.gpu": 98, "gpu.memory.used_gb": 22452109312 / GIB, "gpu.temperature": 77, "gpu.fan_speed": 74,
        "gpu.power.current_watts": 341.21, "gpu.power.instant_watts": 346.875, "gpu.power.max_watts": 350,
        "gpu.clocks.gpu_mhz": 1920, "gpu.performance_state": 2, "gpu.clocks.event_reasons": 4,
        "gpu.pcie.tx_mbps": 512, "gpu.pcie.generation": 4, "gpu.energy.wh_per_hour": 341.21,
        "gpu.nvlink.links": 4, "gpu.nvlink.active": 0, "gpu.temperature_slowdown": 95,
        "gpu.memory.used_percent": 100 * 22452109312 / 25769803776, "gpu.power.usage_percent": 100 * 341.21 / 350,
    }  # fmt: skip
    assert {key: gpu.values[key] for key in expected} == pytest.approx(expected)
    assert gpu.unavailable["gpu.mig_mode"] is UnavailableReason.NOT_SUPPORTED
    assert [(each.pid, each.kind, each.gpu_memory_bytes) for each in gpu.processes] == [
        (18231, "C", 22003318784), (1604, "G", 9437184), (1873, "G", 12582912),
    ]  # fmt: skip
    assert gpu.processes[0].sm_percent == 97


def test_values_stay_and_energy_grows(tmp_path: Path) -> None:
    clock = FakeClock()
    reader = SimulatedGpuReader(write(tmp_path, load_world("h100x8")), clock=clock)
    before = reader.read(1.0).gpus[0].values
    clock.advance(3600)
    after = reader.read(1.0).gpus[0].values

    changed = {key for key, value in before.items() if after[key] != value}
    assert changed == {"gpu.energy.total_wh"}
    assert after["gpu.energy.total_wh"] == pytest.approx(
        (before["gpu.energy.total_wh"] or 0) + (before["gpu.energy.wh_per_hour"] or 0)
    )


@pytest.mark.parametrize("name", world_names())
def test_every_world_can_be_shown(tmp_path: Path, name: str) -> None:
    """The GPUs, their MIG instances, and a history of seven days."""
    world = load_world(name)
    clock = FakeClock()
    reader = SimulatedGpuReader(write(tmp_path, world), clock=clock)
    gpus = reader.read(1.0).gpus

    instances = sum(len(gpu.get("mig", {}).get("instances", ())) for gpu in world["gpus"])
    assert len(gpus) == len(world["gpus"]) + instances
    for gpu in gpus:
        assert set(gpu.values) == {metric.key for metric in GPU_METRICS}
        assert {key for key, value in gpu.values.items() if value is None} == set(gpu.unavailable) - {"gpu.processes"}
    past = build_past(reader.gpus, clock.now_ms())
    can_be_read = any(gpu.state is None for gpu in gpus)
    assert any(True for _ in past.blocks) == can_be_read
    assert any(True for _ in past.records) == can_be_read


def test_what_is_missing_is_missing(tmp_path: Path) -> None:
    """A recording of a driver that answers nearly nothing."""
    (gpu,) = read(write(tmp_path, {"gpus": [{"uuid": "GPU-1", "processes": [{"pid": 7, "used_memory": None}]}]}))

    assert gpu.device.name == "NVIDIA GPU"
    assert set(gpu.values.values()) == {None}
    assert [(each.pid, each.gpu_memory_bytes, each.info.name) for each in gpu.processes] == [(7, None, None)]


@pytest.mark.parametrize(
    ("faults", "state"),
    [
        ({"returns": {"*": GPU_IS_LOST}}, UnavailableReason.GPU_LOST),
        ({"returns": {"nvmlDeviceGetHandleByIndex_v2": RESET_REQUIRED}}, UnavailableReason.GPU_RESET_REQUIRED),
        ({"returns": {"*": UNKNOWN}}, UnavailableReason.DRIVER_ERROR),
        ({"returns": {"nvmlDeviceGetFanSpeed": UNKNOWN}}, None),
        ({"hang": ["nvmlDeviceGetUtilizationRates"]}, UnavailableReason.NOT_RESPONDING),
    ],
)
def test_states(tmp_path: Path, faults: dict[str, Any], state: UnavailableReason | None) -> None:
    world = copy_world("t4")
    world["gpus"][0] |= faults
    assert read(write(tmp_path, world))[0].state is state


def test_links_that_differ(tmp_path: Path) -> None:
    world = copy_world("v100")
    links = [{"active": 1, "tx_bytes": {"value": 1, "per_second": 3e6}}, {"active": 0}]
    world["gpus"][0]["nvlink"] = {"links": links}
    values = read(write(tmp_path, world))[0].values

    assert (values["gpu.nvlink.links"], values["gpu.nvlink.active"]) == (2, 1)
    assert (values["gpu.nvlink.tx_mbps"], values["gpu.nvlink.rx_mbps"]) == (3, None)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"gpus": 3}', '{"gpus": [{"name": "x"}]}', '{"gpus": [7]}'])
def test_a_file_that_is_no_recording(tmp_path: Path, text: str) -> None:
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(SettingsError, match=r"other\.json"):
        SimulatedGpuReader(file, clock=FakeClock())


def test_two_gpus_with_one_uuid(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="same UUID"):
        read(write(tmp_path, {"gpus": [{"uuid": "GPU-1"}, {"uuid": "GPU-1"}]}))


def test_option(tmp_path: Path) -> None:
    file = write(tmp_path, load_world("t4"))
    command, given = parse(["snapshot", "--demo", str(file)])

    assert given == {"demo": str(file)}
    assert command.func.__name__ == "snapshot"
    assert load(**given).demo == file
    assert describe_demo(file) == f"the recorded GPUs of {file}"
    with pytest.raises(SettingsError, match="or a file that `dashtop doctor --record` wrote"):
        load(demo=str(tmp_path / "missing.json"))
