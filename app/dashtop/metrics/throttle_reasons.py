"""Why a GPU's clocks are held down, in words. Bits as in nvml.h (nvmlClocksEventReasons)."""

from __future__ import annotations

from dataclasses import dataclass

from dashtop.model.metric import Severity


@dataclass(frozen=True, slots=True)
class ClockReason:
    """One bit of the clocks-event reasons. `severity` None: nothing is wrong."""

    bit: int
    name: str
    meaning: str
    severity: Severity | None


CLOCK_REASONS = (
    ClockReason(0x001, "Idle", "Nothing runs on the GPU, so its clocks are low.", None),
    ClockReason(0x002, "Application clocks", "Application clocks are set below the maximum.", None),
    ClockReason(0x004, "SW Power Cap", "The board draws all that its power limit allows.", Severity.INFO),
    ClockReason(
        0x008,
        "HW Slowdown",
        "Clocks are halved or worse: too hot, too much power, or the power supply asked for it.",
        Severity.CRITICAL,
    ),
    ClockReason(0x010, "Sync boost", "The GPU is kept in step with slower ones of its group.", None),
    ClockReason(
        0x020,
        "SW Thermal Slowdown",
        "GPU or memory is warmer than the driver's limit: look at cooling.",
        Severity.WARNING,
    ),
    ClockReason(
        0x040,
        "HW Thermal Slowdown",
        "The GPU is so hot that its hardware halves the clocks: look at cooling now.",
        Severity.CRITICAL,
    ),
    ClockReason(
        0x080,
        "HW Power Brake",
        "The system asked the GPU to draw less at once: look at the power supply.",
        Severity.CRITICAL,
    ),
    ClockReason(0x100, "Display clocks", "An attached display holds the clocks.", None),
    ClockReason(0x200, "Voltage regulator limit", "The board's voltage regulator is at its limit.", Severity.WARNING),
    ClockReason(0x400, "Reliability", "Voltage is held down so that the chip lasts.", Severity.WARNING),
)


def clock_reasons(flags: float) -> tuple[ClockReason, ...]:
    """Return the reasons that stand in a value of `gpu.clocks.event_reasons`."""
    return tuple(reason for reason in CLOCK_REASONS if int(flags) & reason.bit)
