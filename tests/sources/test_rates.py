from __future__ import annotations

import pytest

from dashtop.model.ports import ByteRates
from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.host.rates import Rate, TrafficRates


def first_reading(rate: Rate, count: int, at: float) -> None:
    with pytest.raises(Unavailable) as missing:
        rate.update(count, at)
    assert missing.value.reason is UnavailableReason.FIRST_READING


def test_a_rate_is_growth_over_the_time_that_passed() -> None:
    rate = Rate()
    first_reading(rate, 1_000, 10.0)

    assert rate.update(4_000, 12.0) == 1_500.0
    assert rate.update(4_000, 12.5) == 0.0
    assert rate.update(4_001, 13.0) == 2.0


def test_a_clock_at_zero_is_a_reading_like_any_other() -> None:
    rate = Rate()
    first_reading(rate, 0, 0.0)

    assert rate.update(5, 1.0) == 5.0


@pytest.mark.parametrize(("before", "after"), [(2**32 - 100, 50), (10**15, 0), (7, 6)])
def test_a_counter_that_went_back_says_nothing_about_that_interval(before: int, after: int) -> None:
    rate = Rate()
    first_reading(rate, before, 1.0)

    first_reading(rate, after, 2.0)
    assert rate.update(after + 30, 3.0) == 30.0


def test_two_readings_at_the_same_time_do_not_divide_by_zero_and_lose_nothing() -> None:
    rate = Rate()
    first_reading(rate, 0, 1.0)

    first_reading(rate, 100, 1.0)
    assert rate.update(200, 2.0) == 200.0


def test_traffic_is_summed_over_devices() -> None:
    rates = TrafficRates()
    with pytest.raises(Unavailable, match="two readings"):
        rates.update({"a": (0, 0), "b": (1_000, 1_000)}, 1.0)

    assert rates.update({"a": (10, 20), "b": (1_100, 1_200)}, 3.0) == ByteRates(55.0, 110.0)


def test_a_device_that_appears_with_a_large_count_is_no_burst() -> None:
    rates = TrafficRates()
    with pytest.raises(Unavailable):
        rates.update({"a": (0, 0)}, 1.0)

    assert rates.update({"a": (10, 10), "new": (10**12, 10**12)}, 2.0) == ByteRates(10.0, 10.0)
    assert rates.update({"a": (10, 10), "new": (10**12 + 5, 10**12 + 6)}, 3.0) == ByteRates(5.0, 6.0)


def test_a_device_that_left_and_came_back_starts_anew() -> None:
    rates = TrafficRates()
    with pytest.raises(Unavailable):
        rates.update({"a": (0, 0), "usb": (50, 50)}, 1.0)
    assert rates.update({"a": (1, 1)}, 2.0) == ByteRates(1.0, 1.0)

    assert rates.update({"a": (1, 1), "usb": (10**9, 10**9)}, 3.0) == ByteRates(0.0, 0.0)


def test_the_reset_of_one_device_leaves_the_others_rates() -> None:
    rates = TrafficRates()
    with pytest.raises(Unavailable):
        rates.update({"a": (500, 500), "b": (500, 500)}, 1.0)

    assert rates.update({"a": (0, 600), "b": (600, 600)}, 2.0) == ByteRates(100.0, 100.0)
    with pytest.raises(Unavailable):
        rates.update({"a": (-1, 0), "b": (0, 0)}, 3.0)


def test_no_device_is_said_as_such() -> None:
    with pytest.raises(Unavailable) as missing:
        TrafficRates().update({}, 1.0)
    assert missing.value.reason is UnavailableReason.ABSENT
