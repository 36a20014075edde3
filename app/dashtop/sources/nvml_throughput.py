"""PCIe traffic of GPUs without usable byte counters, measured beside the main path."""

from __future__ import annotations

import threading

import pynvml

from dashtop.domain.errors import Reason, Unavailable
from dashtop.domain.ports import ByteRates
from dashtop.sources.nvml_gate import call

PERIOD_S = 1.0
KILOBYTE = 1000.0


class ThroughputPoller:
    """Calls nvmlDeviceGetPcieThroughput, which blocks 20 ms a direction, in a thread of its own.

    The thread starts with the first GPU that needs it, and measures each such GPU about once a second.
    """

    def __init__(self) -> None:
        self._rates: dict[int, ByteRates | Unavailable] = {}
        self._handles: dict[int, object] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def rates(self, handle: object) -> ByteRates:
        """Return the newest rates of a GPU in bytes per second; the first call only asks for them."""
        key = id(handle)
        self._handles[key] = handle
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="dashtop-pcie", daemon=True)
            self._thread.start()
        rates = self._rates.get(key)
        if rates is None:
            raise Unavailable(Reason.FIRST_READING)
        if isinstance(rates, Unavailable):
            raise Unavailable(rates.reason)
        return rates

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_S):
            for key, handle in list(self._handles.items()):
                try:
                    sent, received = (
                        call(pynvml.nvmlDeviceGetPcieThroughput, handle, counter) * KILOBYTE
                        for counter in (pynvml.NVML_PCIE_UTIL_TX_BYTES, pynvml.NVML_PCIE_UTIL_RX_BYTES)
                    )
                    self._rates[key] = ByteRates(sent, received)
                except Unavailable as missing:
                    self._rates[key] = missing

    def close(self) -> None:
        """Stop the thread; a call under way ends by itself."""
        self._stop.set()
