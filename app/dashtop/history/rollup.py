"""Pure aggregation of readings into equal buckets. No clock, no store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dashtop.domain.errors import QueryError
from dashtop.domain.metric import Aggregation

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_BUCKETS = 100_000


@dataclass(frozen=True, slots=True)
class Buckets:
    """`count` buckets of `step_ms` from `start_ms`, which is a multiple of the step."""

    start_ms: int
    step_ms: int
    count: int


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


class Aggregates(NamedTuple):
    """One array per statistic, a value per bucket, NaN for a bucket without readings."""

    mean: NDArray[np.float32]
    minimum: NDArray[np.float32]
    maximum: NDArray[np.float32]


def aggregate(
    times_ms: NDArray[np.int64], values: NDArray[np.float32], buckets: Buckets, kind: Aggregation
) -> Aggregates:
    """Aggregate readings at ascending times; NaN readings count as none. `kind` decides what `mean` holds."""
    mean, minimum, maximum = (np.full(buckets.count, np.nan, dtype=np.float32) for _ in range(3))
    valid = ~np.isnan(values)
    times, readings = times_ms[valid], values[valid].astype(np.float64)
    edges = buckets.start_ms + buckets.step_ms * np.arange(buckets.count + 1, dtype=np.int64)
    positions = np.searchsorted(times, edges)
    filled = positions[:-1] < positions[1:]
    if not filled.any():
        return Aggregates(mean, minimum, maximum)
    starts, ends = positions[:-1][filled], positions[1:][filled]
    readings = readings[: ends[-1]]
    minimum[filled] = np.minimum.reduceat(readings, starts)
    maximum[filled] = np.maximum.reduceat(readings, starts)
    if kind is Aggregation.MEAN:
        mean[filled] = np.add.reduceat(readings, starts) / (ends - starts)
    elif kind is Aggregation.LAST:
        mean[filled] = readings[ends - 1]
    elif kind is Aggregation.MAX:
        mean[filled] = maximum[filled]
    else:
        mean[filled] = np.bitwise_or.reduceat(readings.astype(np.int64), starts)
    return Aggregates(mean, minimum, maximum)
