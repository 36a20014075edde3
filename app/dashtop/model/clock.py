"""The machine's clocks behind the Clock port."""

from __future__ import annotations

import time


class SystemClock:
    """Wall clock for timestamps, CLOCK_MONOTONIC for intervals (it stands still while the machine sleeps)."""

    def now_ms(self) -> int:
        """Epoch milliseconds."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds that never jump."""
        return time.monotonic()
