"""Which time a chart shows, and in how wide buckets. Pure arithmetic on epoch milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dashtop.model.timerange import RANGES, TIER_RETENTION_MS, TIER_STEPS_MS

if TYPE_CHECKING:
    from collections.abc import Callable

SECOND_MS: Final = 1000

# A year is for the API only: its chart would look like that of 30 days, twelve times narrower.
RANGES_MS: Final = {name: known.span_ms for name, known in RANGES.items() if name != "1y"}
DEFAULT_RANGE: Final = "1h"

# Widths of buckets. Buckets begin on whole minutes and hours, and are multiples of what the history keeps.
_STEPS_MS: Final = tuple(
    seconds * SECOND_MS
    for seconds in (
        *(1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800),
        *(3600, 7200, 10800, 14400, 21600, 43200, 86400),
    )
)
# After the first start a chart shows the last minute, and grows in these stages to the chosen range.
_STAGES_MS: Final = tuple(
    seconds * SECOND_MS
    for seconds in (
        *(60, 120, 180, 300, 600, 900, 1200, 1800, 2700, 3600, 7200, 14400, 28800, 43200),
        *(86400, 2 * 86400, 4 * 86400, 7 * 86400, 14 * 86400),
    )
)
_MIN_SAMPLES_SHOWN: Final = 10

_PIXELS_PER_BUCKET: Final = 1.5


@dataclass(frozen=True, slots=True)
class Window:
    """The buckets [start_ms, end_ms) of `step_ms` each; all of them complete."""

    start_ms: int
    end_ms: int
    step_ms: int

    @property
    def count(self) -> int:
        """Number of buckets."""
        return (self.end_ms - self.start_ms) // self.step_ms


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """The time that a viewer has zoomed to."""

    start_ms: int
    end_ms: int


def build_window(now_ms: int, span_ms: int, width_px: int, interval_ms: int) -> Window:
    """Return the complete buckets of the last `span_ms`, about as many as `width_px` can show.

    No bucket begins before the span: the last hour is in memory, and one second more would be read from the database.
    """
    step = _choose_step(span_ms, width_px, interval_ms, lambda _step: True)
    return Window(-(-(now_ms - span_ms) // step) * step, now_ms // step * step, step)


def build_zoom_window(zoom: TimeSpan, now_ms: int, width_px: int, interval_ms: int) -> Window:
    """Return the complete buckets that cover `zoom`, as narrow as `width_px` can show and the history still keeps."""
    age_ms = now_ms - zoom.start_ms
    tier_ms = next(
        width
        for width, kept_ms in zip(TIER_STEPS_MS, TIER_RETENTION_MS, strict=True)
        if kept_ms is None or age_ms < kept_ms
    )
    step = _choose_step(zoom.end_ms - zoom.start_ms, width_px, interval_ms, lambda step: step % tier_ms == 0)
    start = zoom.start_ms // step * step
    end = min(-(-zoom.end_ms // step), now_ms // step) * step
    return Window(start, max(end, start + step), step)


def widen_window(window: Window, distance: float) -> Window:
    """Return a window for readings that are `distance` buckets apart: at most every second bucket would be empty.

    The history may have been recorded at a longer interval than the present one, or what was finer has been deleted.
    """
    if distance <= 1:
        return window
    least = 2 * distance * window.step_ms
    step = next((step for step in _STEPS_MS if step >= least and step % window.step_ms == 0), _STEPS_MS[-1])
    start = window.start_ms // step * step
    return Window(start, max(-(-window.end_ms // step) * step, start + step), step)


def choose_span(range_ms: int, recorded_ms: int, interval_ms: int) -> int:
    """Return how much of the chosen range to show if the history goes back only `recorded_ms`."""
    least = max(recorded_ms, _MIN_SAMPLES_SHOWN * interval_ms)
    return next((stage for stage in _STAGES_MS if least <= stage < range_ms), range_ms)


def _choose_step(span_ms: int, width_px: int, interval_ms: int, is_allowed: Callable[[int], bool]) -> int:
    """Return the width of a bucket: at least two intervals, or a sample that is a little late would look like a gap."""
    least = max(2 * interval_ms, span_ms * _PIXELS_PER_BUCKET / max(width_px, 1))
    return next((step for step in _STEPS_MS if step >= least and is_allowed(step)), _STEPS_MS[-1])
