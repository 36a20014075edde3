"""Samples of past moments, rebuilt from a real history."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask

from dashtop.model.ports import Services
from dashtop.model.sample import PROCESSES, GpuProcess, ProcessInfo
from dashtop.model.timerange import DAY_MS, HOUR_MS
from dashtop.model.unavailable import UnavailableReason
from dashtop.ui.callbacks import PageUpdater
from dashtop.ui.parts import RenderCache
from dashtop.ui.past import PastSamples, build_past_sample
from dashtop.ui.request import ViewRequest
from tests.builders import NOON_MS, FixedSample, make_alerts, make_gpu, make_history, make_sample, wait_until_written
from tests.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dashtop.history.store import HistoryStore
    from dashtop.model.sample import Gpu, Sample

GIB = 2**30
TRAINING = GpuProcess(
    pid=41, kind="C", gpu_memory_bytes=4 * GIB, sm_percent=10.0, info=ProcessInfo(name="train", username="ada")
)
INFERENCE = dataclasses.replace(TRAINING, pid=42, info=ProcessInfo(name="serve", username="bob"))
GAP = range(150, 240)
GONE_FROM = 300


def machine(second: int) -> tuple[Gpu, ...]:
    """Two GPUs, of which the second one is removed after five minutes."""
    values = {"gpu.utilization.gpu": float(second % 100), "gpu.memory.total_gb": 24.0, "gpu.temperature": 40.0}
    gpus = [make_gpu(0, values=values, processes=(TRAINING,) if second < 100 else (TRAINING, INFERENCE))]
    if second < GONE_FROM:
        gpus.append(make_gpu(1, values=values | {"gpu.temperature": 50.0}))
    return tuple(gpus)


@pytest.fixture(scope="module")
def recorded() -> Iterator[tuple[HistoryStore, Sample]]:
    """Six minutes of a machine, with a gap of a minute and a half; and the latest sample."""
    history = make_history()
    sample = make_sample(0)
    for second in range(360):
        if second not in GAP:
            host = {"system.cpu.usage_percent": float(second % 50), "system.memory.total_gb": 64.0}
            sample = make_sample(second, gpus=machine(second), host=host)
            history.append(sample)
    wait_until_written(history)
    yield history, sample
    history.close()


def past(recorded: tuple[HistoryStore, Sample], second: float) -> Sample:
    history, latest = recorded
    return build_past_sample(history, latest, NOON_MS + round(second * 1000), interval_ms=1000)


def test_the_values_are_those_of_the_moment_with_constants_of_the_device(
    recorded: tuple[HistoryStore, Sample],
) -> None:
    sample = past(recorded, 61)
    assert sample.time_ms == NOON_MS + 61_000
    assert [gpu.device.index for gpu in sample.gpus] == [0, 1]
    assert sample.gpus[0].values["gpu.utilization.gpu"] == 60
    assert sample.gpus[0].values["gpu.temperature"] == 40
    assert sample.gpus[0].values["gpu.memory.total_gb"] == 24
    assert sample.host.values["system.cpu.usage_percent"] == 10
    # What this device does not report is no gap of the history.
    assert sample.gpus[0].unavailable["gpu.fan_speed"] is UnavailableReason.NOT_SUPPORTED
    assert sample.host.unavailable["system.cpu.load_1m"] is UnavailableReason.NOT_RECORDED
    assert all((value is None) == (key in gpu.unavailable) for gpu in sample.gpus for key, value in gpu.values.items())


def test_processes_are_those_that_ran_at_the_moment(recorded: tuple[HistoryStore, Sample]) -> None:
    def names(second: int) -> list[str | None]:
        return [process.info.name for process in past(recorded, second).gpus[0].processes]

    assert names(61) == ["train"]
    assert names(110) == ["train", "serve"]
    assert names(355) == ["train", "serve"]
    (process,) = past(recorded, 61).gpus[0].processes
    assert (process.gpu_memory_bytes, process.info.username) == (4 * GIB, "ada")
    assert (process.sm_percent, process.cpu_percent) == (None, None)


def test_a_gpu_that_has_gone_is_shown_when_it_was_there(recorded: tuple[HistoryStore, Sample]) -> None:
    there, after = past(recorded, 290), past(recorded, 350)
    assert [gpu.device.index for gpu in there.gpus] == [0, 1]
    assert there.gpus[1].values["gpu.temperature"] == 50
    assert there.gpus[1].device.name == "NVIDIA GeForce RTX 3090"
    assert there.gpus[1].device.memory_total_bytes is None
    assert [gpu.device.index for gpu in after.gpus] == [0]


@pytest.mark.parametrize("second", [-3600, 170, 235], ids=["before the history", "in a gap", "at the end of a gap"])
def test_nothing_is_known_where_nothing_was_recorded(second: int, recorded: tuple[HistoryStore, Sample]) -> None:
    sample = past(recorded, second)
    (gpu,) = sample.gpus
    assert gpu.state is UnavailableReason.NOT_RECORDED
    assert set(gpu.values.values()) == {None}
    assert gpu.processes == ()
    assert gpu.unavailable[PROCESSES] is UnavailableReason.NOT_RECORDED
    assert set(sample.host.values.values()) == {None}
    assert set(sample.host.unavailable.values()) == {UnavailableReason.NOT_RECORDED}


@pytest.mark.parametrize("age_ms", [3 * DAY_MS, 30 * DAY_MS, 200 * DAY_MS])
def test_an_old_moment_has_the_readings_that_are_kept_for_so_long(age_ms: int) -> None:
    history = make_history()
    start_ms = NOON_MS - age_ms
    for second in range(0, 2 * HOUR_MS // 1000, 5):
        history.append(make_sample(second, time_ms=start_ms + second * 1000, gpus=machine(50)))
    latest = make_sample(0, gpus=machine(0))
    history.append(latest)
    wait_until_written(history)
    sample = build_past_sample(history, latest, start_ms + HOUR_MS + 30_000, interval_ms=5000)
    assert sample.gpus[0].values["gpu.temperature"] == 40
    assert sample.gpus[0].values["gpu.utilization.gpu"] == 50
    history.close()


def test_a_moment_is_rebuilt_once_for_all_viewers(
    recorded: tuple[HistoryStore, Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    history, latest = recorded
    services = Services(
        latest=FixedSample(latest), history=history, alerts=make_alerts(), clock=FakeClock(now_ms=latest.time_ms)
    )
    found = PastSamples(services, RenderCache(Flask("test")))
    first = found.find(NOON_MS + 61_000, latest)
    monkeypatch.setattr(history, "query", None)
    assert found.find(NOON_MS + 61_000, latest) == first
    assert found.find(latest.time_ms, latest) is latest
    assert found.find(latest.time_ms + 60_000, latest) is latest


def test_the_page_shows_the_moment_at_the_end_of_the_span(recorded: tuple[HistoryStore, Sample]) -> None:
    history, latest = recorded
    services = Services(
        latest=FixedSample(latest), history=history, alerts=make_alerts(), clock=FakeClock(now_ms=latest.time_ms)
    )
    updater = PageUpdater(services, (), Flask("test"))

    def update(**request: Any) -> dict[str, Any]:
        live, _ = updater.update(ViewRequest.parse(request))
        return live

    now, then = update(), update(zoom=[NOON_MS + 1000, NOON_MS + 61_000])
    assert (now["is_past"], then["is_past"]) == (False, True)
    assert then["time"] == NOON_MS + 61_000
    assert [device["index"] for device in now["devices"]] == [0]
    assert [device["index"] for device in then["devices"]] == [0, 1]
    assert [process["name"] for process in then["processes"]] == ["train"]
    assert now["sparklines"] != then["sparklines"]
    assert "sparklines" in update(zoom=[NOON_MS + 1000, NOON_MS + 62_000], versions=then["versions"])
    assert update(zoom=[latest.time_ms - 5000, latest.time_ms + 5000])["is_past"] is False
