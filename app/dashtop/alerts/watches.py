"""One-shot watches: when a GPU has been free for a minute, and when a process no longer holds memory of a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dashtop.metrics.gpu_state import is_free
from dashtop.model.alert import Alert, AlertState, Watch, WatchKind
from dashtop.model.metric import Severity
from dashtop.model.sample import PROCESSES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dashtop.model.sample import Gpu, GpuProcess, Sample

RULE: Final = "watch"
HOLD_S: Final = {WatchKind.GPU_FREE: 60.0, WatchKind.PROCESS_END: 5.0}
"""How long the condition must hold: a restarted job takes its GPU again at once."""
MAX_GAP_S: Final = 5.0
"""The longest time between two samples that counts as observed."""
START_TOLERANCE_MS: Final = 2000
"""Two readings of the start of one process can differ this much: it is relative to that of the machine."""


class Watcher:
    """Finds watches whose condition has held for long enough. Missing data meets nothing. Not thread-safe."""

    def __init__(self) -> None:
        self._held_s: dict[str, float] = {}
        self._last_s: float | None = None

    def update(self, sample: Sample, watches: Iterable[Watch]) -> list[str]:
        """Return the ids of the watches that are met with this sample."""
        gap_s = 0.0 if self._last_s is None else min(max(sample.monotonic_s - self._last_s, 0.0), MAX_GAP_S)
        self._last_s = sample.monotonic_s
        held_s: dict[str, float] = {}
        met = []
        for watch in watches:
            holds = _is_free(sample, watch) if watch.kind is WatchKind.GPU_FREE else _has_ended(sample, watch)
            before_s = self._held_s.get(watch.id)
            if holds is None and before_s is not None:
                held_s[watch.id] = before_s
            if holds:
                held_s[watch.id] = 0.0 if before_s is None else before_s + gap_s
                if held_s[watch.id] >= HOLD_S[watch.kind]:
                    met.append(watch.id)
        self._held_s = held_s
        return met


def _is_free(sample: Sample, watch: Watch) -> bool | None:
    """Return whether the GPU is free, as the page shows it; None if that is not known."""
    gpu = next((each for each in sample.gpus if each.device.uuid == watch.gpu_uuid), None)
    return None if gpu is None or not _has_processes(gpu) else is_free(gpu)


def _has_ended(sample: Sample, watch: Watch) -> bool | None:
    """Return whether the process holds memory of no GPU; None if that is not known of every GPU."""
    for gpu in sample.gpus:
        if any(process.pid == watch.pid and _may_be_same(process, watch) for process in gpu.processes):
            return False
    return True if sample.gpus and all(map(_has_processes, sample.gpus)) else None


def _may_be_same(process: GpuProcess, watch: Watch) -> bool:
    """Return whether a process with the pid of the watched one is not known to be another, which began later."""
    if process.info.started_ms is None or watch.started_ms is None:
        return True
    return abs(process.info.started_ms - watch.started_ms) < START_TOLERANCE_MS


def _has_processes(gpu: Gpu) -> bool:
    return gpu.state is None and PROCESSES not in gpu.unavailable


def describe_wish(watch: Watch) -> str:
    """Return what the watch waits for."""
    return f"{watch.subject}: when it is free" if watch.kind is WatchKind.GPU_FREE else f"{watch.subject}: when it ends"


def describe(watch: Watch) -> str:
    """Return what has happened when the watch is met."""
    if watch.kind is WatchKind.GPU_FREE:
        return f"{watch.subject} has been free for a minute."
    return f"{watch.subject} has ended, or holds no GPU memory any more."


def build_alert(watch: Watch) -> Alert:
    """Return a watch that is met as the alert that its channel is notified of."""
    time_ms = watch.met_ms or watch.from_ms
    return Alert(
        id=f"{RULE}:{watch.id}",
        rule=RULE,
        severity=Severity.INFO,
        state=AlertState.FIRING,
        text=describe(watch),
        advice="",
        pending_ms=time_ms,
        since_ms=time_ms,
        gpu_uuid=watch.gpu_uuid,
        channel=watch.channel,
    )
