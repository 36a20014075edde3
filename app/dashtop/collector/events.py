"""What has happened between two samples, in plain words. Pure: no clock, no state.

Only what stands in fresh readings counts: values that are late or missing begin and end nothing. A clock reason without
severity (idle, power cap at full load) is the normal life of a GPU and no event; its series tells of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashtop.metrics.throttle_reasons import clock_reasons
from dashtop.model.metric import Severity
from dashtop.model.sample import PROCESSES, Event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dashtop.model.sample import Gpu, GpuProcess, Sample
    from dashtop.model.unavailable import UnavailableReason

FLAGS = "gpu.clocks.event_reasons"
TOLD = frozenset({Severity.WARNING, Severity.CRITICAL})


def between(before: Sample | None, now: Sample) -> tuple[Event, ...]:
    """Return the events that the two samples show; with none before, that dashtop has started."""
    if before is None:
        return (_event(now, "restart", Severity.INFO, "dashtop has started."),)
    return (*_of_driver(before, now), *_of_gpus(before, now))


def _event(
    now: Sample,
    kind: str,
    severity: Severity,
    text: str,
    *,
    gpu: Gpu | None = None,
    advice: str = "",
    code: int | None = None,
) -> Event:
    return Event(
        time_ms=now.time_ms,
        kind=kind,
        severity=severity,
        text=text,
        gpu_uuid=gpu.device.uuid if gpu is not None else None,
        advice=advice,
        code=code,
    )


def _silence(sample: Sample) -> UnavailableReason | None:
    """Return why the driver as a whole says nothing, or None."""
    states = {gpu.state for gpu in sample.gpus}
    common = next(iter(states)) if len(states) == 1 else None
    reason = sample.gpu_error or common
    return reason if reason is not None and reason.silences_driver else None


def _of_driver(before: Sample, now: Sample) -> Iterator[Event]:
    was, is_now = _silence(before), _silence(now)
    if was is None and is_now is not None:
        text = f"No GPU can be read: {is_now.text}."
        yield _event(now, "driver_silent", is_now.severity, text, advice=is_now.advice)
    elif was is not None and is_now is None and now.gpus:
        yield _event(now, "driver_back", Severity.INFO, "The NVIDIA driver answers again.")
    versions = [{gpu.device.driver_version for gpu in sample.gpus} - {None} for sample in (before, now)]
    if all(versions) and versions[0] != versions[1]:
        old, new = (", ".join(sorted(map(str, each))) for each in versions)
        yield _event(now, "driver_changed", Severity.INFO, f"The NVIDIA driver is {new} now; it was {old}.")


def _of_gpus(before: Sample, now: Sample) -> Iterator[Event]:
    # Where there was trouble with all of them, nothing is known of who has come or gone meanwhile.
    whole = not (before.gpu_error or now.gpu_error or now.gpu_age_s)
    were, are = ({gpu.device.uuid: gpu for gpu in sample.gpus} for sample in (before, now))
    for uuid, gpu in are.items():
        was = were.get(uuid)
        if was is not None:
            yield from _of_gpu(was, gpu, now)
        elif whole:
            yield _event(now, "gpu_added", Severity.INFO, f"{_name(gpu)} is there now.", gpu=gpu)
    for uuid, was in were.items():
        if whole and uuid not in are:
            yield _event(now, "gpu_removed", Severity.WARNING, f"{_name(was)} is not there any more.", gpu=was)


def _of_gpu(was: Gpu, gpu: Gpu, now: Sample) -> Iterator[Event]:
    was_lost = was.state is not None and was.state.is_lost
    if gpu.state is not None and gpu.state.is_lost and not was_lost:
        text = f"{_name(gpu)}: {gpu.state.text}."
        yield _event(now, "gpu_lost", gpu.state.severity, text, gpu=gpu, advice=gpu.state.advice)
    elif was_lost and gpu.state is None:
        yield _event(now, "gpu_back", Severity.INFO, f"{_name(gpu)} can be read again.", gpu=gpu)
    if was.state is None and gpu.state is None and not now.gpu_age_s:
        yield from _throttling(was, gpu, now)
        if PROCESSES not in was.unavailable and PROCESSES not in gpu.unavailable:
            yield from _processes(was, gpu, now)


def _throttling(was: Gpu, gpu: Gpu, now: Sample) -> Iterator[Event]:
    before, flags = was.values.get(FLAGS), gpu.values.get(FLAGS)
    if before is None or flags is None:
        return
    for reason in clock_reasons(int(flags) & ~int(before)):
        if reason.severity in TOLD:
            yield _event(
                now,
                "throttle_begin",
                reason.severity,
                f"{_name(gpu)} is held down: {reason.name.lower()}. {reason.meaning}",
                gpu=gpu,
            )
    for reason in clock_reasons(int(before) & ~int(flags)):
        if reason.severity in TOLD:
            text = f"{_name(gpu)} is no longer held down: {reason.name.lower()} is over."
            yield _event(now, "throttle_end", Severity.INFO, text, gpu=gpu)


def _processes(was: Gpu, gpu: Gpu, now: Sample) -> Iterator[Event]:
    before, running = ({each.pid: each for each in one.processes} for one in (was, gpu))
    for pid, process in before.items():
        if not _same(process, running.get(pid)):
            text = f"{_title(process)} no longer uses {_name(gpu)}."
            yield _event(now, "process_end", Severity.INFO, text, gpu=gpu, code=pid)
    for pid, process in running.items():
        if not _same(process, before.get(pid)):
            text = f"{_title(process)} began to use {_name(gpu)}."
            yield _event(now, "process_start", Severity.INFO, text, gpu=gpu, code=pid)


def _same(process: GpuProcess, other: GpuProcess | None) -> bool:
    """Tell whether it is the same process under a pid; when one began, the host may tell later than the driver."""
    return other is not None and (
        None in {process.info.started_ms, other.info.started_ms} or process.info.started_ms == other.info.started_ms
    )


def _name(gpu: Gpu) -> str:
    return f"GPU {gpu.device.index} ({gpu.device.name})"


def _title(process: GpuProcess) -> str:
    owner = f" of {process.info.username}" if process.info.username else ""
    return f"{process.info.name or 'A process'} (pid {process.pid}){owner}"
