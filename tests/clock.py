"""A clock that moves only when told to."""

from __future__ import annotations


class FakeClock:
    """Implements the Clock port."""

    def __init__(self, *, now_ms: int = 1_800_000_000_000, monotonic_s: float = 1_000.0) -> None:
        self._now_ms = now_ms
        self._monotonic_s = monotonic_s

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic(self) -> float:
        return self._monotonic_s

    def advance(self, seconds: float) -> None:
        """Move both clocks on."""
        self._monotonic_s += seconds
        self._now_ms += round(1000 * seconds)

    def set_wall(self, seconds: float) -> None:
        """Move the wall clock alone, as somebody who sets it does, or a sleep of the machine."""
        self._now_ms += round(1000 * seconds)
