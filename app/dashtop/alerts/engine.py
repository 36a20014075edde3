"""The state machine of alerts: evaluates every rule with each sample.

inactive -> pending -> firing -> recovering -> resolved. Time is counted from sample to sample on the monotonic clock; a
gap between samples counts as a few seconds at most: a suspended machine, a clock that is set and a driver that hangs
fire nothing. Missing data freezes the timers and resolves nothing.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from dashtop.alerts.event_alerts import EventAlerts
from dashtop.alerts.event_rules import EVENT_RULES
from dashtop.alerts.identity import build_id
from dashtop.alerts.inhibition import list_causes
from dashtop.alerts.known_gpus import RULE as KNOWN_GPU_RULE
from dashtop.alerts.known_gpus import KnownGpus
from dashtop.alerts.rule import HeldProcess, Mode, Rule, Scope
from dashtop.alerts.tracks import MAX_FIRINGS, Subject, Track, describe
from dashtop.alerts.window import Window
from dashtop.model.alert import Alert, AlertState
from dashtop.model.metric import Severity
from dashtop.model.sample import PROCESSES
from dashtop.model.timerange import MINUTE_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from dashtop.alerts.inhibition import AlertKey
    from dashtop.alerts.rule import Detector, EventRule, KnownGpu, Steady
    from dashtop.model.sample import Sample

log = logging.getLogger(__name__)

MAX_GAP_S: Final = 5.0
"""The longest time between two samples that counts as observed."""
UNOBSERVABLE_AFTER_S: Final = 15 * 60.0
FLAP_SPAN_MS: Final = 60 * MINUTE_MS
FLAP_FACTOR: Final = 1.5
MAX_CLEAR_S: Final = 3600.0
MAX_DETECTORS: Final = 2000
"""Subjects of one rule whose earlier values are remembered; beyond that the oldest are forgotten."""
MERGE_MS: Final = MINUTE_MS
"""An uncorrected error and its XID within this time are one notice."""
_MEMORY_XIDS: Final = frozenset({48, 95})

_SubjectKey = tuple["str | None", str]
_RuleCall = tuple[Rule, "Callable[[Any], float | None]", "Callable[[], Detector] | None"]
"""A rule, its score, and what builds its detector: attributes are slow to read for each subject."""


class AlertEngine:
    """Evaluates the rules. Not thread-safe: one thread calls `update`."""

    def __init__(
        self,
        rules: Sequence[Rule],
        known: Iterable[Alert] = (),
        *,
        known_gpus: Iterable[KnownGpu] = (),
        has_rebooted: bool = False,
        event_rules: Sequence[EventRule] = EVENT_RULES,
    ) -> None:
        """`known`: alerts of an earlier run that go on. A pending one begins again. `known_gpus`: the GPUs it knew.

        `has_rebooted`: the machine has been started anew since.
        """
        self._rules: Mapping[Scope, list[_RuleCall]] = {
            scope: [(rule, rule.score, rule.detector) for rule in rules if rule.scope is scope and rule.enabled]
            for scope in Scope
        }
        self._tracks: dict[_SubjectKey, dict[str, Track]] = {}
        self._detectors: dict[str, dict[_SubjectKey, Detector]] = {rule.id: {} for rule in rules}
        self._failed: set[str] = set()
        self._last_s: float | None = None
        known = tuple(known)
        self._events = EventAlerts(known, event_rules, has_rebooted=has_rebooted)
        self._known_gpus = KnownGpus(known_gpus)
        by_id = {rule.id: rule for rule in rules if rule.enabled}
        for alert in known:
            if alert.rule in by_id and alert.state.is_active:
                rule = by_id[alert.rule]
                key = (alert.gpu_uuid, alert.subject)
                build = rule.detector
                detector = self._find_detector(rule.id, key, build) if build is not None else None
                self._tracks.setdefault(key, {})[rule.id] = Track(rule, alert, Window(rule.for_s), detector)

    def alerts(self) -> tuple[Alert, ...]:
        """Return all alerts that are pending, firing or recovering."""
        tracked = (track.alert for track in self._list_tracks() if track.alert.state is not AlertState.RESOLVED)
        return (*tracked, *self._events.alerts())

    def known_gpus(self) -> tuple[KnownGpu, ...]:
        """Return the GPUs that were seen, present or not."""
        return self._known_gpus.get_all()

    def update(self, sample: Sample, acknowledged: Mapping[str, int]) -> tuple[Alert, ...]:
        """Evaluate a sample. Return the alerts whose state, severity or inhibition has changed.

        `acknowledged`: when somebody has seen an alert, by its id.
        """
        seconds = 0.0 if self._last_s is None else min(max(sample.monotonic_s - self._last_s, 0.0), MAX_GAP_S)
        self._last_s = sample.monotonic_s
        self._known_gpus.update(sample)
        before = {id(track): track.alert for tracks in self._tracks.values() for track in tracks.values()}
        judged: set[int] = set()
        for scope, rules in self._rules.items():
            if rules:
                for subject in self._list_subjects(scope, sample):
                    self._evaluate(rules, subject, sample, seconds, judged)
        tracks = self._list_tracks()
        for track in tracks:
            if id(track) not in judged:
                self._judge_missing(track, sample, seconds)
            if track.rule.ends_when_acknowledged:
                self._end_acknowledged(track, sample, acknowledged)
        changed_events = self._events.update(sample, seconds, acknowledged)
        events = list(self._inhibit(tracks, changed_events))
        changed = [track.alert for track in tracks if _has_changed(before.get(id(track)), track.alert)]
        if tracks:
            self._drop_ended(sample)
        return (*changed, *events)

    def _list_tracks(self) -> list[Track]:
        return [track for tracks in self._tracks.values() for track in tracks.values()]

    def _drop_ended(self, sample: Sample) -> None:
        for key, tracks in list(self._tracks.items()):
            for rule_id, track in list(tracks.items()):
                if not _is_kept(track, sample):
                    del tracks[rule_id]
            if not tracks:
                del self._tracks[key]

    def _evaluate(
        self, rules: Sequence[_RuleCall], subject: Subject, sample: Sample, seconds: float, judged: set[int]
    ) -> None:
        """Evaluate the rules of one subject. A rule that fails is logged once and judges nothing."""
        key, target = (subject.gpu_uuid, subject.name), subject.target
        tracks = self._tracks.get(key)
        for rule, judge, build_detector in rules:
            detector = None
            try:
                if build_detector is not None:
                    detector = self._find_detector(rule.id, key, build_detector)
                    score = detector.score(target, sample.monotonic_s)
                else:
                    score = judge(target)
            except Exception:
                score = None
                if rule.id not in self._failed:
                    self._failed.add(rule.id)
                    log.exception("The alert rule %s failed and judges nothing.", rule.id)
            track = None
            if tracks is not None:
                track = tracks.get(rule.id)
            if track is None:
                if score is None or score <= 0:
                    continue
                track = _begin(rule, subject, sample, detector)
                tracks = self._tracks.setdefault(key, {})
                tracks[rule.id] = track
            judged.add(id(track))
            self._judge(track, score, subject, sample, seconds)

    def _find_detector(self, rule_id: str, key: _SubjectKey, build: Callable[[], Detector]) -> Detector:
        """Return the detector of a rule for a subject, a new one the first time."""
        detectors = self._detectors[rule_id]
        detector = detectors.get(key)
        if detector is None:
            if len(detectors) >= MAX_DETECTORS:
                del detectors[next(iter(detectors))]
            detector = detectors[key] = build()
        return detector

    def _end_acknowledged(self, track: Track, sample: Sample, acknowledged: Mapping[str, int]) -> None:
        """End an alert whose condition is so on purpose, as its acknowledgement says."""
        alert = track.alert
        if alert.state.is_active and acknowledged.get(alert.id, -1) >= (alert.since_ms or 0):
            track.alert = replace(alert, state=AlertState.RESOLVED, ended_ms=sample.time_ms)
            if alert.gpu_uuid is not None:
                self._known_gpus.forget(alert.gpu_uuid)

    def _list_subjects(self, scope: Scope, sample: Sample) -> Iterator[Subject]:
        if scope is Scope.KNOWN_GPU:
            if self._known_gpus.are_all_present and not any(KNOWN_GPU_RULE in each for each in self._tracks.values()):
                return iter(())
            return (Subject(gpu.uuid, "", gpu) for gpu in self._known_gpus.list_all(sample))
        return _list_subjects(scope, sample)

    def _judge(self, track: Track, score: float | None, subject: Subject, sample: Sample, seconds: float) -> None:
        rule = track.rule
        if rule.mode is Mode.MEAN:
            if rule.steady is not None and not _is_steady(track, rule.steady(subject.target)):
                track.window = Window(rule.for_s)
            track.window.add(score, seconds)
        if score is None:
            self._judge_missing(track, sample, seconds)
            return
        track.missing_s = 0.0
        if track.alert.state.is_active:
            self._judge_active(track, score, subject, sample, seconds)
            return
        if track.alert.state is AlertState.RESOLVED:
            if score <= 0:
                return
            track.alert = replace(_begin(rule, subject, sample, track.detector).alert, flaps=track.alert.flaps)
            track.held_s = 0.0
        elif score > 0:
            track.held_s += seconds
        else:
            track.held_s = 0.0
        if _is_due(track, score):
            self._fire(track, subject, sample)
        elif score <= 0 and (rule.mode is Mode.HOLD or track.window.is_empty):
            track.alert = replace(track.alert, state=AlertState.RESOLVED, ended_ms=sample.time_ms)

    def _fire(self, track: Track, subject: Subject, sample: Sample) -> None:
        track.fired_ms.append(sample.time_ms)
        recent = sum(sample.time_ms - fired_ms <= FLAP_SPAN_MS for fired_ms in track.fired_ms)
        track.clear_s = track.firing_s = 0.0
        track.merged_with = None
        track.alert = replace(
            describe(track, subject, sample),
            state=AlertState.FIRING,
            since_ms=sample.time_ms,
            flaps=track.alert.flaps + 1 if recent >= MAX_FIRINGS else 0,
        )

    def _judge_active(self, track: Track, score: float, subject: Subject, sample: Sample, seconds: float) -> None:
        rule = track.rule
        track.firing_s += seconds
        is_clear: bool | None
        if rule.clears_by_mean:
            mean = track.window.mean()
            is_clear = mean is not None and mean < rule.threshold
            is_clear = is_clear or (rule.is_clear is not None and bool(rule.is_clear(subject.target)))
        elif track.detector is not None:
            is_clear = track.detector.is_clear(subject.target)
        else:
            is_clear = score <= 0 if rule.is_clear is None else rule.is_clear(subject.target)
        if is_clear is None:
            return
        track.clear_s = track.clear_s + seconds if is_clear else 0.0
        if not is_clear:
            alert = replace(describe(track, subject, sample), state=AlertState.FIRING)
            if rule.escalate_after_s is not None and track.firing_s >= rule.escalate_after_s:
                alert = replace(alert, severity=Severity.WARNING)
            track.alert = alert
            return
        needed_s = min(rule.clear_s * FLAP_FACTOR**track.alert.flaps, max(MAX_CLEAR_S, rule.clear_s))
        if track.clear_s >= needed_s:
            track.alert = replace(track.alert, state=AlertState.RESOLVED, ended_ms=sample.time_ms)
        else:
            track.alert = replace(track.alert, state=AlertState.RECOVERING)

    def _judge_missing(self, track: Track, sample: Sample, seconds: float) -> None:
        """Freeze the timers. What a process held ends with it; the rest ends after a long time without data."""
        track.missing_s += seconds
        alert = track.alert
        if alert.state is AlertState.RESOLVED:
            return
        if track.rule.scope is Scope.PROCESS and _is_process_gone(alert, sample):
            track.alert = replace(alert, state=AlertState.RESOLVED, ended_ms=sample.time_ms)
        elif track.missing_s >= UNOBSERVABLE_AFTER_S:
            track.alert = replace(alert, state=AlertState.RESOLVED, ended_ms=sample.time_ms, observable=False)

    def _inhibit(self, tracks: Iterable[Track], changed_events: Sequence[Alert]) -> Iterator[Alert]:
        """Note for each active alert which other one explains it. Yield the alerts of events that have changed."""
        active = [track for track in tracks if track.alert.state.is_active]
        firing: dict[AlertKey, str] = {
            (track.rule.id, track.alert.gpu_uuid, track.alert.subject): track.alert.id for track in active
        }
        for track in active:
            cause = self._find_cause(track.alert, firing)
            if track.rule.id == "ecc_uncorrected":
                cause = cause or self._find_merged(track)
            if cause != track.alert.inhibited_by:
                track.alert = replace(track.alert, inhibited_by=cause)
        yield from self._events.inhibit(changed_events, lambda alert: self._find_cause(alert, firing))

    @staticmethod
    def _find_cause(alert: Alert, firing: Mapping[AlertKey, str]) -> str | None:
        return next(filter(None, (firing.get(key) for key in list_causes(alert))), None)

    def _find_merged(self, track: Track) -> str | None:
        """Return the alert of the XID whose notice covers these errors as well, also after it has ended."""
        alert = track.alert
        if track.merged_with is None:
            near = (
                each.id
                for each in self._events.alerts()
                if each.gpu_uuid == alert.gpu_uuid
                and each.value in _MEMORY_XIDS
                and abs((each.since_ms or 0) - (alert.since_ms or 0)) <= MERGE_MS
            )
            track.merged_with = next(near, None)
        return track.merged_with


def _list_subjects(scope: Scope, sample: Sample) -> Iterator[Subject]:
    if scope is Scope.HOST:
        yield Subject(None, "", sample)
    elif scope is Scope.MOUNT:
        for mount in sample.host.mounts:
            yield Subject(None, mount.mount_point, mount)
    elif not sample.gpu_age_s:  # values of an earlier reading judge nothing
        for gpu in sample.gpus:
            if scope is Scope.GPU:
                yield Subject(gpu.device.uuid, "", gpu)
            else:
                for process in gpu.processes:
                    name = f"{process.pid}:{process.info.started_ms or 0}"
                    yield Subject(gpu.device.uuid, name, HeldProcess(process, gpu))


def _begin(rule: Rule, subject: Subject, sample: Sample, detector: Detector | None) -> Track:
    alert = Alert(
        id=build_id(rule.id, subject.gpu_uuid, subject.name),
        rule=rule.id,
        severity=rule.severity,
        state=AlertState.PENDING,
        text="",
        advice=rule.advice,
        pending_ms=sample.time_ms,
        gpu_uuid=subject.gpu_uuid,
        subject=subject.name,
        user=subject.target.process.info.username if isinstance(subject.target, HeldProcess) else None,
    )
    track = Track(rule, alert, Window(rule.for_s), detector)
    track.alert = describe(track, subject, sample)
    return track


def _is_steady(track: Track, values: Sequence[Steady]) -> bool:
    """Return whether the values are near those of the window's beginning; else the window begins with them."""
    if track.baseline and all(
        abs(each.value - first) <= each.tolerance for each, first in zip(values, track.baseline, strict=True)
    ):
        return True
    track.baseline = tuple(each.value for each in values)
    return False


