from __future__ import annotations

import statistics
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dashtop.metrics import GPU_METRICS, METRICS
from dashtop.model.unavailable import UnavailableReason
from dashtop.sources.simulated.curves import Noise
from dashtop.sources.simulated.metric_curves import CURVES
from dashtop.sources.simulated.reader import ROLES, SimulatedGpuReader, load_world
from tests.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dashtop.model.readers import GpuReader
    from dashtop.model.sample import Event, Gpu

TRAINING, INFERENCE, OVERHEATING, BATCH, IDLE = 0, 1, 2, 3, 6
SPLIT, LOST, ASLEEP, SHARING = 8, 9, 11, 12
HOUR_S, DAY_S, WEEK_S = 3600, 86_400, 7 * 86_400


def record_frames(count: int, seconds: int, *, step: float = 1.0, seed: int = 0) -> list[tuple[Gpu, ...]]:
    clock = FakeClock()
    gpus: GpuReader = SimulatedGpuReader(count, clock=clock, seed=seed)
    frames = []
    for _ in range(int(seconds / step)):
        frames.append(gpus.read(1.0).gpus)
        clock.advance(step)
    gpus.close()
    return frames


def record_states(index: int, start_ms: int, seconds: int, *, step: int = 1) -> list[Gpu]:
    gpu = SimulatedGpuReader(index + 1, clock=FakeClock()).gpus[index]
    return [gpu.read(time_ms) for time_ms in range(start_ms, start_ms + 1000 * seconds, 1000 * step)]


def column(states: Sequence[Gpu], key: str) -> list[float]:
    values = [gpu.values[key] for gpu in states]
    assert None not in values
    return [value for value in values if value is not None]


def start_of_job(index: int, *, job: int = 3) -> int:
    gpu = SimulatedGpuReader(index + 1, clock=FakeClock()).gpus[index]
    now_ms = FakeClock().now_ms()
    starts = [
        started
        for time_ms in gpu.changes(now_ms - WEEK_S * 1000, now_ms + WEEK_S * 1000)
        for process in gpu.read(time_ms).processes
        if process.kind != "G" and (started := process.info.started_ms) is not None and started > now_ms
    ]
    return sorted(set(starts))[job]


@pytest.fixture(scope="module")
def frames() -> list[tuple[Gpu, ...]]:
    return record_frames(8, 120)


def test_readings_are_marked_as_simulated_and_never_fail() -> None:
    gpus = SimulatedGpuReader(1, clock=FakeClock())

    assert gpus.simulated is True
    assert gpus.failures() == 0


@pytest.mark.parametrize("count", [1, 4, 64])
def test_each_gpu_has_an_identity(count: int) -> None:
    frame = record_frames(count, 1)[0]

    whole = [gpu for gpu in frame if gpu.device.mig_parent_uuid is None]
    assert [gpu.device.index for gpu in frame] == list(range(len(frame)))
    assert [gpu.device.index for gpu in whole] == list(range(count))
    assert len({gpu.device.uuid for gpu in frame}) == len(frame)
    assert len({gpu.device.pci_bus_id for gpu in whole}) == count
    pids = [process.pid for gpu in whole for process in gpu.processes]
    assert len(set(pids)) == len(pids)
    assert pids
    assert all(0 < pid < 2**22 for pid in pids)


def test_zero_gpus_report_no_device() -> None:
    reading = SimulatedGpuReader(0, clock=FakeClock()).read(1.0)

    assert reading.gpus == ()
    assert reading.error is UnavailableReason.NO_DEVICE


@pytest.mark.parametrize("count", [-1, 65])
def test_invalid_counts_are_rejected(count: int) -> None:
    with pytest.raises(ValueError, match="0 to 64"):
        SimulatedGpuReader(count, clock=FakeClock())


