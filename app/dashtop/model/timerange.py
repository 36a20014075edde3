"""The stretches of the past that can be asked for by name. Pure arithmetic on epoch milliseconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SECOND_MS: Final = 1000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS

MOST_POINTS: Final = 5000
"""Where nobody asks for a number: no screen is wider."""

# The widths in which the history keeps the past, from the raw readings to the coarsest roll-up.
KEPT_MS: Final = (SECOND_MS, 15 * SECOND_MS, MINUTE_MS, 10 * MINUTE_MS)
# How far back each of them goes; None: as far as history is kept at all.
KEPT_FOR_MS: Final = (2 * DAY_MS, 14 * DAY_MS, 90 * DAY_MS, None)


@dataclass(frozen=True, slots=True)
class TimeRange:
    """How long a stretch is, and how wide its buckets are where nobody asks for a number of points."""

    span_ms: int
    step_ms: int

    @classmethod
    def spanning(cls, span_ms: int) -> TimeRange:
        """Return a stretch of that length, with the buckets of the shortest named one that is as long."""
        step_ms = next((named.step_ms for named in RANGES.values() if span_ms <= named.span_ms), None)
        return cls(span_ms, step_ms or cls(span_ms, 0).step_for(MOST_POINTS))

    def ending(self, now_ms: int, step_ms: int | None = None) -> tuple[int, int, int]:
        """Return start, end and step of the stretch whose last bucket is the one that `now_ms` falls into."""
        step = step_ms or self.step_ms
        end = (now_ms // step + 1) * step
        return end - self.span_ms, end, step

    def step_for(self, points: int) -> int:
        """Return the width of a bucket with which there are at most `points`: a multiple of one of KEPT_MS."""
        least = max(SECOND_MS, -(-self.span_ms // points))
        kept = next(width for width in reversed(KEPT_MS) if 2 * width <= least or width == SECOND_MS)
        return -(-least // kept) * kept


# 1h, 6h and 24h have the steps that clients of the original design rely on; the longer ones keep to about 5000 points,
# in multiples of what the history keeps for that long.
RANGES: Final = {
    "5m": TimeRange(5 * MINUTE_MS, SECOND_MS),
    "15m": TimeRange(15 * MINUTE_MS, SECOND_MS),
    "1h": TimeRange(HOUR_MS, SECOND_MS),
    "6h": TimeRange(6 * HOUR_MS, 5 * SECOND_MS),
    "24h": TimeRange(DAY_MS, 15 * SECOND_MS),
    "7d": TimeRange(7 * DAY_MS, 2 * MINUTE_MS),
    "30d": TimeRange(30 * DAY_MS, 10 * MINUTE_MS),
    "1y": TimeRange(365 * DAY_MS, 2 * HOUR_MS),
}
