"""What the host knows of the processes that hold GPU memory, from one small read of /proc for each and tick."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dashtop.model.sample import ProcessInfo
from dashtop.model.text import sanitize_text
from dashtop.sources.host.owners import OwnerReader
from dashtop.sources.host.procfs import PidNamespace, read_start

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dashtop.model.ports import Clock
    from dashtop.model.sample import GpuProcess

# The kernel keeps 15 bytes of a program's name (TASK_COMM_LEN less the closing zero).
_COMM_LENGTH = 15
# Positions in /proc/<pid>/stat after the name (proc_pid_stat(5), whose fields 3 and on they are).
_UTIME, _STIME, _START, _RSS = 11, 12, 19, 21


@dataclass(slots=True, kw_only=True)
class _Seen:
    """What is known of one process. `start` (clock ticks since boot) and pid together are its identity."""

    start: int
    started_ms: int
    foreign: bool
    uid: int | None = None
    info: ProcessInfo | None = None
    comm: bytes = b""
    ticks: int
    at: float
    cpu_percent: float | None = None
    memory_bytes: int
    tick: int


def _since_boot() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ProcessReader:
    """Describes processes by pid. Within one tick each process is read once, on however many GPUs it is.

    `/proc/<pid>/stat` is read here and not through psutil: it tells name, CPU time, memory and identity at once, in a
    quarter of the time, and a pid that was given to another process is noticed at every reading. Owners are read once
    for each process, and again when it has taken another name. `since_boot` are the seconds that /proc counts in.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        proc: Path = Path("/proc"),
        since_boot: Callable[[], float] = _since_boot,
        user_name: Callable[[int], str | None] | None = None,
    ) -> None:
        self._clock = clock
        self._proc = str(proc)
        self._since_boot = since_boot
        self._owners = OwnerReader(proc=proc, user_name=user_name)
        self._namespace = PidNamespace(proc=proc, clock=clock)
        self._ticks_per_s = float(os.sysconf("SC_CLK_TCK"))
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._seen: dict[int, _Seen] = {}
        self._tick = 0

    def begin(self) -> None:
        """Start a tick: forget the processes nobody asked for in the one before."""
        self._seen = {pid: seen for pid, seen in self._seen.items() if seen.tick == self._tick}
        self._namespace.begin()
        self._tick += 1

    def add_host_info(self, processes: Sequence[GpuProcess]) -> tuple[GpuProcess, ...]:
        """Return the processes with what the host knows filled in; `cpu_percent` is since the last tick."""
        return tuple(self._describe(process) for process in processes)

    def _describe(self, process: GpuProcess) -> GpuProcess:
        seen = self._look(process.pid)
        if seen is None:
            return (
                replace(process, info=ProcessInfo(foreign=True))
                if self._namespace.absent_is_foreign(process.pid)
                else process
            )
        if seen.foreign or self._namespace.outer:
            return replace(process, info=ProcessInfo(foreign=True))
        return replace(
            process,
            cpu_percent=seen.cpu_percent,
            host_memory_bytes=seen.memory_bytes,
            info=seen.info or ProcessInfo(started_ms=seen.started_ms),
        )

    def _look(self, pid: int) -> _Seen | None:
        seen = self._seen.get(pid)
        if seen is not None and seen.tick == self._tick:
            return seen
        try:
            stat, now = read_start(f"{self._proc}/{pid}/stat"), self._clock.monotonic()
            # The name stands in brackets and may itself hold brackets, spaces and line breaks.
            opening, closing = stat.index(b"("), stat.rindex(b")")
            comm, fields = stat[opening + 1 : closing], stat[closing + 2 :].split()
            ticks, start = int(fields[_UTIME]) + int(fields[_STIME]), int(fields[_START])
            memory_bytes = int(fields[_RSS]) * self._page_bytes
        except (OSError, ValueError, IndexError):
            self._seen.pop(pid, None)
            return None
        if seen is None or seen.start != start:
            seen = self._seen[pid] = _Seen(
                start=start,
                started_ms=self._clock.now_ms() - round(1000 * (self._since_boot() - start / self._ticks_per_s)),
                foreign=self._namespace.present_is_foreign(pid),
                ticks=ticks,
                at=now,
                memory_bytes=memory_bytes,
                tick=self._tick,
            )
        elif now > seen.at:
            # Clock ticks are coarse and both ends are rounded: more than the process has threads for is possible.
            seen.cpu_percent = max(0.0, 100.0 * (ticks - seen.ticks) / self._ticks_per_s / (now - seen.at))
            seen.ticks, seen.at = ticks, now
        seen.tick, seen.memory_bytes = self._tick, memory_bytes
        if not seen.foreign:
            self._identify(pid, seen, comm)
        return seen

    def _identify(self, pid: int, seen: _Seen, comm: bytes) -> None:
        """Fill in name and owner where they are not known yet, or no longer."""
        if seen.info is None or comm != seen.comm:
            seen.comm = comm
            seen.uid, info = self._owners.read(pid)
            seen.info = replace(info, name=self._name(pid, comm), started_ms=seen.started_ms)
        if seen.info.username is None and (user := self._owners.user(seen.uid)) is not None:
            seen.info = replace(seen.info, username=user)

    def _name(self, pid: int, comm: bytes) -> str | None:
        """Return the program's name; one that the kernel has cut is completed from the first word of the command."""
        if len(comm) == _COMM_LENGTH:
            try:
                # Up to the first space: programs that rewrite their title put their arguments there as well.
                words = read_start(f"{self._proc}/{pid}/cmdline").partition(b"\0")[0].split(maxsplit=1)
            except OSError:
                words = []
            program = words[0].rpartition(b"/")[2] if words else b""
            comm = program if program.startswith(comm) else comm
        return sanitize_text(comm) or None
