"""Names and CPU use of the processes that hold GPU memory, from one small read of /proc for each and tick."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dashtop.domain.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dashtop.domain.ports import Clock
    from dashtop.domain.sample import GpuProcess

# The kernel keeps 15 bytes of a program's name (TASK_COMM_LEN less the closing zero).
_COMM_LENGTH = 15
_READ_BYTES = 4096
# Positions in /proc/<pid>/stat after the name (proc_pid_stat(5), whose fields 3 and on they are).
_UTIME, _STIME, _START = 11, 12, 19


@dataclass(slots=True)
class _Seen:
    """What is known of one process. `start` (clock ticks since boot) and pid together are its identity."""

    start: int
    ticks: int
    at: float
    comm: bytes
    name: str | None
    cpu_percent: float | None
    tick: int


class ProcessReader:
    """Describes processes by pid. Within one tick each process is read once, on however many GPUs it is.

    `/proc/<pid>/stat` is read here and not through psutil: it tells name, CPU time and identity at once, in a quarter
    of the time, and a pid that was given to another process is noticed at every reading.
    """

    def __init__(self, *, clock: Clock, proc: Path = Path("/proc")) -> None:
        self._clock = clock
        self._proc = str(proc)
        self._ticks_per_s = float(os.sysconf("SC_CLK_TCK"))
        self._seen: dict[int, _Seen] = {}
        self._tick = 0

    def begin(self) -> None:
        """Start a tick: forget the processes nobody asked for in the one before."""
        self._seen = {pid: seen for pid, seen in self._seen.items() if seen.tick == self._tick}
        self._tick += 1

    def describe(self, processes: Sequence[GpuProcess]) -> tuple[GpuProcess, ...]:
        """Return the processes with `name` and `cpu_percent` (since the last tick; 100: one core) filled in."""
        return tuple(self._describe(process) for process in processes)

    def _describe(self, process: GpuProcess) -> GpuProcess:
        seen = self._look(process.pid)
        if seen is None:
            return process
        return replace(process, name=seen.name, cpu_percent=seen.cpu_percent)

    def _look(self, pid: int) -> _Seen | None:
        seen = self._seen.get(pid)
        if seen is not None and seen.tick == self._tick:
            return seen
        try:
            stat, now = _read(f"{self._proc}/{pid}/stat"), self._clock.monotonic()
            # The name stands in brackets and may itself hold brackets, spaces and line breaks.
            opening, closing = stat.index(b"("), stat.rindex(b")")
            comm, fields = stat[opening + 1 : closing], stat[closing + 2 :].split()
            ticks, start = int(fields[_UTIME]) + int(fields[_STIME]), int(fields[_START])
        except (OSError, ValueError, IndexError):
            self._seen.pop(pid, None)
            return None
        if seen is None or seen.start != start:
            seen = self._seen[pid] = _Seen(start, ticks, now, comm, self._name(pid, comm), None, self._tick)
            return seen
        if now > seen.at:
            # Clock ticks are coarse and both ends are rounded: more than the process has threads for is possible.
            seen.cpu_percent = max(0.0, 100.0 * (ticks - seen.ticks) / self._ticks_per_s / (now - seen.at))
            seen.ticks, seen.at = ticks, now
        if comm != seen.comm:
            seen.comm, seen.name = comm, self._name(pid, comm)
        seen.tick = self._tick
        return seen

    def _name(self, pid: int, comm: bytes) -> str | None:
        """Return the program's name; one that the kernel has cut is completed from the first word of the command."""
        if len(comm) == _COMM_LENGTH:
            try:
                # Up to the first space: programs that rewrite their title put their arguments there as well.
                words = _read(f"{self._proc}/{pid}/cmdline").partition(b"\0")[0].split(maxsplit=1)
            except OSError:
                words = []
            program = words[0].rpartition(b"/")[2] if words else b""
            comm = program if program.startswith(comm) else comm
        return printable(comm) or None


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _READ_BYTES)
    finally:
        os.close(descriptor)
