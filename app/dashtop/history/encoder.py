"""Encodes a sample for the database: a row of values, the events, and the spans of GPU processes."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from dashtop.metrics import METRICS
from dashtop.model.sample import PROCESSES, ProcessSpan, SeriesKey, StoredGpu
from dashtop.model.usage import NO_USAGE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from dashtop.model.sample import Device, Event, GpuProcess, ProcessInfo, Sample
    from dashtop.model.usage import UsageRecords

log = logging.getLogger(__name__)

MIN_MEMORY_CHANGE = 0.05
"""A process whose GPU memory changes by more than this fraction begins a new span."""
SPAN_WRITE_INTERVAL_MS = 15_000
"""How often an open span is written with its new end."""
MAX_NEW_GPUS = 64
"""GPUs, or MIG instances, that can be new at once after the first sample."""
NEW_GPU_INTERVAL_S = 10.0
"""Time after which one more can be new. A faulty driver can report another UUID with each sample; every new one takes
memory here and series in the database."""
MAX_LAYOUTS = 64
MAX_SPAN_GAP_MS = 15_000
"""An open span outlasts a driver that lists no processes of its GPU for this long."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The series of a record's values, in their order, and the GPUs. There is one object for each set of devices.

    Layouts are compared by identity: hashing hundreds of keys with every sample takes longer than writing it.
    """

    keys: tuple[SeriesKey, ...]
    scopes: tuple[str | None, ...]
    metrics: tuple[tuple[str, ...], ...]
    gpus: tuple[StoredGpu, ...]


NO_SERIES: Final = Layout((), (), (), ())


@dataclass(frozen=True, slots=True)
class Record:
    """An encoded sample. `values`: a float32 for each series of the layout, NaN for no reading."""

    time_ms: int
    layout: Layout
    values: bytes
    events: tuple[Event, ...]
    spans: tuple[Span, ...]
    usage: UsageRecords = NO_USAGE


@dataclass(slots=True)
class Span:
    """A time in which a process uses a GPU with about the same memory. It is open until the process ends."""

    process: GpuProcess
    gpu_uuid: str
    start_ms: int
    end_ms: int
    memory: int | None
    peak_memory: int | None
    peak_sm: float | None
    written_ms: int

    @classmethod
    def start(cls, process: GpuProcess, gpu_uuid: str, time_ms: int) -> Span:
        """Return the span of a process that is new at `time_ms`; it is due to be written."""
        memory = process.gpu_memory_bytes
        written_ms = time_ms - SPAN_WRITE_INTERVAL_MS
        return cls(process, gpu_uuid, time_ms, time_ms, memory, memory, process.sm_percent, written_ms)

    def extend(self, process: GpuProcess, time_ms: int) -> None:
        """Extend the span to `time_ms`, at which the process still runs."""
        self.process = process
        self.end_ms = max(self.end_ms, time_ms)
        memory, sm = process.gpu_memory_bytes, process.sm_percent
        if memory is not None and (self.peak_memory is None or memory > self.peak_memory):
            self.peak_memory = memory
        if sm is not None and (self.peak_sm is None or sm > self.peak_sm):
            self.peak_sm = sm

    def to_process_span(self) -> ProcessSpan:
        """Return the span as the History port describes it."""
        process = self.process
        return ProcessSpan(
            gpu_uuid=self.gpu_uuid,
            pid=process.pid,
            start_ms=self.start_ms,
            end_ms=self.end_ms,
            gpu_memory_bytes=self.memory,
            peak_gpu_memory_bytes=self.peak_memory,
            peak_sm_percent=self.peak_sm,
            kind=process.kind,
            info=process.info,
        )

    def to_row(self) -> tuple[object, ...]:
        """Return the columns of table `process` without its id."""
        process = self.process
        return (
            self.gpu_uuid,
            process.pid,
            self.start_ms,
            self.end_ms,
            self.memory,
            self.peak_memory,
            self.peak_sm,
            _encode_facts(process.kind, process.info),
        )


@lru_cache(maxsize=1024)  # an open span is written every 15 seconds, and these do not change
def _encode_facts(kind: str, info: ProcessInfo) -> str:
    """Return the facts about a process that no query selects by, as JSON."""
    return json.dumps({"kind": kind, **info.to_json()}, ensure_ascii=True)


class SampleEncoder:
    """Encodes samples as records, and keeps the open spans of processes. Not thread-safe."""

    def __init__(self) -> None:
        self._layouts: dict[tuple[tuple[str, int], ...], Layout] = {}
        self._open: dict[tuple[str, int], Span] = {}
        self._known_uuids: set[str] = set()
        self._new_gpus_left = float(MAX_NEW_GPUS)
        self._refilled_s = 0.0
        self._is_limit_logged = False

    def restart_spans(self) -> None:
        """Start new spans with the next sample: the open ones were not written."""
        self._open.clear()

    def encode_values(self, sample: Sample) -> tuple[Layout, NDArray[np.float32]]:
        """Return the values of a sample. The values of GPUs that were not read again are left out.

        So are those of new GPUs beyond MAX_NEW_GPUS, until there is room.
        """
        scopes: dict[str | None, Mapping[str, float | None]] = {None: sample.host.values}
        gpus = sample.gpus if sample.gpu_age_s == 0 else ()
        if any(gpu.device.uuid not in self._known_uuids for gpu in gpus):
            self._add_known_gpus(sample)
            gpus = tuple(gpu for gpu in gpus if gpu.device.uuid in self._known_uuids)
        devices = [gpu.device for gpu in gpus]
        if devices:
            scopes.update((gpu.device.uuid, gpu.values) for gpu in gpus)
        layout = self._layout(scopes, devices)
        values: list[float | None] = []
        for scope, metrics in zip(scopes.values(), layout.metrics, strict=True):
            values.extend(map(scope.__getitem__, metrics))
        # None becomes NaN, in half the time of np.array.
        return layout, np.fromiter(values, np.float32, len(values))

    def _add_known_gpus(self, sample: Sample) -> None:
        """Add the new GPUs of a sample to the known ones, as long as there is room."""
        elapsed_s = max(0.0, sample.monotonic_s - self._refilled_s)
        self._new_gpus_left = min(MAX_NEW_GPUS, self._new_gpus_left + elapsed_s / NEW_GPU_INTERVAL_S)
        self._refilled_s = sample.monotonic_s
        is_first = not self._known_uuids
        for gpu in sample.gpus:
            uuid = gpu.device.uuid
            if uuid in self._known_uuids:
                continue
            if not is_first:
                if self._new_gpus_left < 1:
                    if not self._is_limit_logged:
                        log.warning("Too many new GPUs: %s and further ones are not stored for now.", uuid)
                    self._is_limit_logged = True
                    return
                self._new_gpus_left -= 1
            self._known_uuids.add(uuid)

    def encode(self, sample: Sample, layout: Layout, values: NDArray[np.float32]) -> Record:
        """Return the record of a sample with these encoded values."""
        return Record(
            time_ms=sample.time_ms,
            layout=layout,
            values=values.tobytes(),
            events=sample.events,
            spans=self._encode_spans(sample) if sample.gpu_age_s == 0 else (),
            usage=sample.usage,
        )

    def _layout(self, scopes: Mapping[str | None, Mapping[str, float | None]], devices: Sequence[Device]) -> Layout:
        identity = tuple((device.uuid, device.index) for device in devices)
        layout = self._layouts.get(identity)
        if layout is None:
            # Constants of a device are part of its description and have no series.
            metrics = tuple(
                tuple(name for name in values if not (name in METRICS and METRICS[name].constant))
                for values in scopes.values()
            )
            keys = tuple(SeriesKey(name, uuid) for uuid, names in zip(scopes, metrics, strict=True) for name in names)
            gpus = tuple(StoredGpu(device.uuid, device.index, device.name) for device in devices)
            if len(self._layouts) >= MAX_LAYOUTS:
                self._layouts.pop(next(iter(self._layouts)))  # the oldest; it is built again if it is still in use
            layout = self._layouts[identity] = Layout(keys, tuple(scopes), metrics, gpus)
        return layout

    def _encode_spans(self, sample: Sample) -> tuple[Span, ...]:
        """Update the open spans; return copies of those that are due to be written."""
        time_ms = sample.time_ms
        due: list[Span] = []
        count = 0
        for gpu in sample.gpus:
            uuid = gpu.device.uuid
            for process in gpu.processes:
                count += 1
                key = uuid, process.pid
                span = self._open.get(key)
                if span is None or _is_changed(span, process):
                    if span is not None:
                        due.append(span)
                    span = self._open[key] = Span.start(process, uuid, time_ms)
                span.extend(process, time_ms)
                if abs(time_ms - span.written_ms) >= SPAN_WRITE_INTERVAL_MS:
                    span.written_ms = time_ms
                    due.append(span)
        if count != len(self._open):
            due += self._remove_ended(sample)
        return tuple(replace(span) for span in due)

    def _remove_ended(self, sample: Sample) -> list[Span]:
        """Remove the spans of processes that have ended; return them."""
        running = {(gpu.device.uuid, process.pid) for gpu in sample.gpus for process in gpu.processes}
        unlisted = {gpu.device.uuid for gpu in sample.gpus if PROCESSES in gpu.unavailable}
        ended = [
            key
            for key, span in self._open.items()
            if key not in running and (key[0] not in unlisted or abs(sample.time_ms - span.end_ms) > MAX_SPAN_GAP_MS)
        ]
        return [self._open.pop(key) for key in ended]


def _is_changed(span: Span, process: GpuProcess) -> bool:
    """Return whether another process has the pid now, or this one uses another amount of memory."""
    if span.process.info.started_ms is not None and process.info.started_ms not in {None, span.process.info.started_ms}:
        return True
    before, now = span.memory, process.gpu_memory_bytes
    if before is None or now is None:
        return before is not now
    return abs(now - before) > MIN_MEMORY_CHANGE * before
