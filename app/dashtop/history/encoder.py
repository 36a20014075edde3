"""What is written of one sample: a row of numbers, the events, and what processes hold."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from dashtop.metrics import METRICS
from dashtop.model.sample import PROCESSES, ProcessSpan, SeriesKey

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from dashtop.model.sample import Event, GpuProcess, Owner, Sample

CHANGE = 0.05
"""A process whose memory has changed by more than this part begins a new span."""
REWRITE_MS = 15_000
"""How often the end of a span that goes on is written."""
PATIENCE_MS = 15_000
"""How long a span is not ended while the driver does not tell the processes of its GPU."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Which series the numbers of a record are, in their order. One object for each set of devices.

    It is known by identity: to hash hundreds of keys with every sample would take longer than to write it.
    """

    keys: tuple[SeriesKey, ...]
    scopes: tuple[str | None, ...]
    metrics: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Record:
    """One sample as it is written. `values`: float32, one for each series of the layout, NaN for no reading."""

    time_ms: int
    layout: Layout
    values: bytes
    events: tuple[Event, ...]
    spans: tuple[Span, ...]


@dataclass(slots=True)
class Span:
    """A span that may go on."""

    process: GpuProcess
    gpu_uuid: str
    start_ms: int
    end_ms: int
    memory: int | None
    peak_memory: int | None
    peak_sm: float | None
    written_ms: int

    @classmethod
    def begun(cls, process: GpuProcess, gpu_uuid: str, time_ms: int) -> Span:
        """Return the span of a process first seen now; it is due to be written."""
        memory = process.gpu_memory_bytes
        return cls(process, gpu_uuid, time_ms, time_ms, memory, memory, process.sm_percent, time_ms - REWRITE_MS)

    def goes_on(self, process: GpuProcess, time_ms: int) -> None:
        """Take in that the process is still there."""
        self.process = process
        self.end_ms = max(self.end_ms, time_ms)
        memory, sm = process.gpu_memory_bytes, process.sm_percent
        if memory is not None and (self.peak_memory is None or memory > self.peak_memory):
            self.peak_memory = memory
        if sm is not None and (self.peak_sm is None or sm > self.peak_sm):
            self.peak_sm = sm

    def frozen(self) -> ProcessSpan:
        """Return the span as others see it."""
        process = self.process
        return ProcessSpan(
            gpu_uuid=self.gpu_uuid,
            pid=process.pid,
            start_ms=self.start_ms,
            end_ms=self.end_ms,
            gpu_memory_bytes=self.memory,
            peak_gpu_memory_bytes=self.peak_memory,
            peak_sm_percent=self.peak_sm,
            name=process.name,
            kind=process.kind,
            started_ms=process.started_ms,
            foreign=process.foreign,
            owner=process.owner,
        )

    def row(self) -> tuple[object, ...]:
        """Return the columns of table `process` but its id."""
        process = self.process
        return (
            self.gpu_uuid,
            process.pid,
            self.start_ms,
            self.end_ms,
            self.memory,
            self.peak_memory,
            self.peak_sm,
            _facts(process.name, process.kind, process.started_ms, process.foreign, process.owner),
        )


@lru_cache(maxsize=1024)  # a span is written every few seconds, and these do not change meanwhile
def _facts(name: str | None, kind: str, started_ms: int | None, foreign: bool, owner: Owner | None) -> str:
    """Return what is told of a process but not asked for, as JSON."""
    told = {
        "name": name,
        "kind": kind,
        "started_ms": started_ms,
        "foreign": foreign,
        "owner": asdict(owner) if owner is not None else None,
    }
    return json.dumps(told, ensure_ascii=True)


class SampleEncoder:
    """Turns samples into records; knows which spans go on. For one thread."""

    def __init__(self) -> None:
        self._layouts: dict[tuple[str | None, ...], Layout] = {}
        self._open: dict[tuple[str, int], Span] = {}

    def restart_spans(self) -> None:
        """Begin new spans with the next sample: the earlier ones were not written."""
        self._open.clear()

    def record(self, sample: Sample, layout: Layout, row: NDArray[np.float32]) -> Record:
        """Return what is to be written of a sample of which `row` was told."""
        return Record(
            time_ms=sample.time_ms,
            layout=layout,
            values=row.tobytes(),
            events=sample.events,
            spans=self._spans(sample) if sample.gpu_age_s == 0 else (),
        )

    def row(self, sample: Sample) -> tuple[Layout, NDArray[np.float32]]:
        """Return the numbers of a sample. Values of the GPUs that are only the last ones repeated are none."""
        scopes: dict[str | None, Mapping[str, float | None]] = {None: sample.host.values}
        if sample.gpu_age_s == 0:
            scopes.update((gpu.device.uuid, gpu.values) for gpu in sample.gpus)
        layout = self._layout(scopes)
        row: list[float | None] = []
        for values, names in zip(scopes.values(), layout.metrics, strict=True):
            row.extend(map(values.__getitem__, names))
        return layout, np.fromiter(row, np.float32, len(row))  # None becomes NaN, in half the time of np.array

    def _layout(self, scopes: Mapping[str | None, Mapping[str, float | None]]) -> Layout:
        known = self._layouts.get(tuple(scopes))
        if known is None:
            # What never changes on a device is said by the device itself, not by a series.
            metrics = tuple(
                tuple(name for name in values if not (name in METRICS and METRICS[name].constant))
                for values in scopes.values()
            )
            keys = tuple(SeriesKey(name, uuid) for uuid, names in zip(scopes, metrics, strict=True) for name in names)
            known = self._layouts[tuple(scopes)] = Layout(keys, tuple(scopes), metrics)
        return known

    def _spans(self, sample: Sample) -> tuple[Span, ...]:
        time_ms = sample.time_ms
        due: list[Span] = []
        seen = 0
        for gpu in sample.gpus:
            uuid = gpu.device.uuid
            for process in gpu.processes:
                seen += 1
                place = uuid, process.pid
                span = self._open.get(place)
                if span is None or _changed(span, process):
                    if span is not None:
                        due.append(span)
                    span = self._open[place] = Span.begun(process, uuid, time_ms)
                span.goes_on(process, time_ms)
                if abs(time_ms - span.written_ms) >= REWRITE_MS:
                    span.written_ms = time_ms
                    due.append(span)
        if seen != len(self._open):
            due += self._ended(sample)
        return tuple(replace(span) for span in due)

    def _ended(self, sample: Sample) -> list[Span]:
        """Forget the spans of processes that are gone; return them."""
        told = {(gpu.device.uuid, process.pid) for gpu in sample.gpus for process in gpu.processes}
        untold = {gpu.device.uuid for gpu in sample.gpus if PROCESSES in gpu.unavailable}
        gone = [
            place
            for place, span in self._open.items()
            if place not in told and (place[0] not in untold or abs(sample.time_ms - span.end_ms) > PATIENCE_MS)
        ]
        return [self._open.pop(place) for place in gone]


def _changed(span: Span, process: GpuProcess) -> bool:
    """Tell whether another process has the pid, or it holds another amount of memory."""
    if span.process.started_ms is not None and process.started_ms not in {None, span.process.started_ms}:
        return True
    before, now = span.memory, process.gpu_memory_bytes
    if before is None or now is None:
        return before is not now
    return abs(now - before) > CHANGE * before
