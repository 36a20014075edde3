"""Property test: every bucket equals the aggregate of its samples, with gaps and restarts."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dashtop.metrics import METRICS
from dashtop.model.metric import Aggregation
from dashtop.model.sample import SeriesKey
from tests.builders import NOON_MS, make_device, make_gpu, make_sample, wait_until_written

if TYPE_CHECKING:
    from collections.abc import Callable

    from dashtop.history.store import HistoryStore
    from tests.history.conftest import Storage

GPU = make_device().uuid
KEYS = (
    SeriesKey("system.cpu.usage_percent"),
    SeriesKey("gpu.utilization.gpu", GPU),
    SeriesKey("gpu.clocks.event_reasons", GPU),
    SeriesKey("gpu.performance_state", GPU),
)
STEPS_MS = (15_000, 60_000, 600_000)

Reading = tuple[float | None, ...]
percent = st.none() | st.integers(0, 100).map(float)
readings = st.tuples(
    percent, percent, st.none() | st.integers(0, 0x7FF).map(float), st.none() | st.integers(0, 15).map(float)
)
# Mostly one second; sometimes a gap longer than a bucket, a window or a day.
distances_ms = st.sampled_from([1000] * 12 + [900, 1100, 7000, 61_000, 599_000, 1_300_000, 5_000_000, 90_000_000])
runs = st.lists(st.lists(st.tuples(distances_ms, readings), min_size=1, max_size=40), min_size=1, max_size=4)


def aggregate_plainly(kind: Aggregation, values: list[float]) -> float:
    if kind is Aggregation.LAST:
        return values[-1]
    if kind is Aggregation.OR:
        return float(np.bitwise_or.reduce(np.array(values, dtype=np.int64)))
    assert kind is Aggregation.MEAN
    return sum(values) / len(values)


EXAMPLES = {"sqlite": 60, "postgresql": 12}
"""Fewer with PostgreSQL, whose connections are slower: the roll-up is the same code, only the queries differ."""


def test_every_bucket_equals_the_aggregate_of_its_samples(storages: Callable[[], Storage]) -> None:
    @settings(max_examples=EXAMPLES[storages().kind], deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(runs=runs)
    def every_bucket_is(runs: list[list[tuple[int, Reading]]]) -> None:
        write_and_check(storages(), runs)

    every_bucket_is()


def write_and_check(storage: Storage, runs: list[list[tuple[int, Reading]]]) -> None:
    assert {METRICS[key.metric].aggregation for key in KEYS} == {Aggregation.MEAN, Aggregation.OR, Aggregation.LAST}
    distances = [distance for run in runs for distance, _ in run]
    times = [NOON_MS + moment for moment in accumulate(distances)]
    values = [reading for run in runs for _, reading in run]
    position = 0
    for run in runs:
        history = storage.history()
        for _, reading in run:
            given_values = {key.metric: value for key, value in zip(KEYS, reading, strict=True) if value is not None}
            host = {name: value for name, value in given_values.items() if name.startswith("system.")}
            gpu = {name: value for name, value in given_values.items() if name.startswith("gpu.")}
            history.append(make_sample(position, time_ms=times[position], host=host, gpus=(make_gpu(values=gpu),)))
            position += 1
        wait_until_written(history)
        check(history, times[:position], values[:position])
        history.close()
    reopened = storage.history()
    check(reopened, times, values)
    reopened.close()


def check(history: HistoryStore, times: list[int], values: list[Reading]) -> None:
    """Compare every stored bucket with the plain computation, at the step of each roll-up."""
    for step_ms in STEPS_MS:
        # Query only the time range that is still stored at this step; gaps can be days long.
        start_ms = max(times[0], times[-1] - 4000 * step_ms)
        found = history.query(KEYS, start_ms, times[-1] + 1, step_ms)
        assert found.step_ms == step_ms
        for row, key in enumerate(KEYS):
            kind = METRICS[key.metric].aggregation
            values_by_bucket: dict[int, list[float]] = {}
            for time_ms, reading in zip(times, values, strict=True):
                bucket = (time_ms - found.start_ms) // step_ms
                value = reading[row]
                if bucket >= 0 and value is not None:
                    values_by_bucket.setdefault(bucket, []).append(value)
            expected = np.full((3, found.count), np.nan)
            for bucket, all_of_it in values_by_bucket.items():
                expected[:, bucket] = aggregate_plainly(kind, all_of_it), min(all_of_it), max(all_of_it)
            series = found.series[row]
            np.testing.assert_allclose(series.mean, expected[0], rtol=1e-5)
            np.testing.assert_array_equal(series.minimum, expected[1].astype(np.float32))
            np.testing.assert_array_equal(series.maximum, expected[2].astype(np.float32))
