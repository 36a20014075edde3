"""Implements the History port: the ring of the last hour, and the database behind it."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, TypeVar

from dashtop.history import queries
from dashtop.history.compaction import find_aggregation
from dashtop.history.database import DatabaseReadError
from dashtop.history.encoder import SampleEncoder
from dashtop.history.ring import Ring
from dashtop.history.rollup import aggregate, align_buckets, concatenate
from dashtop.history.writer import WRITE_INTERVAL_MS, Writer
from dashtop.model.sample import Series, SeriesSet, StoredGpu

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dashtop.history.database import Connection, Database
    from dashtop.history.past import Past
    from dashtop.history.rollup import Readings
    from dashtop.model.ports import Clock
    from dashtop.model.sample import Event, ProcessSpan, Sample, SeriesKey

log = logging.getLogger(__name__)

MAX_BACKLOG = 60
"""Samples kept while another process writes: on takeover, those that it did not write are written."""
ResultT = TypeVar("ResultT")


class HistoryStore:
    """A history in `database`. `interval_s`: the shortest time between two samples, which sizes the ring."""

    def __init__(
        self, database: Database, *, clock: Clock, interval_s: float, write_interval_ms: int = WRITE_INTERVAL_MS
    ) -> None:
        self._ring = Ring(interval_s=interval_s)
        self._encoder = SampleEncoder()
        self._writer = Writer(database, clock=clock, write_interval_ms=write_interval_ms)
        self._backlog: deque[Sample] = deque(maxlen=MAX_BACKLOG)
        self._read_error: str | None = None

    def start(self, past: Past | None = None) -> None:
        """Start the thread that writes the samples, as soon as no other process writes the database.

        It writes `past` into an empty history first, and returns once that is done: a page polls with a short timeout.
        """
        self._writer.start(past)
        self._writer.wait_for_past()

    def append(self, sample: Sample) -> None:
        """Keep a sample; see the History port."""
        layout, values = self._encoder.encode_values(sample)
        self._ring.append(sample.time_ms, layout, values)
        if self._writer.is_locked_out:
            self._backlog.append(sample)
            return
        if self._backlog:
            self._write_backlog()
        self._writer.put(self._encoder.encode(sample, layout, values))

    def _write_backlog(self) -> None:
        """Take over from another process: queue the samples that are newer than the last one it wrote."""
        self._encoder.restart_spans()
        newest_ms = self._writer.database.newest_ms
        for sample in self._backlog:
            if sample.time_ms > newest_ms:
                self._writer.put(self._encoder.encode(sample, *self._encoder.encode_values(sample)))
        self._backlog.clear()

    def query(self, keys: Sequence[SeriesKey], start_ms: int, end_ms: int, step_ms: int) -> SeriesSet:
        """Return each series in buckets; see the History port."""
        buckets = align_buckets(start_ms, end_ms, step_ms)
        readings = self._read_readings(keys, buckets.start_ms, buckets.end_ms, step_ms)
        rolled = aggregate(readings, buckets, [find_aggregation(key.metric) for key in keys])
        return SeriesSet(
            start_ms=buckets.start_ms,
            step_ms=step_ms,
            count=buckets.count,
            series=tuple(
                Series(key, rolled.mean[row], rolled.minimum[row], rolled.maximum[row]) for row, key in enumerate(keys)
            ),
        )

    def series(self) -> tuple[SeriesKey, ...]:
        """Return every series; see the History port."""
        pending = [key for record in self._writer.pending() for key in record.layout.keys]
        keys = dict.fromkeys([*(self._read(queries.read_series) or ()), *pending])
        return tuple(sorted(keys, key=lambda key: (key.gpu_uuid or "", key.metric)))

    def gpus(self) -> tuple[StoredGpu, ...]:
        """Return every stored GPU; see the History port."""
        self._writer.wait_for_past()
        try:
            with self._writer.database.open_reader() as connection:
                stored = queries.read_gpus(connection)
        except DatabaseReadError as error:  # not damage: version 0.1 wrote no such table
            log.debug("The GPUs of the history were not read: %s", error)
            stored = []
        stored += (gpu for record in self._writer.pending() for gpu in record.layout.gpus)
        newest = {gpu.index: gpu.uuid for gpu in stored}
        found = {
            gpu.uuid: gpu if newest[gpu.index] == gpu.uuid else StoredGpu(gpu.uuid, None, gpu.name) for gpu in stored
        }
        return tuple(sorted(found.values(), key=lambda gpu: (gpu.index is None, gpu.index, gpu.uuid)))

    def events(self, start_ms: int, end_ms: int) -> tuple[Event, ...]:
        """Return events; see the History port."""
        pending = [event for record in self._writer.pending() for event in record.events]
        written = self._read(lambda connection: queries.read_events(connection, start_ms, end_ms)) or ()
        return tuple(dict.fromkeys([*written, *(event for event in pending if start_ms <= event.time_ms < end_ms)]))

    def processes(self, gpu_uuid: str, start_ms: int, end_ms: int) -> tuple[ProcessSpan, ...]:
        """Return the spans of GPU processes; see the History port."""
        pending = [span.to_process_span() for record in self._writer.pending() for span in record.spans]
        written = self._read(lambda connection: queries.read_processes(connection, gpu_uuid, start_ms, end_ms)) or ()
        overlapping = [
            span for span in pending if span.gpu_uuid == gpu_uuid and span.end_ms >= start_ms and span.start_ms < end_ms
        ]
        newest = {(span.pid, span.start_ms): span for span in (*written, *overlapping)}
        return tuple(sorted(newest.values(), key=lambda span: span.start_ms))

    def status_message(self) -> str | None:
        """Return a sentence that says why this process does not write the history, or None; see the History port."""
        return self._writer.status_message() or self._read_error

    def close(self) -> None:
        """Write what is pending and close the database; see the History port. No `append` runs meanwhile."""
        if self._backlog and not self._writer.is_locked_out:  # taken over since the last sample
            self._write_backlog()
        self._writer.close()

    def _read_readings(self, keys: Sequence[SeriesKey], start_ms: int, end_ms: int, step_ms: int) -> Readings:
        if self._ring.covers(start_ms):
            return self._ring.read(keys, start_ms, end_ms)
        written = self._read(
            lambda connection: (
                queries.read_readings(connection, keys, start_ms, end_ms, step_ms),
                queries.read_newest_ms(connection),
            )
        )
        if written is None:
            return self._ring.read(keys, start_ms, end_ms)
        readings, newest_ms = written
        # What is not written yet (seconds, or everything since the disk is full) is in the ring.
        return concatenate([readings, self._ring.read(keys, max(start_ms, newest_ms + 1), end_ms)])

    def _read(self, query: Callable[[Connection], ResultT]) -> ResultT | None:
        """Run a query on the database; None if it cannot be read, so that the caller uses what is in memory."""
        self._writer.wait_for_past()
        try:
            with self._writer.database.open_reader() as connection:
                result = query(connection)
        except DatabaseReadError as error:
            if error.is_damaged:
                self._writer.request_check()
            self._read_error = str(error) if error.is_unreachable else None
            log.debug("The history was not read: %s", error)
            return None
        self._read_error = None
        return result
