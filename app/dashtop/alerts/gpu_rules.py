"""The rules about one GPU: temperature, clocks, power, memory health and links."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from dashtop.alerts.rule import DAY, HOUR, MINUTE, Measured, Mode, Rule, Scope, adjustable
from dashtop.metrics.recovery_actions import RECOVERY_ACTIONS
from dashtop.model.metric import Severity

if TYPE_CHECKING:
    from collections.abc import Callable

    from dashtop.model.sample import Gpu

_TEMPERATURE: Final = "gpu.temperature"
_UTILIZATION: Final = "gpu.utilization.gpu"
_BUSY_PERCENT: Final = 50.0


def _value(key: str) -> Callable[[Gpu], float | None]:
    return lambda gpu: gpu.values.get(key)


def _measure(value_key: str, limit_key: str | None = None) -> Callable[[Gpu], Measured]:
    return lambda gpu: Measured(gpu.values.get(value_key), gpu.values.get(limit_key) if limit_key else None)


def _above(key: str, limit_key: str, margin: float) -> Callable[[Gpu], float | None]:
    """Score by how much a value is above its limit less `margin`."""

    def score(gpu: Gpu) -> float | None:
        value, limit = gpu.values.get(key), gpu.values.get(limit_key)
        return None if value is None or limit is None else value - (limit - margin)

    return score


def _below(key: str, limit_key: str, margin: float) -> Callable[[Gpu], bool | None]:
    """Return whether a value is at least `margin` below its limit."""
    score = _above(key, limit_key, margin)
    return lambda gpu: None if (excess := score(gpu)) is None else excess <= 0


def _throttled(bit: int, without: int = 0) -> Callable[[Gpu], float | None]:
    """Score 1 while a throttle reason is active, and none of `without` is."""

    def score(gpu: Gpu) -> float | None:
        flags = gpu.values.get("gpu.clocks.event_reasons")
        return None if flags is None else float(bool(int(flags) & bit) and not int(flags) & without)

    return score


def _score_lost(gpu: Gpu) -> float:
    return float(gpu.state is not None and gpu.state.is_lost)


def _near_limit(limit_key: str, margin: float) -> dict[str, Any]:
    return {
        "score": _above(_TEMPERATURE, limit_key, margin + 1e-9),
        "is_clear": _below(_TEMPERATURE, limit_key, margin + 5.0),
    }


def _near_slowdown(margin: float) -> dict[str, Any]:
    return _near_limit("gpu.temperature_slowdown", margin)


def _near_shutdown(margin: float) -> dict[str, Any]:
    """Score above the shutdown temperature less `margin`, but not below the slowdown temperature.

    On many cards (T4, V100, RTX 3090) these are 3 °C apart; below the slowdown temperature they work normally.
    """
    fields = _near_limit("gpu.temperature_shutdown", margin)
    score_shutdown = _above(_TEMPERATURE, "gpu.temperature_shutdown", margin + 1e-9)
    score_slowdown = _above(_TEMPERATURE, "gpu.temperature_slowdown", 1e-9)

    def score(gpu: Gpu) -> float | None:
        excess, above_slowdown = score_shutdown(gpu), score_slowdown(gpu)
        if excess is None or above_slowdown is None:
            return excess
        return min(excess, above_slowdown)

    return {**fields, "score": score}


def _near_memory_limit(margin: float) -> dict[str, Any]:
    value, limit = "gpu.memory_temperature", "gpu.memory_temperature_limit"
    return {"score": _above(value, limit, margin + 1e-9), "is_clear": _below(value, limit, margin + 5.0)}


_FAN_RPM: Final = "gpu.fan_rpm"


def _stopped_fan(fan_percent: float, celsius: float) -> dict[str, Any]:
    """Score 1 where a fan stands still that should turn. Many cards stop their fans on purpose while they are cool."""

    def score(gpu: Gpu) -> float | None:
        rpm = gpu.values.get(_FAN_RPM)
        if rpm is None or rpm > 0:
            return None if rpm is None else 0.0
        target, temperature = gpu.values.get("gpu.fan_speed"), gpu.values.get(_TEMPERATURE)
        if target is None or temperature is None:
            return None
        return float(target >= fan_percent and temperature >= celsius)

    return {"score": score, "is_clear": _turns}


def _turns(gpu: Gpu) -> bool | None:
    rpm = gpu.values.get(_FAN_RPM)
    return None if rpm is None else rpm > 0


def _measure_recovery(gpu: Gpu) -> Measured:
    action = gpu.values.get("gpu.recovery_action")
    name = "" if action is None else RECOVERY_ACTIONS.get(int(action), f"recovery action {action:.0f}")
    return Measured(action, detail=name)


_LINK: Final = ("gpu.pcie.generation", "gpu.pcie.max_generation", "gpu.pcie.width", "gpu.pcie.max_width")


def _slow_link(utilization: float) -> dict[str, Any]:
    """Score 1 where the PCIe link of a busy GPU is below its maximum. An idle GPU lowers its link to save power."""

    def score(gpu: Gpu) -> float | None:
        load = gpu.values.get(_UTILIZATION)
        if load is None or load < utilization:
            return None
        generation, highest, width, widest = map(gpu.values.get, _LINK)
        if generation is None or highest is None or width is None or widest is None:
            return None
        return float(generation < highest or width < widest)

    return {"score": score}


def _measure_link(gpu: Gpu) -> Measured:
    generation, highest, width, widest = (gpu.values.get(key) or 0.0 for key in _LINK)
    return Measured(detail=f"Gen {generation:.0f} x{width:.0f} under load, Gen {highest:.0f} x{widest:.0f} is possible")


def _low_power_limit(percent: float) -> dict[str, Any]:
    def score(gpu: Gpu) -> float | None:
        limit, default = gpu.values.get("gpu.power.max_watts"), gpu.values.get("gpu.power.limit_default_watts")
        load = gpu.values.get(_UTILIZATION)
        if limit is None or default is None or load is None:
            return None
        return float(load >= _BUSY_PERCENT and limit < percent / 100 * default)

    return {"score": score}


def _full_memory(percent: float) -> dict[str, Any]:
    def score(gpu: Gpu) -> float | None:
        used = gpu.values.get("gpu.memory.used_percent")
        return None if used is None else used - percent + 1e-9

    def is_clear(gpu: Gpu) -> bool | None:
        used = gpu.values.get("gpu.memory.used_percent")
        return None if used is None else used < percent - 3.0

    return {"score": score, "is_clear": is_clear}


class NvLinkDetector:
    """Compares the active NVLinks with the most of the last 24 h: not every link of a GPU need be connected."""

    def __init__(self) -> None:
        self._hours: deque[tuple[float, float]] = deque()  # end of the hour, most links in it
        self._most = 0.0

    def score(self, target: Gpu, now_s: float) -> float | None:
        """Return how many links are down."""
        active = target.values.get("gpu.nvlink.active")
        if active is None:
            return None
        if not self._hours or now_s >= self._hours[-1][0]:
            self._hours.append((now_s + HOUR, active))
            while self._hours[0][0] + DAY < now_s:
                self._hours.popleft()
            self._most = max(most for _, most in self._hours)
        elif active > self._hours[-1][1]:
            self._hours[-1] = (self._hours[-1][0], active)
            self._most = max(self._most, active)
        return self._most - active

    def is_clear(self, target: Gpu) -> bool | None:
        """Return whether all links are active again."""
        active = target.values.get("gpu.nvlink.active")
        return None if active is None else active >= self._most

    def measure(self, target: Gpu) -> Measured:
        """Return the number of links that are down, and of those that were active."""
        active = target.values.get("gpu.nvlink.active")
        return Measured(None if active is None else self._most - active, self._most)


GPU_RULES: Final = (
    Rule(
        id="gpu_hot",
        title="GPU near its slowdown temperature",
        scope=Scope.GPU,
        severity=Severity.WARNING,
        mode=Mode.MEAN,
        for_s=5 * MINUTE,
        **adjustable(_near_slowdown, margin=3.0),
        clear_s=5 * MINUTE,
        measure=_measure(_TEMPERATURE, "gpu.temperature_slowdown"),
        message="{gpu} is at {value:.0f} °C; it slows down at {limit:.0f} °C.",
        advice="Check fans, airflow and room temperature.",
    ),
    Rule(
        id="gpu_overheating",
        title="GPU near its shutdown temperature",
        scope=Scope.GPU,
        severity=Severity.CRITICAL,
        for_s=30.0,
        **adjustable(_near_shutdown, margin=5.0),
        clear_s=5 * MINUTE,
        measure=_measure(_TEMPERATURE, "gpu.temperature_shutdown"),
        message="{gpu} is at {value:.0f} °C; it switches off at {limit:.0f} °C.",
        advice="Stop the work on it now, then check fans and airflow.",
    ),
    Rule(
        id="memory_hot",
        title="GPU memory at its temperature limit",
        scope=Scope.GPU,
        severity=Severity.WARNING,
        mode=Mode.MEAN,
        for_s=5 * MINUTE,
        **adjustable(_near_memory_limit, margin=0.0),
        clear_s=5 * MINUTE,
        measure=_measure("gpu.memory_temperature", "gpu.memory_temperature_limit"),
        message="Memory of {gpu} is at {value:.0f} °C (limit {limit:.0f} °C).",
        advice="Check airflow, and the pads between memory and cooler of a card that is open to repair.",
    ),
    Rule(
        id="fan_stopped",
        title="Fan stopped",
        scope=Scope.GPU,
        severity=Severity.CRITICAL,
        for_s=MINUTE,
        **adjustable(_stopped_fan, fan_percent=30.0, celsius=60.0),
        measure=_measure(_TEMPERATURE),
        message="{gpu}: a fan has stopped, at {value:.0f} °C.",
        advice="Stop the work on it and look at the fan.",
    ),
    Rule(
        id="hw_thermal",
        title="HW thermal slowdown",
        scope=Scope.GPU,
        severity=Severity.WARNING,
        mode=Mode.MEAN,
        for_s=5 * MINUTE,
        threshold=0.8,
        score=_throttled(0x40),
        clear_s=10 * MINUTE,
        measure=_measure(_TEMPERATURE),
        message="{gpu}: HW thermal slowdown.",
        advice="Check fans and airflow.",
    ),
    Rule(
        id="power_brake",
        title="HW power brake",
        scope=Scope.GPU,
        severity=Severity.WARNING,
        mode=Mode.MEAN,
        for_s=5 * MINUTE,
        threshold=0.8,
        score=_throttled(0x80),
        clear_s=10 * MINUTE,
        message="{gpu}: power brake.",
        advice="Check the power supply and its cables.",
    ),
    Rule(
        id="hw_slowdown",
        title="HW slowdown of unknown cause",
        scope=Scope.GPU,
        severity=Severity.WARNING,
        mode=Mode.MEAN,
        for_s=10 * MINUTE,
        threshold=0.6,
        score=_throttled(0x08, without=0x40 | 0x80),
        clear_s=10 * MINUTE,
        message="{gpu}: HW slowdown, cause unknown.",
        advice="Check temperature, power supply and cables.",
    ),
    Rule(
        id="sw_thermal",
        title="At the temperature target",
        scope=Scope.GPU,
        severity=Severity.INFO,
        mode=Mode.MEAN,
        for_s=30 * MINUTE,
        threshold=0.8,
        score=_throttled(0x20),
        clear_s=10 * MINUTE,
        message="{gpu} has been at its temperature target for 30 min.",
        enabled=False,  # normal on laptops
    ),
    Rule(
        id="power_limit_low",
        title="Power limit far below the default",
        scope=Scope.GPU,
        severity=Severity.INFO,
        for_s=10 * MINUTE,
        **adjustable(_low_power_limit, percent=90.0),
        clear_s=10 * MINUTE,
        measure=_measure("gpu.power.max_watts", "gpu.power.limit_default_watts"),
        message="{gpu} is limited to {value:.0f} of {limit:.0f} W.",
        advice="nvidia-smi --power-limit raises it, if that is not on purpose.",
    ),
    Rule(
        id="ecc_uncorrected",
        title="Uncorrected memory errors",
        scope=Scope.GPU,
        severity=Severity.CRITICAL,
        score=_value("gpu.ecc.volatile_uncorrected"),
        measure=_measure("gpu.ecc.volatile_uncorrected"),
        message="{gpu}: {value:.0f} uncorrected memory errors; results may be wrong.",
        advice="Stop all work on the GPU and reset it.",
    ),
    Rule(
        id="remap_pending",
        title="Row remap pending",
        scope=Scope.GPU,
        severity=Severity.WARNING,
        for_s=MINUTE,
        score=_value("gpu.remapped_rows.pending"),
        message="{gpu}: row remap pending.",
        advice="Drain it, then reset it.",
    ),
    Rule(
        id="pages_pending",
        title="Page retirement pending",
        scope=Scope.GPU,
        severity=Severity.WARNING,
        for_s=MINUTE,
        score=_value("gpu.retired_pages.pending"),
        message="{gpu}: page retirement pending.",
        advice="Drain it, then reset it.",
    ),
    Rule(
        id="remap_failed",
        title="No spare memory rows",
        scope=Scope.GPU,
        severity=Severity.CRITICAL,
        score=_value("gpu.remapped_rows.failure"),
        message="{gpu}: no spare memory rows are left.",
        advice="Replace it.",
    ),
    Rule(
        id="recovery",
        title="Recovery action needed",
        scope=Scope.GPU,
        severity=Severity.CRITICAL,
        score=_value("gpu.recovery_action"),
        measure=_measure_recovery,
        message="The driver asks for {detail} on {gpu}.",
        advice="Stop the work on the GPU, then do what the driver asks for.",
    ),
    Rule(
        id="gpu_missing",
        title="GPU no longer present",
        scope=Scope.KNOWN_GPU,
        severity=Severity.WARNING,
        for_s=10 * MINUTE,
        score=lambda gpu: float(not gpu.is_present),
        ends_when_acknowledged=True,
        message="{gpu} is no longer present.",
        advice="Acknowledge it if it was removed on purpose; else look at the kernel log and the card.",
    ),
    Rule(
        id="nvlink_down",
        title="NVLinks down",
        scope=Scope.GPU,
        severity=Severity.WARNING,
        for_s=MINUTE,
        detector=NvLinkDetector,
        message="{gpu}: {value:.0f} of {limit:.0f} NVLinks are down.",
        advice="Check NVLink bridges and cables, and the GPU at the other end.",
    ),
    Rule(
        id="gpu_lost",
        title="GPU lost",
        scope=Scope.GPU,
        severity=Severity.CRITICAL,
        for_s=10.0,
        score=_score_lost,
        clear_s=MINUTE,
        message="{gpu} is lost: {state}.",
        advice="Reset the GPU, or reboot.",
    ),
    Rule(
        id="pcie_low",
        title="Slow PCIe link under load",
        scope=Scope.GPU,
        severity=Severity.WARNING,
        mode=Mode.MEAN,
        for_s=5 * MINUTE,
        threshold=0.9,
        **adjustable(_slow_link, utilization=50.0),
        clear_s=5 * MINUTE,
        measure=_measure_link,
        message="{gpu} runs at PCIe {detail}.",
        advice="Reseat the card; check the slot, the riser and the BIOS settings.",
    ),
    Rule(
        id="vram_full",
        title="GPU memory nearly full",
        scope=Scope.GPU,
        severity=Severity.INFO,
        for_s=5 * MINUTE,
        **adjustable(_full_memory, percent=98.0),
        measure=_measure("gpu.memory.used_percent"),
        message="{gpu}: memory {value:.0f} % full.",
        enabled=False,  # frameworks allocate all memory in advance
    ),
)
