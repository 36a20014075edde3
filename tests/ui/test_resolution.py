"""Windows of charts: their buckets, and how much time they show."""

from __future__ import annotations

import pytest

from dashtop.model.timerange import DAY_MS
from dashtop.ui.charts.resolution import RANGES_MS, TimeSpan, build_window, build_zoom_window, choose_span, widen_window

HOUR = 3_600_000
NOW = 1_800_000_007_123


@pytest.mark.parametrize("span", RANGES_MS.values())
@pytest.mark.parametrize("width", [100, 330, 420, 1300, 4000])
@pytest.mark.parametrize("interval", [500, 1000, 2000, 7000, 60_000])
def test_buckets_are_round_complete_and_about_as_many_as_fit(span: int, width: int, interval: int) -> None:
    window = build_window(NOW, span, width, interval)
    assert window.start_ms % window.step_ms == window.end_ms % window.step_ms == 0
    assert NOW - window.step_ms < window.end_ms <= NOW
    assert 0 <= window.start_ms - (NOW - span) < window.step_ms
    assert 86_400_000 % window.step_ms == 0
    assert window.count <= width / 1.5 + 1
    assert window.step_ms >= 2 * interval


def test_an_hour_on_a_narrow_chart_moves_every_fifteen_seconds() -> None:
    assert build_window(NOW, HOUR, 400, 1000).step_ms == 15_000


@pytest.mark.parametrize(
    ("recorded_s", "shown_s"), [(0, 60), (59, 60), (61, 120), (700, 900), (2701, 3600), (3600, 3600), (86_400, 3600)]
)
def test_a_short_history_fills_its_chart(recorded_s: int, shown_s: int) -> None:
    assert choose_span(HOUR, recorded_s * 1000, 1000) == shown_s * 1000


def test_slow_collection_is_shown_over_at_least_ten_samples() -> None:
    assert choose_span(HOUR, 0, 60_000) == 600_000


@pytest.mark.parametrize(("age_days", "least_s"), [(1, 2), (3, 15), (20, 60), (100, 600)])
def test_a_zoom_is_as_fine_as_what_the_history_keeps(age_days: int, least_s: int) -> None:
    start = NOW - age_days * DAY_MS
    window = build_zoom_window(TimeSpan(start, start + 60_000), NOW, 400, 1000)
    assert window.step_ms == least_s * 1000
    assert window.start_ms <= start
    assert window.end_ms >= start + 60_000


def test_a_zoom_shows_complete_buckets_only() -> None:
    window = build_zoom_window(TimeSpan(NOW - 60_000, NOW + 60_000), NOW, 400, 1000)
    assert window.end_ms <= NOW


@pytest.mark.parametrize(("distance", "step_s"), [(1.0, 2), (2.5, 10), (7.5, 30)])
def test_buckets_are_as_wide_as_the_readings_are_apart(distance: float, step_s: int) -> None:
    fine = build_zoom_window(TimeSpan(NOW - 600_000, NOW - 60_000), NOW, 500, 1000)
    assert fine.step_ms == 2000
    window = widen_window(fine, distance)
    assert window.step_ms == step_s * 1000
    assert window.start_ms <= fine.start_ms
    assert fine.end_ms <= window.end_ms < fine.end_ms + window.step_ms
