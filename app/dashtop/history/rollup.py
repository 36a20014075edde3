"""Pure aggregation of readings into equal buckets. No clock, no store.

Readings of several series at the same times are arrays with a row per series and a column per time. A raw reading is
its own mean, minimum and maximum. A rolled-up one carries the number of raw readings in it, so that rolling up in
several steps gives the same as in one.
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

MAX_BUCKETS = 100_000


@dataclass(frozen=True, slots=True)
class Buckets:
    """`count` buckets of `step_ms` from `start_ms`, which is a multiple of the step."""

    start_ms: int
    step_ms: int
    count: int

    @property
    def end_ms(self) -> int:
        """End of the last bucket."""
        return self.start_ms + self.count * self.step_ms


def align_buckets(start_ms: int, end_ms: int, step_ms: int) -> Buckets:
    """Return the buckets on the epoch's grid that cover [start_ms, end_ms).

    Raises QueryError for an empty range and for too many buckets.
    """
    if step_ms < 1:
        raise QueryError("The step must be at least 1 ms.")
    if end_ms <= start_ms:
        raise QueryError("The range must end after it starts.")
    first = start_ms // step_ms
    count = -(-end_ms // step_ms) - first
    if count > MAX_BUCKETS:
        raise QueryError(f"{count} points are too many: request at most {MAX_BUCKETS}, with a wider step.")
    return Buckets(first * step_ms, step_ms, count)


class Readings(NamedTuple):
    """A row per series, a column per time. `weight`: number of raw readings; if it is 0, the others are NaN."""

    times_ms: NDArray[np.int64]
    mean: NDArray[np.float32]
    minimum: NDArray[np.float32]
    maximum: NDArray[np.float32]
    weight: NDArray[np.float32]

    @classmethod
    def from_raw(cls, times_ms: NDArray[np.int64], values: NDArray[np.float32]) -> Readings:
        """Return raw readings; NaN is no reading."""
        return cls(times_ms, values, values, values, (~np.isnan(values)).astype(np.float32))

    def select(self, start_ms: int, end_ms: int) -> Readings:
        """Return the readings in [start_ms, end_ms), of ascending ones."""
        first, last = (int(position) for position in np.searchsorted(self.times_ms, (start_ms, end_ms)))
        return Readings(self.times_ms[first:last], *(column[:, first:last] for column in self[1:]))


def concatenate(parts: Sequence[Readings]) -> Readings:
    """Return parts of the same series as one, in ascending time; parts overlap if the clock was set back."""
    if len(parts) == 1:
        return parts[0]
    times = np.concatenate([part.times_ms for part in parts])
    mean, minimum, maximum, weight = (np.concatenate(columns, axis=1) for columns in list(zip(*parts, strict=True))[1:])
    if (np.diff(times) < 0).any():
        order = np.argsort(times, kind="stable")
        return Readings(times[order], mean[:, order], minimum[:, order], maximum[:, order], weight[:, order])
    return Readings(times, mean, minimum, maximum, weight)


def aggregate(readings: Readings, buckets: Buckets, aggregations: Sequence[Aggregation]) -> Readings:
    """Aggregate readings at ascending times into buckets; the `mean` of a series is its aggregation's value."""
    shape = (len(aggregations), buckets.count)
    times = buckets.start_ms + buckets.step_ms * np.arange(buckets.count, dtype=np.int64)
    mean, minimum, maximum = (np.full(shape, np.nan, dtype=np.float32) for _ in range(3))
    weight = np.zeros(shape, dtype=np.float32)
    positions = np.searchsorted(readings.times_ms, np.append(times, buckets.end_ms))
    filled = positions[:-1] < positions[1:]
    if filled.any():
        first, last = int(positions[0]), int(positions[-1])
        part = Readings(readings.times_ms[first:last], *(columns[:, first:last] for columns in readings[1:]))
        starts = positions[:-1][filled] - first
        minimum[:, filled] = np.fmin.reduceat(part.minimum, starts, axis=1)
        maximum[:, filled] = np.fmax.reduceat(part.maximum, starts, axis=1)
        weight[:, filled] = np.add.reduceat(part.weight, starts, axis=1)
        mean[:, filled] = _reduce_mean(part, starts)
        for aggregation, reduce in _REDUCE.items():
            rows = np.flatnonzero([each is aggregation for each in aggregations])
            if len(rows):
                mean[np.ix_(rows, filled)] = reduce(part, rows, starts)
    return Readings(times, mean, minimum, maximum, weight)


def _reduce_mean(part: Readings, starts: NDArray[np.intp]) -> NDArray[np.float64]:
    sums = np.add.reduceat(np.where(part.weight > 0, part.mean.astype(np.float64) * part.weight, 0), starts, axis=1)
    weights = np.add.reduceat(part.weight, starts, axis=1, dtype=np.float64)
    return np.divide(sums, weights, out=np.full_like(sums, np.nan), where=weights > 0)


def _reduce_last(part: Readings, rows: NDArray[np.intp], starts: NDArray[np.intp]) -> NDArray[np.float32]:
    positions = np.where(part.weight[rows] > 0, np.arange(part.weight.shape[1]), -1)
    latest = np.maximum.reduceat(positions, starts, axis=1)
    return np.where(latest >= starts, np.take_along_axis(part.mean[rows], latest, axis=1), np.float32(np.nan))


def _reduce_max(part: Readings, rows: NDArray[np.intp], starts: NDArray[np.intp]) -> NDArray[np.float32]:
    maximum: NDArray[np.float32] = np.fmax.reduceat(part.maximum[rows], starts, axis=1)
    return maximum


def _reduce_or(part: Readings, rows: NDArray[np.intp], starts: NDArray[np.intp]) -> NDArray[np.float32]:
    has_reading = part.weight[rows] > 0
    bits = np.bitwise_or.reduceat(np.where(has_reading, part.mean[rows], 0).astype(np.int64), starts, axis=1)
    return np.where(np.logical_or.reduceat(has_reading, starts, axis=1), bits, np.nan).astype(np.float32)


_REDUCE = {Aggregation.LAST: _reduce_last, Aggregation.MAX: _reduce_max, Aggregation.OR: _reduce_or}
