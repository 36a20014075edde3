"""The events of alerts: that one fires, and that it has ended."""

from __future__ import annotations

from typing import Final

from dashtop.alerts.identity import build_id
from dashtop.model.alert import Alert, AlertState
from dashtop.model.metric import Severity
from dashtop.model.sample import Event

_KINDS: Final = {AlertState.FIRING: "alert_firing", AlertState.RECOVERING: "alert_firing"}
_CODE_DIGITS: Final = 7
"""Hexadecimal digits of an alert's id that are the code of its events: a number of 28 bits."""


def is_reported(alert: Alert) -> bool:
    """Return whether a change is an event: the beginning and end of what had fired, without what another explains."""
    is_change = alert.state in {AlertState.FIRING, AlertState.RESOLVED}
    return is_change and alert.since_ms is not None and alert.inhibited_by is None


def build_event(alert: Alert, time_ms: int) -> Event:
    """Return the event that an alert fires, or has ended. Both have the same `code`."""
    has_ended = alert.state is AlertState.RESOLVED
    outcome = "Ended" if alert.observable else "No longer observable"
    return Event(
        time_ms=time_ms,
        kind=_KINDS.get(alert.state, "alert_resolved"),
        severity=Severity.INFO if has_ended else alert.severity,
        text=f"{outcome}: {alert.text}" if has_ended else alert.text,
        advice="" if has_ended else alert.advice,
        gpu_uuid=alert.gpu_uuid,
        code=_find_code(alert.id),
    )


def find_event_code(rule: str, gpu_uuid: str | None) -> int:
    """Return the code of the events of the alert of a rule about a GPU, or about the host."""
    return _find_code(build_id(rule, gpu_uuid, ""))


def _find_code(alert_id: str) -> int:
    return int(alert_id[:_CODE_DIGITS], 16)