def test_values_depend_on_seed_and_time_only() -> None:
    assert record_frames(8, 20, seed=3) == record_frames(8, 20, seed=3)
    assert record_frames(8, 20, seed=3) != record_frames(8, 20, seed=4)
    fine, coarse = record_frames(4, 60, step=0.5), record_frames(4, 60, step=10.0)
    assert fine[::20] == coarse


@pytest.mark.parametrize("index", [TRAINING, INFERENCE, OVERHEATING, BATCH, IDLE, 7, SPLIT])
def test_arrays_have_the_values_of_single_readings(index: int) -> None:
    gpu = SimulatedGpuReader(index + 1, clock=FakeClock()).gpus[index]
    keys = [metric.key for metric in GPU_METRICS if metric.key not in gpu.unavailable]
    times_ms = [FakeClock().now_ms() + 1000 * second for second in range(0, WEEK_S, 997)]

    columns = gpu.read_many(np.array(times_ms), keys)

    for time_ms, column in zip(times_ms, columns.T, strict=True):
        values = gpu.read(time_ms).values
        expected = [np.nan if (value := values[key]) is None else value for key in keys]
        np.testing.assert_array_equal(column, np.array(expected, dtype=np.float32))


@pytest.mark.parametrize("index", [TRAINING, INFERENCE, OVERHEATING, BATCH, IDLE, 7])
def test_energy_is_the_integral_of_power_since_a_driver_load_some_days_ago(index: int) -> None:
    gpu = SimulatedGpuReader(index + 1, clock=FakeClock()).gpus[index]
    now_ms = FakeClock().now_ms()
    times_ms = np.arange(now_ms - WEEK_S * 1000, now_ms + DAY_S * 1000, 5000)
    energy, power = gpu.read_many(times_ms, ["gpu.energy.total_wh", "gpu.power.current_watts"])
    hourly = np.diff(energy[::720])
    means = power[: len(hourly) * 720].reshape(-1, 720).mean(axis=1)
    known = np.isfinite(hourly) & np.isfinite(means)
    assert known.sum() > 180
    assert hourly[known] == pytest.approx(means[known], rel=0.05)
    assert hourly[known].sum() == pytest.approx(means[known].sum(), rel=0.01)
    present = energy[np.isfinite(energy)]
    assert present[0] > 0
    assert (np.diff(present) >= 0).all()
    assert gpu.read(now_ms - 30 * DAY_S * 1000).values["gpu.energy.total_wh"] == 0.0


def test_every_metric_has_a_value_or_a_reason(frames: list[tuple[Gpu, ...]]) -> None:
    keys = {metric.key for metric in GPU_METRICS}
    assert set(CURVES) <= keys
    assert frames[-1]
    for gpu in frames[-1]:
        assert set(gpu.values) == keys
        assert {key for key, value in gpu.values.items() if value is None} == set(gpu.unavailable)
        assert set(gpu.unavailable.values()) <= {UnavailableReason.NOT_SUPPORTED}


def test_a_gpu_has_the_metrics_of_its_recording(frames: list[tuple[Gpu, ...]]) -> None:
    for gpu, role in zip(frames[-1], ROLES, strict=False):
        recorded = load_world(role.world)["gpus"][role.position]
        assert gpu.device.name == recorded["name"]
        assert gpu.device.memory_total_bytes == recorded["memory"]["total"]
        assert gpu.values["gpu.pcie.width"] == recorded["pcie"]["width"]
        for key, fact in {
            "gpu.fan_speed": "fan_speed",
            "gpu.utilization.compute": "gpm",
            "gpu.nvlink.active": "nvlink",
            "gpu.memory_temperature": "memory_temperature",
            "gpu.remapped_rows.pending": "remapped_rows",
            "gpu.retired_pages.pending": "retired_pages",
        }.items():
            assert (key in gpu.unavailable) == (fact not in recorded), (key, role)


def test_the_first_four_gpus_differ(frames: list[tuple[Gpu, ...]]) -> None:
    four = frames[-1][:4]
    assert len({gpu.device.name for gpu in four}) == 4
    assert len({gpu.device.architecture for gpu in four}) == 4
    assert len({frozenset(gpu.unavailable) for gpu in four}) == 4


