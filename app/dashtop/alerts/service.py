"""The alerts of a running dashtop: evaluates the rules with each sample, and answers page and API."""

from __future__ import annotations

import fnmatch
import logging
import secrets
import threading
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from dashtop.alerts.delivery import Delivery
from dashtop.alerts.engine import AlertEngine
from dashtop.alerts.events import build_event, is_reported
from dashtop.alerts.files import Acknowledgement, AlertFiles, Marks, RunState
from dashtop.alerts.host_rules import STALE
from dashtop.alerts.identity import is_of_episode
from dashtop.alerts.overrides import apply_to_event_rules, apply_to_rules
from dashtop.alerts.rules import EVENT_RULES, RULES
from dashtop.alerts.stale import SampleWatch
from dashtop.alerts.watches import Watcher, build_alert
from dashtop.model.alert import AlertRule, AlertState, ServiceMark, Silence, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from dashtop.alerts.channels import Channel
    from dashtop.alerts.overrides import RuleOverride
    from dashtop.alerts.rule import KnownGpu, Rule
    from dashtop.model.alert import Alert, ChannelStatus
    from dashtop.model.ports import Clock
    from dashtop.model.sample import Event, Gpu, GpuProcess, ProcessInfo, Sample

log = logging.getLogger(__name__)

EntryT = TypeVar("EntryT")

