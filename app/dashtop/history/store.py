"""The History port: the ring of the last hour in front, the database (or the same tables in memory) behind it."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, TypeVar

from dashtop.history import queries as read
from dashtop.history.compaction import aggregation
from dashtop.history.database import DatabaseReadError
from dashtop.history.encoder import SampleEncoder
from dashtop.history.ring import Ring
from dashtop.history.rollup import aggregate, aligned, joined
from dashtop.history.writer import Writer
from dashtop.model.sample import Series, SeriesSet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dashtop.history.database import Connection, Database
    from dashtop.history.rollup import Readings
    from dashtop.model.ports import Clock
    from dashtop.model.sample import Event, ProcessSpan, Sample, SeriesKey

log = logging.getLogger(__name__)

MAX_BACKLOG = 60
"""Samples kept while another process writes: those that it did not write before it ended are written on takeover."""
AnswerT = TypeVar("AnswerT")


class HistoryStore:
    """Implements History, in that database."""

    def __init__(self, database: Database, *, clock: Clock, interval_s: float) -> None:
        self._ring = Ring(interval_s=interval_s)
        self._recorder = SampleEncoder()
        self._lost: str | None = None
        self._writer = Writer(database, clock=clock)
        self._backlog: deque[Sample] = deque(maxlen=MAX_BACKLOG)

    def start(self) -> None:
        """Write the samples that are appended, in a thread, as soon as no other process writes the database."""
        self._writer.start()

    def append(self, sample: Sample) -> None:
        """Keep a sample; see the History port."""
        layout, row = self._recorder.row(sample)
        self._ring.append(sample.time_ms, layout, row)
        if self._writer.is_locked_out:
            self._backlog.append(sample)
            return
        if self._backlog:
            self._write_backlog()
        self._writer.put(self._recorder.record(sample, layout, row))

    def _write_backlog(self) -> None:
        """Take over from another process: queue the samples that are newer than the last one it wrote."""
        self._recorder.restart_spans()
        newest_ms = self._writer.database.newest_ms
        for sample in self._backlog:
            if sample.time_ms > newest_ms:
                self._writer.put(self._recorder.record(sample, *self._recorder.row(sample)))
        self._backlog.clear()

    def query(self, keys: Sequence[SeriesKey], start_ms: int, end_ms: int, step_ms: int) -> SeriesSet:
        """Return each series in buckets; see the History port."""
        buckets = aligned(start_ms, end_ms, step_ms)
        found = self._readings(keys, buckets.start_ms, buckets.end_ms, step_ms)
        rolled = aggregate(found, buckets, [aggregation(key.metric) for key in keys])
        return SeriesSet(
            start_ms=buckets.start_ms,
            step_ms=step_ms,
            count=buckets.count,
            series=tuple(
                Series(key, rolled.mean[row], rolled.minimum[row], rolled.maximum[row]) for row, key in enumerate(keys)
            ),
        )

    def series(self) -> tuple[SeriesKey, ...]:
        """Return every series kept; see the History port."""
        waiting = [key for record in self._writer.pending() for key in record.layout.keys]
        known = dict.fromkeys([*(self._read(read.series) or ()), *waiting])
        return tuple(sorted(known, key=lambda key: (key.gpu_uuid or "", key.metric)))

    def events(self, start_ms: int, end_ms: int) -> tuple[Event, ...]:
        """Return events; see the History port."""
        waiting = [event for record in self._writer.pending() for event in record.events]
        written = self._read(lambda connection: read.events(connection, start_ms, end_ms)) or ()
        return tuple(dict.fromkeys([*written, *(event for event in waiting if start_ms <= event.time_ms < end_ms)]))

    def processes(self, gpu_uuid: str, start_ms: int, end_ms: int) -> tuple[ProcessSpan, ...]:
        """Return what processes held; see the History port."""
        waiting = [span.frozen() for record in self._writer.pending() for span in record.spans]
        written = self._read(lambda connection: read.processes(connection, gpu_uuid, start_ms, end_ms)) or ()
        here = [
            span for span in waiting if span.gpu_uuid == gpu_uuid and span.end_ms >= start_ms and span.start_ms < end_ms
        ]
        newest = {(span.pid, span.start_ms): span for span in (*written, *here)}
        return tuple(sorted(newest.values(), key=lambda span: span.start_ms))

    def status_message(self) -> str | None:
        """Return a sentence that says why this process does not write the history, or None; see the History port."""
        return self._writer.status_message() or self._lost

    def flush(self, timeout_s: float) -> bool:
        """Wait until every sample appended so far is in the file. False where that takes too long."""
        return self._writer.flush(timeout_s)

    def close(self) -> None:
        """Write what is still waiting and let go; see the History port."""
        self._writer.close()

    def _readings(self, keys: Sequence[SeriesKey], start_ms: int, end_ms: int, step_ms: int) -> Readings:
        if self._ring.covers(start_ms):
            return self._ring.readings(keys, start_ms, end_ms)
        written = self._read(
            lambda connection: (
                read.readings(connection, keys, start_ms, end_ms, step_ms),
                read.newest_ms(connection),
            )
        )
        if written is None:
            return self._ring.readings(keys, start_ms, end_ms)
        found, newest_ms = written
        # What was not written yet (moments, or all since the disk is full) is in the ring.
        return joined([found, self._ring.readings(keys, max(start_ms, newest_ms + 1), end_ms)])

    def _read(self, question: Callable[[Connection], AnswerT]) -> AnswerT | None:
        """Ask the database; None where it does not answer: what is in memory must do."""
        try:
            with self._writer.database.reading() as connection:
                answer = question(connection)
        except DatabaseReadError as error:
            if error.damaged:
                self._writer.request_check()
            self._lost = str(error) if error.lost else None
            log.debug("The history was not read: %s", error)
            return None
        self._lost = None
        return answer
