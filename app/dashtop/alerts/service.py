"""The alerts of a running dashtop: evaluates the rules with each sample, and answers page and API."""

from __future__ import annotations

import fnmatch
import logging
import secrets
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from dashtop.alerts.delivery import Delivery
from dashtop.alerts.engine import AlertEngine
from dashtop.alerts.events import build_event, is_reported
from dashtop.alerts.files import Acknowledgement, AlertFiles, Marks
from dashtop.alerts.host_rules import STALE
from dashtop.alerts.identity import is_of_episode
from dashtop.alerts.overrides import apply_to_event_rules, apply_to_rules
from dashtop.alerts.rules import EVENT_RULES, RULES
from dashtop.alerts.stale import SampleWatch
from dashtop.model.alert import AlertRule, AlertState, Silence

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from dashtop.alerts.channels import Channel
    from dashtop.alerts.overrides import RuleOverride
    from dashtop.alerts.rule import Rule
    from dashtop.model.alert import Alert, ChannelStatus
    from dashtop.model.ports import Clock
    from dashtop.model.sample import Event, Sample

log = logging.getLogger(__name__)

MAX_SILENCES: Final = 200
FILE_INTERVAL_S: Final = 2.0
START_TIMEOUT_S: Final = 1.0
"""Time that the first sample waits for the stored alerts, which can be on a disk that hangs."""
CHANGE_TIMEOUT_S: Final = 1.0


