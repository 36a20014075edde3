"""Named time ranges: lengths, default steps, and the buckets up to now."""

import pytest

from dashtop.model.timerange import DAY_MS, RANGES, TIER_STEPS_MS

NOW = 1_700_000_012_345


def test_default_steps_are_those_of_the_api() -> None:
    assert [RANGES[name].step_ms for name in ("1h", "6h", "24h")] == [1000, 5000, 15000]


@pytest.mark.parametrize("name", RANGES)
def test_range_has_whole_buckets_and_contains_now(name: str) -> None:
    start, end, step = RANGES[name].find_bounds(NOW)
    assert start <= NOW < end <= NOW + step
    assert (end - start, start % step, (end - start) % step) == (RANGES[name].span_ms, 0, 0)
    assert (end - start) // step <= 6000


@pytest.mark.parametrize("points", [2, 7, 300, 5000])
@pytest.mark.parametrize("name", RANGES)
def test_requested_number_of_points_is_not_exceeded(name: str, points: int) -> None:
    step = RANGES[name].find_step(points)
    assert RANGES[name].span_ms / step <= points
    min_step = max(1000, RANGES[name].span_ms / points)
    assert min_step <= step < 1.5 * min_step + 1000
    assert any(step % tier_step == 0 and 2 * tier_step <= step for tier_step in TIER_STEPS_MS) or step == 1000


def test_year_has_365_days() -> None:
    assert RANGES["1y"].span_ms == 365 * DAY_MS
