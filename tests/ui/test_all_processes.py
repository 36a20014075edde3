"""The table of the processes on all GPUs, and of those that have ended."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest

from dashtop.metrics.gpu_state import Condition
from dashtop.model.ports import Services
from dashtop.model.sample import PROCESSES, GpuProcess, ProcessInfo
from dashtop.model.timerange import MINUTE_MS
from dashtop.model.unavailable import UnavailableReason
from dashtop.ui.gpu_state import read_states
from dashtop.ui.panels import processes
from tests.builders import (
    NOON_MS,
    FixedSample,
    make_alerts,
    make_device,
    make_gpu,
    make_history,
    make_sample,
    wait_until_written,
)
from tests.clock import FakeClock
from tests.ui.test_gpu_state import Loads
from tests.ui.worlds import make_context, world

if TYPE_CHECKING:
    from dashtop.model.sample import Gpu, Sample

MIB, GIB = 2**20, 2**30
TRAINING = GpuProcess(
    pid=41,
    kind="C",
    gpu_memory_bytes=4 * GIB,
    sm_percent=60.0,
    cpu_percent=250.0,
    info=ProcessInfo(name="train", username="ada", started_ms=5),
)


def all_processes(*gpus: Gpu, time_ms: int = NOON_MS) -> dict[str, Any]:
    """Return the rows by pid, and the rest of what the panel adds."""
    data = processes.all_live_data(make_context(sample=make_sample(gpus=gpus, time_ms=time_ms)))
    json.dumps(data["all_processes"], allow_nan=False)
    loads = data["all_process_loads"]
    rows = [
        {**facts, **dict(zip(loads.columns, row, strict=True))}
        for facts, row in zip(data["all_processes"], loads.rows, strict=True)
    ]
    (totals,) = data["all_process_totals"].rows
    return {**data, "rows": {row["pid"]: row for row in rows}, "totals": totals}


def test_a_process_on_several_gpus_is_one_row_with_its_shares() -> None:
    small = dataclasses.replace(TRAINING, gpu_memory_bytes=1 * GIB, sm_percent=20.0, kind="G")
    other = dataclasses.replace(TRAINING, pid=42, gpu_memory_bytes=None, sm_percent=None)
    data = all_processes(make_gpu(0, processes=(TRAINING,)), make_gpu(3, processes=(small, other)))
    assert sorted(data["rows"]) == [41, 42]
    both = data["rows"][41]
    assert (both["gpus"], both["gpu_memory_mib"], both["sm_percent"], both["type"]) == ([0, 3], 5 * 1024, 80, "C+G")
    assert both["cpu_percent"] == 250, "the load of the host is that of the whole process"
    assert both["shares"] == [[4096, 60], [1024, 20]]
    alone = data["rows"][42]
    assert (alone["gpus"], alone["gpu_memory_mib"], alone["shares"]) == ([3], None, None)
    assert data["totals"] == [2, 1, 5.0, None]


def test_the_largest_processes_are_sent_and_all_are_counted() -> None:
    crowd = tuple(dataclasses.replace(TRAINING, pid=pid, gpu_memory_bytes=pid * MIB) for pid in range(1, 613))
    data = all_processes(make_gpu(0, processes=crowd))
    assert sorted(data["rows"]) == list(range(613 - processes.MAX_ALL_ROWS, 613))
    assert data["totals"][0] == 612


@pytest.mark.parametrize(
    ("idle_s", "also_idle_s", "minutes"), [(None, None, None), (119, 400, None), (200, 400, 3), (400, None, None)]
)
def test_a_process_is_idle_if_it_has_used_none_of_its_gpus_for_minutes(
    idle_s: int | None, also_idle_s: int | None, minutes: int | None
) -> None:
    gpus = [
        make_gpu(
            index,
            processes=(
                dataclasses.replace(TRAINING, idle_since_ms=None if seconds is None else NOON_MS - seconds * 1000),
            ),
        )
        for index, seconds in enumerate((idle_s, also_idle_s))
    ]
    assert all_processes(*gpus)["rows"][41]["idle_minutes"] == minutes


def test_processes_that_hold_an_idle_gpu_are_idle_despite_the_noise_of_the_driver() -> None:
    small = dataclasses.replace(
        TRAINING, pid=1, gpu_memory_bytes=24 * MIB, sm_percent=0.0, idle_since_ms=NOON_MS - 1000
    )
    large = dataclasses.replace(TRAINING, pid=2, sm_percent=3.0)
    working = dataclasses.replace(TRAINING, pid=3, sm_percent=40.0)
    recent = dataclasses.replace(large, pid=4, info=ProcessInfo(started_ms=NOON_MS - 4 * MINUTE_MS))
    gpu = make_gpu(
        values={"gpu.utilization.gpu": 3.0, "gpu.memory.used_percent": 20.0}, processes=(small, large, working, recent)
    )
    services, _, _ = world(gpus=(gpu,))
    services = dataclasses.replace(services, history=Loads({gpu.device.uuid: 30}))
    context = make_context(gpu, sample=make_sample(gpus=(gpu,), time_ms=NOON_MS), services=services)
    assert read_states(context)[gpu.device.uuid].condition is Condition.IDLE_HELD
    for data, name in ((processes.all_live_data(context), "all_process"), (processes.live_data(context), "process")):
        loads = data[f"{name}_loads"]
        at = loads.columns.index("idle_minutes")
        pids = [row["pid"] for row in data[f"{name}es"]]
        assert dict(zip(pids, (row[at] for row in loads.rows), strict=True)) == {1: 29, 2: 29, 3: None, 4: 4}


def test_a_process_without_memory_is_not_idle() -> None:
    nothing = dataclasses.replace(TRAINING, gpu_memory_bytes=0, idle_since_ms=NOON_MS - 3_600_000)
    assert all_processes(make_gpu(processes=(nothing,)))["rows"][41]["idle_minutes"] is None


def test_an_unnamed_process_says_why() -> None:
    foreign = dataclasses.replace(TRAINING, info=ProcessInfo(foreign=True))
    hidden = dataclasses.replace(TRAINING, pid=42, info=ProcessInfo())
    rows = all_processes(make_gpu(processes=(TRAINING, hidden)), make_gpu(1, processes=(foreign,)))["rows"]
    assert rows[42]["unnamed"] == processes._UNNAMED
    rows = all_processes(make_gpu(1, processes=(foreign,)))["rows"]
    assert "PID namespace" in rows[41]["unnamed"]
    assert "--pid host" in rows[41]["unnamed"]


def test_an_empty_table_says_of_which_gpus_the_processes_are_not_known() -> None:
    def text(*gpus: Gpu) -> str:
        return str(all_processes(*gpus)["texts"]["all_processes.empty"])

    known, unknown = make_gpu(0), make_gpu(1)
    unknown = dataclasses.replace(unknown, unavailable={PROCESSES: UnavailableReason.NO_PERMISSION})
    assert text() == "No GPU, no processes."
    assert text(known) == "No processes on any GPU."
    assert text(unknown) == "Processes not available: no permission."
    assert text(known, unknown) == "GPU 1: processes not available: no permission."


# --- ended processes --------------------------------------------------------------------------------------------------


def recorded(*samples: tuple[int, tuple[Gpu, ...]]) -> tuple[Services, Sample]:
    """Return the services with a history of GPUs at some seconds, and the latest sample."""
    history = make_history()
    sample = make_sample(0)
    for second, gpus in samples:
        sample = make_sample(second, gpus=gpus)
        history.append(sample)
    wait_until_written(history)
    return Services(
        latest=FixedSample(sample), history=history, alerts=make_alerts(), clock=FakeClock(now_ms=sample.time_ms)
    ), sample


def test_ended_processes_are_those_that_run_no_more() -> None:
    grown = dataclasses.replace(TRAINING, gpu_memory_bytes=6 * GIB)
    serving = dataclasses.replace(TRAINING, pid=42, info=ProcessInfo(name="serve", username="bob", started_ms=7))
    reused = dataclasses.replace(serving, pid=41)  # the pid of the first one
    services, latest = recorded(
        *((second, (make_gpu(0, processes=(TRAINING, serving)), make_gpu(1))) for second in range(30)),
        *((second, (make_gpu(0, processes=(grown,)), make_gpu(1, processes=(grown,)))) for second in range(30, 60)),
        *((second, (make_gpu(0, processes=(reused,)), make_gpu(1))) for second in range(60, 90)),
    )
    found = processes.find_ended(services, latest, NOON_MS, NOON_MS + 3_600_000)
    assert [row.process.info.name for row in found] == ["train", "serve"]
    trained, served = found
    assert trained.gpus == (0, 1)
    assert trained.peak_bytes == 12 * GIB
    assert (trained.start_ms - NOON_MS, trained.end_ms - NOON_MS) == (0, 59_000)
    assert (served.gpus, served.end_ms - NOON_MS) == ((0,), 29_000)
    # At an earlier moment one of them still ran.
    then = make_sample(50, gpus=(make_gpu(0, processes=(grown,)), make_gpu(1)))
    (before,) = processes.find_ended(services, then, NOON_MS, NOON_MS + 50_000)
    assert before.process.info.name == "serve"
    services.history.close()


@pytest.mark.parametrize(("successors", "label"), [((), "GPU 3"), ((make_gpu(3),), "GPU-9c1a7c1e")])
def test_a_process_that_ended_on_a_gpu_which_is_gone_names_it(successors: tuple[Gpu, ...], label: str) -> None:
    """By its index, or by its UUID if another GPU has its index by now."""
    gone = make_gpu(processes=(TRAINING,), device=make_device(3, uuid="GPU-9c1a7c1e-0000-0000-0000-000000000003"))
    services, latest = recorded((0, (make_gpu(0), gone)), (1, (make_gpu(0), *successors)))
    (part,) = processes.build_parts(make_context(sample=latest, services=services))
    (row,) = part.build()["rows"]
    assert (row["name"], row["gpus"], row["gone_gpus"], row["peak_mib"]) == ("train", [], [label], 4096)
    services.history.close()


def test_process_that_starts_and_ends_within_a_minute_is_listed() -> None:
    shown = [
        make_sample(second, gpus=(make_gpu(0, processes=found),)) for second, found in enumerate(((), (TRAINING,), ()))
    ]
    services, latest = recorded(*((second, sample.gpus) for second, sample in enumerate(shown)))
    context = make_context(sample=latest, services=services)
    counts = []
    for sample in shown:
        (part,) = processes.build_parts(dataclasses.replace(context, sample=sample))
        counts.append(part.build()["count"])
    assert counts == [0, 0, 1]
    services.history.close()


def test_ended_processes_are_sent_again_when_a_process_ends() -> None:
    services, latest = recorded((0, (make_gpu(0, processes=(TRAINING,)),)), (1, (make_gpu(0),)))

    def part(sample: Sample, **request: Any) -> Any:
        (found,) = processes.build_parts(make_context(sample=sample, services=services, **request))
        return found

    first = part(latest)
    assert first.build()["count"] == 1
    (row,) = first.build()["rows"]
    assert (row["name"], row["user"], row["gpus"], row["peak_mib"]) == ("train", "ada", [0], 4096)
    assert row["ended_ms"] == NOON_MS
    assert part(dataclasses.replace(latest, time_ms=latest.time_ms + 1000)).version == first.version
    running = dataclasses.replace(latest, gpus=(make_gpu(0, processes=(TRAINING,)),))
    assert part(running).version != first.version
    assert part(running).build()["count"] == 0
    assert part(latest, zoom=[NOON_MS - 60_000, NOON_MS - 30_000]).build() == {"rows": [], "count": 0}
    services.history.close()
