"""Turns ever-growing counters into rates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashtop.model.ports import ByteRates
from dashtop.model.unavailable import Unavailable, UnavailableReason

if TYPE_CHECKING:
    from collections.abc import Mapping


class Rate:
    """Growth of one counter per second, between two readings of it."""

    def __init__(self) -> None:
        self._count: int | None = None
        self._at = 0.0

    def update(self, count: int, monotonic_s: float) -> float:
        """Take a reading made at `monotonic_s`; return the growth per second since the one before.

        Raises Unavailable(FIRST_READING) on the first reading, when no time has passed, and when the counter went
        back: whether it was reset or ran over its width cannot be told, so nothing is known about that interval.
        """
        before, elapsed = self._count, monotonic_s - self._at
        if before is not None and elapsed <= 0:
            raise Unavailable(UnavailableReason.FIRST_READING)
        self._count, self._at = count, monotonic_s
        if before is None or count < before:
            raise Unavailable(UnavailableReason.FIRST_READING)
        return (count - before) / elapsed


class TrafficRates:
    """Bytes per second in both directions, summed over devices that come and go."""

    def __init__(self) -> None:
        self._rates: dict[str, tuple[Rate, Rate]] = {}

    def update(self, counters: Mapping[str, tuple[int, int]], monotonic_s: float) -> ByteRates:
        """Take each device's (sent, received) byte counters; return the sum of their rates.

        A device that has just appeared, or whose counters went back, joins at the next reading. Raises Unavailable:
        ABSENT without any device, FIRST_READING where no device has a rate yet.
        """
        if not counters:
            self._rates.clear()
            raise Unavailable(UnavailableReason.ABSENT)
        # One that left and came back counts from anew: it may be another device under the old name.
        self._rates = {name: self._rates.get(name) or (Rate(), Rate()) for name in counters}
        sent, received, known = 0.0, 0.0, False
        for name, counts in counters.items():
            rates = [self._one(rate, count, monotonic_s) for rate, count in zip(self._rates[name], counts, strict=True)]
            if rates[0] is not None and rates[1] is not None:
                sent, received, known = sent + rates[0], received + rates[1], True
        if not known:
            raise Unavailable(UnavailableReason.FIRST_READING)
        return ByteRates(sent, received)

    @staticmethod
    def _one(rate: Rate, count: int, monotonic_s: float) -> float | None:
        try:
            return rate.update(count, monotonic_s)
        except Unavailable:
            return None