def _is_due(track: Track, score: float) -> bool:
    if track.rule.mode is Mode.HOLD:
        return score > 0 and track.held_s >= track.rule.for_s
    mean = track.window.mean()
    return mean is not None and mean >= track.rule.threshold


def _is_process_gone(alert: Alert, sample: Sample) -> bool:
    """Return whether the processes of the alert's GPU are known, and its process is none of them."""
    gpu = next((each for each in sample.gpus if each.device.uuid == alert.gpu_uuid), None)
    if gpu is None or PROCESSES in gpu.unavailable or gpu.state is not None or sample.gpu_age_s:
        return False
    pid = alert.subject.partition(":")[0]
    return all(str(process.pid) != pid for process in gpu.processes)


def _has_changed(before: Alert | None, alert: Alert) -> bool:
    """Return whether people are to hear of it. That an active alert clears, and no longer does, is no change."""
    if before is None:
        return alert.state is not AlertState.RESOLVED
    is_same_state = before.state is alert.state or (before.state.is_active and alert.state.is_active)
    return not is_same_state or (before.severity, before.inhibited_by) != (alert.severity, alert.inhibited_by)


def _is_kept(track: Track, sample: Sample) -> bool:
    """Return whether a track goes on. One that has ended is kept for a while, so that flapping is noticed."""
    if track.alert.state is not AlertState.RESOLVED:
        return True
    return bool(track.fired_ms) and sample.time_ms - track.fired_ms[-1] <= FLAP_SPAN_MS
