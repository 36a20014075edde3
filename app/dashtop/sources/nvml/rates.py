"""Traffic and power of a GPU from counters. Asked in the slow lane, which may wait."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pynvml

from dashtop.model.ports import ByteRates
from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.host.rates import Rate
from dashtop.sources.nvml import queries
from dashtop.sources.nvml.errors import call

if TYPE_CHECKING:
    Counts = tuple[int | Unavailable, int | Unavailable]

SENT, RECEIVED = pynvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES, pynvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES
KIB = 1024
COUNTER_WRAP = 2**32
# Short enough that a generation 6 link of 16 lanes (121 GB/s) cannot wrap 32 bits twice.
WINDOW_S = 0.025
# Bytes per second of generation 6 with 16 lanes.
FASTEST_LINK = 121e9
# What a link of this speed carries between two readings, even late ones, does not wrap 32 bits twice.
LONGEST_PERIOD_S = 2.0


class NvLinkTraffic:
    """Payload bytes per second over all NVLink links, from 64-bit counters in KiB (nvml.h)."""

    def __init__(self) -> None:
        self._last: tuple[float, int, int] | None = None

    def update(self, now: float, counts: Counts) -> ByteRates | Unavailable:
        """Take counters read at `now` (monotonic seconds); return the rates since the last ones."""
        sent, received = counts
        if isinstance(sent, Unavailable):
            return sent
        if isinstance(received, Unavailable):
            return received
        last, self._last = self._last, (now, sent * KIB, received * KIB)
        return between(last, self._last)


class EnergyRate:
    """Watts from the energy counter of a GPU."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._joules = Rate()

    def read(self) -> float:
        """Return the mean power since the last call; FIRST_READING the first time."""
        return self._joules.update(round(queries.energy(self._handle)), time.monotonic())


class PcieTraffic:
    """Bytes per second over PCIe as seen from the GPU.

    The driver keeps 32 bits of its counters ("can be wrapped", nvml.h at NVML_FI_DEV_PCIE_COUNT_TX_BYTES), which a
    fast link fills several times a second: there they are read twice, WINDOW_S apart. GPUs without counters are asked
    with nvmlDeviceGetPcieThroughput, which blocks 20 ms a direction.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._last: tuple[float, int, int] | None = None
        self.ceiling: float | None = None
        """Bytes per second that the link can carry; None: not known."""

    def needs_window(self, counts: Counts) -> bool:
        """Tell whether counters like these can wrap unseen from one second to the next."""
        slow_link = self.ceiling is not None and self.ceiling * LONGEST_PERIOD_S < COUNTER_WRAP
        return not slow_link and not any(isinstance(count, Unavailable) or count >= COUNTER_WRAP for count in counts)

    def begin_window(self, now: float, counts: Counts) -> None:
        """Take counters that others will follow soon."""
        self._last = _reading(now, counts)

    def update(self, now: float, counts: Counts) -> ByteRates | Unavailable:
        """Take counters read at `now` (monotonic seconds); return the rates since the last ones."""
        reading = _reading(now, counts)
        last, self._last = self._last, reading
        too_late = self.needs_window(counts) and last is not None and self._may_have_wrapped(now - last[0])
        return self._measured() if reading is None or too_late else between(last, reading)

    def _may_have_wrapped(self, seconds: float) -> bool:
        return seconds * (self.ceiling or FASTEST_LINK) >= COUNTER_WRAP

    def _measured(self) -> ByteRates | Unavailable:
        try:
            return call(queries.pcie_throughput, self._handle)
        except Unavailable as error:
            return error


def _reading(now: float, counts: Counts) -> tuple[float, int, int] | None:
    sent, received = counts
    if isinstance(sent, Unavailable) or isinstance(received, Unavailable):
        return None
    return now, sent, received


def between(before: tuple[float, int, int] | None, after: tuple[float, int, int]) -> ByteRates | Unavailable:
    """Return bytes per second between two readings (monotonic seconds, sent, received)."""
    if before is None or after[0] <= before[0]:
        return Unavailable(UnavailableReason.FIRST_READING)
    grown = []
    for then, now in zip(before[1:], after[1:], strict=True):
        wide = max(then, now) >= COUNTER_WRAP
        if wide and now < then:
            return Unavailable(UnavailableReason.FIRST_READING)
        grown.append(now - then if wide else (now - then) % COUNTER_WRAP)
    seconds = after[0] - before[0]
    return ByteRates(grown[0] / seconds, grown[1] / seconds)
