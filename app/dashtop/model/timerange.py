"""Time ranges (1h, 24h, 90m, …), their steps, and the tiers of the history. Times in epoch milliseconds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

SECOND_MS: Final = 1000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS

# Default number of points: no screen is wider.
MAX_POINTS: Final = 5000

# The bucket widths of the history's tiers, from raw samples to the coarsest roll-up.
TIER_STEPS_MS: Final = (SECOND_MS, 15 * SECOND_MS, MINUTE_MS, 10 * MINUTE_MS)
# How long each tier is kept. None: as long as the history.
TIER_RETENTION_MS: Final = (2 * DAY_MS, 14 * DAY_MS, 90 * DAY_MS, None)


@dataclass(frozen=True, slots=True)
class TimeRange:
    """A length of time, and the default width of its buckets."""

    span_ms: int
    step_ms: int

    @classmethod
    def from_span(cls, span_ms: int) -> TimeRange:
        """Return a range of that length, with the step of the shortest named range that is at least as long."""
        step_ms = next((named.step_ms for named in RANGES.values() if span_ms <= named.span_ms), None)
        return cls(span_ms, step_ms or cls(span_ms, 0).find_step(MAX_POINTS))

    def find_bounds(self, now_ms: int, step_ms: int | None = None) -> tuple[int, int, int]:
        """Return start, end and step of the range in whole buckets, the last of which contains `now_ms`."""
        step = step_ms or self.step_ms
        end = (now_ms // step + 1) * step
        return end - -(-self.span_ms // step) * step, end, step

    def find_step(self, points: int) -> int:
        """Return the bucket width that gives at most `points` buckets: a multiple of one of TIER_STEPS_MS."""
        min_step = max(SECOND_MS, -(-self.span_ms // points))
        tier_step = next(width for width in reversed(TIER_STEPS_MS) if 2 * width <= min_step or width == SECOND_MS)
        return -(-min_step // tier_step) * tier_step


# The steps of 1h, 6h and 24h are part of the API. Longer ranges have about 5000 points, in multiples of the step of the
# tier that is kept for that long.
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

UNITS_MS: Final = {"s": SECOND_MS, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS, "w": 7 * DAY_MS, "y": 365 * DAY_MS}
MAX_SPAN_MS: Final = 10 * UNITS_MS["y"]
DURATION_PATTERN: Final = r"^[1-9][0-9]{0,9}[smhdwy]$"


def parse_duration(text: str) -> TimeRange:
    """Return the range of a duration such as 90m or 2h: a whole number and a unit as in Prometheus.

    Raises ValueError with what is allowed.
    """
    if re.fullmatch(DURATION_PATTERN, text) is None:
        raise ValueError("must be a number with a unit (s, m, h, d, w or y), such as 30s, 90m, 2h or 7d")
    span_ms = int(text[:-1]) * UNITS_MS[text[-1]]
    if span_ms > MAX_SPAN_MS:
        raise ValueError("must be at most 10y")
    return RANGES.get(text) or TimeRange.from_span(span_ms)
