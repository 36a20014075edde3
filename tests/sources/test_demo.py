from __future__ import annotations

import statistics
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from dashtop.metrics import GPU_METRICS, METRICS
from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.simulated.cards import ROLES, Recording, recorded_world
from dashtop.sources.simulated.device import DemoDevice
from dashtop.sources.simulated.engine import Engine
from dashtop.sources.simulated.load import Noise, overheating
from dashtop.sources.simulated.reader import SimulatedGpuReader
from tests.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dashtop.model.ports import GpuDevice, GpuReader
    from dashtop.model.sample import Gpu

TRAINING, INFERENCE, OVERHEATING, IDLE = 0, 1, 2, 3
TRANSCODING, AT_REST = 5, 6
SPLIT, LOST, ASLEEP, SHARING = 8, 9, 11, 12


def film(count: int, seconds: int, *, step: float = 1.0, seed: int = 0) -> list[tuple[Gpu, ...]]:
    clock = FakeClock()
    gpus: GpuReader = SimulatedGpuReader(count, clock=clock, seed=seed)
    frames = []
    for _ in range(int(seconds / step)):
        frames.append(gpus.read(1.0).gpus)
        clock.advance(step)
    gpus.close()
    return frames


def engine_of(index: int, seed: int) -> tuple[Recording, Engine]:
    role = ROLES[index]
    recording = Recording(recorded_world(role.world)["gpus"][role.position])
    return recording, Engine(role, recording, Noise(seed))


@pytest.fixture(scope="module")
def quarter_hour() -> list[tuple[Gpu, ...]]:
    return film(8, 900)


def column(frames: Sequence[tuple[Gpu, ...]], index: int, key: str) -> list[float]:
    values = [frame[index].values[key] for frame in frames]
    assert None not in values
    return [value for value in values if value is not None]


def test_simulated_is_said_and_nothing_fails() -> None:
    gpus = SimulatedGpuReader(1, clock=FakeClock())

    assert gpus.simulated is True
    assert gpus.failures() == 0


@pytest.mark.parametrize("count", [1, 4, 64])
def test_as_many_gpus_as_asked_for_each_with_an_identity(count: int) -> None:
    frame = film(count, 1)[0]

    whole = [gpu for gpu in frame if gpu.device.mig_parent_uuid is None]
    assert [gpu.device.index for gpu in frame] == list(range(len(frame)))
    assert [gpu.device.index for gpu in whole] == list(range(count))
    assert len({gpu.device.uuid for gpu in frame}) == len(frame)
    assert len({gpu.device.pci_bus_id for gpu in whole}) == count
    pids = [process.pid for gpu in whole for process in gpu.processes]
    assert len(set(pids)) == len(pids)


def test_none_is_a_machine_without_gpus() -> None:
    reading = SimulatedGpuReader(0, clock=FakeClock()).read(1.0)

    assert reading.gpus == ()
    assert reading.error is UnavailableReason.NO_DEVICE


@pytest.mark.parametrize("count", [-1, 65])
def test_impossible_counts_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="0 to 64"):
        SimulatedGpuReader(count, clock=FakeClock())


def test_same_seed_and_times_same_values() -> None:
    assert film(8, 60, seed=3) == film(8, 60, seed=3)
    assert film(8, 60, seed=3) != film(8, 60, seed=4)


def test_values_at_a_time_do_not_depend_on_when_one_looked_before() -> None:
    def look(*times: float) -> list[object]:
        _, engine = engine_of(OVERHEATING, 5)
        for time in times:
            engine.begin(time)
        return [engine.celsius, engine.watts, engine.clocks, engine.throttle, engine.load]

    expected = look(5_000.0)
    assert look(*range(4_000, 5_001)) == expected
    assert look(1.0, 4_999.99, 5_000.0) == expected
    assert look(9_000.0, 5_003.0, 5_000.0) == expected
    assert look(*(4_900 + 0.5 * n for n in range(201))) == expected


