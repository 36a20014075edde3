"""Alerts that fire with an event, and how they end."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from dashtop.alerts.event_rules import EVENT_RULES, LINK_XIDS, RECOVERY_XID, find_event_rule
from dashtop.alerts.identity import build_id
from dashtop.model.alert import Alert, AlertState
from dashtop.model.metric import Severity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from dashtop.alerts.rule import EventRule
    from dashtop.model.sample import Event, Sample

# The driver was reloaded, or the GPU was reset: an earlier error is over.
_ENDING_EVENTS: Final = frozenset({"gpu_back", "driver_changed", "driver_back"})


class EventAlerts:
    """The active alerts of events, one for each rule, GPU and code. Not thread-safe."""

    def __init__(
        self, known: Iterable[Alert] = (), rules: Sequence[EventRule] = EVENT_RULES, *, has_rebooted: bool = False
    ) -> None:
        """`known`: alerts of an earlier run that go on. `has_rebooted`: the machine has been started anew since."""
        self._rules = {rule.id: rule for rule in rules if rule.enabled}
        self._alerts = {alert.id: alert for alert in known if alert.rule in self._rules and alert.state.is_active}
        self._quiet_s = dict.fromkeys(self._alerts, 0.0)
        self._before_boot = frozenset(self._alerts if has_rebooted else ())

    def alerts(self) -> tuple[Alert, ...]:
        """Return the active alerts."""
        return tuple(self._alerts.values())

    def update(self, sample: Sample, seconds: float, acknowledged: Mapping[str, int]) -> list[Alert]:
        """Fire for the events of a sample, and end what is over. Return the alerts whose state has changed."""
        changed: list[Alert] = []
        for event in sample.events:
            found = find_event_rule(event)
            rule = self._rules.get(found.id) if found is not None else None
            if event.kind == "xid" and event.code == RECOVERY_XID:
                changed += self._escalate_link_errors(event)
            if rule is not None and (alert := self._fire(rule, event, sample)) is not None:
                changed.append(alert)
        for alert in list(self._alerts.values()):
            self._quiet_s[alert.id] += seconds
            if self._is_over(alert, sample, acknowledged):
                del self._alerts[alert.id], self._quiet_s[alert.id]
                changed.append(replace(alert, state=AlertState.RESOLVED, ended_ms=sample.time_ms))
        return changed

    def inhibit(self, changed: Sequence[Alert], find_cause: Callable[[Alert], str | None]) -> Iterator[Alert]:
        """Note which alert explains each active one. Yield `changed`, and those of which this has changed."""
        yielded = set()
        for alert in changed:
            yielded.add(alert.id)
            yield alert if alert.id not in self._alerts else self._note_cause(alert, find_cause(alert))
        for alert in list(self._alerts.values()):
            cause = find_cause(alert)
            if cause != alert.inhibited_by and alert.id not in yielded:
                yield self._note_cause(alert, cause)

    def _note_cause(self, alert: Alert, cause: str | None) -> Alert:
        self._alerts[alert.id] = replace(alert, inhibited_by=cause)
        return self._alerts[alert.id]

    def _escalate_link_errors(self, event: Event) -> Iterator[Alert]:
        """Make errors of NVLink critical: the driver asks for a recovery action of their GPU."""
        for alert in list(self._alerts.values()):
            is_link_error = alert.gpu_uuid == event.gpu_uuid and alert.value in LINK_XIDS
            if is_link_error and alert.severity is not Severity.CRITICAL:
                self._alerts[alert.id] = replace(alert, severity=Severity.CRITICAL)
                yield self._alerts[alert.id]

    def _fire(self, rule: EventRule, event: Event, sample: Sample) -> Alert | None:
        """Return the new alert; None if the event repeats one that is active."""
        subject = f"xid {event.code}" if event.kind == "xid" else ""
        identity = build_id(rule.id, event.gpu_uuid, subject)
        self._quiet_s[identity] = 0.0
        if identity in self._alerts:
            return None
        index = next((gpu.device.index for gpu in sample.gpus if gpu.device.uuid == event.gpu_uuid), None)
        self._alerts[identity] = Alert(
            id=identity,
            rule=rule.id,
            severity=rule.severity,
            state=AlertState.FIRING,
            text=event.text if index is None else f"GPU {index}: {event.text}",
            advice=event.advice,
            pending_ms=event.time_ms,
            since_ms=event.time_ms,
            gpu_uuid=event.gpu_uuid,
            gpu_id=index,
            subject=subject,
            value=event.code,
        )
        return self._alerts[identity]

    def _is_over(self, alert: Alert, sample: Sample, acknowledged: Mapping[str, int]) -> bool:
        clear_s = self._rules[alert.rule].clear_s
        if clear_s is not None:
            return self._quiet_s[alert.id] >= clear_s
        if acknowledged.get(alert.id, 0) >= (alert.since_ms or 0):
            return True
        if alert.id in self._before_boot and _is_readable(alert.gpu_uuid, sample):
            return True
        return any(event.kind in _ENDING_EVENTS and event.gpu_uuid in {None, alert.gpu_uuid} for event in sample.events)


def _is_readable(gpu_uuid: str | None, sample: Sample) -> bool:
    """Return whether a GPU, or any if its UUID is not known, answers."""
    return any(gpu.state is None for gpu in sample.gpus if gpu_uuid in {None, gpu.device.uuid})
