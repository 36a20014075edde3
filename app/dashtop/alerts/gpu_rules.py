"""The rules about one GPU: temperature, clocks, power, memory health and links."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dashtop.alerts.rule import MINUTE, Measured, Mode, Rule, Scope
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


_LINK: Final = ("gpu.pcie.generation", "gpu.pcie.max_generation", "gpu.pcie.width", "gpu.pcie.max_width")


def _score_slow_link(gpu: Gpu) -> float | None:
    """Score 1 where the PCIe link of a busy GPU is below its maximum. An idle GPU lowers its link to save power."""
    load = gpu.values.get(_UTILIZATION)
    link = [value for value in map(gpu.values.get, _LINK) if value is not None]
    if load is None or load < _BUSY_PERCENT or len(link) < len(_LINK):
        return None
    generation, highest, width, widest = link
    return float(generation < highest or width < widest)


def _measure_link(gpu: Gpu) -> Measured:
    generation, highest, width, widest = (gpu.values.get(key) or 0.0 for key in _LINK)
    return Measured(detail=f"Gen {generation:.0f} x{width:.0f} under load, Gen {highest:.0f} x{widest:.0f} is possible")


def _score_low_power_limit(gpu: Gpu) -> float | None:
    limit, default = gpu.values.get("gpu.power.max_watts"), gpu.values.get("gpu.power.limit_default_watts")
    load = gpu.values.get(_UTILIZATION)
    if limit is None or default is None or load is None:
        return None
    return float(load >= _BUSY_PERCENT and limit < 0.9 * default)


GPU_RULES: Final = (
    Rule(
        id="gpu_hot",
        title="GPU near its slowdown temperature",
        scope=Scope.GPU,
        severity=Severity.WARNING,
        mode=Mode.MEAN,
        for_s=5 * MINUTE,
        score=_above(_TEMPERATURE, "gpu.temperature_slowdown", 3.0),
        is_clear=_below(_TEMPERATURE, "gpu.temperature_slowdown", 8.0),
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
        score=_above(_TEMPERATURE, "gpu.temperature_shutdown", 5.0 - 1e-9),
        is_clear=_below(_TEMPERATURE, "gpu.temperature_shutdown", 10.0),
        clear_s=5 * MINUTE,
        measure=_measure(_TEMPERATURE, "gpu.temperature_shutdown"),
        message="{gpu} is at {value:.0f} °C; it switches off at {limit:.0f} °C.",
        advice="Stop the work on it now, then check fans and airflow.",
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
        score=_score_low_power_limit,
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
        score=_score_slow_link,
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
        score=lambda gpu: None if (used := gpu.values.get("gpu.memory.used_percent")) is None else used - 98.0 + 1e-9,
        is_clear=lambda gpu: None if (used := gpu.values.get("gpu.memory.used_percent")) is None else used < 95,  # noqa: PLR2004
        measure=_measure("gpu.memory.used_percent"),
        message="{gpu}: memory {value:.0f} % full.",
        enabled=False,  # frameworks allocate all memory in advance
    ),
)
