"""What a scene of `--demo-scene` is, and what it can change of a sample. What it does not set stays as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from dashtop.metrics.xid import xid_event
from dashtop.model.metric import GIB, Severity
from dashtop.model.sample import PROCESSES, Event, Gpu, GpuProcess, Mount, ProcessInfo, Sample
from dashtop.model.unavailable import UnavailableReason

MINUTE: Final = 60.0
_REPEAT_S: Final = 5 * MINUTE
_FIRST_EVENT_S: Final = 30.0

Values = Mapping[str, "float | None"]
Play = Callable[[Sample, float], "Sample | None"]
"""Changes a sample of a moment, in seconds since the scene began. None: there is no sample then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A scene about an alert rule, which it fires, or must not fire.

    `duration_s`: after this time everything has happened; a demo begins then, unless `starts_with_demo`. `also`: other
    rules that it fires. `events`: XIDs, or other events, that come after half a minute and then every five minutes.
    """

    rule: str
    fires: bool
    text: str
    play: Play = lambda sample, _t: sample
    duration_s: float = 15 * MINUTE
    starts_with_demo: bool = False
    also: frozenset[str] = frozenset()
    events: tuple[Callable[[Sample], Event], ...] = ()

    @property
    def name(self) -> str:
        """Its name in the settings."""
        return self.rule if self.fires else f"not-{self.rule}"


class ScenePlayer:
    """Changes the samples of a demo as one scene wants."""

    def __init__(self, scene: Scene, start_s: float) -> None:
        """`start_s`: when it began, in monotonic seconds."""
        self._scene = scene
        self._start_s = start_s
        self._next_event_s = _FIRST_EVENT_S

    def play(self, sample: Sample) -> Sample | None:
        """Return the sample as the scene changes it; None if there is none."""
        elapsed_s = sample.monotonic_s - self._start_s
        played = self._scene.play(sample, elapsed_s)
        if played is None or elapsed_s < self._next_event_s or not self._scene.events:
            return played
        self._next_event_s += _REPEAT_S
        return replace(played, events=(*played.events, *(build(played) for build in self._scene.events)))


# --- what scenes change ----------------------------------------------------------------------------------------------


def _find_gpu(sample: Sample) -> Gpu | None:
    """Return the GPU that a scene is about: the first that can be read."""
    return next((gpu for gpu in sample.gpus if gpu.state is None and gpu.device.mig_parent_uuid is None), None)


def _replace_gpu(sample: Sample, gpu: Gpu) -> Sample:
    return replace(sample, gpus=tuple(gpu if each.device.uuid == gpu.device.uuid else each for each in sample.gpus))


def _set_values(gpu: Gpu, values: Values) -> Gpu:
    missing = {key: UnavailableReason.LIBRARY_TOO_OLD for key, value in values.items() if value is None}
    known = {key: reason for key, reason in gpu.unavailable.items() if key not in values}
    return replace(gpu, values={**gpu.values, **values}, unavailable={**known, **missing})


def change_gpu(
    values: Callable[[float], Values], processes: Callable[[float], tuple[GpuProcess, ...]] | None = None
) -> Play:
    """Set values, and processes, of the first GPU."""

    def play(sample: Sample, t: float) -> Sample:
        gpu = _find_gpu(sample)
        if gpu is None:
            return sample
        gpu = _set_values(gpu, values(t))
        if processes is not None:
            known = {key: reason for key, reason in gpu.unavailable.items() if key != PROCESSES}
            gpu = replace(gpu, processes=processes(t), unavailable=known)
        return _replace_gpu(sample, gpu)

    return play


def change_host(values: Callable[[float], Values]) -> Play:
    """Set values of the machine."""

    def play(sample: Sample, t: float) -> Sample:
        changed = values(t)
        missing = {key: UnavailableReason.NOT_SUPPORTED for key, value in changed.items() if value is None}
        known = {key: reason for key, reason in sample.host.unavailable.items() if key not in changed}
        host = replace(sample.host, values={**sample.host.values, **changed}, unavailable={**known, **missing})
        return replace(sample, host=host)

    return play


def add_disk(total_gib: float, used_percent: Callable[[float], float]) -> Play:
    """Add a file system."""

    def play(sample: Sample, t: float) -> Sample:
        percent = used_percent(t)
        mount = Mount(
            mount_point="/scratch",
            filesystem="xfs",
            used_bytes=round(total_gib * GIB * percent / 100),
            total_bytes=round(total_gib * GIB),
            used_percent=percent,
        )
        others = (each for each in sample.host.mounts if each.mount_point != mount.mount_point)
        return replace(sample, host=replace(sample.host, mounts=(*others, mount)))

    return play


def change_state(state: Callable[[float], UnavailableReason | None]) -> Play:
    """Make the first GPU unreadable for a reason."""

    def play(sample: Sample, t: float) -> Sample:
        gpu, reason = _find_gpu(sample), state(t)
        if gpu is None or reason is None:
            return sample
        return _replace_gpu(sample, _make_unreadable(gpu, reason))

    return play


def _make_unreadable(gpu: Gpu, reason: UnavailableReason) -> Gpu:
    return replace(
        gpu,
        values=dict.fromkeys(gpu.values),
        unavailable=dict.fromkeys([*gpu.values, PROCESSES], reason),
        processes=(),
        state=reason,
    )


def remove_gpu(is_gone: Callable[[float], bool]) -> Play:
    """Remove the first GPU for a time."""

    def play(sample: Sample, t: float) -> Sample:
        gpu = _find_gpu(sample)
        if gpu is None or not is_gone(t):
            return sample
        gpus = tuple(
            each for each in sample.gpus if gpu.device.uuid not in {each.device.uuid, each.device.mig_parent_uuid}
        )
        return replace(sample, gpus=gpus, gpu_error=None if gpus else UnavailableReason.NO_DEVICE)

    return play


def change_driver(error: Callable[[float], UnavailableReason | None]) -> Play:
    """Make all GPUs unreadable for a reason. Those that were read before a driver fell silent stay listed."""

    def play(sample: Sample, t: float) -> Sample:
        reason = error(t)
        if reason is None:
            return sample
        if reason is UnavailableReason.DRIVER_SILENT and sample.gpus:
            return replace(sample, gpus=tuple(_make_unreadable(gpu, reason) for gpu in sample.gpus))
        return replace(sample, gpus=(), gpu_error=reason)

    return play


def build_xid(code: int) -> Callable[[Sample], Event]:
    """Return what builds an XID of the first GPU."""

    def build(sample: Sample) -> Event:
        gpu = _find_gpu(sample)
        return xid_event(code, time_ms=sample.time_ms, gpu_uuid=gpu.device.uuid if gpu is not None else None)

    return build


def build_event(kind: str, severity: Severity, text: str) -> Callable[[Sample], Event]:
    """Return what builds an event of the machine."""
    return lambda sample: Event(time_ms=sample.time_ms, kind=kind, severity=severity, text=text)


def is_in_last(t: float, period_s: float, seconds: float) -> bool:
    """Return whether a moment is in the last `seconds` of each period."""
    return t % period_s >= period_s - seconds


def wave(t: float, period_s: float) -> float:
    """Return a sine."""
    return math.sin(2 * math.pi * t / period_s)


def hold(sm_percent: float | None, gib: float = 20.0, *, info: ProcessInfo | None = None) -> tuple[GpuProcess, ...]:
    """Return a process that holds memory."""
    known = info or ProcessInfo(name="python", username="ada", started_ms=1_700_000_000_000)
    return (GpuProcess(pid=4711, kind="C", gpu_memory_bytes=round(gib * GIB), sm_percent=sm_percent, info=known),)


TRAINING: Final[Values] = {
    "gpu.utilization.gpu": 97.0,
    "gpu.utilization.compute": 85.0,
    "gpu.utilization.tensor": 45.0,
    "gpu.utilization.dram": 40.0,
    "gpu.memory.used_gb": 20.0,
    "gpu.memory.total_gb": 24.0,
    "gpu.power.max_watts": 450.0,
    "gpu.power.limit_default_watts": 450.0,
}


def train(**changes: float | None) -> Callable[[float], Values]:
    """Return the values of a training, with keys that have __ instead of dots changed."""
    values = {**TRAINING, **{f"gpu.{key.replace('__', '.')}": value for key, value in changes.items()}}
    return lambda t: {**values, "gpu.power.current_watts": 400.0 + 20.0 * wave(t, 70)}


def heat(celsius: Callable[[float], float], slowdown: float, shutdown: float) -> Play:
    """Set the temperature of a GPU and its limits."""

    def values(t: float) -> Values:
        return {
            "gpu.temperature": celsius(t),
            "gpu.temperature_slowdown": slowdown,
            "gpu.temperature_shutdown": shutdown,
        }

    return change_gpu(values)


def throttle(flags: Callable[[float], int]) -> Play:
    """Set the throttle reasons."""
    return change_gpu(lambda t: {"gpu.clocks.event_reasons": float(flags(t))})


def hang(t: float) -> Values:
    """Return what a GPU reports whose processes wait in a collective operation that never ends."""
    return {
        **TRAINING,
        "gpu.utilization.gpu": 100.0,
        "gpu.utilization.compute": 22.0,
        "gpu.utilization.tensor": 0.0,
        "gpu.utilization.dram": 0.6,
        "gpu.power.current_watts": 118.0 + 1.5 * wave(t, 30),
        "gpu.pcie.tx_mbps": 0.3,
        "gpu.pcie.rx_mbps": 0.2,
        "gpu.nvlink.tx_mbps": 0.0,
        "gpu.nvlink.rx_mbps": 0.0,
    }


def use_link(generation: float, utilization: float) -> Values:
    """Return the values of a PCIe link with 16 lanes, generation 4 at most."""
    return {
        "gpu.utilization.gpu": utilization,
        "gpu.pcie.generation": generation,
        "gpu.pcie.max_generation": 4.0,
        "gpu.pcie.width": 16.0,
        "gpu.pcie.max_width": 16.0,
    }


def leave_memory(available_gib: float) -> Values:
    """Return the values of a machine with 64 GiB of RAM."""
    return {"system.memory.available_gb": available_gib, "system.memory.total_gb": 64.0}
