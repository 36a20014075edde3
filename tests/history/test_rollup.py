"""Buckets against a plain reading of what they mean."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dashtop.domain.errors import QueryError
from dashtop.domain.metric import Aggregation
from dashtop.history.rollup import aggregate, aligned

if TYPE_CHECKING:
    from numpy.typing import NDArray


def plainly(times: list[int], values: list[float], start: int, end: int) -> tuple[float, float, float, float]:
    """Mean, minimum, maximum and last of one bucket, the slow way."""
    held = [value for time, value in zip(times, values, strict=True) if start <= time < end and value == value]  # noqa: PLR0124
    if not held:
        return (np.nan,) * 4
    return sum(held) / len(held), min(held), max(held), held[-1]


@pytest.mark.parametrize("seed", range(20))
def test_every_bucket_equals_the_plain_computation(seed: int) -> None:
    draw = random.Random(seed)
    times = sorted(draw.sample(range(10_000, 40_000), draw.randint(0, 200)))
    values = [draw.choice((draw.uniform(-5, 100), 0.0, np.nan)) for _ in times]
    buckets = aligned(draw.randint(8_000, 20_000), draw.randint(21_000, 42_000), draw.choice((1, 7, 500, 1000, 9_999)))
    stamps: NDArray[np.int64] = np.array(times, dtype=np.int64)
    readings = np.array(values, dtype=np.float32)
    mean = aggregate(stamps, readings, buckets, Aggregation.MEAN)
    last = aggregate(stamps, readings, buckets, Aggregation.LAST)
    filled = {(time - buckets.start_ms) // buckets.step_ms for time in times}
    for position in [*sorted(place for place in filled if 0 <= place < buckets.count), 0, buckets.count - 1]:
        start = buckets.start_ms + position * buckets.step_ms
        expected = plainly(times, [float(value) for value in readings], start, start + buckets.step_ms)
        got = (mean.mean[position], mean.minimum[position], mean.maximum[position], last.mean[position])
        np.testing.assert_allclose(got, expected, rtol=1e-5, equal_nan=True)


def test_buckets_lie_on_the_epochs_grid_and_cover_the_range() -> None:
    buckets = aligned(12_345, 19_999, 5_000)
    assert (buckets.start_ms, buckets.count) == (10_000, 2)


def test_flags_are_joined() -> None:
    times = np.array([0, 1, 2], dtype=np.int64)
    flags = np.array([0b001, 0b100, np.nan], dtype=np.float32)
    assert aggregate(times, flags, aligned(0, 10, 10), Aggregation.OR).mean[0] == 0b101


@pytest.mark.parametrize(("start", "end", "step"), [(10, 10, 1), (10, 5, 1), (0, 10, 0), (0, 10**9, 1)])
def test_impossible_questions_are_refused(start: int, end: int, step: int) -> None:
    with pytest.raises(QueryError):
        aligned(start, end, step)