def test_a_gpu_that_shares_the_memory_of_the_host(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 125829120 kB\nMemFree: 1 kB\nMemAvailable: 31457280 kB\n")
    gpu = SimulatedGpuReader(SHARING + 1, clock=FakeClock(), proc=tmp_path).read(1.0).gpus[SHARING]

    assert gpu.device.name == "NVIDIA GB10"
    assert gpu.device.shares_host_memory
    assert gpu.device.memory_total_bytes is None
    assert (gpu.values["gpu.memory.used_gb"], gpu.values["gpu.memory.total_gb"]) == (90, 120)
    assert 0 < sum(process.gpu_memory_bytes or 0 for process in gpu.processes) < 90 * 2**30
    assert gpu.unavailable["gpu.memory.reserved_gb"] is UnavailableReason.UNIFIED_MEMORY
    missing = ("gpu.power.max_watts", "gpu.clocks.memory_mhz", "gpu.memory_temperature", "gpu.temperature_slowdown")
    assert {gpu.unavailable[key] for key in missing} == {UnavailableReason.NOT_SUPPORTED}
    for key in ("gpu.temperature", "gpu.power.current_watts", "gpu.clocks.gpu_mhz", "gpu.energy.total_wh"):
        assert gpu.values[key] is not None


def test_a_gpu_that_shares_memory_which_cannot_be_read(tmp_path: Path) -> None:
    gpu = SimulatedGpuReader(SHARING + 1, clock=FakeClock(), proc=tmp_path).read(1.0).gpus[SHARING]

    assert gpu.values["gpu.memory.used_gb"] is None
    assert gpu.unavailable["gpu.memory.used_gb"] is UnavailableReason.UNIFIED_MEMORY
    assert gpu.values["gpu.utilization.gpu"] is not None


def test_processes_have_users_containers_and_jobs() -> None:
    clock = FakeClock()
    gpus = SimulatedGpuReader(SHARING + 1, clock=clock).read(1.0).gpus
    processes = [process for gpu in gpus for process in gpu.processes]

    assert all(process.info.username for process in processes)
    for kind in ("container", "slurm_job", "kubernetes_pod", "environment"):
        assert any(getattr(process.info, kind) for process in processes), kind
    for process in processes:
        assert process.host_memory_bytes
        assert process.info.name
        assert "/" not in process.info.name
        assert process.cpu_percent is not None
        assert process.cpu_percent >= 0
        assert process.info.started_ms is not None
        assert process.info.started_ms < clock.now_ms()


def test_many_gpus_include_a_mig_a_lost_and_a_sleeping_one() -> None:
    frame = record_frames(12, 1)[0]
    instances = frame[12:]

    assert frame[SPLIT].unavailable["gpu.utilization.gpu"] is UnavailableReason.MIG_PARENT
    assert frame[SPLIT].values["gpu.power.current_watts"] is not None
    assert [gpu.device.mig_parent_uuid for gpu in instances] == [frame[SPLIT].device.uuid] * 2
    for instance in instances:
        assert instance.device.mig_profile == "3g.20gb"
        assert instance.values["gpu.memory.used_gb"] is not None
        assert {process.pid for process in instance.processes} < {process.pid for process in frame[SPLIT].processes}
        assert set(instance.unavailable.values()) == {UnavailableReason.MIG_INSTANCE}
    for index, reason in ((LOST, UnavailableReason.GPU_LOST), (ASLEEP, UnavailableReason.ASLEEP)):
        assert frame[index].state is reason
        assert set(frame[index].unavailable.values()) == {reason}
        assert set(frame[index].values.values()) == {None}
    assert all(frame[index].state is None for index in range(12) if index not in {LOST, ASLEEP})


@pytest.mark.parametrize("index", range(8))
def test_values_stay_within_the_limits_of_the_gpu(index: int) -> None:
    percents = [metric.key for metric in GPU_METRICS if metric.unit.symbol == "%"]
    assert len(percents) > 5
    available = [gpu for gpu in record_states(index, FakeClock().now_ms(), DAY_S, step=97) if gpu.state is None]
    assert len(available) > 100
    for gpu in available:
        values = {key: value for key, value in gpu.values.items() if value is not None}
        assert all(0 <= values.get(key, 0) <= 100 for key in percents)
        assert values["gpu.memory.used_gb"] <= values["gpu.memory.total_gb"]
        assert values["gpu.memory.used_gb"] * 2**30 == sum(each.gpu_memory_bytes or 0 for each in gpu.processes)
        assert 0 < values["gpu.power.current_watts"] <= values["gpu.power.max_watts"]
        assert 20 <= values["gpu.temperature"] <= (gpu.device.slowdown_celsius or 90) + 3
        assert 0 < values["gpu.clocks.gpu_mhz"] <= values["gpu.clocks.gpu_max_mhz"]
        assert 0 < values["gpu.clocks.memory_mhz"] <= values["gpu.clocks.memory_max_mhz"]
        bandwidth = 1000 * values["gpu.pcie.bandwidth_gbps"]
        assert 0 <= values["gpu.pcie.tx_mbps"] < bandwidth
        assert 0 <= values["gpu.pcie.rx_mbps"] < bandwidth


def test_training_is_a_plateau_with_dips() -> None:
    states = record_states(TRAINING, start_of_job(TRAINING) + 60_000, HOUR_S)
    busy = column(states, "gpu.utilization.gpu")

    assert statistics.median(busy) >= 95
    assert min(busy) < 10
    assert 0.01 < sum(value < 60 for value in busy) / len(busy) < 0.15
    assert len(set(column(states, "gpu.memory.used_percent"))) == 1


def test_inference_follows_the_hours_of_the_day() -> None:
    monday_ms = 1_799_625_600_000  # 2027-01-11
    hours = [
        statistics.mean(column(record_states(INFERENCE, monday_ms + hour * HOUR_S * 1000, 1800), "gpu.utilization.gpu"))
        for hour in (3, 11)
    ]

    assert hours[0] < 20
    assert 60 < hours[1] < 100


def test_batch_jobs_differ_and_leave_the_gpu_idle_in_between() -> None:
    states = record_states(BATCH, FakeClock().now_ms(), DAY_S, step=20)
    jobs: dict[int | None, set[float | None]] = {}
    for gpu in states:
        started = gpu.processes[0].info.started_ms if gpu.processes else None
        jobs.setdefault(started, set()).add(gpu.values["gpu.memory.used_gb"])

    assert jobs.pop(None) == {0.0}
    assert len(jobs) > 8
    assert len({max(value or 0.0 for value in used) for used in jobs.values()}) == len(jobs)
    assert 0.5 < sum(bool(gpu.processes) for gpu in states) / len(states) < 0.95
    assert max(column(states, "gpu.decoder_utilization")) > 20
    assert max(column(states, "gpu.encoder_utilization")) > 10


def test_an_idle_gpu_is_cool_and_slow(frames: list[tuple[Gpu, ...]]) -> None:
    states = [frame[IDLE] for frame in frames]
    assert max(column(states, "gpu.utilization.gpu")) <= 5
    assert max(column(states, "gpu.temperature")) < 40
    assert max(column(states, "gpu.power.usage_percent")) < 25
    assert set(column(states, "gpu.clocks.gpu_mhz")) == {210.0}
    assert set(column(states, "gpu.pcie.generation")) == {1.0}
    assert set(column(states, "gpu.fan_speed")) == {0.0}


def test_temperature_follows_power_slowly() -> None:
    start_ms = start_of_job(OVERHEATING)
    states = record_states(OVERHEATING, start_ms - 30_000, 400)
    temperature = column(states, "gpu.temperature")

    assert temperature[0] < 35
    assert temperature[80] < 50 < temperature[200]
    assert max(abs(late - early) for early, late in pairwise(temperature)) <= 3


def test_an_overheating_gpu_reaches_its_limit_and_slows_down() -> None:
    states = record_states(OVERHEATING, start_of_job(OVERHEATING) + 300_000, 2 * HOUR_S + 1800)
    reasons = column(states, "gpu.clocks.event_reasons")
    slow = [gpu for gpu, flags in zip(states, reasons, strict=True) if int(flags) & 0x20]
    fast = [gpu for gpu, flags in zip(states, reasons, strict=True) if not int(flags) & 0x20]

    assert max(column(fast, "gpu.temperature")) == fast[0].device.slowdown_celsius == 95
    assert min(column(slow, "gpu.temperature")) > 80
    for key in ("gpu.clocks.gpu_mhz", "gpu.power.current_watts"):
        assert statistics.median(column(slow, key)) < 0.95 * statistics.median(column(fast, key))
    assert max(column(fast, "gpu.fan_speed")) == 100
    thresholds = METRICS["gpu.temperature"].thresholds_for(states[0].device)
    assert thresholds is not None
    assert thresholds.critical == 95


def test_one_gpu_is_lost_for_some_minutes_each_week_with_its_xid() -> None:
    gpu = SimulatedGpuReader(4, clock=FakeClock()).gpus[OVERHEATING]
    now_ms = FakeClock().now_ms()
    lost = [time_ms for time_ms in range(now_ms, now_ms + WEEK_S * 1000, 10_000) if gpu.is_lost(time_ms)]
    xids = [event for event in gpu.xids(now_ms, now_ms + WEEK_S * 1000) if event.code == 79]

    assert len(lost) == 42
    assert lost[-1] - lost[0] == 410_000
    assert gpu.read(lost[0]).state is UnavailableReason.GPU_LOST
    assert [lost[0] - event.time_ms < 10_000 for event in xids] == [True]
    assert xids[0].advice


def test_xids_are_read_once() -> None:
    clock = FakeClock()
    gpus = SimulatedGpuReader(4, clock=clock)
    start_ms = clock.now_ms()
    events: list[Event] = []
    for _ in range(2 * 24 * 7):
        clock.advance(1800)
        events += gpus.read(1.0).events

    expected = [event for gpu in gpus.gpus for event in gpu.xids(start_ms, clock.now_ms())]
    assert sorted(events, key=str) == sorted(expected, key=str)
    assert 2 < len(events) < 20


def test_changes_are_when_processes_start_and_end() -> None:
    gpu = SimulatedGpuReader(4, clock=FakeClock()).gpus[BATCH]
    now_ms = FakeClock().now_ms()
    changes = gpu.changes(now_ms, now_ms + DAY_S * 1000)

    def read_processes(time_ms: int) -> list[tuple[int, int | None]]:
        return [(process.pid, process.gpu_memory_bytes) for process in gpu.read(time_ms).processes]

    assert len(changes) > 2
    for early, late in pairwise(changes):
        assert read_processes(early) == read_processes(late - 1000)
        assert read_processes(late - 1000) != read_processes(late)


def test_noise_is_even_and_smooth_and_differs_between_gpus() -> None:
    noise = Noise(42)
    numbers, others = noise.get(1, np.arange(4_000.0)), Noise(43).get(1, np.arange(4_000.0))
    line = noise.wave(1, np.arange(4_000) / 100, 1.0)

    assert numbers.mean() == pytest.approx(0.5, abs=0.03)
    assert numbers.std() == pytest.approx(12**-0.5, abs=0.02)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert np.abs(np.diff(line)).max() < 0.04
    for sequence in (numbers[1:], others[1:]):
        assert abs(np.corrcoef(numbers[:-1], sequence)[0, 1]) < 0.05
