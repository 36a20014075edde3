"""The events between two samples; a late or missing reading gives none."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from dashtop.collector.events import FLAGS, detect_events
from dashtop.model.metric import Severity
from dashtop.model.sample import EVENT_KINDS, PROCESSES, GpuProcess, ProcessInfo
from dashtop.model.unavailable import UnavailableReason
from tests.builders import make_device, make_gpu, make_sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dashtop.model.sample import Event, Gpu, Sample


def kinds(previous: Sample, sample: Sample) -> list[str]:
    return kinds_of(detect_events(previous, sample))


def kinds_of(events: Sequence[Event]) -> list[str]:
    assert {event.kind for event in events} <= set(EVENT_KINDS)
    return [event.kind for event in events]


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


FAULTY = make_gpu(
    values={"gpu.remapped_rows.pending": 1, "gpu.remapped_rows.failure": 1, "gpu.retired_pages.pending": 0}
)
RETIRING = make_gpu(values={"gpu.retired_pages.pending": 1})


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (sample_of(GPU), []),
        (sample_of(error=UnavailableReason.STARTING), []),
        (sample_of(LOST), ["gpu_lost"]),
        (sample_of(HOT), ["throttle_begin"]),
        (sample_of(HOT, age_s=3.0), []),
        (sample_of(FAULTY), ["reset_pending", "remap_failed"]),
        (sample_of(GPU, replace(make_gpu(1), state=UnavailableReason.GPU_RESET_REQUIRED)), ["gpu_lost"]),
        (sample_of(error=UnavailableReason.NO_DRIVER), ["driver_silent"]),
    ],
)
def test_conditions_that_exist_at_the_start_begin_then(sample: Sample, expected: list[str]) -> None:
    assert kinds_of(detect_events(None, sample)) == ["restart", *expected]
    if sample.gpus:
        after_start = detect_events(sample_of(error=UnavailableReason.STARTING), sample)
        assert kinds_of(after_start) == expected
        assert detect_events(sample, sample) == ()


def test_lost_gpu_that_is_added_gives_both_events() -> None:
    assert kinds(sample_of(make_gpu(1)), sample_of(make_gpu(1), LOST)) == ["gpu_added", "gpu_lost"]


@pytest.mark.parametrize("faulty", [FAULTY, RETIRING])
def test_fault_begins_when_its_first_reading_arrives(faulty: Gpu) -> None:
    first = dict.fromkeys(faulty.values, UnavailableReason.FIRST_READING)
    unread = replace(faulty, values=dict.fromkeys(faulty.values), unavailable=first)
    (event, *_) = detect_events(sample_of(unread), sample_of(faulty))
    assert (event.kind, event.gpu_uuid) == ("reset_pending", faulty.device.uuid)
    unreadable = replace(unread, unavailable=dict.fromkeys(faulty.values, UnavailableReason.NO_PERMISSION))
    assert kinds(sample_of(faulty), sample_of(unreadable)) == []
    assert kinds(sample_of(unreadable), sample_of(faulty)) == []


def test_events_of_faults_say_what_to_do() -> None:
    pending, failed = detect_events(sample_of(make_gpu(values=dict.fromkeys(FAULTY.values, 0))), sample_of(FAULTY))
    assert (pending.severity, pending.advice) == (Severity.WARNING, "Reset the GPU when it is idle.")
    assert (failed.severity, failed.advice) == (Severity.CRITICAL, "Replace the GPU.")


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


def test_kill_for_lack_of_memory_names_the_gpu_process_that_ended() -> None:
    running = make_gpu(processes=(GpuProcess(pid=7, kind="C", gpu_memory_bytes=1, info=ProcessInfo(name="train")),))
    before = make_sample(1, gpus=(running,), host={"system.memory.oom_kills": 2.0})
    after = make_sample(2, gpus=(GPU,), host={"system.memory.oom_kills": 3.0})
    event = detect_events(before, after)[-1]
    assert (event.kind, event.severity) == ("oom_kill", Severity.WARNING)
    assert event.text == "The kernel killed a process for lack of memory, probably train (pid 7)."
    twice = make_sample(2, gpus=(running,), host={"system.memory.oom_kills": 4.0})
    assert detect_events(before, twice)[-1].text == "The kernel killed 2 processes for lack of memory."


@pytest.mark.parametrize(("before", "after"), [(2.0, 2.0), (3.0, 0.0), (None, 5.0), (5.0, None)])
def test_unchanged_or_unknown_number_of_kills_is_no_event(before: float | None, after: float | None) -> None:
    samples = [
        make_sample(host={} if count is None else {"system.memory.oom_kills": count}) for count in (before, after)
    ]
    assert kinds(*samples) == []
