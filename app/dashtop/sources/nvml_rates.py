"""Traffic of a GPU from byte counters. Asked in the slow lane, which may wait."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pynvml

from dashtop.domain.errors import Reason, Unavailable
from dashtop.domain.readings import ByteRates
from dashtop.sources import nvml_queries as queries
from dashtop.sources.rates import Rate

if TYPE_CHECKING:
    from collections.abc import Callable

COUNTER_WRAP = 2**32
# Short enough that a generation 6 link of 16 lanes (121 GB/s) cannot wrap 32 bits twice.
WINDOW_S = 0.025

_PCIE_COUNTERS = (pynvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES, pynvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES)


class CounterRate:
    """Bytes per second from a pair of 64-bit counters, sent and received."""

    def __init__(self, handle: Any, count: Callable[[Any], tuple[int, int]]) -> None:
        self._handle = handle
        self._count = count
        self._sent, self._received = Rate(), Rate()

    def read(self) -> ByteRates:
        """Return the rates since the last call; FIRST_READING the first time."""
        sent, received = self._count(self._handle)
        now = time.monotonic()
        try:
            sent_rate = self._sent.update(sent, now)
        finally:
            received_rate = self._received.update(received, now)
        return ByteRates(sent_rate, received_rate)


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
    fast link fills several times a second: there the counters are read twice within WINDOW_S instead. GPUs without
    counters are asked with nvmlDeviceGetPcieThroughput, which blocks 20 ms a direction.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._last: tuple[float, tuple[int, int]] | None = None
        self._counters = True
        self.ceiling: float | None = None
        """Bytes per second that the link can carry; None: not known."""

    def read(self) -> ByteRates:
        """Return the rates since the last call, or over a short window."""
        if not self._counters:
            return queries.pcie_throughput(self._handle)
        try:
            now, counts = self._counted()
        except Unavailable as error:
            if error.reason not in {Reason.NOT_SUPPORTED, Reason.LIBRARY_TOO_OLD}:
                raise
            self._counters = False
            return queries.pcie_throughput(self._handle)
        last, self._last = self._last, (now, counts)
        if max(counts) >= COUNTER_WRAP or (self.ceiling is not None and self.ceiling * 2.0 < COUNTER_WRAP):
            return self._between(last, now, counts)
        time.sleep(WINDOW_S)
        later, more = self._counted()
        self._last = (later, more)
        return self._between((now, counts), later, more)

    def _counted(self) -> tuple[float, tuple[int, int]]:
        sent, received = queries.fields(self._handle, _PCIE_COUNTERS)
        return time.monotonic(), (sent, received)

    @staticmethod
    def _between(last: tuple[float, tuple[int, int]] | None, now: float, counts: tuple[int, int]) -> ByteRates:
        if last is None or now <= last[0]:
            raise Unavailable(Reason.FIRST_READING)
        grown = []
        for before, after in zip(last[1], counts, strict=True):
            wide = max(before, after) >= COUNTER_WRAP
            if wide and after < before:
                raise Unavailable(Reason.FIRST_READING)
            grown.append(after - before if wide else (after - before) % COUNTER_WRAP)
        return ByteRates(grown[0] / (now - last[0]), grown[1] / (now - last[0]))
