"""Throttle reasons in words. Bits as in nvml.h (nvmlClocksEventReasons)."""

from __future__ import annotations

from dataclasses import dataclass

from dashtop.model.metric import Severity


@dataclass(frozen=True, slots=True)
class ClockReason:
    """One bit of the clocks event reasons. `severity` None: normal operation."""

    bit: int
    name: str
    meaning: str
    severity: Severity | None


THROTTLE_REASONS = (
    ClockReason(0x001, "Idle", "Nothing runs on the GPU: clocks are low.", None),
    ClockReason(0x002, "Application clocks", "Application clocks are set below the maximum.", None),
    ClockReason(0x004, "SW Power Cap", "The board has reached its power limit.", Severity.INFO),
    ClockReason(
        0x008,
        "HW Slowdown",
        "Clocks are halved or lower: temperature, power draw, or an external power brake.",
        Severity.CRITICAL,
    ),
    ClockReason(0x010, "Sync boost", "Clocks are synchronized with the slowest GPU of the group.", None),
    ClockReason(
        0x020,
        "SW Thermal Slowdown",
        "GPU or memory is above the driver's temperature limit: check cooling.",
        Severity.WARNING,
    ),
    ClockReason(
        0x040,
        "HW Thermal Slowdown",
        "The hardware halves the clocks because the GPU is too hot: check cooling now.",
        Severity.CRITICAL,
    ),
    ClockReason(
        0x080,
        "HW Power Brake",
        "The system requested an immediate power reduction: check power supply and cables.",
        Severity.CRITICAL,
    ),
    ClockReason(0x100, "Display clocks", "An attached display limits the clocks.", None),
    ClockReason(0x200, "Voltage regulator limit", "The board's voltage regulator is at its limit.", Severity.WARNING),
    ClockReason(0x400, "Reliability", "Voltage is limited for reliability.", Severity.WARNING),
)


def find_throttle_reasons(flags: float) -> tuple[ClockReason, ...]:
    """Return the throttle reasons in a value of `gpu.clocks.event_reasons`."""
    return tuple(reason for reason in THROTTLE_REASONS if int(flags) & reason.bit)
