"""MetricReader reads what is due, and a failing row does not affect the others."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from dashtop.model.metric import Metric, Unit
from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.metric_reader import MetricReader

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


class Source:
    """Counts how often it is read."""

    def __init__(self, read: Callable[[], float]) -> None:
        self.read = read
        self.reads = 0

    def value(self) -> float:
        self.reads += 1
        return self.read()


def row(key: str, period_s: float = 0.0) -> Metric[Source]:
    return Metric(
        key=key, title=key, help="", unit=Unit.COUNT, read=lambda it: it.value(), prometheus="", period_s=period_s
    )


def raising(error: Exception) -> Callable[[], float]:
    def read() -> float:
        raise error

    return read


def test_zero_is_a_value() -> None:
    values, unavailable = MetricReader([row("gpu.a")]).read(Source(lambda: 0), 0.0)
    assert values == {"gpu.a": 0.0}
    assert not unavailable


def test_implausible_value_is_missing_and_counted() -> None:
    reader = MetricReader([row("gpu.a")])
    source = Source(lambda: 2**32 - 1)
    assert reader.read(source, 0.0) == ({"gpu.a": None}, {"gpu.a": UnavailableReason.IMPLAUSIBLE})
    reader.read(source, 1.0)
    assert reader.implausible_count == 2
    source.read = lambda: 7
    assert reader.read(source, 2.0) == ({"gpu.a": 7.0}, {})
    assert reader.implausible_count == 2


def test_failing_rows_do_not_affect_others() -> None:
    reads: list[Callable[[], float]] = [
        raising(TypeError("N/A")),
        raising(Unavailable(UnavailableReason.NO_PERMISSION)),
        lambda: 7,
    ]
    remaining = iter(reads)
    rows = [row("gpu.a"), row("gpu.b"), row("gpu.c")]

    def read_next() -> float:
        return next(remaining)()

    values, unavailable = MetricReader(rows).read(Source(read_next), 0.0)
    assert values == {"gpu.a": None, "gpu.b": None, "gpu.c": 7.0}
    assert unavailable == {"gpu.a": UnavailableReason.INTERNAL_ERROR, "gpu.b": UnavailableReason.NO_PERMISSION}


def test_own_mistakes_are_logged_once_until_the_row_recovers(caplog: pytest.LogCaptureFixture) -> None:
    source, reader = Source(raising(KeyError("mistake"))), MetricReader([row("gpu.a")])
    for tick in range(3):
        reader.read(source, float(tick))
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "gpu.a" in record.getMessage()
    source.read = lambda: 1.0
    assert reader.read(source, 4.0) == ({"gpu.a": 1.0}, {})
    source.read = raising(KeyError("again"))
    reader.read(source, 5.0)
    assert len(caplog.records) == 2


def test_values_that_are_not_finite_are_driver_errors() -> None:
    for value in (math.nan, math.inf):
        values, unavailable = MetricReader([row("gpu.a")]).read(Source(partial(float, value)), 0.0)
        assert values == {"gpu.a": None}
        assert unavailable == {"gpu.a": UnavailableReason.DRIVER_ERROR}


def test_row_is_read_once_per_period_and_keeps_its_value() -> None:
    source, reader = Source(lambda: 5.0), MetricReader([row("gpu.a", period_s=1.0)])
    reads = []
    for tick in range(5):
        values, _ = reader.read(source, tick * 0.5)
        assert values == {"gpu.a": 5.0}
        reads.append(source.reads)
    assert reads == [1, 1, 2, 2, 3]


def test_tick_that_comes_a_little_early_does_not_skip_a_row() -> None:
    source, reader = Source(lambda: 5.0), MetricReader([row("gpu.a", period_s=1.0)])
    reader.read(source, 0.0)
    reader.read(source, 0.99)
    assert source.reads == 2


def test_unsupported_metric_is_retried_as_the_fault_table_says() -> None:
    reason = UnavailableReason.NOT_SUPPORTED
    assert reason.retry_after_s is not None
    source, reader = Source(raising(Unavailable(reason))), MetricReader([row("gpu.a")])
    reader.read(source, 0.0)
    for tick in range(1, 100):
        _, unavailable = reader.read(source, float(tick))
        assert unavailable == {"gpu.a": reason}
    assert source.reads == 1
    reader.read(source, reason.retry_after_s + 1)
    assert source.reads == 2
