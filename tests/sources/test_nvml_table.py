"""Every row of the GPU metric table, on a GPU that supports all and has a different value for each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dashtop.metrics import GPU_METRICS
from dashtop.model.unavailable import UnavailableReason
from tests.processes import eventually
from tests.sources.nvml_fixtures import GIB, RATES, open_reader, read_complete, read_until

if TYPE_CHECKING:
    from dashtop.model.sample import Gpu
    from tests.fake_nvml.fixtures import WorldFactory

MEGA = 10**6
WORLD_VALUES = {
    "utilization": {"gpu": 11, "memory": 12},
    "gpm.metrics": {"2": 13.5, "3": 14.5, "5": 15.5, "10": 16.5},
    "memory": {"total": 80 * GIB, "reserved": 2 * GIB, "used": 20 * GIB},
    "bar1": {"total": 64 * GIB, "used": 3 * GIB},
    "temperature": 61,
    "memory_temperature": 62,
    "temperature_margin": 26,
    "temperature_thresholds": {"slowdown": 87, "shutdown": 92, "mem_max": 95},
    "power": {
        "usage": 301_000,
        "instant": 302_000,
        "average": 303_000,
        "limit": 650_000,
        "enforced_limit": 602_000,
        "default_limit": 700_000,
        "min_limit": 200_000,
        "max_limit": 750_000,
    },
    "energy_mj": {"value": 3_600_000_000, "per_second": 301_000},
    "fan_speed": 37,
    "fans": [{"speed": 37, "rpm": 1400}, {"speed": 38, "rpm": 1350}],
    "recovery_action": 4,
    "clocks": {"graphics": 1701, "sm": 1702, "memory": 2603, "video": 1504},
    "max_clocks": {"graphics": 1980, "sm": 1981, "memory": 2619, "video": 1545},
    "clocks_event_reasons": 0x24,
    "performance_state": 2,
    "pcie": {
        "generation": 4,
        "width": 8,
        "max_generation": 5,
        "max_width": 16,
        "replay_counter": 17,
        "tx_bytes": {"value": 2**33, "per_second": 500 * MEGA},
        "rx_bytes": {"value": 2**33, "per_second": 300 * MEGA},
    },
    # The driver counts KiB, the world bytes.
    "nvlink.links": [
        {"active": up, "tx_bytes": {"value": 0, "per_second": 10**9}, "rx_bytes": {"value": 0, "per_second": 2 * 10**9}}
        for up in (1, 1, 0)
    ],
    **{name: {"utilization": value} for name, value in (("encoder", 21), ("decoder", 22), ("jpeg", 23), ("ofa", 24))},
    "encoder_stats": {"sessions": 4, "fps": 30, "latency_us": 900},
    "ecc": {"current": 1, "corrected_volatile": 5, "uncorrected_volatile": 6, "corrected_aggregate": 7}
    | {"uncorrected_aggregate": 8},
    "retired_pages": {"single_bit": [1, 2, 3], "double_bit": [4, 5], "pending": 1},
    "remapped_rows": {"correctable": 9, "uncorrectable": 10, "pending": 1, "failure": 1},
    "compute_mode": 3,
    "persistence_mode": 1,
    "mig": {"current": 0, "pending": 0, "max_devices": 7},
}
EXPECTED = {
    "gpu.utilization.gpu": 11,
    "gpu.utilization.memory": 12,
    "gpu.utilization.compute": 13.5,
    "gpu.utilization.sm_occupancy": 14.5,
    "gpu.utilization.tensor": 15.5,
    "gpu.utilization.dram": 16.5,
    "gpu.memory.used_gb": 20,
    "gpu.memory.total_gb": 80,
    "gpu.memory.used_percent": 25,
    "gpu.memory.reserved_gb": 2,
    "gpu.memory.bar1_used_gb": 3,
    "gpu.memory.bar1_total_gb": 64,
    "gpu.temperature": 61,
    "gpu.memory_temperature": 62,
    "gpu.memory_temperature_limit": 95,
    "gpu.temperature_margin": 26,
    "gpu.temperature_slowdown": 87,
    "gpu.temperature_shutdown": 92,
    "gpu.power.current_watts": 301,
    "gpu.power.instant_watts": 302,
    "gpu.power.average_watts": 303,
    "gpu.power.max_watts": 602,
    "gpu.power.usage_percent": 50,
    "gpu.power.limit_default_watts": 700,
    "gpu.power.limit_min_watts": 200,
    "gpu.power.limit_max_watts": 750,
    "gpu.energy.total_wh": 1000,
    "gpu.energy.wh_per_hour": 301,
    "gpu.fan_speed": 37,
    "gpu.fan_rpm": 1350,
    "gpu.recovery_action": 4,
    "gpu.clocks.gpu_mhz": 1701,
    "gpu.clocks.sm_mhz": 1702,
    "gpu.clocks.memory_mhz": 2603,
    "gpu.clocks.video_mhz": 1504,
    "gpu.clocks.gpu_max_mhz": 1980,
    "gpu.clocks.memory_max_mhz": 2619,
    "gpu.clocks.event_reasons": 0x24,
    "gpu.performance_state": 2,
    "gpu.pcie.generation": 4,
    "gpu.pcie.width": 8,
    "gpu.pcie.max_generation": 5,
    "gpu.pcie.max_width": 16,
    "gpu.pcie.bandwidth_gbps": 8 * 2 * 128 / 130,
    "gpu.pcie.replays": 17,
    "gpu.pcie.tx_mbps": 500,
    "gpu.pcie.rx_mbps": 300,
    "gpu.nvlink.links": 3,
    "gpu.nvlink.active": 2,
    "gpu.nvlink.tx_mbps": 3000,
    "gpu.nvlink.rx_mbps": 6000,
    "gpu.encoder_utilization": 21,
    "gpu.decoder_utilization": 22,
    "gpu.jpeg_utilization": 23,
    "gpu.ofa_utilization": 24,
    "gpu.encoder_sessions": 4,
    "gpu.ecc.volatile_corrected": 5,
    "gpu.ecc.volatile_uncorrected": 6,
    "gpu.ecc.aggregate_corrected": 7,
    "gpu.ecc.aggregate_uncorrected": 8,
    "gpu.retired_pages.single_bit": 3,
    "gpu.retired_pages.double_bit": 2,
    "gpu.retired_pages.pending": 1,
    "gpu.remapped_rows.corrected": 9,
    "gpu.remapped_rows.uncorrected": 10,
    "gpu.remapped_rows.pending": 1,
    "gpu.remapped_rows.failure": 1,
    "gpu.compute_mode": 3,
    "gpu.persistence_mode": 1,
    "gpu.mig_mode": 0,
}


def test_every_metric_has_the_value_of_the_driver(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(EXPECTED) == {metric.key for metric in GPU_METRICS}
    world = nvml_world("h100x8")
    for limit in ("absent", "field_max"):  # as a later driver
        world.data.pop(limit)
    for path, value in WORLD_VALUES.items():
        world.set(0, path, value)
    with open_reader(world, monkeypatch) as gpus:

        def complete() -> Gpu | None:
            gpu = gpus.read(20).gpus[0]
            return gpu if not gpu.unavailable else None

        gpu: Gpu = eventually(complete, every_s=0.1)
    for key, value in EXPECTED.items():
        assert gpu.values[key] == pytest.approx(value, rel=0.1 if key in RATES else 0.001), key


def test_old_driver_says_why_newer_readings_are_missing(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_reader(nvml_world("v100"), monkeypatch) as gpus:
        gpu = read_complete(gpus)[0]
    missing = {key: gpu.unavailable[key] for key in ("gpu.fan_rpm", "gpu.recovery_action")}
    assert set(missing.values()) == {UnavailableReason.LIBRARY_TOO_OLD}
    assert gpu.values["gpu.memory_temperature_limit"] is not None


@pytest.mark.parametrize("field", ["name", "serial", "vbios", "uuid"])
def test_invalid_text_of_a_gpu_is_sanitized(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    world = nvml_world("h100x8")
    world.set(2, field, "x\udcff\x1b[31m\udcfe<b>")
    with open_reader(world, monkeypatch) as gpus:
        found = gpus.read(20).gpus
        assert gpus.failures() == 0
    assert [gpu.values["gpu.temperature"] for gpu in found] == [gpu["temperature"] for gpu in world.gpus]
    assert getattr(found[2].device, field) == "x\ufffd\ufffd[31m\ufffd<b>"


def test_gpu_that_requires_a_reset_does_not_affect_other_gpus(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = nvml_world("h100x8")
    with open_reader(world, monkeypatch) as gpus:
        read_complete(gpus)
        world.set_return("nvmlDeviceGetUtilizationRates", 16, gpu=5).save()
        found = read_until(gpus, lambda found: found.gpus[5].state is UnavailableReason.GPU_RESET_REQUIRED).gpus
        assert [gpu.state for gpu in found] == [None] * 5 + [UnavailableReason.GPU_RESET_REQUIRED] + [None] * 2
        world.clear_faults().save()
        read_until(gpus, lambda found: len(found.gpus) == 8 and all(gpu.state is None for gpu in found.gpus))
