"""Detects the events between two samples. Pure functions: no clock, no state.

Only fresh readings count: a late or missing value neither begins nor ends anything. A throttle reason without severity
(idle, power cap at full load) is normal and gives no event; its series shows it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashtop.metrics.throttle_reasons import find_throttle_reasons
from dashtop.model.metric import Severity
from dashtop.model.sample import PROCESSES, Event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dashtop.model.sample import Gpu, GpuProcess, Sample
    from dashtop.model.unavailable import UnavailableReason

FLAGS = "gpu.clocks.event_reasons"
EVENT_SEVERITIES = frozenset({Severity.WARNING, Severity.CRITICAL})
"""Throttle reasons of these severities give an event."""


def detect_events(previous: Sample | None, sample: Sample) -> tuple[Event, ...]:
    """Return the events between two samples; without a previous one, the start of dashtop."""
    if previous is None:
        return (_build_event(sample, "restart", Severity.INFO, "dashtop started."),)
    return (*_detect_driver_events(previous, sample), *_detect_gpu_events(previous, sample))


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


def _find_driver_failure(sample: Sample) -> UnavailableReason | None:
    """Return why no GPU can be read, or None."""
    states = {gpu.state for gpu in sample.gpus}
    reason = sample.gpu_error or (next(iter(states)) if len(states) == 1 else None)
    return reason if reason is not None and reason.silences_driver else None


def _detect_driver_events(previous: Sample, sample: Sample) -> Iterator[Event]:
    before, now = _find_driver_failure(previous), _find_driver_failure(sample)
    if before is None and now is not None:
        text = f"No GPU can be read: {now.text}."
        yield _build_event(sample, "driver_silent", now.severity, text, advice=now.advice)
    elif before is not None and now is None and sample.gpus:
        yield _build_event(sample, "driver_back", Severity.INFO, "The NVIDIA driver responds again.")
    versions = [{gpu.device.driver_version for gpu in each.gpus} - {None} for each in (previous, sample)]
    if all(versions) and versions[0] != versions[1]:
        old, new = (", ".join(sorted(map(str, each))) for each in versions)
        text = f"The NVIDIA driver changed from {old} to {new}."
        yield _build_event(sample, "driver_changed", Severity.INFO, text)


def _detect_gpu_events(previous: Sample, sample: Sample) -> Iterator[Event]:
    # After an error of all GPUs, the list of devices does not show which were added or removed.
    is_complete = not (previous.gpu_error or sample.gpu_error or sample.gpu_age_s)
    before, now = ({gpu.device.uuid: gpu for gpu in each.gpus} for each in (previous, sample))
    for uuid, gpu in now.items():
        if uuid in before:
            yield from _detect_changes(before[uuid], gpu, sample)
        elif is_complete:
            yield _build_event(sample, "gpu_added", Severity.INFO, f"{_format_gpu(gpu)} was added.", gpu=gpu)
    for uuid, gpu in before.items():
        if is_complete and uuid not in now:
            yield _build_event(sample, "gpu_removed", Severity.WARNING, f"{_format_gpu(gpu)} was removed.", gpu=gpu)


def _detect_changes(previous: Gpu, gpu: Gpu, sample: Sample) -> Iterator[Event]:
    was_lost = previous.state is not None and previous.state.is_lost
    if gpu.state is not None and gpu.state.is_lost and not was_lost:
        text = f"{_format_gpu(gpu)}: {gpu.state.text}."
        yield _build_event(sample, "gpu_lost", gpu.state.severity, text, gpu=gpu, advice=gpu.state.advice)
    elif was_lost and gpu.state is None:
        yield _build_event(sample, "gpu_back", Severity.INFO, f"{_format_gpu(gpu)} can be read again.", gpu=gpu)
    if previous.state is None and gpu.state is None and not sample.gpu_age_s:
        yield from _detect_throttling(previous, gpu, sample)
        if PROCESSES not in previous.unavailable and PROCESSES not in gpu.unavailable:
            yield from _detect_processes(previous, gpu, sample)


def _detect_throttling(previous: Gpu, gpu: Gpu, sample: Sample) -> Iterator[Event]:
    before, now = previous.values.get(FLAGS), gpu.values.get(FLAGS)
    if before is None or now is None:
        return
    for reason in find_throttle_reasons(int(now) & ~int(before)):
        if reason.severity in EVENT_SEVERITIES:
            text = f"{_format_gpu(gpu)} is throttled: {reason.name}. {reason.meaning}"
            yield _build_event(sample, "throttle_begin", reason.severity, text, gpu=gpu)
    for reason in find_throttle_reasons(int(before) & ~int(now)):
        if reason.severity in EVENT_SEVERITIES:
            text = f"{_format_gpu(gpu)} is no longer throttled: {reason.name} ended."
            yield _build_event(sample, "throttle_end", Severity.INFO, text, gpu=gpu)


def _detect_processes(previous: Gpu, gpu: Gpu, sample: Sample) -> Iterator[Event]:
    before, now = ({process.pid: process for process in each.processes} for each in (previous, gpu))
    for pid, process in before.items():
        if not _is_same_process(process, now.get(pid)):
            text = f"{_format_process(process)} stopped using {_format_gpu(gpu)}."
            yield _build_event(sample, "process_end", Severity.INFO, text, gpu=gpu, code=pid)
    for pid, process in now.items():
        if not _is_same_process(process, before.get(pid)):
            text = f"{_format_process(process)} started using {_format_gpu(gpu)}."
            yield _build_event(sample, "process_start", Severity.INFO, text, gpu=gpu, code=pid)


def _is_same_process(process: GpuProcess, other: GpuProcess | None) -> bool:
    """Return whether a pid still means the same process. Its start time may become known after the process itself."""
    return other is not None and (
        None in {process.info.started_ms, other.info.started_ms} or process.info.started_ms == other.info.started_ms
    )


def _format_gpu(gpu: Gpu) -> str:
    return f"GPU {gpu.device.index} ({gpu.device.name})"


def _format_process(process: GpuProcess) -> str:
    owner = f" of {process.info.username}" if process.info.username else ""
    return f"{process.info.name or 'Process'} (pid {process.pid}){owner}"