MAX_SILENCES: Final = 200
MAX_SERVICES: Final = 200
MAX_WATCHES: Final = 200
MET_SHOWN_MS: Final = 3_600_000
"""How long a watch that was met is still listed, and sent to browsers that connect."""
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
        public_url: str | None = None,
        boot_id: str | None = None,
    ) -> None:
        """`is_writer`: whether this process writes the history, and so keeps the active alerts and sends notices.

        `interval_s`: between two samples. `overrides`: what the settings change, by rule. `public_url`: where people
        open the page. `boot_id` identifies the boot of the machine.
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
        self._kept_marks = Marks()
        self._watcher = Watcher()
        self._pending_changes: list[Callable[[Marks], Marks]] = []
        self._alerts: tuple[Alert, ...] = ()
        self._boot_id = boot_id
        self._previous = self._written = RunState()
        self._known_gpus: tuple[KnownGpu, ...] = ()
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
            public_url=public_url,
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
            previous = self._previous
            self._engine = AlertEngine(
                self._rules,
                previous.alerts,
                known_gpus=previous.gpus,
                has_rebooted=None not in {previous.boot_id, self._boot_id} and previous.boot_id != self._boot_id,
                event_rules=self._event_rules,
            )
        marks = self._marks
        self._update_watches(sample, marks)
        acknowledged = {mark.alert: mark.time_ms for mark in marks.acknowledgements.values()}
        changed = self._engine.update(_mark_services(sample, marks.services.values()), acknowledged)
        missed = self._watch.record(sample)
        if missed is not None:
            changed = (*changed, replace(missed, state=AlertState.FIRING), missed)
        self._alerts = tuple(_mark(alert, marks, sample.time_ms) for alert in self._engine.alerts())
        self._known_gpus = self._engine.known_gpus()
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
            lambda marks: replace(
                marks,
                acknowledgements={
                    each.alert: each for each in (*marks.acknowledgements.values(), mark) if each.alert in active
                },
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
            lambda marks: replace(
                marks,
                silences={each.id: each for each in (*marks.silences.values(), kept) if each.until_ms > now_ms},
            )
        )
        return kept

    def remove_silence(self, silence_id: str) -> bool:
        """End a silence; return whether there was one with this id."""
        if silence_id not in {each.id for each in self.silences()}:
            return False
        self._change(lambda marks: replace(marks, silences=_without(marks.silences, silence_id)))
        return True

    def services(self) -> tuple[ServiceMark, ...]:
        """Return the processes that may be idle; see the Alerts port."""
        return tuple(self._marks.services.values())

    def add_service(self, process: ProcessInfo, author: str) -> ServiceMark | None:
        """Mark processes like this one as a service; see the Alerts port."""
        if len(self._marks.services) >= MAX_SERVICES:
            return None
        kept = ServiceMark(
            id=secrets.token_hex(6),
            owner=process.username,
            name=process.name,
            container=process.container,
            time_ms=self._clock.now_ms(),
            author=author,
        )
        known = next((each for each in self.services() if _is_same_service(each, process)), None)
        if known is not None:
            return known
        self._change(lambda marks: replace(marks, services={**marks.services, kept.id: kept}))
        return kept

    def remove_service(self, service_id: str) -> bool:
        """Forget a service; return whether there was one with this id."""
        if service_id not in self._marks.services:
            return False
        self._change(lambda marks: replace(marks, services=_without(marks.services, service_id)))
        return True

    def find_service(self, process: ProcessInfo) -> ServiceMark | None:
        """Return the service that a process is, if any; see the Alerts port."""
        return next((each for each in self._marks.services.values() if _is_same_service(each, process)), None)

    def watches(self) -> tuple[Watch, ...]:
        """Return the watches that are open, or were met in the last hour."""
        now_ms = self._clock.now_ms()
        return tuple(each for each in self._marks.watches.values() if _is_kept(each, now_ms))

    def add_watch(self, watch: Watch) -> Watch | None:
        """Store a watch and return it with its id; see the Alerts port."""
        if len(self.watches()) >= MAX_WATCHES:
            return None
        now_ms = self._clock.now_ms()
        kept = replace(watch, id=secrets.token_hex(6))
        self._change(
            lambda marks: replace(
                marks,
                watches={each.id: each for each in (*marks.watches.values(), kept) if _is_kept(each, now_ms)},
            )
        )
        return kept

    def remove_watch(self, watch_id: str) -> bool:
        """Remove a watch; return whether there was one with this id."""
        if watch_id not in self._marks.watches:
            return False
        self._change(lambda marks: replace(marks, watches=_without(marks.watches, watch_id)))
        return True

    def _update_watches(self, sample: Sample, marks: Marks) -> None:
        open_watches = [
            each for each in marks.watches.values() if each.met_ms is None and each.until_ms > sample.time_ms
        ]
        for watch_id in self._watcher.update(sample, open_watches):
            self._change(partial(_meet, watch_id=watch_id, time_ms=sample.time_ms))

    def channels(self) -> tuple[ChannelStatus, ...]:
        """Return the channels; see the Alerts port."""
        return self._delivery.list_channels()

    def test_channel(self, name: str) -> str | None:
        """Send a test notice to a channel; see the Alerts port."""
        return self._delivery.test(name)

    def _list_stored(self) -> tuple[Alert, ...]:
        """Return the active alerts as they are now, of those that are stored. That of missing samples never is."""
        stored = {(alert.id, alert.since_ms) for alert in self._written.alerts}
        now_ms = self._clock.now_ms()
        met = (each for each in self._kept_marks.watches.values() if each.met_ms is not None and each.channel)
        return (
            *(alert for alert in self.current() if alert.rule == STALE.id or (alert.id, alert.since_ms) in stored),
            *(build_alert(watch) for watch in met if _is_kept(watch, now_ms)),
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
        self._previous = self._files.read_state()
        self._marks = self._kept_marks = self._files.read_changed_marks() or self._marks

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
            if not self._pending_changes:
                self._kept_marks = self._marks
        if not self._is_writer():
            return
        self._delivery.start(self._files.read_sent)
        active = tuple(alert for alert in self._alerts if alert.state.is_active)
        state = RunState(active, self._known_gpus, self._boot_id)
        if self._engine is not None and state != self._written:
            self._files.write_state(state)
            self._written = state


def _mark(alert: Alert, marks: Marks, now_ms: int) -> Alert:
    """Return the alert with what people have said about it."""
    if not marks.acknowledgements and not marks.silences:
        return alert
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


def _without(entries: Mapping[str, EntryT], name: str) -> dict[str, EntryT]:
    return {key: each for key, each in entries.items() if key != name}


def _is_same_service(service: ServiceMark, process: ProcessInfo) -> bool:
    return (service.owner, service.name, service.container) == (process.username, process.name, process.container)


def _mark_services(sample: Sample, services: Collection[ServiceMark]) -> Sample:
    """Return the sample with the processes marked that are services. What has none is not copied."""
    if not services:
        return sample
    marked = {(each.owner, each.name, each.container) for each in services}

    def is_service(process: GpuProcess) -> bool:
        return (process.info.username, process.info.name, process.info.container) in marked

    def mark(gpu: Gpu) -> Gpu:
        if not any(map(is_service, gpu.processes)):
            return gpu
        processes = (replace(each, is_service=True) if is_service(each) else each for each in gpu.processes)
        return replace(gpu, processes=tuple(processes))

    return replace(sample, gpus=tuple(map(mark, sample.gpus)))


def _is_kept(watch: Watch, now_ms: int) -> bool:
    return now_ms < (watch.until_ms if watch.met_ms is None else watch.met_ms + MET_SHOWN_MS)


def _meet(marks: Marks, watch_id: str, time_ms: int) -> Marks:
    """Note when a watch was met, unless another process has."""
    watch = marks.watches.get(watch_id)
    if watch is None or watch.met_ms is not None:
        return marks
    return replace(marks, watches={**marks.watches, watch_id: replace(watch, met_ms=time_ms)})
