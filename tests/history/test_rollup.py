"""Buckets equal a plain computation, for generated sequences of samples and gaps."""

from __future__ import annotations

import math
from functools import reduce
from operator import or_

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashtop.history.rollup import Readings, aggregate, align_buckets, concatenate
from dashtop.model.errors import QueryError
from dashtop.model.metric import Aggregation

GAP = math.nan
FLAGS = st.integers(0, 0xFFF).map(float)
LEVELS = st.one_of(st.just(0.0), FLAGS, st.floats(-1e6, 1e6, width=32))
MOMENTS = st.lists(st.tuples(st.integers(0, 40_000), st.one_of(st.just(GAP), LEVELS)), max_size=80)


def raw(moments: list[tuple[int, float]]) -> Readings:
    times = np.array([time for time, _ in moments], dtype=np.int64)
    return Readings.from_raw(times, np.array([[value for _, value in moments]] * 2, dtype=np.float32))


@given(moments=MOMENTS, start=st.integers(0, 30_000), span=st.integers(1, 30_000), step=st.integers(1, 9_999))
def test_every_bucket_equals_the_plain_computation(
    moments: list[tuple[int, float]], start: int, span: int, step: int
) -> None:
    moments.sort(key=lambda moment: moment[0])
    buckets = align_buckets(start, start + span, max(step, span // 500 + 1))
    found = aggregate(raw(moments), buckets, [Aggregation.MEAN, Aggregation.LAST])
    assert len(found.times_ms) == buckets.count
    for position, begin in enumerate(found.times_ms):
        values = [value for time, value in moments if begin <= time < begin + buckets.step_ms and not math.isnan(value)]
        assert found.weight[0, position] == len(values)
        if values:
            np.testing.assert_allclose(found.mean[0, position], math.fsum(values) / len(values), rtol=1e-5, atol=1e-2)
            assert (found.minimum[0, position], found.maximum[0, position]) == (min(values), max(values))
            assert found.mean[1, position] == values[-1]
        else:
            assert np.isnan([column[:, position] for column in found[1:4]]).all()


@given(moments=st.lists(st.tuples(st.integers(0, 999), st.one_of(st.just(GAP), FLAGS)), max_size=20))
def test_or_and_maximum_of_a_bucket(moments: list[tuple[int, float]]) -> None:
    moments.sort(key=lambda moment: moment[0])
    found = aggregate(raw(moments), align_buckets(0, 1000, 1000), [Aggregation.OR, Aggregation.MAX])
    values = [value for _, value in moments if not math.isnan(value)]
    if values:
        assert found.mean[0, 0] == reduce(or_, map(int, values))
        assert found.mean[1, 0] == max(values)
    else:
        assert np.isnan(found.mean).all()


@given(moments=MOMENTS, cut=st.integers(0, 80))
def test_roll_up_in_two_steps_equals_one_step(moments: list[tuple[int, float]], cut: int) -> None:
    moments.sort(key=lambda moment: moment[0])
    kinds = [Aggregation.MEAN, Aggregation.OR if all(value >= 0 for _, value in moments) else Aggregation.LAST]
    whole = aggregate(raw(moments), align_buckets(0, 60_000, 6_000), kinds)
    parts = [aggregate(raw(part), align_buckets(0, 60_000, 500), kinds) for part in (moments[cut:], moments[:cut])]
    stepped = aggregate(concatenate(parts), align_buckets(0, 60_000, 6_000), kinds)
    np.testing.assert_array_equal(stepped.weight, whole.weight)
    np.testing.assert_array_equal(stepped.minimum, whole.minimum)
    np.testing.assert_array_equal(stepped.maximum, whole.maximum)
    np.testing.assert_allclose(stepped.mean[0], whole.mean[0], rtol=1e-4, atol=1.0)


def test_buckets_are_aligned_to_the_epoch_and_cover_the_range() -> None:
    buckets = align_buckets(12_345, 19_999, 5_000)
    assert (buckets.start_ms, buckets.count) == (10_000, 2)


@pytest.mark.parametrize(("start", "end", "step"), [(10, 10, 1), (10, 5, 1), (0, 10, 0), (0, 10**9, 1)])
def test_invalid_query_raises(start: int, end: int, step: int) -> None:
    with pytest.raises(QueryError):
        align_buckets(start, end, step)
