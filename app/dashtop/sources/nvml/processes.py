"""Processes on one GPU: several lists of the driver joined to one row a process."""

from __future__ import annotations

import ctypes
from operator import itemgetter
from typing import Any

import pynvml

from dashtop.model.sample import GpuProcess
from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.nvml.arrays import PROCESS, UTILIZATION_SAMPLE, Rows, function

# The newest version of each list first; drivers before R510 have the older one alone.
LISTS = {
    kind: (f"nvmlDeviceGet{name}RunningProcesses_v3", f"nvmlDeviceGet{name}RunningProcesses_v2")
    for kind, name in {"C": "Compute", "G": "Graphics", "M": "MPSCompute"}.items()
}
NOT_TOLD = pynvml.NVML_VALUE_NOT_AVAILABLE_ulonglong.value


class ProcessLists:
    """Remembers up to which time stamp the driver's utilization samples of one GPU have been seen."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._seen_us = 0
        self._rows = Rows(PROCESS)
        self._samples = Rows(UTILIZATION_SAMPLE)
        oldest = 1 if _newest_is_misread() else 0
        self._versions = {kind: list(versions[oldest:]) for kind, versions in LISTS.items()}

    def read(self) -> tuple[GpuProcess, ...]:
        """Return every process with memory on this GPU once, largest first.

        Raises Unavailable where nobody knows whether there are any.
        """
        found: dict[int, tuple[str, int | None]] = {}
        failures = []
        for kind, versions in self._versions.items():
            try:
                entries = self._ask(versions)
            except Unavailable as missing:
                failures.append(missing)
                continue
            for pid, memory, *_ in entries:
                found[pid] = merged(found.get(pid), kind, memory if memory != NOT_TOLD else None)
        if len(failures) == len(LISTS):
            raise failures[0]
        # A driver that lacks one list, but has another, has nothing to put into it.
        silent = [missing for missing in failures if not missing.reason.is_unsupported]
        if silent and not found:
            raise silent[0]
        samples = self._newest_samples() if found else {}
        largest_first = sorted(found.items(), key=lambda item: (-(item[1][1] or 0), item[0]))
        return tuple(_process(pid, kind, memory, samples.get(pid)) for pid, (kind, memory) in largest_first)

    def _ask(self, versions: list[str]) -> list[tuple[int, ...]]:
        while True:
            try:
                return self._listed(versions[0])
            except Unavailable as missing:
                if missing.reason is not UnavailableReason.LIBRARY_TOO_OLD or len(versions) == 1:
                    raise
                del versions[0]

    def _listed(self, name: str) -> list[tuple[int, ...]]:
        ask, rows = function(name), self._rows
        return rows.filled(lambda: ask(self._handle, rows.count, rows.array))

    def _newest_samples(self) -> dict[int, list[int]]:
        """Return what is new of each process's utilization, by pid; an idle GPU has none (NOT_FOUND)."""
        since = ctypes.c_ulonglong(self._seen_us)
        try:
            ask, rows = function("nvmlDeviceGetProcessUtilization"), self._samples
            samples = rows.filled(lambda: ask(self._handle, rows.array, rows.count, since))
        except Unavailable:
            return {}
        samples.sort(key=itemgetter(1))
        if samples:
            self._seen_us = max(self._seen_us, samples[-1][1])
        return {pid: utilizations for pid, _, *utilizations in samples}


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


def merged(known: tuple[str, int | None] | None, kind: str, memory: int | None) -> tuple[str, int | None]:
    """Join what two lists tell of a process: each tells its whole memory, so they do not add up."""
    if known is None:
        return kind, memory
    sizes = [size for size in (known[1], memory) if size is not None]
    kinds = known[0] if kind in known[0].split("+") else f"{known[0]}+{kind}"
    return kinds, max(sizes, default=None)


def _process(pid: int, kind: str, memory: int | None, utilizations: list[int] | None) -> GpuProcess:
    if utilizations is None:
        return GpuProcess(pid=pid, kind=kind, gpu_memory_bytes=memory)
    sm, memory_traffic, encoder, decoder = map(percent, utilizations)
    return GpuProcess(
        pid=pid,
        kind=kind,
        gpu_memory_bytes=memory,
        sm_percent=sm,
        memory_percent=memory_traffic,
        encoder_percent=encoder,
        decoder_percent=decoder,
    )
