"""Conversions from the readers' units to the units of the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashtop.model.unavailable import Unavailable, UnavailableReason

if TYPE_CHECKING:
    from dashtop.model.readers import MemoryUse

MEGA = 1e6

# GB/s of one lane and direction after line coding: PCI-SIG's transfer rates (2.5, 5 GT/s with 8b/10b; 8, 16, 32 GT/s
# with 128b/130b; 64 GT/s in 242 of 256 byte flits).
_PCIE_LANE_GBPS = {
    1: 0.25,
    2: 0.5,
    3: 8 / 8 * 128 / 130,
    4: 16 / 8 * 128 / 130,
    5: 32 / 8 * 128 / 130,
    6: 8 * 242 / 256,
}


def used_memory(memory: MemoryUse) -> float:
    """Return the used bytes. Raise Unavailable if they are more than the total."""
    if memory.used > memory.total:
        raise Unavailable(UnavailableReason.IMPLAUSIBLE)
    return memory.used


def percent(part: float, whole: float) -> float:
    """Return `part` of `whole` in percent. Raises Unavailable if `whole` is 0."""
    if whole <= 0:
        raise Unavailable(UnavailableReason.ABSENT)
    return 100.0 * part / whole


def pcie_bandwidth(generation: int, width: int) -> float:
    """Return the bandwidth of a link in one direction in GB/s (generation 4 x16: 31.5)."""
    lane = _PCIE_LANE_GBPS.get(generation)
    if lane is None or width <= 0:
        raise Unavailable(UnavailableReason.NOT_SUPPORTED)
    return lane * width
