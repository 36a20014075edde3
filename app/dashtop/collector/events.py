"""Detects the events between two samples. Pure functions: no clock, no state.

Only fresh readings count: a late or missing value neither begins nor ends anything. What a GPU already has when it is
read for the first time (it is lost, throttled, needs a reset) begins then. A throttle reason without severity
(idle, power cap at full load) is normal and gives no event; its series shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dashtop.metrics.throttle_reasons import find_throttle_reasons
from dashtop.model.metric import Severity
from dashtop.model.sample import PROCESSES, Event

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dashtop.model.sample import Gpu, GpuProcess, Sample
    from dashtop.model.unavailable import UnavailableReason

FLAGS = "gpu.clocks.event_reasons"
OOM_KILLS = "system.memory.oom_kills"
EVENT_SEVERITIES = frozenset({Severity.WARNING, Severity.CRITICAL})
"""Throttle reasons of these severities give an event."""


@dataclass(frozen=True, slots=True)
class _Fault:
    """A fault that a metric reports as 1 until the GPU is reset or replaced."""

    key: str
    kind: str
    severity: Severity
    text: str
    advice: str


_FAULTS = (
    _Fault(
        "gpu.remapped_rows.pending",
        "reset_pending",
        Severity.WARNING,
        "row remapping waits for a reset",
        "Reset the GPU when it is idle.",
    ),
    _Fault(
        "gpu.retired_pages.pending",
        "reset_pending",
        Severity.WARNING,
        "page retirement waits for a reset",
        "Reset the GPU when it is idle.",
    ),
    _Fault(
        "gpu.remapped_rows.failure",
        "remap_failed",
        Severity.CRITICAL,
        "a row could not be remapped, no spare rows are left",
        "Replace the GPU.",
    ),
)


def detect_events(previous: Sample | None, sample: Sample) -> tuple[Event, ...]:
    """Return the events between two samples; without a previous one, the start of dashtop and what exists already."""
    if previous is None:
        started = _build_event(sample, "restart", Severity.INFO, "dashtop started.")
        return (started, *_detect_driver_failure(None, sample), *_detect_conditions_of_new_gpus({}, sample))
    return (
        *_detect_driver_events(previous, sample),
        *_detect_gpu_events(previous, sample),
        *_detect_oom_kills(previous, sample),
    )


def _detect_oom_kills(previous: Sample, sample: Sample) -> Iterator[Event]:
    """Yield an event if the kernel has ended processes; it names the GPU process that ended with this sample."""
    before, now = (each.host.values.get(OOM_KILLS) for each in (previous, sample))
    if before is None or now is None or now <= before:
        return
    count = round(now - before)
    killed = "a process" if count == 1 else f"{count} processes"
    pids = {process.pid for gpu in sample.gpus for process in gpu.processes}
    gone = [process for gpu in previous.gpus for process in gpu.processes if process.pid not in pids]
    names = ", ".join(dict.fromkeys(_format_process(process) for process in gone)) if sample.gpus else ""
    probably = f", probably {names}" if names else ""
    text = f"The kernel killed {killed} for lack of memory{probably}."
    advice = "Give the work more memory, or less to do at once."
    yield _build_event(sample, "oom_kill", Severity.WARNING, text, advice=advice)


def _build_event(
    sample: Sample,
    kind: str,
    severity: Severity,
    text: str,
    *,
    gpu: Gpu | None = None,
    advice: str = "",
    code: int | None = None,
) -> Event:
    return Event(
        time_ms=sample.time_ms,
        kind=kind,
        severity=severity,
        text=text,
        gpu_uuid=gpu.device.uuid if gpu is not None else None,
        advice=advice,
        code=code,
    )


def _detect_driver_events(previous: Sample, sample: Sample) -> Iterator[Event]:
    before, now = previous.driver_failure, sample.driver_failure
    yield from _detect_driver_failure(before, sample)
    if before is not None and now is None and sample.gpus:
        yield _build_event(sample, "driver_back", Severity.INFO, "The NVIDIA driver responds again.")
    versions = [{gpu.device.driver_version for gpu in each.gpus} - {None} for each in (previous, sample)]
    if all(versions) and versions[0] != versions[1]:
        old, new = (", ".join(sorted(map(str, each))) for each in versions)
        text = f"The NVIDIA driver changed from {old} to {new}."
        yield _build_event(sample, "driver_changed", Severity.INFO, text)


def _detect_driver_failure(before: UnavailableReason | None, sample: Sample) -> Iterator[Event]:
    now = sample.driver_failure
    if before is None and now is not None:
        text = f"No GPU can be read: {now.text}."
        yield _build_event(sample, "driver_silent", now.severity, text, advice=now.advice)


def _detect_gpu_events(previous: Sample, sample: Sample) -> Iterator[Event]:
    # After an error of all GPUs, the list of devices does not show which were added or removed.
    is_complete = not (previous.gpu_error or sample.gpu_error or sample.gpu_age_s)
    before, now = ({gpu.device.uuid: gpu for gpu in each.gpus} for each in (previous, sample))
    for uuid, gpu in now.items():
        if uuid in before:
            yield from _detect_changes(before[uuid], gpu, sample)
        elif is_complete:
            yield _build_event(sample, "gpu_added", Severity.INFO, f"{gpu.label} was added.", gpu=gpu)
    for uuid, gpu in before.items():
        if is_complete and uuid not in now:
            yield _build_event(sample, "gpu_removed", Severity.WARNING, f"{gpu.label} was removed.", gpu=gpu)
    yield from _detect_conditions_of_new_gpus(before, sample)


def _detect_conditions_of_new_gpus(known: Mapping[str, Gpu], sample: Sample) -> Iterator[Event]:
    """Yield what begins with the first reading of a GPU, since it is not known when it began."""
    for gpu in sample.gpus:
        if gpu.device.uuid in known:
            continue
        if gpu.state is not None and gpu.state.is_lost:
            yield _build_lost_event(gpu, gpu.state, sample)
        elif gpu.state is None and not sample.gpu_age_s:
            yield from _detect_throttling(None, gpu, sample)
            yield from _detect_faults(None, gpu, sample)


def _build_lost_event(gpu: Gpu, state: UnavailableReason, sample: Sample) -> Event:
    text = f"{gpu.label}: {state.text}."
    return _build_event(sample, "gpu_lost", state.severity, text, gpu=gpu, advice=state.advice)


def _detect_changes(previous: Gpu, gpu: Gpu, sample: Sample) -> Iterator[Event]:
    was_lost = previous.state is not None and previous.state.is_lost
    if gpu.state is not None and gpu.state.is_lost and not was_lost:
        yield _build_lost_event(gpu, gpu.state, sample)
    elif was_lost and gpu.state is None:
        yield _build_event(sample, "gpu_back", Severity.INFO, f"{gpu.label} can be read again.", gpu=gpu)
    if previous.state is None and gpu.state is None and not sample.gpu_age_s:
        yield from _detect_throttling(previous, gpu, sample)
        yield from _detect_faults(previous, gpu, sample)
        if PROCESSES not in previous.unavailable and PROCESSES not in gpu.unavailable:
            yield from _detect_processes(previous, gpu, sample)


def _find_previous(previous: Gpu | None, key: str) -> float | None:
    """Return the previous value; 0 if the metric was not read yet, None if it could not be read."""
    if previous is None or ((reason := previous.unavailable.get(key)) is not None and reason.is_pending):
        return 0.0
    return previous.values.get(key)


def _detect_faults(previous: Gpu | None, gpu: Gpu, sample: Sample) -> Iterator[Event]:
    for fault in _FAULTS:
        before = _find_previous(previous, fault.key)
        if before is not None and not before and gpu.values.get(fault.key):
            text = f"{gpu.label}: {fault.text}."
            yield _build_event(sample, fault.kind, fault.severity, text, gpu=gpu, advice=fault.advice)


def _detect_throttling(previous: Gpu | None, gpu: Gpu, sample: Sample) -> Iterator[Event]:
    before, now = _find_previous(previous, FLAGS), gpu.values.get(FLAGS)
    if before is None or now is None:
        return
    for reason in find_throttle_reasons(int(now) & ~int(before)):
        if reason.severity in EVENT_SEVERITIES:
            text = f"{gpu.label} is throttled: {reason.name}. {reason.meaning}"
            yield _build_event(sample, "throttle_begin", reason.severity, text, gpu=gpu)
    for reason in find_throttle_reasons(int(before) & ~int(now)):
        if reason.severity in EVENT_SEVERITIES:
            text = f"{gpu.label} is no longer throttled: {reason.name} ended."
            yield _build_event(sample, "throttle_end", Severity.INFO, text, gpu=gpu)


def _detect_processes(previous: Gpu, gpu: Gpu, sample: Sample) -> Iterator[Event]:
    before, now = ({process.pid: process for process in each.processes} for each in (previous, gpu))
    for pid, process in before.items():
        if not _is_same_process(process, now.get(pid)):
            text = f"{_format_process(process)} stopped using {gpu.label}."
            yield _build_event(sample, "process_end", Severity.INFO, text, gpu=gpu, code=pid)
    for pid, process in now.items():
        if not _is_same_process(process, before.get(pid)):
            text = f"{_format_process(process)} started using {gpu.label}."
            yield _build_event(sample, "process_start", Severity.INFO, text, gpu=gpu, code=pid)


def _is_same_process(process: GpuProcess, other: GpuProcess | None) -> bool:
    """Return whether a pid still means the same process. Its start time may become known after the process itself."""
    return other is not None and (
        None in {process.info.started_ms, other.info.started_ms} or process.info.started_ms == other.info.started_ms
    )


def _format_process(process: GpuProcess) -> str:
    owner = f" of {process.info.username}" if process.info.username else ""
    return f"{process.info.name or 'Process'} (pid {process.pid}){owner}"
