"""Remembers since when processes hold GPU memory without using the GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dashtop.model.sample import Gpu, GpuProcess


class IdleTracker:
    """Knows since when the SM utilization of each process is 0. Not thread-safe.

    A process whose utilization the driver does not report is not idle, as far as is known.
    """

    def __init__(self) -> None:
        self._since_ms: dict[tuple[str, int], int] = {}

    def add_idle_times(self, gpus: tuple[Gpu, ...], time_ms: int) -> tuple[Gpu, ...]:
        """Return the GPUs of the sample taken at `time_ms`, with `idle_since_ms` of their idle processes."""
        before, self._since_ms = self._since_ms, {}
        for gpu in gpus:
            for process in gpu.processes:
                if process.sm_percent == 0:
                    key = gpu.device.uuid, process.pid
                    self._since_ms[key] = min(before.get(key, time_ms), time_ms)
        return tuple(self._add(gpu) for gpu in gpus) if self._since_ms else gpus

    def _add(self, gpu: Gpu) -> Gpu:
        def add(process: GpuProcess) -> GpuProcess:
            since_ms = self._since_ms.get((gpu.device.uuid, process.pid))
            return process if since_ms is None else replace(process, idle_since_ms=since_ms)

        return replace(gpu, processes=tuple(map(add, gpu.processes)))
