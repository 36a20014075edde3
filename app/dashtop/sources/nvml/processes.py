"""The processes on one GPU: NVML's process lists and utilization samples, joined by pid."""

from __future__ import annotations

import ctypes
from operator import itemgetter
from typing import Any

import pynvml

from dashtop.model.sample import GpuProcess
from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.nvml.bindings import PROCESS_INFO, UTILIZATION_SAMPLE, RowBuffer, find_function

# The newest version of each function first; drivers before R510 have only the older one.
PROCESS_LISTS = {
    kind: (f"nvmlDeviceGet{name}RunningProcesses_v3", f"nvmlDeviceGet{name}RunningProcesses_v2")
    for kind, name in {"C": "Compute", "G": "Graphics", "M": "MPSCompute"}.items()
}
MEMORY_NOT_AVAILABLE = pynvml.NVML_VALUE_NOT_AVAILABLE_ulonglong.value


class ProcessReader:
    """Reads the processes of one GPU. Keeps the timestamp of the last utilization sample that was read."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._last_sample_us = 0
        self._infos = RowBuffer(PROCESS_INFO)
        self._samples = RowBuffer(UTILIZATION_SAMPLE)
        first = 1 if is_v3_misread() else 0
        self._versions = {kind: list(versions[first:]) for kind, versions in PROCESS_LISTS.items()}

    def read(self) -> tuple[GpuProcess, ...]:
        """Return each process with memory on this GPU once, the largest first.

        Raise Unavailable if every list fails, or if one fails and the others are empty.
        """
        found: dict[int, tuple[str, int | None]] = {}
        failures = []
        for kind, versions in self._versions.items():
            try:
                entries = self._read_list(versions)
            except Unavailable as missing:
                failures.append(missing)
                continue
            for pid, memory, *_ in entries:
                found[pid] = merge_entry(found.get(pid), kind, memory if memory != MEMORY_NOT_AVAILABLE else None)
        if len(failures) == len(PROCESS_LISTS):
            raise failures[0]
        # If a driver supports only some of the lists, the others would be empty.
        errors = [missing for missing in failures if not missing.reason.is_unsupported]
        if errors and not found:
            raise errors[0]
        samples = self._read_new_samples() if found else {}
        largest_first = sorted(found.items(), key=lambda item: (-(item[1][1] or 0), item[0]))
        return tuple(_build_process(pid, kind, memory, samples.get(pid)) for pid, (kind, memory) in largest_first)

    def _read_list(self, versions: list[str]) -> list[tuple[int, ...]]:
        while True:
            try:
                return self._read_version(versions[0])
            except Unavailable as missing:
                if missing.reason is not UnavailableReason.LIBRARY_TOO_OLD or len(versions) == 1:
                    raise
                del versions[0]

    def _read_version(self, name: str) -> list[tuple[int, ...]]:
        function, infos = find_function(name), self._infos
        return infos.read(lambda: function(self._handle, infos.count, infos.array))

    def _read_new_samples(self) -> dict[int, list[int]]:
        """Return the utilization samples since the last call, by pid. An idle GPU has none (NOT_FOUND)."""
        since = ctypes.c_ulonglong(self._last_sample_us)
        try:
            function, buffer = find_function("nvmlDeviceGetProcessUtilization"), self._samples
            samples = buffer.read(lambda: function(self._handle, buffer.array, buffer.count, since))
        except Unavailable:
            return {}
        samples.sort(key=itemgetter(1))
        if samples:
            self._last_sample_us = max(self._last_sample_us, samples[-1][1])
        return {pid: utilizations for pid, _, *utilizations in samples}


def is_v3_misread() -> bool:
    """Return whether the entries of the v3 lists are larger than pynvml assumes: R535 before 535.98.

    They grew with confidential computing, and later moved to a function of their own (XuehaiPan/nvitop, pull request 79
    and issue 88).
    """
    library = pynvml.nvmlLib
    larger, moved = "nvmlDeviceGetConfComputeMemSizeInfo", "nvmlDeviceGetRunningProcessDetailList"
    return hasattr(library, larger) and not hasattr(library, moved)


def parse_percent(value: int) -> float | None:
    """Return a utilization in percent; None if out of range, which drivers report for a process that exits."""
    return float(value) if 0 <= value <= 100 else None  # noqa: PLR2004


def merge_entry(known: tuple[str, int | None] | None, kind: str, memory: int | None) -> tuple[str, int | None]:
    """Merge the entries of a process in two lists. Each has the total memory, so they are not added."""
    if known is None:
        return kind, memory
    sizes = [size for size in (known[1], memory) if size is not None]
    kinds = known[0] if kind in known[0].split("+") else f"{known[0]}+{kind}"
    return kinds, max(sizes, default=None)


def _build_process(pid: int, kind: str, memory: int | None, utilizations: list[int] | None) -> GpuProcess:
    if utilizations is None:
        return GpuProcess(pid=pid, kind=kind, gpu_memory_bytes=memory)
    sm, memory_traffic, encoder, decoder = map(parse_percent, utilizations)
    return GpuProcess(
        pid=pid,
        kind=kind,
        gpu_memory_bytes=memory,
        sm_percent=sm,
        memory_percent=memory_traffic,
        encoder_percent=encoder,
        decoder_percent=decoder,
    )