class AlertService:
    """Implements the Alerts port. Thread-safe. The files are read and written by a thread of their own."""

    def __init__(
        self,
        folder: Path | None,
        *,
        clock: Clock,
        is_writer: Callable[[], bool],
        rules: Sequence[Rule] = RULES,
        overrides: Mapping[str, RuleOverride] | None = None,
        channels: Sequence[Channel] = (),
        interval_s: float = 1.0,
        is_simulated: bool = False,
    ) -> None:
        """`is_writer`: whether this process writes the history, and so keeps the active alerts and sends notices.

        `interval_s`: between two samples. `overrides`: what the settings change, by rule.
        """
        self._files = AlertFiles(folder)
        self._clock = clock
        self._is_writer = is_writer
        self._rules = rules = apply_to_rules(rules, overrides or {})
        self._event_rules = apply_to_event_rules(EVENT_RULES, overrides or {})
        stale = next((rule for rule in rules if rule.id == STALE.id), replace(STALE, enabled=False))
        self._watch = SampleWatch(stale, clock=clock, interval_s=interval_s)
        self._lock = threading.Lock()
        self._engine: AlertEngine | None = None
        self._marks = Marks()
        self._pending_changes: list[Callable[[Marks], Marks]] = []
        self._alerts: tuple[Alert, ...] = ()
        self._known: tuple[Alert, ...] = ()
        self._written: tuple[Alert, ...] = ()
        self._loaded = threading.Event()
        self._has_failed = False
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dashtop-alerts", daemon=True)
        self._delivery = Delivery(
            channels,
            clock=clock,
            active=self._list_stored,
            store=self._files.write_sent,
            is_simulated=is_simulated,
        )

    def start(self) -> None:
        """Read the stored alerts and marks, in the background."""
        self._thread.start()

    def close(self) -> None:
        """Write what has changed, for at most a second."""
        self._closing.set()
        self._wake.set()
        self._delivery.close()
        if self._thread.is_alive():
            self._thread.join(CHANGE_TIMEOUT_S)

    def update(self, sample: Sample) -> tuple[Event, ...]:
        """Evaluate a sample; return an event for each alert that fires or ends. Called by the collector's thread."""
        if self._engine is None:
            self._loaded.wait(START_TIMEOUT_S)
            self._engine = AlertEngine(self._rules, self._known, event_rules=self._event_rules)
        marks = self._marks
        acknowledged = {mark.alert: mark.time_ms for mark in marks.acknowledgements.values()}
        changed = self._engine.update(sample, acknowledged)
        missed = self._watch.record(sample)
        if missed is not None:
            changed = (*changed, replace(missed, state=AlertState.FIRING), missed)
        self._alerts = tuple(_mark(alert, marks, sample.time_ms) for alert in self._engine.alerts())
        if changed:
            self._delivery.offer_ended(alert for alert in changed if alert.state is AlertState.RESOLVED)
            self._wake.set()
        return tuple(build_event(alert, sample.time_ms) for alert in changed if is_reported(alert))

    def current(self) -> tuple[Alert, ...]:
        """Return the alerts that are pending, firing or recovering; see the Alerts port."""
        stale = self._watch.find()
        return self._alerts if stale is None else (_mark(stale, self._marks, self._clock.now_ms()), *self._alerts)

    def acknowledge(self, alert_id: str, by: str) -> Alert | None:
        """Mark an active alert as seen; see the Alerts port."""
        found = next((each for each in self.current() if each.id == alert_id and each.state.is_active), None)
        if found is None:
            return None
        now_ms = self._clock.now_ms()
        mark = Acknowledgement(alert_id, by, now_ms)
        active = {each.id for each in self.current()}
        self._change(
            lambda marks: Marks(
                {each.alert: each for each in (*marks.acknowledgements.values(), mark) if each.alert in active},
                marks.silences,
            )
        )
        return replace(found, acked_by=by, acked_ms=now_ms)

    def rules(self) -> tuple[AlertRule, ...]:
        """Return the rules that apply; see the Alerts port."""
        rows = [
            AlertRule(
                id=rule.id,
                title=rule.title,
                severity=rule.severity,
                enabled=rule.enabled,
                for_s=rule.for_s,
                clear_s=rule.clear_s,
                limits=rule.limits.values if rule.limits is not None else {},
            )
            for rule in self._rules
        ]
        rows += [
            AlertRule(
                id=rule.id,
                title=rule.title,
                severity=rule.severity,
                enabled=rule.enabled,
                for_s=0.0,
                clear_s=rule.clear_s,
            )
            for rule in self._event_rules
        ]
        return tuple(rows)

    def silences(self) -> tuple[Silence, ...]:
        """Return the silences that have not ended."""
        now_ms = self._clock.now_ms()
        return tuple(each for each in self._marks.silences.values() if each.until_ms > now_ms)

    def add_silence(self, silence: Silence) -> Silence | None:
        """Store a silence and return it with its id; None if there are too many."""
        if len(self.silences()) >= MAX_SILENCES:
            return None
        kept = replace(silence, id=secrets.token_hex(6))
        now_ms = self._clock.now_ms()
        self._change(
            lambda marks: Marks(
                marks.acknowledgements,
                {each.id: each for each in (*marks.silences.values(), kept) if each.until_ms > now_ms},
            )
        )
        return kept

    def remove_silence(self, silence_id: str) -> bool:
        """End a silence; return whether there was one with this id."""
        if silence_id not in {each.id for each in self.silences()}:
            return False
        self._change(
            lambda marks: Marks(
                marks.acknowledgements, {name: each for name, each in marks.silences.items() if name != silence_id}
            )
        )
        return True

    def channels(self) -> tuple[ChannelStatus, ...]:
        """Return the channels; see the Alerts port."""
        return self._delivery.list_channels()

    def test_channel(self, name: str) -> str | None:
        """Send a test notice to a channel; see the Alerts port."""
        return self._delivery.test(name)

    def _list_stored(self) -> tuple[Alert, ...]:
        """Return the active alerts as they are now, of those that are stored. That of missing samples never is."""
        stored = {(alert.id, alert.since_ms) for alert in self._written}
        return tuple(
            alert for alert in self.current() if alert.rule == STALE.id or (alert.id, alert.since_ms) in stored
        )

    def _change(self, change: Callable[[Marks], Marks]) -> None:
        """Change the marks here at once, and soon in the file, where other processes may have changed them too."""
        with self._lock:
            self._marks = change(self._marks)
            self._pending_changes.append(change)
        self._wake.set()

    # --- files --------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._try(self._load)
        self._loaded.set()
        while not self._closing.is_set():
            self._wake.wait(FILE_INTERVAL_S)
            self._wake.clear()
            self._try(self._synchronize)
        self._try(self._synchronize)

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
            self._has_failed = False
        except OSError as error:
            if not self._has_failed:
                log.warning("Alerts are not kept over a restart at present: %s", error)
            self._has_failed = True

    def _load(self) -> None:
        self._known = self._files.read_alerts()
        self._marks = self._files.read_changed_marks() or self._marks

    def _synchronize(self) -> None:
        with self._lock:
            changes, self._pending_changes = self._pending_changes, []
        try:
            for number, change in enumerate(changes):
                self._files.change_marks(change)
                changes = changes[number + 1 :]
        except OSError:
            with self._lock:
                self._pending_changes = changes + self._pending_changes
            raise
        marks = self._files.read_changed_marks()
        with self._lock:
            if marks is not None and not self._pending_changes:
                self._marks = marks
        if not self._is_writer():
            return
        self._delivery.start(self._files.read_sent)
        active = tuple(alert for alert in self._alerts if alert.state.is_active)
        if active != self._written:
            self._files.write_alerts(active)
            self._written = active


def _mark(alert: Alert, marks: Marks, now_ms: int) -> Alert:
    """Return the alert with what people have said about it."""
    mark = marks.acknowledgements.get(alert.id)
    if mark is not None and is_of_episode(mark.time_ms, alert.since_ms):
        alert = replace(alert, acked_by=mark.by, acked_ms=mark.time_ms)
    silence = next((each for each in marks.silences.values() if _is_silenced(alert, each, now_ms)), None)
    return alert if silence is None else replace(alert, silenced_by=silence.id)


def _is_silenced(alert: Alert, silence: Silence, now_ms: int) -> bool:
    return (
        silence.from_ms <= now_ms < silence.until_ms
        and fnmatch.fnmatchcase(alert.rule, silence.rule)
        and silence.gpu_uuid in {None, alert.gpu_uuid}
        and silence.user in {None, alert.user}
    )
