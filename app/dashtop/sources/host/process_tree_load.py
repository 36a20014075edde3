"""CPU use of a process and of the workers it has started, against the CPUs that it may use.

A job that may use 4 of 128 CPUs can lack CPU time on a machine that is idle, and its loading of data is done by worker
processes, which use no GPU themselves (torch.utils.data.DataLoader).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from dashtop.model.unavailable import Unavailable
from dashtop.sources.host.cgroups import CgroupLimits, parse_cpu_list
from dashtop.sources.host.procfs import CPU_TIMES, read_start, read_stat

if TYPE_CHECKING:
    from pathlib import Path

    from dashtop.model.ports import Clock

INTERVAL_S: Final = 30.0
"""Between two readings of a tree: each takes a few system calls for each of its processes."""
MAX_PROCESSES: Final = 256
"""Of a tree; what exceeds it is left out."""
_ALLOWED: Final = re.compile(r"^Cpus_allowed_list:\s*(\S+)", re.MULTILINE)


class TreeLoad(NamedTuple):
    """`cpu_percent`: of the process and its descendants, mean of the last seconds; 100 is one core.

    `usable_cpus`: how many CPUs the process may use: its affinity, cpuset or quota. None: not known.
    """

    cpu_percent: float | None
    usable_cpus: float | None


UNKNOWN: Final = TreeLoad(None, None)


@dataclass(slots=True)
class _Tree:
    ticks: int
    read_at: float
    load: TreeLoad


class TreeLoadReader:
    """Measures the trees of processes every INTERVAL_S. `proc`, `sys`: where /proc and /sys are mounted.

    Children that another thread than the first one has started are not found: reading those of every thread would cost
    ten times as much.
    """

    def __init__(self, *, clock: Clock, proc: Path, sys: Path) -> None:
        self._clock = clock
        self._proc, self._sys = proc, sys
        self._ticks_per_s = float(os.sysconf("SC_CLK_TCK"))
        self._trees: dict[tuple[int, int], _Tree] = {}

    def measure(self, pid: int, start: int) -> TreeLoad:
        """Return the load of the tree of a process, which began at `start` clock ticks; UNKNOWN the first time."""
        now, tree = self._clock.monotonic(), self._trees.get((pid, start))
        if tree is None:
            load = TreeLoad(None, self._read_usable_cpus(pid))
            self._trees[pid, start] = _Tree(self._sum_ticks(pid), now, load)
        elif now - tree.read_at >= INTERVAL_S:
            ticks = self._sum_ticks(pid)
            percent = 100.0 * (ticks - tree.ticks) / self._ticks_per_s / (now - tree.read_at)
            # A worker that has ended leaves its time to its parent only once that has waited for it.
            tree.load = tree.load._replace(cpu_percent=max(0.0, percent))
            tree.ticks, tree.read_at = ticks, now
        return self._trees[pid, start].load

    def keep(self, processes: set[tuple[int, int]]) -> None:
        """Forget all trees but those of these pids and starts."""
        if self._trees.keys() - processes:
            self._trees = {key: tree for key, tree in self._trees.items() if key in processes}

    def _sum_ticks(self, root: int) -> int:
        total, pids, count = 0, [root], 0
        while pids and count < MAX_PROCESSES:
            pid = pids.pop()
            count += 1
            try:
                total += sum(map(int, read_stat(self._proc, pid)[1][CPU_TIMES]))
                # A kernel without CONFIG_PROC_CHILDREN has no such file: then it is the process alone.
                pids += map(int, read_start(f"{self._proc}/{pid}/task/{pid}/children").split())
            except (OSError, ValueError):
                continue  # it has ended
        return total

    def _read_usable_cpus(self, pid: int) -> float | None:
        try:
            status = read_start(f"{self._proc}/{pid}/status").decode("ascii", "replace")
            allowed = _ALLOWED.search(status)
            cpus = float(len(parse_cpu_list(allowed[1]))) if allowed else None
        except (OSError, ValueError):
            return None
        try:
            limit = CgroupLimits(proc=self._proc, sys=self._sys, pid=pid).cpu_cores()
        except Unavailable:
            return cpus
        return limit if cpus is None else min(cpus, limit)
