"""The machine at a past moment, as a Sample that is rebuilt from the history: every panel shows it like the latest one.

The history has the values of all metrics, and which processes used how much GPU memory. It has no values that are
constant, which are those of the latest sample, and none of cores, mounts and the load of single processes.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dashtop.metrics import GPU_METRICS, HOST_METRICS
from dashtop.model.sample import PROCESSES, Device, Gpu, GpuProcess, Host, Sample, SeriesKey
from dashtop.model.timerange import SECOND_MS, TIER_RETENTION_MS, TIER_STEPS_MS
from dashtop.model.unavailable import UnavailableReason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dashtop.model.metric import Metric
    from dashtop.model.ports import History, Services
    from dashtop.model.sample import ProcessSpan, SeriesSet, StoredGpu
    from dashtop.ui.parts import RenderCache

MAX_GONE_GPUS: Final = 32
"""GPUs of the history that are looked for although the machine has them no more. MIG instances come and go."""
_LOOKBACK_INTERVALS: Final = 3
# Coarser readings may take the place of those that have been deleted: a minute contains one of them.
_MIN_LOOKBACK_MS: Final = 60 * SECOND_MS
_PROCESS_INTERVALS: Final = 2
# The end of a running process's span is stored with this delay (history.encoder).
_SPAN_DELAY_MS: Final = 15 * SECOND_MS
_VERSIONS: Final = 1000

# These belong to the device or the machine: they also held in the past.
_LASTING: Final = frozenset(
    {
        UnavailableReason.NOT_SUPPORTED,
        UnavailableReason.LIBRARY_TOO_OLD,
        UnavailableReason.MIG_PARENT,
        UnavailableReason.MIG_INSTANCE,
        UnavailableReason.WDDM,
        UnavailableReason.UNIFIED_MEMORY,
        UnavailableReason.UNREADABLE,
        UnavailableReason.ABSENT,
        UnavailableReason.NO_LIMIT,
    }
)
# A GPU that was there had at least one of these.
_PRESENCE_METRICS: Final = ("gpu.memory.used_gb", "gpu.temperature", "gpu.utilization.gpu")


class PastSamples:
    """Rebuild samples of past moments, each once for all viewers. Thread-safe."""

    def __init__(self, services: Services, cache: RenderCache) -> None:
        self._services = services
        self._cache = cache

    def find(self, time_ms: int, latest: Sample) -> Sample:
        """Return the sample of the last reading before `time_ms`; `latest` if that is not in the past."""
        if time_ms >= latest.time_ms:
            return latest
        version = self._services.history.read_status().version
        gpus = ",".join(f"{gpu.device.index}:{gpu.device.uuid}" for gpu in latest.gpus)
        return self._cache.get_or_create(
            f"past|{time_ms}|{version}|{gpus}",
            lambda: build_past_sample(
                self._services.history,
                latest,
                time_ms,
                interval_ms=round(self._services.latest.interval_s * SECOND_MS),
                version=version,
            ),
        )


def build_past_sample(history: History, latest: Sample, time_ms: int, *, interval_ms: int, version: int = 0) -> Sample:
    """Return the sample of the last reading before `time_ms`, with a reason for each value that is not known.

    Its sequence is negative, and differs for each moment and each `version` of what the history answers. The GPUs are
    those of the latest sample and those that were there at that time.
    """
    start_ms, end_ms, step_ms = _find_window(time_ms, latest.time_ms - time_ms, interval_ms)
    known = {gpu.device.uuid: gpu for gpu in latest.gpus}
    gone = _find_gone(history, known, (start_ms, end_ms, step_ms))
    scopes: list[tuple[str | None, Sequence[Metric[Any]]]] = [
        (None, HOST_METRICS),
        *((uuid, GPU_METRICS) for uuid in (*known, *(device.uuid for device in gone))),
    ]
    keys = [SeriesKey(metric.key, uuid) for uuid, metrics in scopes for metric in metrics if not metric.constant]
    data = history.query(keys, start_ms, end_ms, step_ms)
    readings: dict[str | None, dict[str, float]] = {uuid: {} for uuid, _ in scopes}
    for key, value in _find_last_readings(data, interval_ms).items():
        readings[key.gpu_uuid][key.metric] = value
    uuids = tuple(uuid for uuid, found in readings.items() if uuid is not None and found)
    processes = _read_processes(history, uuids, latest, time_ms, interval_ms)
    gpus = [_build_gpu(gpu.device, gpu, readings[uuid], processes.get(uuid, ())) for uuid, gpu in known.items()]
    gpus += [
        _build_gpu(device, None, readings[device.uuid], processes.get(device.uuid, ()))
        for device in gone
        if readings[device.uuid]
    ]
    values, unavailable = _fill(HOST_METRICS, readings[None], latest.host.values, latest.host.unavailable)
    return Sample(
        sequence=-(time_ms * _VERSIONS + version % _VERSIONS),
        time_ms=time_ms,
        monotonic_s=latest.monotonic_s,
        host=Host(values=values, unavailable=unavailable, per_core=(), core_ids=(), mounts=()),
        gpus=tuple(gpus),
        gpu_error=None if gpus else latest.gpu_error,
        gpu_age_s=0.0,
        simulated=latest.simulated,
    )


def _find_window(time_ms: int, age_ms: int, interval_ms: int) -> tuple[int, int, int]:
    """Return start, end and step of the buckets in which to look for the last readings before `time_ms`."""
    tier_ms = next(
        width
        for width, kept_ms in zip(TIER_STEPS_MS, TIER_RETENTION_MS, strict=True)
        if kept_ms is None or age_ms < kept_ms
    )
    lookback_ms = max(_LOOKBACK_INTERVALS * max(interval_ms, tier_ms), _MIN_LOOKBACK_MS)
    end_ms = -(-time_ms // tier_ms) * tier_ms
    return end_ms - -(-lookback_ms // tier_ms) * tier_ms, end_ms, tier_ms


def _find_last_readings(data: SeriesSet, interval_ms: int) -> dict[SeriesKey, float]:
    """Return the last reading of each series that has a recent one, as it is judged by the distance of the readings."""
    if not data.series:
        return {}
    means = np.stack([series.mean for series in data.series])
    known = np.isfinite(means)
    times = np.flatnonzero(known.any(axis=0))
    first = 0
    if len(times) > 1:
        distance = max(float(np.median(np.diff(times))), interval_ms / data.step_ms)
        first = max(0, data.count - math.ceil(_LOOKBACK_INTERVALS * distance))
    last = data.count - 1 - np.argmax(known[:, ::-1], axis=1)
    return {
        series.key: float(means[row, last[row]])
        for row, series in enumerate(data.series)
        if known[row].any() and last[row] >= first
    }


def _find_gone(history: History, known: Mapping[str, Gpu], window: tuple[int, int, int]) -> list[Device]:
    """Return the GPUs that the machine has no more, but had in the window."""
    stored = [gpu for gpu in history.gpus() if gpu.uuid not in known][:MAX_GONE_GPUS]
    if not stored:
        return []
    keys = [SeriesKey(metric, gpu.uuid) for gpu in stored for metric in _PRESENCE_METRICS]
    data = history.query(keys, *window)
    present = {series.key.gpu_uuid for series in data.series if np.isfinite(series.mean).any()}
    taken = {gpu.device.index for gpu in known.values()}
    devices: list[Device] = []
    for gpu in stored:
        if gpu.uuid not in present:
            continue
        index = gpu.index if gpu.index is not None and gpu.index not in taken else max(taken, default=-1) + 1
        taken.add(index)
        devices.append(_build_device(gpu, index))
    return devices


def _build_device(gpu: StoredGpu, index: int) -> Device:
    return Device(
        uuid=gpu.uuid,
        index=index,
        name=gpu.name or "GPU",
        memory_total_bytes=None,
        driver_version=None,
        cuda_version=None,
        compute_capability=None,
        pci_bus_id=None,
        power_limit_watts=None,
        slowdown_celsius=None,
        shutdown_celsius=None,
    )


def _build_gpu(
    device: Device, latest: Gpu | None, readings: Mapping[str, float], processes: tuple[GpuProcess, ...]
) -> Gpu:
    """Return a GPU with its readings. `latest`: as it is now, which constants are taken from."""
    values, unavailable = _fill(
        GPU_METRICS,
        readings,
        latest.values if latest is not None else {},
        latest.unavailable if latest is not None else {},
    )
    if readings:
        return Gpu(device=device, values=values, unavailable=unavailable, processes=processes)
    unavailable[PROCESSES] = UnavailableReason.NOT_RECORDED
    return Gpu(
        device=device, values=values, unavailable=unavailable, processes=(), state=UnavailableReason.NOT_RECORDED
    )


def _fill(
    metrics: Sequence[Metric[Any]],
    readings: Mapping[str, float],
    latest: Mapping[str, float | None],
    reasons: Mapping[str, UnavailableReason],
) -> tuple[dict[str, float | None], dict[str, UnavailableReason]]:
    """Return the value of each metric, and the reason of each that is missing. Without readings all are missing."""
    values: dict[str, float | None] = {}
    unavailable: dict[str, UnavailableReason] = {}
    for metric in metrics:
        key = metric.key
        value = readings.get(key)
        if metric.constant and readings:
            value = latest.get(key)
        values[key] = value
        if value is None:
            reason = reasons.get(key)
            unavailable[key] = reason if reason in _LASTING and readings else UnavailableReason.NOT_RECORDED
    return values, unavailable


def _read_processes(
    history: History, gpu_uuids: tuple[str, ...], latest: Sample, time_ms: int, interval_ms: int
) -> dict[str, tuple[GpuProcess, ...]]:
    """Return the processes at `time_ms` by GPU, without their load, which the history does not have."""
    spans = history.processes(gpu_uuids, time_ms - _SPAN_DELAY_MS, time_ms + 1)
    running = {(gpu.device.uuid, each.pid, each.info.started_ms) for gpu in latest.gpus for each in gpu.processes}
    newest: dict[tuple[str, int], ProcessSpan] = {(span.gpu_uuid, span.pid): span for span in spans}
    found: dict[str, list[GpuProcess]] = {}
    for span in newest.values():
        is_running = (span.gpu_uuid, span.pid, span.info.started_ms) in running
        if span.end_ms >= time_ms - _PROCESS_INTERVALS * interval_ms or is_running:
            found.setdefault(span.gpu_uuid, []).append(
                GpuProcess(pid=span.pid, kind=span.kind, gpu_memory_bytes=span.gpu_memory_bytes, info=span.info)
            )
    return {uuid: tuple(sorted(processes, key=lambda each: each.pid)) for uuid, processes in found.items()}
