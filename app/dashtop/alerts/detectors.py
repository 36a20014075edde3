"""Detectors: rules that judge several readings together, over GPUs and their processes."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from dashtop.alerts.rule import HOUR, MINUTE, HeldProcess, Measured, Mode, Rule, Scope, Steady, adjustable
from dashtop.model.metric import GIB, Severity
from dashtop.model.sample import PROCESSES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dashtop.model.sample import Gpu

_UTILIZATION: Final = "gpu.utilization.gpu"
_MEMORY_USED: Final = "gpu.memory.used_gb"
_SM_ACTIVITY: Final = "gpu.utilization.compute"
_POWER, _POWER_LIMIT = "gpu.power.current_watts", "gpu.power.max_watts"

# A GPU whose processes wait for each other shows full utilization: NCCL spins at 100 % with 152 of 700 W
# (NVIDIA/nccl#1550), or about 70 W (#968), and SM activity is not 0 either.
_MAX_HANG_ACTIVITY: Final = {
    _SM_ACTIVITY: 35.0,
    "gpu.utilization.tensor": 0.5,
    "gpu.utilization.dram": 2.0,
}
_LINK_TRAFFIC: Final = ("gpu.pcie.tx_mbps", "gpu.pcie.rx_mbps", "gpu.nvlink.tx_mbps", "gpu.nvlink.rx_mbps")
_MAX_HANG_TRAFFIC_MBPS: Final = 1.0
_POWER_MINUTES: Final = 10
_POWER_RATIO: Final = 1.5


class HangDetector:
    """Recognizes processes that occupy a GPU and compute nothing.

    With activity metrics (GPM) these show it. Without them a small model on a large GPU looks the same: there the same
    process must have drawn much more power for ten minutes before.
    """

    def __init__(self, utilization: float, power_percent: float) -> None:
        self._utilization, self._power_share = utilization, power_percent / 100
        self._score: float | None = None
        self._pid: int | None = None
        self._minutes: deque[float] = deque(maxlen=_POWER_MINUTES)
        self._minute: list[float] = []
        self._minute_ends_s = 0.0
        self._most_watts: float | None = None

    def score(self, target: Gpu, now_s: float) -> float | None:
        """Return 1 while the processes seem to wait."""
        self._score = self._judge(target, now_s)
        return self._score

    def is_clear(self, target: Gpu) -> bool | None:  # noqa: ARG002 - the score says it
        """Return whether they compute again."""
        return None if self._score is None else self._score <= 0

    def measure(self, target: Gpu) -> Measured:
        """Return the power and its limit."""
        return Measured(target.values.get(_POWER), target.values.get(_POWER_LIMIT))

    def _judge(self, gpu: Gpu, now_s: float) -> float | None:
        values = gpu.values
        load, power, limit = values.get(_UTILIZATION), values.get(_POWER), values.get(_POWER_LIMIT)
        if load is None or power is None or limit is None:
            return None
        has_activity = values.get(_SM_ACTIVITY) is not None
        if not has_activity:
            self._remember_power(gpu, power, now_s)
        if load < self._utilization or power > self._power_share * limit or not gpu.processes:
            return 0.0
        if any((values.get(key) or 0.0) >= _MAX_HANG_TRAFFIC_MBPS for key in _LINK_TRAFFIC):
            return 0.0
        return _judge_activity(values) if has_activity else self._judge_power(values, power)

    def _judge_power(self, values: Mapping[str, float | None], power: float) -> float | None:
        """Return 1 if the same process drew much more power before. Without traffic readings it is not known."""
        if values.get(_LINK_TRAFFIC[0]) is None or values.get(_MEMORY_USED) is None:
            return None
        return float(self._most_watts is not None and self._most_watts >= _POWER_RATIO * power)

    def _remember_power(self, gpu: Gpu, power: float, now_s: float) -> None:
        """Keep the highest mean power of ten minutes since the process with the most memory is there."""
        largest = max(gpu.processes, key=lambda process: process.gpu_memory_bytes or 0, default=None)
        pid = largest.pid if largest is not None else None
        if pid != self._pid:
            self._pid, self._most_watts, self._minute_ends_s = pid, None, now_s + MINUTE
            self._minutes.clear()
            self._minute.clear()
        self._minute.append(power)
        if now_s >= self._minute_ends_s:
            self._minutes.append(sum(self._minute) / len(self._minute))
            self._minute.clear()
            self._minute_ends_s = now_s + MINUTE
            if len(self._minutes) == _POWER_MINUTES:
                self._most_watts = max(self._most_watts or 0.0, sum(self._minutes) / _POWER_MINUTES)


def _judge_activity(values: Mapping[str, float | None]) -> float | None:
    """Return 1 if next to nothing is computed."""
    activity = [(values.get(key), highest) for key, highest in _MAX_HANG_ACTIVITY.items()]
    if values.get(_MEMORY_USED) is None or any(value is None for value, _ in activity):
        return None
    return float(all(value is not None and value <= highest for value, highest in activity))


def _hang(utilization: float, power_percent: float) -> dict[str, Any]:
    return {"detector": partial(HangDetector, utilization, power_percent)}


def _list_steady(gpu: Gpu) -> tuple[Steady, ...]:
    power, limit = gpu.values.get(_POWER) or 0.0, gpu.values.get(_POWER_LIMIT) or 0.0
    used, total = gpu.values.get(_MEMORY_USED) or 0.0, gpu.values.get("gpu.memory.total_gb") or 0.0
    return (Steady(power, 0.03 * limit), Steady(used, 0.001 * total))


def _find_unowned_memory(gpu: Gpu) -> float | None:
    """Return GiB in use that belong to no process that is known. All owners and sizes must be known."""
    used = gpu.values.get(_MEMORY_USED)
    if used is None or PROCESSES in gpu.unavailable or gpu.device.shares_host_memory:
        return None
    owned = 0
    for process in gpu.processes:
        size = process.gpu_memory_bytes
        if size is None or process.info.foreign:
            return None
        owned += size
    return used - owned / GIB


def _unowned_memory(gib: float, percent: float) -> dict[str, Any]:
    def is_above(gpu: Gpu, factor: float) -> bool | None:
        unowned, total = _find_unowned_memory(gpu), gpu.values.get("gpu.memory.total_gb")
        if unowned is None or total is None:
            return None
        return unowned > factor * max(gib, percent / 100 * total)

    def score(gpu: Gpu) -> float | None:
        return None if (above := is_above(gpu, 1.0)) is None else float(above)

    def is_clear(gpu: Gpu) -> bool | None:
        return None if (above := is_above(gpu, 0.5)) is None else not above

    return {"score": score, "is_clear": is_clear}


def _idle(gib: float, percent: float) -> dict[str, Any]:
    """Score 1 while a compute process holds memory and does not compute.

    Without a utilization by process, a sole holder is judged by the GPU's. That of a MIG instance is never known.
    """

    least_bytes = gib * GIB

    def score(held: HeldProcess) -> float | None:
        process, gpu = held
        if process.is_service:
            return 0.0
        size = process.gpu_memory_bytes
        if size is None or size < least_bytes or "C" not in process.kind:
            return None
        total = gpu.values.get("gpu.memory.total_gb")
        if total is None or size < percent / 100 * total * GIB:
            return None
        if process.sm_percent is not None:
            return float(process.sm_percent == 0)
        load = gpu.values.get(_UTILIZATION)
        return None if len(gpu.processes) > 1 or load is None else float(load <= 1)

    return {"score": score, "is_clear": lambda held: held.process.is_service}


DETECTORS: Final = (
    Rule(
        id="hang",
        title="Processes that may hang",
        scope=Scope.GPU,
        severity=Severity.WARNING,
        mode=Mode.MEAN,
        for_s=10 * MINUTE,
        threshold=0.99,
        **adjustable(_hang, utilization=95.0, power_percent=35.0),
        steady=_list_steady,
        clear_s=MINUTE,
        message="{gpu} shows full utilization but draws a steady {value:.0f} of {limit:.0f} W for {duration}: its"
        " processes may hang.",
        advice="Look at their logs and stacks (py-spy dump --pid PID); NCCL waits like this for a rank that is gone.",
    ),
    Rule(
        id="idle_hold",
        title="Memory held without computing",
        scope=Scope.PROCESS,
        severity=Severity.INFO,
        mode=Mode.MEAN,
        for_s=HOUR,
        threshold=0.99,  # one health check must not excuse hours
        clears_by_mean=True,
        escalate_after_s=3 * HOUR,
        **adjustable(_idle, gib=1.0, percent=5.0),
        measure=lambda held: Measured((held.process.gpu_memory_bytes or 0) / GIB),
        clear_s=MINUTE,
        message="{process} holds {value:.1f} GiB on {gpu} and has not computed for {duration}.",
        advice="Ask its owner whether it is still needed.",
    ),
    Rule(
        id="orphan_memory",
        title="GPU memory without a process",
        scope=Scope.GPU,
        severity=Severity.WARNING,
        for_s=10 * MINUTE,
        **adjustable(_unowned_memory, gib=4.0, percent=10.0),
        clear_s=MINUTE,
        measure=lambda gpu: Measured(_find_unowned_memory(gpu)),
        message="{value:.1f} GiB on {gpu} belong to no running process.",
        advice="Look for processes in containers that ended badly; a reset frees the memory.",
    ),
)
