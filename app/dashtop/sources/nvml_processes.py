"""Processes on one GPU: several lists of the driver joined to one row a process."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pynvml

from dashtop.domain.errors import Reason, Unavailable
from dashtop.domain.sample import GpuProcess
from dashtop.sources.nvml_gate import call

if TYPE_CHECKING:
    from collections.abc import Callable

# The newest version of each list first; drivers before R510 have the older one alone.
LISTS = {
    "C": (pynvml.nvmlDeviceGetComputeRunningProcesses_v3, pynvml.nvmlDeviceGetComputeRunningProcesses_v2),
    "G": (pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3, pynvml.nvmlDeviceGetGraphicsRunningProcesses_v2),
    "M": (pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v3, pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v2),
}
EMPTY = (Reason.NOT_SUPPORTED, Reason.LIBRARY_TOO_OLD)
"""A driver that does not have a list, but another, has nothing to put into it."""


class ProcessLists:
    """Remembers up to which time stamp the driver's utilization samples of one GPU have been seen."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._seen_us = 0
        oldest = 1 if _newest_is_misread() else 0
        self._versions = {kind: list(versions[oldest:]) for kind, versions in LISTS.items()}

    def read(self) -> tuple[GpuProcess, ...]:
        """Return every process with memory on this GPU once, largest first.

        Raises Unavailable where nobody knows whether there are any.
        """
        found: dict[int, GpuProcess] = {}
        failures = []
        for kind, versions in self._versions.items():
            try:
                entries = self._ask(versions)
            except Unavailable as missing:
                failures.append(missing)
                continue
            for entry in entries:
                found[entry.pid] = merged(found.get(entry.pid), kind, entry.pid, entry.usedGpuMemory)
        if len(failures) == len(LISTS):
            raise failures[0]
        silent = [missing for missing in failures if missing.reason not in EMPTY]
        if silent and not found:
            raise silent[0]
        if found:
            self._add_utilization(found)
        return tuple(sorted(found.values(), key=lambda process: (-(process.gpu_memory_bytes or 0), process.pid)))

    def _ask(self, versions: list[Callable[..., list[Any]]]) -> list[Any]:
        while True:
            try:
                return call(versions[0], self._handle)
            except Unavailable as missing:
                if missing.reason is not Reason.LIBRARY_TOO_OLD or len(versions) == 1:
                    raise
                del versions[0]

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


def _newest_is_misread() -> bool:
    """Tell a driver whose newest lists have larger entries than the binding thinks: R535 before 535.98.

    Such entries came with confidential computing, and were moved to a list of their own (XuehaiPan/nvitop, pull request
    79 and issue 88).
    """
    library = pynvml.nvmlLib
    wide, moved = "nvmlDeviceGetConfComputeMemSizeInfo", "nvmlDeviceGetRunningProcessDetailList"
    return hasattr(library, wide) and not hasattr(library, moved)


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
