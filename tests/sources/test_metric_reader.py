"""The walk reads what is due, and one row's failure stays its own."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from dashtop.model.metric import Metric, Unit
from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.metric_reader import RETRY_S, MetricReader

if TYPE_CHECKING:
    from collections.abc import Callable


class Source:
    """Counts how often it is asked."""

    def __init__(self, answer: Callable[[], float]) -> None:
        self.answer = answer
        self.asked = 0

    def value(self) -> float:
        self.asked += 1
        return self.answer()


def row(key: str, period_s: float = 0.0) -> Metric[Source]:
    return Metric(
        key=key, title=key, help="", unit=Unit.COUNT, read=lambda it: it.value(), prometheus="", period_s=period_s
    )


def raising(error: Exception) -> Callable[[], float]:
    def answer() -> float:
        raise error

    return answer


def test_zero_is_a_value() -> None:
    values, unavailable = MetricReader([row("gpu.a")]).read(Source(lambda: 0), 0.0)
    assert values == {"gpu.a": 0.0}
    assert not unavailable


def test_any_failure_is_one_rows_own() -> None:
    told: list[Callable[[], float]] = [
        raising(TypeError("N/A")),
        raising(Unavailable(UnavailableReason.NO_PERMISSION)),
        lambda: 7,
    ]
    answers = iter(told)
    rows = [row("gpu.a"), row("gpu.b"), row("gpu.c")]

    def one_after_another() -> float:
        return next(answers)()

    values, unavailable = MetricReader(rows).read(Source(one_after_another), 0.0)
    assert values == {"gpu.a": None, "gpu.b": None, "gpu.c": 7.0}
    assert unavailable == {"gpu.a": UnavailableReason.DRIVER_ERROR, "gpu.b": UnavailableReason.NO_PERMISSION}


def test_not_a_number_is_not_a_value() -> None:
    for odd in (math.nan, math.inf):
        values, unavailable = MetricReader([row("gpu.a")]).read(Source(partial(float, odd)), 0.0)
        assert values == {"gpu.a": None}
        assert unavailable == {"gpu.a": UnavailableReason.DRIVER_ERROR}


def test_a_row_is_read_once_a_period_and_keeps_its_value_between() -> None:
    source, walk = Source(lambda: 5.0), MetricReader([row("gpu.a", period_s=1.0)])
    asked = []
    for tick in range(5):
        values, _ = walk.read(source, tick * 0.5)
        assert values == {"gpu.a": 5.0}
        asked.append(source.asked)
    assert asked == [1, 1, 2, 2, 3]


def test_a_tick_that_comes_a_little_early_does_not_skip_a_row() -> None:
    source, walk = Source(lambda: 5.0), MetricReader([row("gpu.a", period_s=1.0)])
    walk.read(source, 0.0)
    walk.read(source, 0.99)
    assert source.asked == 2


def test_what_is_not_supported_is_asked_again_rarely() -> None:
    source, walk = Source(raising(Unavailable(UnavailableReason.NOT_SUPPORTED))), MetricReader([row("gpu.a")])
    walk.read(source, 0.0)
    for tick in range(1, 100):
        _, unavailable = walk.read(source, float(tick))
        assert unavailable == {"gpu.a": UnavailableReason.NOT_SUPPORTED}
    assert source.asked == 1
    source.answer = lambda: 3.0
    values, unavailable = walk.read(source, RETRY_S[UnavailableReason.NOT_SUPPORTED])
    assert values == {"gpu.a": 3.0}
    assert not unavailable
