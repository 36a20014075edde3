"""Thresholds: the general ones, and those that a GPU itself reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashtop.model.metric import Thresholds

if TYPE_CHECKING:
    from dashtop.model.sample import Device

BUSY = Thresholds(elevated=70, high=85)
MEMORY_FILL = Thresholds(elevated=70, high=90, warning=95, message="Memory is nearly full")
TEMPERATURE = Thresholds(elevated=75, high=85, warning=85, critical=95, message="Running hot")
# A board at its power limit is what full load looks like: it is said, and never red.
POWER_FILL = Thresholds(elevated=90, high=110, info=99.5, message="At its power limit")
SWAP_FILL = Thresholds(elevated=50, high=80, warning=90, message="Swap is nearly full")
# HBM and GDDR6X slow down from about 105 °C on (vendors' data sheets give 95 to 110 °C).
MEMORY_TEMPERATURE = Thresholds(elevated=85, high=95, warning=95, critical=105, message="Memory is running hot")
ANY_ERROR = Thresholds(elevated=0.5, high=1, warning=1, message="Memory errors that could not be corrected")
NEEDS_RESET = Thresholds(elevated=0.5, high=1, warning=1, message="Pending: drain, then reset")
NO_SPARES = Thresholds(elevated=0.5, high=1, critical=1, message="No spare memory rows are left: replace the GPU")


def temperature_limits(device: Device) -> Thresholds | None:
    """Return thresholds from the temperature at which this GPU itself begins to slow down."""
    slowdown = device.slowdown_celsius
    if slowdown is None:
        return None
    return Thresholds(
        elevated=slowdown - 15,
        high=slowdown - 5,
        warning=slowdown - 5,
        critical=slowdown,
        message=TEMPERATURE.message,
    )


def power_limits(device: Device) -> Thresholds | None:
    """Return POWER_FILL in watts of this GPU's enforced limit."""
    limit = device.power_limit_watts
    if limit is None:
        return None
    return Thresholds(
        elevated=POWER_FILL.elevated / 100 * limit,
        high=POWER_FILL.high / 100 * limit,
        info=0.995 * limit,
        message=POWER_FILL.message,
    )
