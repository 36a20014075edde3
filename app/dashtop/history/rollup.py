"""Pure aggregation of readings into equal buckets. No clock, no store.

Readings of several series at the same times stand in arrays with a row a series and a column a time. A raw reading is
its own mean, minimum and maximum; a rolled-up one knows how many raw readings it stands for, so that rolling up in
several steps gives what one step would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dashtop.model.errors import QueryError
from dashtop.model.metric import Aggregation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MOST_BUCKETS = 100_000


@dataclass(frozen=True, slots=True)
class Buckets:
    """`count` buckets of `step_ms` from `start_ms`, which is a multiple of the step."""

    start_ms: int
    step_ms: int
    count: int

    @property
    def end_ms(self) -> int:
        """Where the last bucket ends."""
        return self.start_ms + self.count * self.step_ms


def aligned(start_ms: int, end_ms: int, step_ms: int) -> Buckets:
    """Return the buckets on the epoch's grid that cover [start_ms, end_ms). Raises QueryError where there are none."""
    if step_ms < 1:
        raise QueryError("The step must be at least 1 ms.")
    if end_ms <= start_ms:
        raise QueryError("The range must end after it starts.")
    first = start_ms // step_ms
    count = -(-end_ms // step_ms) - first
    if count > MOST_BUCKETS:
        raise QueryError(f"{count} points are too many: ask for at most {MOST_BUCKETS}, with a wider step.")
    return Buckets(first * step_ms, step_ms, count)


class Readings(NamedTuple):
    """Series by rows, times by columns. `weight`: raw readings behind one; 0 (all else NaN) where there is none."""

    times_ms: NDArray[np.int64]
    mean: NDArray[np.float32]
    minimum: NDArray[np.float32]
    maximum: NDArray[np.float32]
    weight: NDArray[np.float32]

    @classmethod
    def raw(cls, times_ms: NDArray[np.int64], values: NDArray[np.float32]) -> Readings:
        """Take readings as they were made; NaN counts as none."""
        return cls(times_ms, values, values, values, (~np.isnan(values)).astype(np.float32))


def joined(parts: Sequence[Readings]) -> Readings:
    """Put parts of the same series together in the order of time, which overlapping parts (a clock set back) break."""
    if len(parts) == 1:
        return parts[0]
    times = np.concatenate([part.times_ms for part in parts])
    mean, minimum, maximum, count = (np.concatenate(columns, axis=1) for columns in list(zip(*parts, strict=True))[1:])
    if (np.diff(times) < 0).any():
        order = np.argsort(times, kind="stable")
        return Readings(times[order], mean[:, order], minimum[:, order], maximum[:, order], count[:, order])
    return Readings(times, mean, minimum, maximum, count)


def aggregate(readings: Readings, buckets: Buckets, kinds: Sequence[Aggregation]) -> Readings:
    """Aggregate readings at ascending times; `kinds` (one a series) decides what a bucket's `mean` holds."""
    shape = (len(kinds), buckets.count)
    times = buckets.start_ms + buckets.step_ms * np.arange(buckets.count, dtype=np.int64)
    mean, minimum, maximum = (np.full(shape, np.nan, dtype=np.float32) for _ in range(3))
    count = np.zeros(shape, dtype=np.float32)
    positions = np.searchsorted(readings.times_ms, np.append(times, buckets.end_ms))
    filled = positions[:-1] < positions[1:]
    if filled.any():
        first, last = int(positions[0]), int(positions[-1])
        part = Readings(readings.times_ms[first:last], *(columns[:, first:last] for columns in readings[1:]))
        starts = positions[:-1][filled] - first
        minimum[:, filled] = np.fmin.reduceat(part.minimum, starts, axis=1)
        maximum[:, filled] = np.fmax.reduceat(part.maximum, starts, axis=1)
        count[:, filled] = np.add.reduceat(part.weight, starts, axis=1)
        mean[:, filled] = _means(part, starts)
        for kind, reduced in _REDUCE.items():
            rows = np.flatnonzero([each is kind for each in kinds])
            if len(rows):
                mean[np.ix_(rows, filled)] = reduced(part, rows, starts)
    return Readings(times, mean, minimum, maximum, count)


def _means(part: Readings, starts: NDArray[np.intp]) -> NDArray[np.float64]:
    sums = np.add.reduceat(np.where(part.weight > 0, part.mean.astype(np.float64) * part.weight, 0), starts, axis=1)
    counts = np.add.reduceat(part.weight, starts, axis=1, dtype=np.float64)
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _last(part: Readings, rows: NDArray[np.intp], starts: NDArray[np.intp]) -> NDArray[np.float32]:
    seen = np.where(part.weight[rows] > 0, np.arange(part.weight.shape[1]), -1)
    latest = np.maximum.reduceat(seen, starts, axis=1)
    return np.where(latest >= starts, np.take_along_axis(part.mean[rows], latest, axis=1), np.float32(np.nan))


def _maximum(part: Readings, rows: NDArray[np.intp], starts: NDArray[np.intp]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = np.fmax.reduceat(part.maximum[rows], starts, axis=1)
    return found


def _or(part: Readings, rows: NDArray[np.intp], starts: NDArray[np.intp]) -> NDArray[np.float32]:
    there = part.weight[rows] > 0
    bits = np.bitwise_or.reduceat(np.where(there, part.mean[rows], 0).astype(np.int64), starts, axis=1)
    return np.where(np.logical_or.reduceat(there, starts, axis=1), bits, np.nan).astype(np.float32)


_REDUCE = {Aggregation.LAST: _last, Aggregation.MAX: _maximum, Aggregation.OR: _or}
