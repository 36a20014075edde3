"""The events between two samples; a late or missing reading gives none."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from dashtop.collector.events import FLAGS, detect_events
from dashtop.model.metric import Severity
from dashtop.model.sample import PROCESSES, GpuProcess, ProcessInfo
from dashtop.model.unavailable import UnavailableReason
from tests.builders import make_device, make_gpu, make_sample

if TYPE_CHECKING:
    from dashtop.model.sample import Gpu, Sample


def kinds(previous: Sample, sample: Sample) -> list[str]:
    return [event.kind for event in detect_events(previous, sample)]


def sample_of(*gpus: Gpu, error: UnavailableReason | None = None, age_s: float = 0.0) -> Sample:
    return make_sample(gpus=gpus, error=error, gpu_age_s=age_s)


GPU = make_gpu()
LOST = replace(GPU, state=UnavailableReason.GPU_LOST)
STUCK = replace(GPU, state=UnavailableReason.DRIVER_SILENT)
NEWER = make_gpu(device=make_device(driver_version="580.1"))
HOT = make_gpu(values={FLAGS: 0x20 | 0x4})
COOL = make_gpu(values={FLAGS: 0x4})


@pytest.mark.parametrize(
    ("previous", "sample", "expected"),
    [
        (sample_of(GPU), sample_of(GPU), []),
        (sample_of(GPU), sample_of(LOST), ["gpu_lost"]),
        (sample_of(LOST), sample_of(LOST), []),
        (sample_of(LOST), sample_of(GPU), ["gpu_back"]),
        (sample_of(GPU), sample_of(GPU, make_gpu(1)), ["gpu_added"]),
        (sample_of(GPU, make_gpu(1)), sample_of(GPU), ["gpu_removed"]),
        (sample_of(GPU), sample_of(error=UnavailableReason.NO_DRIVER), ["driver_silent"]),
        (sample_of(error=UnavailableReason.NO_DRIVER), sample_of(GPU), ["driver_back"]),
        (sample_of(GPU), sample_of(STUCK, age_s=3.0), ["driver_silent"]),
        (sample_of(STUCK, age_s=3.0), sample_of(GPU), ["driver_back"]),
        (sample_of(error=UnavailableReason.STARTING), sample_of(GPU), []),
        (sample_of(error=UnavailableReason.NO_LIBRARY), sample_of(error=UnavailableReason.NO_LIBRARY), []),
        (sample_of(GPU), sample_of(NEWER), ["driver_changed"]),
        (sample_of(COOL), sample_of(HOT), ["throttle_begin"]),
        (sample_of(HOT), sample_of(COOL), ["throttle_end"]),
        (sample_of(make_gpu(values={FLAGS: 0})), sample_of(COOL), []),  # the power cap is normal on a busy GPU
        (sample_of(HOT), sample_of(GPU), []),  # an unknown state ends nothing
        (sample_of(COOL), sample_of(HOT, age_s=0.5), []),
    ],
)
def test_events_between_two_samples(previous: Sample, sample: Sample, expected: list[str]) -> None:
    assert kinds(previous, sample) == expected


def test_first_sample_gives_a_restart_event_only() -> None:
    started = detect_events(None, sample_of(HOT))
    assert [(event.kind, event.time_ms) for event in started] == [("restart", sample_of(HOT).time_ms)]


def test_throttle_event_has_gpu_reason_and_severity() -> None:
    (event,) = detect_events(sample_of(COOL), sample_of(HOT))
    assert event.severity is Severity.WARNING
    assert event.gpu_uuid == HOT.device.uuid
    assert event.text.startswith("GPU 0 (NVIDIA GeForce RTX 3090) is throttled: SW Thermal Slowdown.")


def process(pid: int, started_ms: int | None) -> GpuProcess:
    owner = ProcessInfo(username="ada")
    return GpuProcess(
        pid=pid, kind="C", gpu_memory_bytes=1, info=replace(owner, name="train.py", started_ms=started_ms)
    )


def using(*processes: GpuProcess) -> Sample:
    return sample_of(make_gpu(processes=processes))


def test_process_events_name_the_process_and_its_owner() -> None:
    (started,) = detect_events(using(), using(process(7, 1000)))
    assert (started.kind, started.code, started.text) == (
        "process_start",
        7,
        "train.py (pid 7) of ada started using GPU 0 (NVIDIA GeForce RTX 3090).",
    )
    assert kinds(using(process(7, 1000)), using()) == ["process_end"]


def test_reused_pid_is_another_process_but_a_late_start_time_is_not() -> None:
    assert kinds(using(process(7, 1000)), using(process(7, 2000))) == ["process_end", "process_start"]
    assert kinds(using(process(7, None)), using(process(7, 2000))) == []
    assert kinds(using(process(7, 2000)), using(process(7, None))) == []


def test_unavailable_processes_give_no_event() -> None:
    process = GpuProcess(pid=7, kind="C", gpu_memory_bytes=1)
    listed = make_gpu(values={"gpu.temperature": 50.0}, processes=(process,))
    unlisted = replace(
        listed, processes=(), unavailable={**listed.unavailable, PROCESSES: UnavailableReason.NO_PERMISSION}
    )
    assert detect_events(make_sample(1, gpus=(listed,)), make_sample(2, gpus=(unlisted,))) == ()
    assert detect_events(make_sample(2, gpus=(unlisted,)), make_sample(3, gpus=(listed,))) == ()
