"""Reports of runs against values that were calculated by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from dashtop.model.metric import Severity
from dashtop.model.run import RunStatus
from dashtop.model.sample import PROCESSES, Event, GpuProcess, ProcessInfo
from dashtop.model.unavailable import UnavailableReason
from dashtop.runs.report import build_report, summarize
from tests.builders import NOON_MS, make_gpu, make_history, make_sample
from tests.runs.builders import STARTED_MS, make_process, make_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dashtop.history.store import HistoryStore
    from dashtop.model.sample import Gpu

UUID = make_gpu(0).device.uuid


@pytest.fixture
def history() -> Iterator[HistoryStore]:
    history = make_history()
    yield history
    history.close()


def fill(history: HistoryStore, seconds: int, build: Callable[[int], tuple[Gpu, ...]], cpu: float = 40.0) -> None:
    for second in range(seconds):
        host = {"system.cpu.usage_percent": cpu, "system.memory.used_gb": 10.0 + second / 100}
        xid = Event(time_ms=NOON_MS + 30_000, kind="xid", severity=Severity.WARNING, text="x", gpu_uuid=UUID, code=31)
        events = (xid,) if second == 30 else ()
        sample = make_sample(second, time_ms=NOON_MS + 1000 * second, gpus=build(second), host=host, events=events)
        history.append(sample)


def report_of(history: HistoryStore, *, gpus: tuple[Gpu, ...] = (), **changes: Any) -> dict[str, Any]:
    facts = {
        "is_local": True,
        "gpus": (UUID,),
        "processes": ((100, STARTED_MS), (101, None)),
        "begin_ms": NOON_MS,
        "end_ms": NOON_MS + 100_000,
        "status": RunStatus.FINISHED,
    }
    run = make_run(**{**facts, **changes})
    return build_report(run, history, gpus, interval_ms=1000, now_ms=NOON_MS + 200_000)


def values(second: int, **more: float) -> dict[str, float]:
    """Return 90 % for 60 s, then 0 %; 100 W, then 20 W; the power cap for ten seconds, heat for five."""
    is_busy = second < 60
    flags = 0x004 if 10 <= second < 20 else 0x040 if 20 <= second < 25 else 0
    return {
        "gpu.utilization.gpu": 90.0 if is_busy else 0.0,
        "gpu.utilization.compute": 50.0 if is_busy else 0.0,
        "gpu.power.current_watts": 100.0 if is_busy else 20.0,
        "gpu.temperature": 40.0 + second / 10,
        "gpu.clocks.event_reasons": float(flags),
        "gpu.memory.used_percent": 10.0,
        **more,
    }


def test_values_of_a_sole_holder(history: HistoryStore) -> None:
    def build(second: int) -> tuple[Gpu, ...]:
        processes = (make_process(100, 2.0), *((make_process(101, 3.0),) if 40 <= second < 50 else ()))
        # The counter rises by 100 W, then 20 W; it begins before the run.
        energy = 500.0 + (100.0 * min(second, 60) + 20.0 * max(0, second - 60)) / 3600
        return (make_gpu(0, values=values(second, **{"gpu.energy.total_wh": energy}), processes=processes),)

    fill(history, 120, build)
    report = report_of(history)
    assert (report["duration_s"], report["coverage"]) == (100.0, 1.0)
    assert report["host"] == {"peak_memory_gb": pytest.approx(10.99), "mean_cpu_percent": pytest.approx(40.0)}
    (gpu,) = report["gpus"]
    assert (gpu["gpu_id"], gpu["gpu_uuid"], gpu["held_s"]) == (0, UUID, 100.0)
    assert gpu["peak_gpu_memory_mb"] == 5 * 1024
    assert gpu["mean_utilization"] == pytest.approx(54.0)
    assert gpu["p95_utilization"] == 90.0
    assert gpu["mean_sm"] == pytest.approx(30.0)
    assert (gpu["idle_s"], gpu["thermal_s"], gpu["power_cap_s"]) == (40.0, 5.0, 10.0)
    assert gpu["max_temperature"] == pytest.approx(49.9)
    assert (gpu["energy_kind"], gpu["energy_wh"]) == ("counter", pytest.approx(6800 / 3600, rel=0.02))
    assert gpu["xids"] == [{"code": 31, "count": 1}]
    assert gpu["mean_tensor"] is None
    assert gpu["unavailable"] == {"mean_tensor": "not recorded in this time"}
    assert gpu["diagnosis"]["evidence"][0] == "54 % utilization"
    summary = {"energy_wh": gpu["energy_wh"], "energy_kind": "counter", "peak_bytes": 5 * 2**30}
    assert summarize(report) == summary


def test_only_the_time_in_which_the_gpu_was_held_counts(history: HistoryStore) -> None:
    def build(second: int) -> tuple[Gpu, ...]:
        processes = (make_process(100),) if 20 <= second < 50 else ()
        return (make_gpu(0, values=values(second), processes=processes),)

    fill(history, 120, build)
    (gpu,) = report_of(history)["gpus"]
    assert gpu["held_s"] == pytest.approx(30.0)
    assert gpu["mean_utilization"] == pytest.approx(90.0)
    assert (gpu["energy_kind"], gpu["energy_wh"]) == ("integrated", pytest.approx(100 * 30 / 3600, abs=0.001))
    assert gpu["power_cap_s"] == 0.0
    assert gpu["diagnosis"] is None


def test_energy_is_an_estimate_if_others_held_the_gpu_too(history: HistoryStore) -> None:
    def build(second: int) -> tuple[Gpu, ...]:
        processes: tuple[GpuProcess, ...] = (make_process(100),)
        if second < 50:
            processes = (*processes, make_process(900, user="bob"), make_process(901, user="bob"))
        return (make_gpu(0, values=values(second), processes=processes),)

    fill(history, 120, build)
    (gpu,) = report_of(history)["gpus"]
    # Two owners share 50 s at 100 W; then 10 s at 100 W and 40 s at 20 W are the run's alone.
    assert gpu["energy_kind"] == "estimated_share"
    assert gpu["energy_wh"] == pytest.approx((50 * 50 + 10 * 100 + 40 * 20) / 3600, rel=0.01)
    assert gpu["peak_gpu_memory_mb"] == 1024


def test_gaps_reduce_coverage(history: HistoryStore) -> None:
    fill(history, 50, lambda second: (make_gpu(0, values=values(second), processes=(make_process(100),)),))
    report = report_of(history)
    assert report["coverage"] == pytest.approx(0.5, abs=0.02)
    assert 30 <= report["gpus"][0]["held_s"] <= 50  # the end of a process span is written up to 15 s late


def test_a_run_without_a_gpu_and_one_without_readings(history: HistoryStore) -> None:
    report = report_of(history)
    assert report["gpus"] == []
    assert report["unavailable"]["gpus"] == "no process of this run has held a GPU"
    assert report["host"] == {"peak_memory_gb": None, "mean_cpu_percent": None}
    assert report["unavailable"]["host.mean_cpu_percent"] == "not recorded in this time"
    assert (report["coverage"], summarize(report)["energy_wh"]) == (0.0, None)


def test_gpus_are_not_known_where_processes_are_not(history: HistoryStore) -> None:
    foreign = GpuProcess(pid=5, kind="C", gpu_memory_bytes=1, info=ProcessInfo(foreign=True))
    for gpus, reason in (
        ((make_gpu(0, processes=(foreign,)), make_gpu(1)), "another pid namespace"),
        ((replace(make_gpu(0), unavailable={PROCESSES: UnavailableReason.NO_PERMISSION}),), "are not known"),
    ):
        report = report_of(history, gpus=gpus)
        assert report["gpus"] is None
        assert reason in report["unavailable"]["gpus"]


def test_a_process_with_the_same_pid_and_another_start_is_not_of_the_run(history: HistoryStore) -> None:
    other = make_process(100, started_ms=STARTED_MS + 30_000)
    fill(history, 60, lambda second: (make_gpu(0, values=values(second), processes=(other,)),))
    assert report_of(history)["gpus"] == []
