"""The state machine of alerts: evaluates every rule with each sample.

inactive -> pending -> firing -> recovering -> resolved. Time is counted from sample to sample on the monotonic clock; a
gap between samples counts as a few seconds at most: a suspended machine, a clock that is set and a driver that hangs
fire nothing. Missing data freezes the timers and resolves nothing.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from dashtop.alerts.event_alerts import EventAlerts
from dashtop.alerts.identity import build_id
from dashtop.alerts.rule import HeldProcess, Measured, Mode, Rule, Scope, Steady
from dashtop.model.alert import Alert, AlertState
from dashtop.model.metric import Severity
from dashtop.model.sample import PROCESSES, Gpu
from dashtop.model.timerange import MINUTE_MS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from dashtop.model.sample import GpuProcess, Sample

log = logging.getLogger(__name__)

MAX_GAP_S: Final = 5.0
"""The longest time between two samples that counts as observed."""
UNOBSERVABLE_AFTER_S: Final = 15 * 60.0
MIN_COVERAGE: Final = 0.8
BUCKETS: Final = 10
"""Parts of the window of a mean."""
MAX_FIRINGS: Final = 4
FLAP_SPAN_MS: Final = 60 * MINUTE_MS
FLAP_FACTOR: Final = 1.5
MAX_CLEAR_S: Final = 3600.0


class Window:
    """The mean of a score over the last `span_s` of observed time, in constant memory."""

    def __init__(self, span_s: float) -> None:
        self._bucket_s = span_s / BUCKETS
        self._buckets: deque[tuple[float, float]] = deque(maxlen=BUCKETS)  # sum of score x time, judged time
        self._sum = self._judged_s = self._elapsed_s = 0.0

    def add(self, score: float | None, seconds: float) -> None:
        """Add a time with a score, or one that could not be judged."""
        self._elapsed_s += seconds
        if score is not None:
            self._sum += score * seconds
            self._judged_s += seconds
        if self._elapsed_s >= self._bucket_s:
            self._buckets.append((self._sum, self._judged_s))
            self._sum = self._judged_s = self._elapsed_s = 0.0

    def mean(self) -> float | None:
        """Return the mean; None before the window is full, or if too little of it was judged."""
        if len(self._buckets) < BUCKETS:
            return None
        judged_s = sum(judged for _, judged in self._buckets)
        if judged_s < MIN_COVERAGE * BUCKETS * self._bucket_s:
            return None
        return sum(total for total, _ in self._buckets) / judged_s

    @property
    def is_empty(self) -> bool:
        """Whether the score was 0 or less for the whole window."""
        return self._sum <= 0 and all(total <= 0 for total, _ in self._buckets)


@dataclass
class Track:
    """What is known of one rule and subject while it is not inactive. Times in seconds of observed time."""

    rule: Rule
    alert: Alert
    window: Window
    held_s: float = 0.0
    clear_s: float = 0.0
    missing_s: float = 0.0
    firing_s: float = 0.0
    baseline: tuple[float, ...] = ()
    fired_ms: deque[int] = field(default_factory=lambda: deque(maxlen=MAX_FIRINGS))


@dataclass(frozen=True, slots=True)
class Subject:
    """What a rule is applied to: its identity, and the object that the functions of the rule get."""

    gpu_uuid: str | None
    name: str
    target: Any


class AlertEngine:
    """Evaluates the rules. Not thread-safe: one thread calls `update`."""

    def __init__(self, rules: Sequence[Rule], known: Iterable[Alert] = ()) -> None:
        """`known`: alerts of an earlier run that go on. A pending one begins again."""
        self._rules: Mapping[Scope, list[Rule]] = {
            scope: [rule for rule in rules if rule.scope is scope and rule.enabled] for scope in Scope
        }
        self._tracks: dict[_Key, Track] = {}
        self._failed: set[str] = set()
        self._last_s: float | None = None
        known = tuple(known)
        self._events = EventAlerts(known)
        by_id = {rule.id: rule for rule in rules if rule.enabled}
        for alert in known:
            if alert.rule in by_id and alert.state.is_active:
                rule = by_id[alert.rule]
                self._tracks[rule.id, alert.gpu_uuid, alert.subject] = Track(rule, alert, Window(rule.for_s))

    def alerts(self) -> tuple[Alert, ...]:
        """Return all alerts that are pending, firing or recovering."""
        tracked = (track.alert for track in self._tracks.values() if track.alert.state is not AlertState.RESOLVED)
        return (*tracked, *self._events.alerts())

    def update(self, sample: Sample, acknowledged: Mapping[str, int]) -> tuple[Alert, ...]:
        """Evaluate a sample. Return the alerts whose state, severity or inhibition has changed.

        `acknowledged`: when somebody has seen an alert, by its id.
        """
        seconds = 0.0 if self._last_s is None else min(max(sample.monotonic_s - self._last_s, 0.0), MAX_GAP_S)
        self._last_s = sample.monotonic_s
        before = {key: track.alert for key, track in self._tracks.items()}
        judged: set[_Key] = set()
        for scope, rules in self._rules.items():
            if not rules:
                continue
            for subject in _list_subjects(scope, sample):
                for rule in rules:
                    score = self._score(rule, subject)
                    key = (rule.id, subject.gpu_uuid, subject.name)
                    track = self._tracks.get(key)
                    if track is None:
                        if score is None or score <= 0:
                            continue
                        track = self._tracks[key] = _begin(rule, subject, sample)
                    judged.add(key)
                    self._judge(track, score, subject, sample, seconds)
        for key in before.keys() - judged:
            self._judge_missing(self._tracks[key], sample, seconds)
        self._inhibit()
        changed = [track.alert for key, track in self._tracks.items() if _has_changed(before.get(key), track.alert)]
        self._tracks = {key: track for key, track in self._tracks.items() if _is_kept(track, sample)}
        return (*changed, *self._events.update(sample, seconds, acknowledged))

    def _score(self, rule: Rule, subject: Subject) -> float | None:
        try:
            return rule.score(subject.target)
        except Exception:
            if rule.id not in self._failed:  # once, not with every sample
                self._failed.add(rule.id)
                log.exception("The alert rule %s failed and judges nothing.", rule.id)
            return None

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
            track.alert = replace(_begin(rule, subject, sample).alert, flaps=track.alert.flaps)
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
        track.alert = replace(
            _describe(track, subject, sample),
            state=AlertState.FIRING,
            since_ms=sample.time_ms,
            flaps=track.alert.flaps + 1 if recent >= MAX_FIRINGS else 0,
        )

    def _judge_active(self, track: Track, score: float, subject: Subject, sample: Sample, seconds: float) -> None:
        rule = track.rule
        track.firing_s += seconds
        is_clear = score <= 0 if rule.is_clear is None else rule.is_clear(subject.target)
        if is_clear is None:
            return
        track.clear_s = track.clear_s + seconds if is_clear else 0.0
        if not is_clear:
            alert = replace(_describe(track, subject, sample), state=AlertState.FIRING)
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

    def _inhibit(self) -> None:
        """Note for each active alert which other one explains it."""
        active = [track for track in self._tracks.values() if track.alert.state.is_active]
        firing = {(track.rule.id, track.alert.gpu_uuid, track.alert.subject): track.alert.id for track in active}
        for track in active:
            cause = next(filter(None, (firing.get(key) for key in _list_causes(track))), None)
            if cause != track.alert.inhibited_by:
                track.alert = replace(track.alert, inhibited_by=cause)


_Key = tuple[str, "str | None", str]

# An alert that explains others of the same subject, which then send no notice: (cause, explained).
INHIBITIONS: Final = (
    ("gpu_overheating", "gpu_hot"),
    ("hw_thermal", "gpu_hot"),
    ("hw_thermal", "hw_slowdown"),
    ("remap_failed", "remap_pending"),
    ("disk_full_critical", "disk_full"),
    ("ram_low_critical", "ram_low"),
)


def _list_causes(track: Track) -> Iterator[_Key]:
    """Yield the keys of the alerts that would explain this one."""
    rule, alert = track.rule.id, track.alert
    if rule != "driver_silent":
        if alert.gpu_uuid is not None:
            yield ("driver_silent", None, "")
            if rule != "gpu_lost":
                yield ("gpu_lost", alert.gpu_uuid, "")
        for cause, explained in INHIBITIONS:
            if explained == rule:
                yield (cause, alert.gpu_uuid, alert.subject)


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


def _begin(rule: Rule, subject: Subject, sample: Sample) -> Track:
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
    track = Track(rule, alert, Window(rule.for_s))
    track.alert = _describe(track, subject, sample)
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


def _describe(track: Track, subject: Subject, sample: Sample) -> Alert:
    """Return the alert with the present values in its text."""
    rule, target = track.rule, subject.target
    gpu = target if isinstance(target, Gpu) else target.gpu if isinstance(target, HeldProcess) else None
    measured: Measured = rule.measure(target)
    text = rule.message.format(
        gpu=gpu.label if gpu is not None else "",
        process=_format_process(target.process) if isinstance(target, HeldProcess) else "",
        mount=subject.name,
        state=_format_state(gpu, sample),
        detail=measured.detail,
        duration=_format_duration(sample.time_ms - track.alert.pending_ms),
        value=measured.value if measured.value is not None else float("nan"),
        limit=measured.limit if measured.limit is not None else float("nan"),
    )
    return replace(
        track.alert,
        text=text,
        value=measured.value,
        threshold=measured.limit,
        gpu_id=gpu.device.index if gpu is not None else None,
    )


def _format_process(process: GpuProcess) -> str:
    owner = f" of {process.info.username}" if process.info.username else ""
    return f"{process.info.name or f'pid {process.pid}'}{owner}"


def _format_state(gpu: Gpu | None, sample: Sample) -> str:
    reason = gpu.state if gpu is not None else sample.gpu_error
    return reason.text if reason is not None else "no longer"


def _format_duration(duration_ms: int) -> str:
    minutes = round(duration_ms / MINUTE_MS)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"  # noqa: PLR2004


def _is_process_gone(alert: Alert, sample: Sample) -> bool:
    """Return whether the processes of the alert's GPU are known, and its process is none of them."""
    gpu = next((each for each in sample.gpus if each.device.uuid == alert.gpu_uuid), None)
    if gpu is None or PROCESSES in gpu.unavailable or gpu.state is not None or sample.gpu_age_s:
        return False
    pid = alert.subject.partition(":")[0]
    return all(str(process.pid) != pid for process in gpu.processes)


def _has_changed(before: Alert | None, alert: Alert) -> bool:
    if before is None:
        return alert.state is not AlertState.RESOLVED
    return (before.state, before.severity, before.inhibited_by) != (alert.state, alert.severity, alert.inhibited_by)


def _is_kept(track: Track, sample: Sample) -> bool:
    """Return whether a track goes on. One that has ended is kept for a while, so that flapping is noticed."""
    if track.alert.state is not AlertState.RESOLVED:
        return True
    return bool(track.fired_ms) and sample.time_ms - track.fired_ms[-1] <= FLAP_SPAN_MS
