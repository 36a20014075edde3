"""Which stretch of time a chart shows, and in what steps. Pure arithmetic on epoch milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SECOND: Final = 1000
MINUTE: Final = 60 * SECOND
HOUR: Final = 60 * MINUTE

RANGES_MS: Final = {"5m": 5 * MINUTE, "15m": 15 * MINUTE, "1h": HOUR, "6h": 6 * HOUR, "24h": 24 * HOUR}
DEFAULT_RANGE: Final = "1h"

# Round steps only: buckets begin on whole minutes and hours, and are multiples of what history keeps.
_STEPS_MS: Final = tuple(
    s * SECOND for s in (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400)
)
# Right after the start a chart shows the last minute and widens in these stages until the range is full.
_STAGES_MS: Final = tuple(s * SECOND for s in (60, 120, 180, 300, 600, 900, 1200, 1800, 2700, 3600, 7200, 14400, 43200))

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


def window_ending(now_ms: int, span_ms: int, width_px: int, interval_ms: int) -> Window:
    """Return the newest complete buckets over `span_ms`, about as many as `width_px` can show.

    A bucket is at least two collections wide: with one, a tick a few milliseconds late would look like a gap.
    """
    wanted = max(2 * interval_ms, span_ms * _PIXELS_PER_BUCKET / max(width_px, 1))
    step = next((step for step in _STEPS_MS if step >= wanted), _STEPS_MS[-1])
    end = now_ms // step * step
    return Window(end - -(-span_ms // step) * step, end, step)


def span_for(range_ms: int, recorded_ms: int, interval_ms: int) -> int:
    """Return how much of the chosen range to show when history goes back only `recorded_ms`."""
    least = max(recorded_ms, 10 * interval_ms)
    return next((stage for stage in _STAGES_MS if least <= stage < range_ms), range_ms)
