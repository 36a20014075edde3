"""Named time ranges: lengths, default steps, and the buckets up to now."""

import pytest

from dashtop.model.timerange import DAY_MS, HOUR_MS, MINUTE_MS, RANGES, TIER_STEPS_MS, parse_duration

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


@pytest.mark.parametrize(
    ("text", "span_ms"),
    [("30s", 30_000), ("90m", 90 * MINUTE_MS), ("2h", 2 * HOUR_MS), ("3d", 3 * DAY_MS), ("1w", 7 * DAY_MS)],
)
def test_duration_is_a_number_with_a_unit(text: str, span_ms: int) -> None:
    time_range = parse_duration(text)
    assert time_range.span_ms == span_ms
    start, end, step = time_range.find_bounds(NOW)
    assert start <= NOW < end
    assert end - start == span_ms
    assert span_ms / step <= 6000


@pytest.mark.parametrize("name", RANGES)
def test_named_range_is_a_duration(name: str) -> None:
    assert parse_duration(name) == RANGES[name]


@pytest.mark.parametrize("text", ["", "2", "h", "0h", "-1h", "1.5h", "2 h", "2H", "2h\n", "1h30m", "٢h", "11y"])
def test_other_text_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be (a number with a unit|at most 10y)"):
        parse_duration(text)


def test_range_with_another_step_has_whole_buckets() -> None:
    start, end, step = parse_duration("1h").find_bounds(NOW, 7_000)
    assert (start % step, end % step, end - start) == (0, 0, 515 * 7_000)


def test_year_has_365_days() -> None:
    assert RANGES["1y"].span_ms == 365 * DAY_MS
