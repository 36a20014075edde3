"""The widths in which the past is kept, for how long, and which of them answers a question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dashtop.model.timerange import DAY_MS, HOUR_MS, KEPT_FOR_MS, KEPT_MS, MINUTE_MS


@dataclass(frozen=True, slots=True)
class Tier:
    """One width. Readings are sealed `window_ms` at a time, a multiple of the widths of all coarser tiers' buckets.

    `kept_ms`: how much of dashtop's running time it goes back; None: as long as history is kept at all. `width_ms` 0:
    as they were read.
    """

    number: int
    width_ms: int
    window_ms: int
    kept_ms: int | None

    def fits(self, step_ms: int) -> bool:
        """Tell whether buckets of `step_ms` are whole multiples of this tier's (raw readings fit any)."""
        return self.width_ms == 0 or step_ms % self.width_ms == 0


# Windows hold some hundred readings: fewer cost more bytes a value, more leave more rows unsealed to walk through.
TIERS: Final = (
    Tier(0, 0, 20 * MINUTE_MS, KEPT_FOR_MS[0]),
    Tier(1, KEPT_MS[1], HOUR_MS, KEPT_FOR_MS[1]),
    Tier(2, KEPT_MS[2], 4 * HOUR_MS, KEPT_FOR_MS[2]),
    Tier(3, KEPT_MS[3], 2 * DAY_MS, KEPT_FOR_MS[3]),
)


def tier_for(step_ms: int) -> Tier:
    """Return the coarsest tier whose buckets make up buckets of `step_ms` exactly, or nearly where none does.

    A tier as wide as the step is exact, since both lie on the epoch's grid; one that does not divide the step may be
    half as wide at most, and then a reading is at most that much out of place.
    """
    exact = next(tier for tier in reversed(TIERS) if tier.fits(step_ms))
    near = next(tier for tier in reversed(TIERS) if 2 * tier.width_ms <= step_ms)
    return exact if exact.number else near
