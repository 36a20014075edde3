"""The ring buffer of the last hour."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from dashtop.history.encoder import SampleEncoder
from dashtop.history.ring import SPAN_S, Ring
from dashtop.history.rollup import aggregate, align_buckets
from dashtop.model.metric import Aggregation
from dashtop.model.sample import Series, SeriesKey
from tests.builders import NOON_MS, make_device, make_gpu, make_sample

if TYPE_CHECKING:
    from dashtop.model.sample import Sample


class EncodingRing(Ring):
    """A ring that encodes the samples appended to it."""

    def __init__(self, *, interval_s: float, span_s: float = SPAN_S) -> None:
        super().__init__(interval_s=interval_s, span_s=span_s)
        self._encoder = SampleEncoder()

    def append_sample(self, sample: Sample) -> None:
        self.append(sample.time_ms, *self._encoder.encode_values(sample))


CPU = SeriesKey("system.cpu.usage_percent")
KEY = "gpu.utilization.gpu"


def gpu_series(index: int) -> SeriesKey:
    return SeriesKey(KEY, make_device(index).uuid)


def buckets(history: EncodingRing, keys: list[SeriesKey], start_ms: int, end_ms: int, step_ms: int) -> list[Series]:
    rolled = aggregate(
        history.read(keys, start_ms, end_ms), align_buckets(start_ms, end_ms, step_ms), [Aggregation.MEAN] * len(keys)
    )
    return [Series(key, rolled.mean[row], rolled.minimum[row], rolled.maximum[row]) for row, key in enumerate(keys)]


def fill(history: EncodingRing, count: int, *, gpus: int = 1, first: int = 0) -> None:
    for second in range(first, first + count):
        history.append_sample(
            make_sample(
                second,
                time_ms=NOON_MS + 1000 * second,
                host={CPU.metric: second % 100},
                gpus=tuple(make_gpu(index, values={KEY: second + 1000 * index}) for index in range(gpus)),
            )
        )


def test_appended_values_are_read_at_full_resolution() -> None:
    history = EncodingRing(interval_s=1.0, span_s=60)
    fill(history, 30, gpus=2)
    found = buckets(history, [CPU, gpu_series(1)], NOON_MS, NOON_MS + 30_000, 1000)
    np.testing.assert_array_equal(found[0].mean, np.arange(30))
    np.testing.assert_array_equal(found[1].mean, np.arange(1000, 1030))


def test_wide_bucket_keeps_the_maximum_of_a_spike() -> None:
    history = EncodingRing(interval_s=1.0)
    for second in range(60):
        history.append_sample(
            make_sample(second, time_ms=NOON_MS + 1000 * second, host={CPU.metric: 100 if second == 17 else 0})
        )
    series = buckets(history, [CPU], NOON_MS, NOON_MS + 60_000, 60_000)[0]
    assert (series.minimum[0], series.maximum[0]) == (0, 100)
    assert series.mean[0] == pytest.approx(100 / 60)


def test_ring_keeps_the_last_span_in_constant_memory() -> None:
    history = EncodingRing(interval_s=1.0, span_s=10)
    fill(history, 1000)
    series = buckets(history, [CPU], NOON_MS + 980_000, NOON_MS + 1_000_000, 1000)[0]
    assert np.isnan(series.mean[:9]).all()
    np.testing.assert_array_equal(series.mean[9:], np.arange(89, 100))
    assert history._values.shape[1] == 11


def test_gap_is_nan() -> None:
    history = EncodingRing(interval_s=1.0)
    fill(history, 3)
    fill(history, 3, first=10)
    series = buckets(history, [CPU], NOON_MS, NOON_MS + 13_000, 1000)[0]
    assert np.isnan(series.mean[3:10]).all()
    assert not np.isnan(series.mean[10:]).any()


def test_unknown_series_is_nan() -> None:
    history = EncodingRing(interval_s=1.0)
    fill(history, 3)
    assert np.isnan(buckets(history, [gpu_series(7)], NOON_MS, NOON_MS + 3000, 1000)[0].mean).all()


def test_repeated_values_of_a_late_gpu_are_a_gap() -> None:
    history = EncodingRing(interval_s=1.0)
    fill(history, 2)
    history.append_sample(
        make_sample(2, time_ms=NOON_MS + 2000, host={CPU.metric: 5}, gpus=(make_gpu(values={KEY: 1}),), gpu_age_s=0.4)
    )
    found = buckets(history, [CPU, gpu_series(0)], NOON_MS, NOON_MS + 3000, 1000)
    assert found[0].mean[2] == 5
    assert np.isnan(found[1].mean[2])


def test_clock_set_back_keeps_times_ascending() -> None:
    history = EncodingRing(interval_s=1.0)
    fill(history, 10)
    fill(history, 3, first=5)
    series = buckets(history, [CPU], NOON_MS, NOON_MS + 10_000, 1000)[0]
    np.testing.assert_array_equal(series.mean[:8], np.arange(8))
    assert np.isnan(series.mean[8:]).all()


def test_columns_of_removed_gpus_are_reused() -> None:
    history = EncodingRing(interval_s=1.0, span_s=5)
    for generation in range(40):
        for second in range(10):
            history.append_sample(
                make_sample(
                    generation * 10 + second,
                    time_ms=NOON_MS + 1000 * (generation * 10 + second),
                    gpus=(make_gpu(device=make_device(uuid=f"GPU-{generation}"), values={KEY: generation}),),
                )
            )
    assert len(history._rows) <= 3
    end = NOON_MS + 400_000
    newest = buckets(history, [SeriesKey(KEY, "GPU-39")], end - 5000, end, 5000)[0]
    assert newest.minimum[0] == newest.maximum[0] == 39


def test_gpu_that_returns_together_with_a_new_one_has_its_own_column() -> None:
    history = EncodingRing(interval_s=1.0, span_s=5)
    fill(history, 3, gpus=2)
    for second in range(3, 20):
        history.append_sample(make_sample(second, time_ms=NOON_MS + 1000 * second, host={CPU.metric: 1}))
    newcomer, returned = (make_gpu(index, values={KEY: 50 + index}) for index in (9, 0))
    history.append_sample(make_sample(20, time_ms=NOON_MS + 20_000, gpus=(newcomer, returned)))
    found = buckets(history, [gpu_series(0), gpu_series(9)], NOON_MS + 20_000, NOON_MS + 21_000, 1000)
    assert [series.mean.tolist() for series in found] == [[50.0], [59.0]]