def test_every_row_has_a_value_or_a_reason(quarter_hour: list[tuple[Gpu, ...]]) -> None:
    keys = {metric.key for metric in GPU_METRICS}
    for gpu in quarter_hour[-1]:
        assert set(gpu.values) == keys
        assert {key for key, value in gpu.values.items() if value is None} == set(gpu.unavailable)
        assert set(gpu.unavailable.values()) <= {UnavailableReason.NOT_SUPPORTED}


def test_a_card_tells_what_its_recording_tells_and_nothing_more(quarter_hour: list[tuple[Gpu, ...]]) -> None:
    for gpu, role in zip(quarter_hour[-1], ROLES, strict=False):
        recorded = recorded_world(role.world)["gpus"][role.position]
        assert gpu.device.name == recorded["name"]
        assert gpu.device.memory_total_bytes == recorded["memory"]["total"]
        assert gpu.values["gpu.pcie.width"] == recorded["pcie"]["width"]
        for key, told in {
            "gpu.fan_speed": "fan_speed",
            "gpu.utilization.compute": "gpm",
            "gpu.nvlink.active": "nvlink",
            "gpu.memory_temperature": "memory_temperature",
            "gpu.remapped_rows.pending": "remapped_rows",
            "gpu.retired_pages.pending": "retired_pages",
        }.items():
            assert (key in gpu.unavailable) == (told not in recorded), (key, role)


def test_the_first_four_differ(quarter_hour: list[tuple[Gpu, ...]]) -> None:
    four = quarter_hour[-1][:4]
    assert len({gpu.device.name for gpu in four}) == 4
    assert len({gpu.device.architecture for gpu in four}) == 4
    assert len({frozenset(gpu.unavailable) for gpu in four}) == 4


