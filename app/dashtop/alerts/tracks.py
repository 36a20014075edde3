"""What the engine keeps of a rule and a subject, and the text of their alert."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dashtop.alerts.rule import HeldProcess, KnownGpu
from dashtop.model.sample import Gpu
from dashtop.model.timerange import MINUTE_MS

if TYPE_CHECKING:
    from dashtop.alerts.rule import Detector, Rule
    from dashtop.alerts.window import Window
    from dashtop.model.alert import Alert
    from dashtop.model.sample import GpuProcess, Sample
    from dashtop.model.unavailable import UnavailableReason

MAX_FIRINGS: Final = 4


@dataclass
class Track:
    """What is known of one rule and subject while it is not inactive. Times in seconds of observed time.

    `merged_with`: the alert whose notice covers this one as well, while it fires.
    """

    rule: Rule
    alert: Alert
    window: Window
    detector: Detector | None = None
    merged_with: str | None = None
    held_s: float = 0.0
    clear_s: float = 0.0
    missing_s: float = 0.0
    firing_s: float = 0.0
    baseline: tuple[float, ...] = ()
    fired_ms: deque[int] = field(default_factory=lambda: deque(maxlen=MAX_FIRINGS))


class Subject(NamedTuple):
    """What a rule is applied to: its identity, and the object that the functions of the rule get."""

    gpu_uuid: str | None
    name: str
    target: Any


def describe(track: Track, subject: Subject, sample: Sample) -> Alert:
    """Return the alert with the present values in its text."""
    rule, target = track.rule, subject.target
    gpu = target if isinstance(target, Gpu) else target.gpu if isinstance(target, HeldProcess) else None
    known = target if isinstance(target, KnownGpu) else None
    measured = rule.measure(target) if track.detector is None else track.detector.measure(target)
    reason = gpu.state if gpu is not None else sample.common_error
    text = rule.message.format(
        gpu=known.label if known is not None else gpu.label if gpu is not None else "",
        process=_format_process(target.process) if isinstance(target, HeldProcess) else "",
        mount=subject.name,
        state=reason.text if reason is not None else "no longer",
        detail=measured.detail,
        duration=_format_duration(sample.time_ms - track.alert.pending_ms),
        value=measured.value if measured.value is not None else float("nan"),
        limit=measured.limit if measured.limit is not None else float("nan"),
    )
    return replace(
        track.alert,
        text=text,
        advice=_choose_advice(rule, reason),
        value=measured.value,
        threshold=measured.limit,
        gpu_id=known.gpu_id if known is not None else gpu.device.index if gpu is not None else None,
    )


def _format_process(process: GpuProcess) -> str:
    owner = f" of {process.info.username}" if process.info.username else ""
    return f"{process.info.name or f'pid {process.pid}'}{owner}"


def _choose_advice(rule: Rule, reason: UnavailableReason | None) -> str:
    """Return what to do: if the alert names a reason, what every page says of it."""
    return reason.advice if reason is not None and reason.advice and "{state}" in rule.message else rule.advice


def _format_duration(duration_ms: int) -> str:
    minutes = round(duration_ms / MINUTE_MS)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h"  # noqa: PLR2004
