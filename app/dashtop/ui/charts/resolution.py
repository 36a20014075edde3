"""Which stretch of time a chart shows, and in what steps. Pure arithmetic on epoch milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dashtop.model.timerange import KEPT_FOR_MS, KEPT_MS, RANGES

if TYPE_CHECKING:
    from collections.abc import Callable

SECOND: Final = 1000

# A year is for the API: a chart of it would show what 30 days show, twelve times narrower.
RANGES_MS: Final = {name: known.span_ms for name, known in RANGES.items() if name != "1y"}
DEFAULT_RANGE: Final = "1h"

# Round steps only: buckets begin on whole minutes and hours, and are multiples of what history keeps.
_STEPS_MS: Final = tuple(
    s * SECOND
    for s in (
        1,
        2,
        5,
        10,
        15,
        20,
        30,
        60,
        120,
        300,
        600,
        900,
        1200,
        1800,
        3600,
        7200,
        10800,
        14400,
        21600,
        43200,
        86400,
    )
)
# Right after the start a chart shows the last minute and widens in these stages until the range is full.
_STAGES_MS: Final = tuple(
    s * SECOND
    for s in (
        *(60, 120, 180, 300, 600, 900, 1200, 1800, 2700, 3600, 7200, 14400, 28800, 43200),
        *(86400, 2 * 86400, 4 * 86400, 7 * 86400, 14 * 86400),
    )
)

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
class Span:
    """A stretch that somebody has zoomed into."""

    start_ms: int
    end_ms: int


def window_ending(now_ms: int, span_ms: int, width_px: int, interval_ms: int) -> Window:
    """Return the complete buckets of the last `span_ms`, about as many as `width_px` can show.

    None begins before it: of the last hour every reading is in memory, of a second more only the file has all.
    """
    step = _step(span_ms, width_px, interval_ms, lambda _step: True)
    return Window(-(-(now_ms - span_ms) // step) * step, now_ms // step * step, step)


def window_within(span: Span, now_ms: int, width_px: int, interval_ms: int) -> Window:
    """Return the complete buckets that cover `span`, as fine as `width_px` can show and history still keeps them."""
    age = now_ms - span.start_ms
    kept = next(width for width, kept_ms in zip(KEPT_MS, KEPT_FOR_MS, strict=True) if kept_ms is None or age < kept_ms)
    step = _step(span.end_ms - span.start_ms, width_px, interval_ms, lambda step: step % kept == 0)
    start = span.start_ms // step * step
    end = min(-(-span.end_ms // step), now_ms // step) * step
    return Window(start, max(end, start + step), step)


def span_for(range_ms: int, recorded_ms: int, interval_ms: int) -> int:
    """Return how much of the chosen range to show when history goes back only `recorded_ms`."""
    least = max(recorded_ms, 10 * interval_ms)
    return next((stage for stage in _STAGES_MS if least <= stage < range_ms), range_ms)


def _step(span_ms: int, width_px: int, interval_ms: int, allowed: Callable[[int], bool]) -> int:
    """Return the width of a bucket: at least two collections, or one that is a little late would look like a gap."""
    wanted = max(2 * interval_ms, span_ms * _PIXELS_PER_BUCKET / max(width_px, 1))
    return next((step for step in _STEPS_MS if step >= wanted and allowed(step)), _STEPS_MS[-1])