def test_a_card_that_shares_the_hosts_memory(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 125829120 kB\nMemFree: 1 kB\nMemAvailable: 31457280 kB\n")
    gpu = SimulatedGpuReader(SHARING + 1, clock=FakeClock(), proc=tmp_path).read(1.0).gpus[SHARING]

    assert gpu.device.name == "NVIDIA GB10"
    assert gpu.device.shares_host_memory
    assert gpu.device.memory_total_bytes is None
    assert (gpu.values["gpu.memory.used_gb"], gpu.values["gpu.memory.total_gb"]) == (90, 120)
    assert 0 < sum(process.gpu_memory_bytes or 0 for process in gpu.processes) < 90 * 2**30
    assert gpu.unavailable["gpu.memory.reserved_gb"] is UnavailableReason.UNIFIED_MEMORY
    untold = ("gpu.power.max_watts", "gpu.clocks.memory_mhz", "gpu.memory_temperature", "gpu.temperature_slowdown")
    assert {gpu.unavailable[key] for key in untold} == {UnavailableReason.NOT_SUPPORTED}
    for key in ("gpu.temperature", "gpu.power.current_watts", "gpu.clocks.gpu_mhz", "gpu.energy.total_wh"):
        assert gpu.values[key] is not None


def test_everybody_on_a_card_is_somebody_somewhere() -> None:
    clock = FakeClock()
    gpus = SimulatedGpuReader(SHARING + 1, clock=clock).read(1.0).gpus
    everybody = [process for gpu in gpus for process in gpu.processes]
    owners = [process.info for process in everybody]

    assert len(owners) == len(everybody)
    assert all(owner.username for owner in owners)
    for kind in ("container", "slurm_job", "kubernetes_pod", "environment"):
        assert any(getattr(owner, kind) for owner in owners), kind
    for process in everybody:
        assert process.host_memory_bytes
        assert process.info.started_ms is not None
        assert process.info.started_ms < clock.now_ms()


def test_a_big_demo_shows_a_split_a_lost_and_a_sleeping_gpu() -> None:
    frame = film(12, 1)[0]
    instances = frame[12:]

    assert frame[SPLIT].unavailable["gpu.utilization.gpu"] is UnavailableReason.MIG_PARENT
    assert frame[SPLIT].values["gpu.power.current_watts"] is not None
    assert [gpu.device.mig_parent_uuid for gpu in instances] == [frame[SPLIT].device.uuid] * 2
    for instance in instances:
        assert instance.device.mig_profile == "3g.20gb"
        assert instance.values["gpu.memory.used_gb"] is not None
        assert instance.processes
        assert set(instance.unavailable.values()) == {UnavailableReason.MIG_INSTANCE}
    for index, reason in ((LOST, UnavailableReason.GPU_LOST), (ASLEEP, UnavailableReason.ASLEEP)):
        assert frame[index].state is reason
        assert set(frame[index].unavailable.values()) == {reason}
        assert set(frame[index].values.values()) == {None}
    assert all(frame[index].state is None for index in range(12) if index not in {LOST, ASLEEP})


def test_values_stay_within_what_the_card_can_do(quarter_hour: list[tuple[Gpu, ...]]) -> None:
    percents = [metric.key for metric in GPU_METRICS if metric.unit.symbol == "%"]
    for frame in quarter_hour:
        for gpu in frame:
            values = {key: value for key, value in gpu.values.items() if value is not None}
            assert all(0 <= values.get(key, 0) <= 100 for key in percents)
            assert values["gpu.memory.used_gb"] <= values["gpu.memory.total_gb"]
            assert 0 < values["gpu.power.current_watts"] <= values["gpu.power.max_watts"]
            assert 20 <= values["gpu.temperature"] <= (gpu.device.slowdown_celsius or 90) + 3
            assert 0 < values["gpu.clocks.gpu_mhz"] <= values["gpu.clocks.gpu_max_mhz"]
            assert 0 < values["gpu.clocks.memory_mhz"] <= values["gpu.clocks.memory_max_mhz"]
            ceiling = 1000 * values["gpu.pcie.bandwidth_gbps"]
            assert 0 <= values["gpu.pcie.tx_mbps"] < ceiling
            assert 0 <= values["gpu.pcie.rx_mbps"] < ceiling


def test_processes_share_the_memory_in_use(quarter_hour: list[tuple[Gpu, ...]]) -> None:
    for frame in quarter_hour[::50]:
        for gpu in frame:
            used = gpu.values["gpu.memory.used_gb"]
            assert used is not None
            assert sum(process.gpu_memory_bytes or 0 for process in gpu.processes) == used * 2**30
            for process in gpu.processes:
                assert process.info.name
                assert "/" not in process.info.name
                assert process.cpu_percent is not None
                assert process.cpu_percent >= 0


def test_training_is_a_plateau_with_dips(quarter_hour: list[tuple[Gpu, ...]]) -> None:
    busy = column(quarter_hour, TRAINING, "gpu.utilization.gpu")

    assert statistics.median(busy) >= 95
    assert min(busy) < 10
    assert 0.01 < sum(value < 60 for value in busy) / len(busy) < 0.15
    fill = column(quarter_hour, TRAINING, "gpu.memory.used_percent")
    assert max(fill) - min(fill) < 5
    assert min(fill) > 75


def test_inference_is_bursts(quarter_hour: list[tuple[Gpu, ...]]) -> None:
    busy = column(quarter_hour, INFERENCE, "gpu.utilization.gpu")

    assert 0.2 < sum(value > 45 for value in busy) / len(busy) < 0.8
    assert 0.2 < sum(value < 10 for value in busy) / len(busy) < 0.8
    assert max(column(quarter_hour, TRANSCODING, "gpu.decoder_utilization")) > 20
    assert max(column(quarter_hour, TRANSCODING, "gpu.encoder_utilization")) > 10


def test_idle_is_cool_slow_and_narrow(quarter_hour: list[tuple[Gpu, ...]]) -> None:
    assert max(column(quarter_hour, IDLE, "gpu.utilization.gpu")) <= 5
    assert max(column(quarter_hour, IDLE, "gpu.temperature")) < 40
    assert max(column(quarter_hour, IDLE, "gpu.power.usage_percent")) < 25
    assert set(column(quarter_hour, IDLE, "gpu.clocks.gpu_mhz")) == {210.0}
    assert set(column(quarter_hour, IDLE, "gpu.pcie.generation")) == {1.0}


def test_temperature_follows_power_slowly(quarter_hour: list[tuple[Gpu, ...]]) -> None:
    temperature = column(quarter_hour, OVERHEATING, "gpu.temperature")
    power = column(quarter_hour, OVERHEATING, "gpu.power.current_watts")
    stopped = next(n for n in range(1, len(power)) if power[n] < 80 < power[n - 1])

    assert temperature[stopped] > 85
    assert 60 < temperature[stopped + 20] < 85
    assert temperature[stopped + 45] < 60
    assert max(abs(late - early) for early, late in pairwise(temperature)) <= 3


def test_an_overheating_card_reaches_its_limit_and_slows_down(quarter_hour: list[tuple[Gpu, ...]]) -> None:
    temperature = column(quarter_hour, OVERHEATING, "gpu.temperature")
    clock = column(quarter_hour, OVERHEATING, "gpu.clocks.gpu_mhz")
    power = column(quarter_hour, OVERHEATING, "gpu.power.current_watts")
    busy = column(quarter_hour, OVERHEATING, "gpu.utilization.gpu")
    hot = [n for n, value in enumerate(temperature) if value >= 95 and busy[n] > 90]
    warm = [n for n, value in enumerate(temperature) if value < 90 and busy[n] > 90]

    assert len(hot) > 60
    assert statistics.mean(clock[n] for n in hot) < 0.95 * statistics.mean(clock[n] for n in warm)
    assert statistics.mean(power[n] for n in hot) < 0.95 * statistics.mean(power[n] for n in warm)
    assert min(temperature) < 60

    thresholds = METRICS["gpu.temperature"].thresholds_for(quarter_hour[0][OVERHEATING].device)
    assert thresholds is not None
    assert thresholds.critical == 95


def test_the_fan_follows_the_temperature_and_may_stand_still(quarter_hour: list[tuple[Gpu, ...]]) -> None:
    speed = column(quarter_hour, OVERHEATING, "gpu.fan_speed")
    assert max(speed) == 100
    assert min(speed) < 60
    assert set(column(quarter_hour, AT_REST, "gpu.fan_speed")) == {0.0}


def test_the_interval_changes_what_is_seen_but_not_what_is() -> None:
    fine, coarse = film(4, 120, step=0.5), film(4, 120, step=10.0)
    for key in ("gpu.temperature", "gpu.power.current_watts", "gpu.utilization.gpu", "gpu.memory.used_gb"):
        for index in range(4):
            assert column(fine[::20], index, key) == column(coarse, index, key)


def test_nothing_grows_while_time_goes_on() -> None:
    _, engine = engine_of(TRAINING, 1)
    for n in range(2_000):
        engine.begin(float(n))
    kept = len(engine._powers)
    for n in range(2_000, 4_000):
        engine.begin(float(n))

    assert len(engine._powers) == kept < 30


def test_the_device_is_a_gpu_device() -> None:
    device: GpuDevice = DemoDevice(*engine_of(IDLE, 0))

    assert device.max_graphics_clock() == 1_590
    for question in (device.fan_speed, device.sm_activity):
        with pytest.raises(Unavailable) as missing:
            question()
        assert missing.value.reason is UnavailableReason.NOT_SUPPORTED


def test_noise_is_even_and_smooth() -> None:
    noise = Noise(42)
    throws = [noise.dice(1, n) for n in range(4_000)]
    line = [noise.wave(1, n / 100, 1.0) for n in range(4_000)]

    assert statistics.mean(throws) == pytest.approx(0.5, abs=0.03)
    assert statistics.pstdev(throws) == pytest.approx(12**-0.5, abs=0.02)
    assert all(0 <= throw < 1 for throw in throws)
    assert max(abs(late - early) for early, late in pairwise(line)) < 0.04
    assert overheating(noise, 10.0) == overheating(Noise(42), 10.0)
