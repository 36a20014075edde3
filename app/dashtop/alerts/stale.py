"""The alert that no sample arrives: judged by the clock, since the other rules are judged with samples."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from dashtop.alerts.identity import build_id
from dashtop.model.alert import Alert, AlertState

if TYPE_CHECKING:
    from dashtop.alerts.rule import Rule
    from dashtop.model.ports import Clock
    from dashtop.model.sample import Sample

MIN_INTERVALS: Final = 10
"""So many samples must be missing."""


class SampleWatch:
    """Notes when samples arrive. Before the first one, nothing is missing. Thread-safe: one thread calls `record`.

    The clock is the monotonic one, which stops while the machine is suspended.
    """

    def __init__(self, rule: Rule, *, clock: Clock, interval_s: float) -> None:
        """`interval_s`: between two samples."""
        self._rule = rule
        self._clock = clock
        self._limit_s = max(rule.for_s, MIN_INTERVALS * interval_s)
        self._last: tuple[float, int] | None = None  # monotonic seconds, epoch ms

    def record(self, sample: Sample) -> Alert | None:
        """Note a sample. Return the alert that ends with it, if samples were missing."""
        found = self.find()
        self._last = self._clock.monotonic(), sample.time_ms
        return replace(found, state=AlertState.RESOLVED, ended_ms=sample.time_ms) if found is not None else None

    def find(self) -> Alert | None:
        """Return the alert if the last sample is too old."""
        if self._last is None or not self._rule.enabled:
            return None
        last_s, last_ms = self._last
        age_s = self._clock.monotonic() - last_s
        if age_s <= self._limit_s:
            return None
        rule = self._rule
        return Alert(
            id=build_id(rule.id, None, ""),
            rule=rule.id,
            severity=rule.severity,
            state=AlertState.FIRING,
            text=rule.message.format(value=age_s),
            advice=rule.advice,
            pending_ms=last_ms,
            since_ms=last_ms + round(1000 * self._limit_s),
            value=round(age_s, 1),
            threshold=self._limit_s,
        )
