"""Ranges by name: spans, default steps, and the buckets that end now."""

import pytest

from dashtop.model.timerange import DAY_MS, KEPT_MS, RANGES

NOW = 1_700_000_012_345


def test_the_original_designs_resolutions_are_the_default() -> None:
    assert [RANGES[name].step_ms for name in ("1h", "6h", "24h")] == [1000, 5000, 15000]


@pytest.mark.parametrize("name", RANGES)
def test_a_range_is_whole_buckets_and_holds_the_present(name: str) -> None:
    start, end, step = RANGES[name].ending(NOW)
    assert start <= NOW < end <= NOW + step
    assert (end - start, start % step, (end - start) % step) == (RANGES[name].span_ms, 0, 0)
    assert (end - start) // step <= 6000


@pytest.mark.parametrize("points", [2, 7, 300, 5000])
@pytest.mark.parametrize("name", RANGES)
def test_a_wished_number_of_points_is_never_exceeded(name: str, points: int) -> None:
    step = RANGES[name].step_for(points)
    assert RANGES[name].span_ms / step <= points
    least = max(1000, RANGES[name].span_ms / points)
    assert least <= step < 1.5 * least + 1000
    assert any(step % kept == 0 and 2 * kept <= step for kept in KEPT_MS) or step == 1000


def test_a_year_has_365_days() -> None:
    assert RANGES["1y"].span_ms == 365 * DAY_MS
