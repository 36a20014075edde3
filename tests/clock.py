"""A clock that only tests advance."""

from __future__ import annotations


class FakeClock:
    """A Clock whose time tests set."""

    def __init__(self, *, now_ms: int = 1_800_000_000_000, monotonic_s: float = 1_000.0) -> None:
        self._now_ms = now_ms
        self._monotonic_s = monotonic_s

    def now_ms(self) -> int:
        return self._now_ms

    def monotonic(self) -> float:
        return self._monotonic_s

    def advance(self, seconds: float) -> None:
        """Advance both clocks."""
        self._monotonic_s += seconds
        self._now_ms += round(1000 * seconds)

    def set_wall(self, seconds: float) -> None:
        """Change only the wall clock, as when it is set or the machine wakes up."""
        self._now_ms += round(1000 * seconds)
