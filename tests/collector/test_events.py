"""Two samples in, plain words out; nothing is invented where a reading is late or missing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from dashtop.collector.events import FLAGS, between
from dashtop.model.metric import Severity
from dashtop.model.sample import PROCESSES, GpuProcess, ProcessInfo
from dashtop.model.unavailable import UnavailableReason
from tests.builders import make_device, make_gpu, make_sample

if TYPE_CHECKING:
    from dashtop.model.sample import Gpu, Sample


def kinds(before: Sample, now: Sample) -> list[str]:
    return [event.kind for event in between(before, now)]


def of(*gpus: Gpu, error: UnavailableReason | None = None, age_s: float = 0.0) -> Sample:
    return make_sample(gpus=gpus, error=error, gpu_age_s=age_s)


GPU = make_gpu()
LOST = replace(GPU, state=UnavailableReason.GPU_LOST)
STUCK = replace(GPU, state=UnavailableReason.DRIVER_SILENT)
NEWER = make_gpu(device=make_device(driver_version="580.1"))
HOT = make_gpu(values={FLAGS: 0x20 | 0x4})
COOL = make_gpu(values={FLAGS: 0x4})


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (of(GPU), of(GPU), []),
        (of(GPU), of(LOST), ["gpu_lost"]),
        (of(LOST), of(LOST), []),
        (of(LOST), of(GPU), ["gpu_back"]),
        (of(GPU), of(GPU, make_gpu(1)), ["gpu_added"]),
        (of(GPU, make_gpu(1)), of(GPU), ["gpu_removed"]),
        (of(GPU), of(error=UnavailableReason.NO_DRIVER), ["driver_silent"]),
        (of(error=UnavailableReason.NO_DRIVER), of(GPU), ["driver_back"]),
        (of(GPU), of(STUCK, age_s=3.0), ["driver_silent"]),
        (of(STUCK, age_s=3.0), of(GPU), ["driver_back"]),
        (of(error=UnavailableReason.STARTING), of(GPU), []),
        (of(error=UnavailableReason.NO_LIBRARY), of(error=UnavailableReason.NO_LIBRARY), []),
        (of(GPU), of(NEWER), ["driver_changed"]),
        (of(COOL), of(HOT), ["throttle_begin"]),
        (of(HOT), of(COOL), ["throttle_end"]),
        (of(make_gpu(values={FLAGS: 0})), of(COOL), []),  # the power cap is the normal life of a busy GPU
        (of(HOT), of(GPU), []),  # not told is not over
        (of(COOL), of(HOT, age_s=0.5), []),
    ],
)
def test_what_two_samples_show(before: Sample, now: Sample, expected: list[str]) -> None:
    assert kinds(before, now) == expected


def test_the_first_sample_is_a_start_and_nothing_else() -> None:
    started = between(None, of(HOT))
    assert [(event.kind, event.time_ms) for event in started] == [("restart", of(HOT).time_ms)]


def test_a_throttle_says_which_gpu_why_and_how_bad() -> None:
    (event,) = between(of(COOL), of(HOT))
    assert event.severity is Severity.WARNING
    assert event.gpu_uuid == HOT.device.uuid
    assert event.text.startswith("GPU 0 (NVIDIA GeForce RTX 3090) is held down: thermal slowdown.")


def process(pid: int, started_ms: int | None) -> GpuProcess:
    owner = ProcessInfo(username="ada")
    return GpuProcess(
        pid=pid, kind="C", gpu_memory_bytes=1, info=replace(owner, name="train.py", started_ms=started_ms)
    )


def using(*processes: GpuProcess) -> Sample:
    return of(make_gpu(processes=processes))


def test_processes_begin_and_end_with_name_and_owner() -> None:
    (began,) = between(using(), using(process(7, 1000)))
    assert (began.kind, began.code, began.text) == (
        "process_start",
        7,
        "train.py (pid 7) of ada began to use GPU 0 (NVIDIA GeForce RTX 3090).",
    )
    assert kinds(using(process(7, 1000)), using()) == ["process_end"]


def test_a_pid_used_again_is_another_process_but_one_told_of_later_is_not() -> None:
    assert kinds(using(process(7, 1000)), using(process(7, 2000))) == ["process_end", "process_start"]
    assert kinds(using(process(7, None)), using(process(7, 2000))) == []
    assert kinds(using(process(7, 2000)), using(process(7, None))) == []


def test_processes_that_are_not_told_for_a_while_have_neither_ended_nor_begun() -> None:
    process = GpuProcess(pid=7, kind="C", gpu_memory_bytes=1)
    told = make_gpu(values={"gpu.temperature": 50.0}, processes=(process,))
    untold = replace(told, processes=(), unavailable={**told.unavailable, PROCESSES: UnavailableReason.NO_PERMISSION})
    assert between(make_sample(1, gpus=(told,)), make_sample(2, gpus=(untold,))) == ()
    assert between(make_sample(2, gpus=(untold,)), make_sample(3, gpus=(told,))) == ()
