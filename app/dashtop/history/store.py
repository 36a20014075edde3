"""Implements the History port: the ring of the last hour, and the database behind it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from dashtop.history import queries
from dashtop.history.compaction import find_aggregation
from dashtop.history.database import DatabaseReadError
from dashtop.history.encoder import NO_SERIES, Record, SampleEncoder
from dashtop.history.events import read_events
from dashtop.history.read_pool import ReadPool, ReadTimeoutError
from dashtop.history.ring import Ring
from dashtop.history.rollup import aggregate, align_buckets, concatenate
from dashtop.history.usage import align, combine, drop_before, find_begin, read_usage
from dashtop.history.writer import WRITE_INTERVAL_MS, Writer
from dashtop.model.ports import ReadStatus
from dashtop.model.sample import ALL_EVENTS, Series, SeriesSet, StoredGpu, is_uuid
from dashtop.model.usage import NO_USAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dashtop.history.database import Connection, Database
    from dashtop.history.past import Past
    from dashtop.history.rollup import Readings
    from dashtop.model.ports import Clock
    from dashtop.model.sample import Event, EventFilter, ProcessSpan, Sample, SeriesKey
    from dashtop.model.usage import StoredUsage, UsageRecords

log = logging.getLogger(__name__)

READ_RETRY_INTERVAL_S = 5.0
"""While another process writes and reads fail: how long the failure counts although the database reports the writer."""
MAX_BACKLOG = 60
"""Samples kept while another process writes: on takeover, those that it did not write are written."""
ResultT = TypeVar("ResultT")


class HistoryStore:
    """A history in `database`. `interval_s`: the shortest time between two samples, which sizes the ring.

    `read_timeout_s` None: every read waits for the database as long as it takes.
    """

    def __init__(
        self,
        database: Database,
        *,
        clock: Clock,
        interval_s: float,
        write_interval_ms: int = WRITE_INTERVAL_MS,
        read_timeout_s: float | None = None,
    ) -> None:
        self._ring = Ring(interval_s=interval_s)
        self._encoder = SampleEncoder()
        self._writer = Writer(database, clock=clock, write_interval_ms=write_interval_ms)
        self._backlog: deque[Sample] = deque(maxlen=MAX_BACKLOG)
        self._clock = clock
        self._reads = ReadPool(read_timeout_s) if read_timeout_s is not None else None
        self._read_status = ReadStatus(version=0, error=None)
        self._read_failed_s = 0.0
        self._read_status_lock = threading.Lock()

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
        if events := self._writer.take_events():
            sample = replace(sample, events=(*sample.events, *events))
        self._writer.put(self._encoder.encode(sample, layout, values))

    def append_usage(self, usage: UsageRecords, time_ms: int) -> None:
        """Store usage without a sample, unless another process writes the history."""
        if self._writer.is_locked_out or not usage.gpus:
            return
        if self._backlog:
            self._write_backlog()
        self._writer.put(Record(time_ms=time_ms, layout=NO_SERIES, values=b"", events=(), spans=(), usage=usage))

    def _write_backlog(self) -> None:
        """Take over from another process: queue the samples that are newer than the last one it wrote."""
        self._encoder.restart_spans()
        newest_ms = self._writer.database.newest_ms
        for sample in self._backlog:
            if sample.time_ms > newest_ms:
                unwritten = replace(sample, usage=drop_before(sample.usage, newest_ms))
                self._writer.put(self._encoder.encode(unwritten, *self._encoder.encode_values(unwritten)))
        self._backlog.clear()

    def query(
        self, keys: Sequence[SeriesKey], start_ms: int, end_ms: int, step_ms: int, *, wait: bool = False
    ) -> SeriesSet:
        """Return each series in buckets; see the History port."""
        buckets = align_buckets(start_ms, end_ms, step_ms)
        readings = self._read_readings(keys, buckets.start_ms, buckets.end_ms, step_ms, wait=wait)
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
        # A missing table is not damage: version 0.1 wrote none.
        stored = self._read(queries.read_gpus, reports_damage=False) or []
        stored += (gpu for record in self._writer.pending() for gpu in record.layout.gpus)
        newest = {gpu.index: gpu.uuid for gpu in stored if is_uuid(gpu.uuid)}
        found = {
            gpu.uuid: gpu if newest.get(gpu.index, gpu.uuid) == gpu.uuid else StoredGpu(gpu.uuid, None, gpu.name)
            for gpu in stored
        }
        return tuple(sorted(found.values(), key=lambda gpu: (gpu.index is None, gpu.index, gpu.uuid)))

    def events(self, start_ms: int, end_ms: int, wanted: EventFilter = ALL_EVENTS) -> tuple[Event, ...]:
        """Return events; see the History port."""
        pending = [event for record in self._writer.pending() for event in record.events]
        written = self._read(lambda connection: read_events(connection, start_ms, end_ms, wanted)) or ()
        fitting = (event for event in pending if start_ms <= event.time_ms < end_ms and wanted.matches(event))
        found = tuple(dict.fromkeys([*written, *fitting]))
        return found if wanted.limit is None else found[max(len(found) - wanted.limit, 0) :]

    def processes(self, gpu_uuid: str | tuple[str, ...], start_ms: int, end_ms: int) -> tuple[ProcessSpan, ...]:
        """Return the spans of GPU processes; see the History port."""
        uuids = (gpu_uuid,) if isinstance(gpu_uuid, str) else gpu_uuid
        pending = [span.to_process_span() for record in self._writer.pending() for span in record.spans]
        written = self._read(lambda connection: queries.read_processes(connection, uuids, start_ms, end_ms)) or ()
        overlapping = [
            span for span in pending if span.gpu_uuid in uuids and span.end_ms >= start_ms and span.start_ms < end_ms
        ]
        newest = {(span.gpu_uuid, span.pid, span.start_ms): span for span in (*written, *overlapping)}
        return tuple(sorted(newest.values(), key=lambda span: span.start_ms))

    def usage(self, start_ms: int, end_ms: int) -> StoredUsage:
        """Return the usage ledger; see the History port."""
        pending = [(record.time_ms, record.usage) for record in self._writer.pending() if record.usage is not NO_USAGE]
        # A history of an older version has no ledger until it is opened for writing.
        written = self._read(lambda connection: read_usage(connection, start_ms, end_ms, pending), reports_damage=False)
        unwritten = [records for _, records in pending]
        return written or combine(unwritten, *align(start_ms, end_ms), began_ms=find_begin(unwritten))

    def status_message(self) -> str | None:
        """Return a sentence about what fails with the history, or None; see the History port."""
        message, error = self._writer.status_message(), self.read_status().error
        return error or message if self._writer.is_locked_out else message or error

    @property
    def is_writer(self) -> bool:
        """Whether this process writes the history, as far as is known: no other one holds the lock."""
        return not self._writer.is_locked_out

    def read_status(self) -> ReadStatus:
        """Return whether the database answers; see the History port."""
        with self._read_status_lock:
            is_hanging = self._reads is not None and self._reads.is_hanging
            retry_s = self._read_failed_s + (READ_RETRY_INTERVAL_S if self._writer.is_locked_out else 0.0)
            if self._read_status.error is not None and self._writer.answered_s > retry_s and not is_hanging:
                self._read_status = ReadStatus(self._read_status.version + 1, None)
            return self._read_status

    def _set_read_error(self, message: str | None) -> None:
        with self._read_status_lock:
            self._read_failed_s = self._clock.monotonic()
            if message != self._read_status.error:
                self._read_status = ReadStatus(self._read_status.version + (message is None), message)

    def close(self) -> None:
        """Write what is pending and close the database; see the History port. No `append` runs meanwhile."""
        if self._backlog and not self._writer.is_locked_out:  # taken over since the last sample
            self._write_backlog()
        self._writer.close()

    def _read_readings(
        self, keys: Sequence[SeriesKey], start_ms: int, end_ms: int, step_ms: int, *, wait: bool
    ) -> Readings:
        if self._ring.covers(start_ms):
            return self._ring.read(keys, start_ms, end_ms)
        written = self._read(
            lambda connection: (
                queries.read_readings(connection, keys, start_ms, end_ms, step_ms),
                queries.read_newest_ms(connection),
            ),
            wait=wait,
        )
        if written is None:
            return self._ring.read(keys, start_ms, end_ms)
        readings, newest_ms = written
        # What is not written yet (seconds, or everything since the disk is full) is in the ring.
        return concatenate([readings, self._ring.read(keys, max(start_ms, newest_ms + 1), end_ms)])

    def _read(
        self, query: Callable[[Connection], ResultT], *, wait: bool = False, reports_damage: bool = True
    ) -> ResultT | None:
        """Run a query on the database; None if it cannot be read, so that the caller uses what is in memory.

        `wait`: however long it takes, in the caller's thread.
        """
        self._writer.wait_for_past()

        def read() -> ResultT:
            with self._writer.database.open_reader() as connection:
                result = query(connection)
            self._set_read_error(None)  # here, so that a read that comes too late ends the error as well
            return result

        try:
            return read() if wait or self._reads is None else self._reads.run(read)
        except ReadTimeoutError:
            self._set_read_error(
                f"The history in {self._writer.database.location} does not answer: only what is in memory is shown, the"
                " last hour at most."
            )
        except DatabaseReadError as error:
            if error.is_damaged and reports_damage:
                self._writer.request_check()
            self._set_read_error(str(error) if error.is_unreachable else None)
            log.debug("The history was not read: %s", error)
        return None
