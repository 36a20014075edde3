"""Processes on one GPU: several lists of the driver joined to one row a process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pynvml

from dashtop.domain.errors import Unavailable
from dashtop.domain.sample import GpuProcess
from dashtop.sources.nvml_gate import call

LISTS = (
    ("C", pynvml.nvmlDeviceGetComputeRunningProcesses),
    ("G", pynvml.nvmlDeviceGetGraphicsRunningProcesses),
    ("M", pynvml.nvmlDeviceGetMPSComputeRunningProcesses),
)


class ProcessLists:
    """Remembers up to which time stamp the driver's utilization samples of one GPU have been seen."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._seen_us = 0

    def read(self) -> tuple[GpuProcess, ...]:
        """Return every process with memory on this GPU once, largest first.

        Raises Unavailable where no list at all can be had; a list that the driver does not have counts as empty.
        """
        found: dict[int, GpuProcess] = {}
        failures = []
        for kind, function in LISTS:
            try:
                entries = call(function, self._handle)
            except Unavailable as missing:
                failures.append(missing)
                continue
            for entry in entries:
                found[entry.pid] = merged(found.get(entry.pid), kind, entry.pid, entry.usedGpuMemory)
        if len(failures) == len(LISTS):
            raise failures[0]
        if found:
            self._add_utilization(found)
        return tuple(sorted(found.values(), key=lambda process: (-(process.gpu_memory_bytes or 0), process.pid)))

    def _add_utilization(self, found: dict[int, GpuProcess]) -> None:
        """Add each process's newest sample; an idle GPU has none (the driver answers NOT_FOUND, or error 0)."""
        try:
            samples = call(pynvml.nvmlDeviceGetProcessUtilization, self._handle, self._seen_us)
        except Unavailable:
            return
        for sample in sorted(samples, key=lambda sample: int(sample.timeStamp)):
            self._seen_us = max(self._seen_us, int(sample.timeStamp))
            process = found.get(sample.pid)
            if process is not None:
                found[sample.pid] = replace(
                    process,
                    sm_percent=percent(sample.smUtil),
                    memory_percent=percent(sample.memUtil),
                    encoder_percent=percent(sample.encUtil),
                    decoder_percent=percent(sample.decUtil),
                )


def percent(value: int) -> float | None:
    """Return a utilization; None where it is beyond what percent can be, as drivers answer for a dying process."""
    return float(value) if 0 <= value <= 100 else None  # noqa: PLR2004


def merged(known: GpuProcess | None, kind: str, pid: int, memory: int | None) -> GpuProcess:
    """Join a process that stands in several lists: each tells its whole memory, so they do not add up."""
    if known is None:
        return GpuProcess(pid=pid, kind=kind, gpu_memory_bytes=memory)
    sizes = [size for size in (known.gpu_memory_bytes, memory) if size is not None]
    kinds = known.kind if kind in known.kind.split("+") else f"{known.kind}+{kind}"
    return GpuProcess(pid=pid, kind=kinds, gpu_memory_bytes=max(sizes) if sizes else None)
