"""All GPUs of the machine through NVML, in this very process. Runs inside the reading child (see isolated.py)."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import pynvml

from dashtop.catalog import GPU_METRICS
from dashtop.catalog.walk import Walk
from dashtop.domain.errors import Reason, Unavailable
from dashtop.domain.sample import Device, Gpu, GpuProcess, GpuReading
from dashtop.sources.nvml_device import NvmlDevice, static_facts
from dashtop.sources.nvml_gate import call, call_or_none
from dashtop.sources.nvml_throughput import ThroughputPoller

if TYPE_CHECKING:
    from dashtop.domain.ports import GpuDevice

RETRY_INIT_S = 2.0
RETRY_EMPTY_S = 5.0
PROCESSES_EVERY_S = 0.75


class _Card:
    """One GPU of a session: its facts, its open device and the walk over the table."""

    def __init__(self, facts: Device, device: NvmlDevice) -> None:
        self.facts = facts
        self._device = device
        self._walk: Walk[GpuDevice] = Walk(GPU_METRICS)
        self._processes: tuple[GpuProcess, ...] = ()
        self._processes_due = 0.0

    def read(self, now: float) -> Gpu:
        self._device.begin(now)
        values, unavailable = self._walk.read(self._device, now)
        if now >= self._processes_due:
            self._processes = self._device.processes()
            self._processes_due = now + PROCESSES_EVERY_S
        return Gpu(device=self.facts, values=values, unavailable=unavailable, processes=self._processes)

    def close(self) -> None:
        self._device.close()


class NvmlGpus:
    """A session with the driver: opened at the first reading, tried again while there is no driver or no GPU."""

    def __init__(self) -> None:
        self._cards: list[_Card] = []
        self._trouble: Reason | None = Reason.STARTING
        self._retry_at = 0.0
        self._open = False
        self._throughput = ThroughputPoller()

    def read(self) -> GpuReading:
        """Read every GPU. Never raises; blocks for as long as the driver does."""
        now = time.monotonic()
        if not self._cards:
            if now < self._retry_at:
                return GpuReading(trouble=self._trouble)
            self._enumerate(now)
            if not self._cards:
                return GpuReading(trouble=self._trouble)
        return GpuReading(gpus=tuple(card.read(now) for card in self._cards))

    def _enumerate(self, now: float) -> None:
        """Open the session anew: NVML fixes the number of devices when it is initialised (NVML manual, nvmlInit_v2)."""
        self.close()
        self._retry_at = now + RETRY_INIT_S
        try:
            call(pynvml.nvmlInit)
            self._open = True
            self._cards = self._find_cards()
        except Unavailable as missing:
            self._trouble = missing.reason
            return
        if not self._cards:
            self._trouble = Reason.NO_DEVICE
            self._retry_at = now + RETRY_EMPTY_S

    def _find_cards(self) -> list[_Card]:
        driver = call_or_none(pynvml.nvmlSystemGetDriverVersion)
        version = call_or_none(pynvml.nvmlSystemGetCudaDriverVersion)
        cuda = f"{version // 1000}.{version % 1000 // 10}" if version is not None else None
        cards = []
        failure: Unavailable | None = None
        for index in range(call(pynvml.nvmlDeviceGetCount)):
            try:
                handle = call(pynvml.nvmlDeviceGetHandleByIndex, index)
                cards.append(_Card(static_facts(handle, index, driver, cuda), NvmlDevice(handle, self._throughput)))
            except Unavailable as missing:
                failure = missing
        if failure is not None and not cards:
            raise failure
        return cards

    def close(self) -> None:
        """End the session with the driver."""
        for card in self._cards:
            card.close()
        self._cards = []
        if self._open:
            self._open = False
            with contextlib.suppress(Unavailable):
                call(pynvml.nvmlShutdown)
