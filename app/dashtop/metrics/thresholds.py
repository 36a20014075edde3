"""Thresholds: general ones, and those derived from the limits a GPU reports.

A colour means that a person should act. Full utilization is what a GPU is bought for: it has no thresholds.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from dashtop.model.metric import Thresholds

if TYPE_CHECKING:
    from dashtop.model.sample import Device

# Frameworks allocate all device memory in advance: full VRAM is mentioned, and never coloured.
VRAM_USAGE = Thresholds(elevated=101, high=102, info=98, message="VRAM is full")
MEMORY_USAGE = Thresholds(elevated=90, high=95, warning=95, message="Memory is nearly full")
TEMPERATURE = Thresholds(elevated=85, high=95, warning=85, critical=95, message="Running hot")
# A board at its power limit is normal at full load: it is mentioned, and coloured only above the limit.
POWER_USAGE = Thresholds(elevated=105, high=110, info=99.5, message="At its power limit")
SWAP_USAGE = Thresholds(elevated=50, high=80, warning=90, message="Swap is nearly full")
DISK_USAGE = Thresholds(elevated=85, high=95, warning=95, message="Disk is nearly full")
# HBM and GDDR6X throttle at about 105 °C (vendors' data sheets: 95 to 110 °C).
MEMORY_TEMPERATURE = Thresholds(elevated=95, high=105, warning=95, critical=105, message="Memory is running hot")
ANY_ERROR = Thresholds(elevated=0.5, high=1, critical=1, message="Memory errors that could not be corrected")
NEEDS_RESET = Thresholds(elevated=0.5, high=1, warning=1, message="Pending: drain, then reset")
NEEDS_RECOVERY = Thresholds(elevated=0.5, high=1, critical=1, message="The driver asks for a recovery action")
NO_SPARES = Thresholds(elevated=0.5, high=1, critical=1, message="No spare memory rows are left: replace the GPU")


def temperature_thresholds(device: Device) -> Thresholds | None:
    """Return thresholds relative to the temperature at which this GPU throttles."""
    return None if device.slowdown_celsius is None else _build_temperature_thresholds(device.slowdown_celsius)


@lru_cache(maxsize=256)  # they are looked up several times for each GPU of each sample
def _build_temperature_thresholds(slowdown: float) -> Thresholds:
    return Thresholds(
        elevated=slowdown - 5,
        high=slowdown,
        warning=slowdown - 5,
        critical=slowdown,
        message=TEMPERATURE.message,
    )


def power_thresholds(device: Device) -> Thresholds | None:
    """Return POWER_USAGE in watts of this GPU's enforced limit."""
    return None if device.power_limit_watts is None else _build_power_thresholds(device.power_limit_watts)


@lru_cache(maxsize=256)
def _build_power_thresholds(limit: float) -> Thresholds:
    return Thresholds(
        elevated=POWER_USAGE.elevated / 100 * limit,
        high=POWER_USAGE.high / 100 * limit,
        info=0.995 * limit,
        message=POWER_USAGE.message,
    )
