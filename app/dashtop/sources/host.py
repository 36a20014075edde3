"""The machine itself, from /proc and /sys.

Not through psutil: what it reads and builds beyond what is wanted costs more than all the rest of a tick of the host.
"""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dashtop.domain.errors import Reason, Unavailable
from dashtop.domain.readings import ByteRates, LoadAverage, MemoryUse
from dashtop.sources.counted import counted_disks, counted_interfaces
from dashtop.sources.mounts import MountReader, statvfs_directory
from dashtop.sources.proc_files import Memory, core_times, disk_counters, memory, network_counters
from dashtop.sources.processes import ProcessReader
from dashtop.sources.rates import TrafficRates

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dashtop.domain.ports import Clock
    from dashtop.domain.sample import GpuProcess, Mount

AnswerT = TypeVar("AnswerT")

# Bonds are made and cards plugged in while we run; looking at /sys each tick would cost more than the counters.
RECHECK_S = 10.0
_IDLE = (3, 4)  # idle and iowait, among the times of a core
_CPU_MHZ = re.compile(rb"^cpu MHz(?: dynamic)?\s*:\s*([0-9.]+)", re.MULTILINE)


def _told(ask: Callable[[], AnswerT]) -> AnswerT:
    """Ask the operating system; any way it has of not answering is Unavailable(UNREADABLE)."""
    try:
        return ask()
    except (OSError, ValueError, LookupError, AttributeError, NotImplementedError):
        raise Unavailable(Reason.UNREADABLE) from None


class LinuxHost:
    """Implements HostReader. `proc` and `sys` are the roots of what is read.

    Rates and CPU times are taken in `begin`; memory at the first question of a tick. Not thread-safe.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        proc: Path = Path("/proc"),
        sys: Path = Path("/sys"),
        statvfs: Callable[[str], os.statvfs_result] = statvfs_directory,
    ) -> None:
        self._clock = clock
        self._proc, self._sys = proc, sys
        self._cpu = _CpuTimes(partial(core_times, str(proc)))
        self._network = _Traffic(partial(network_counters, str(proc)), lambda names: counted_interfaces(names, sys))
        self._disks = _Traffic(partial(disk_counters, str(proc)), lambda names: counted_disks(names, sys))
        self._memory: Memory | None = None
        self._processes = ProcessReader(clock=clock, proc=proc)
        self._mounts = MountReader(clock=clock, proc=proc, statvfs=statvfs)

    def begin(self) -> None:
        """Take the counters of this tick."""
        self._memory = None
        self._cpu.take()
        self._network.take(self._clock.monotonic())
        self._disks.take(self._clock.monotonic())
        self._processes.begin()

    def cpu_percent(self) -> float:
        """Percent busy of all cores together since the last tick: not idle and not waiting for disks.

        Time that a hypervisor gave to another machine counts as busy: it was wanted and not had.
        """
        return self._cpu.overall()

    def cpu_count(self) -> int:
        """Logical cores that are switched on."""
        count = _told(os.cpu_count)
        if not count:
            raise Unavailable(Reason.UNREADABLE)
        return count

    def cpu_frequency(self) -> float:
        """MHz, mean of the cores; from /proc/cpuinfo, or from cpufreq where that has none (ARM)."""
        found = [float(mhz) for mhz in _CPU_MHZ.findall(_told((self._proc / "cpuinfo").read_bytes))]
        if not any(found):
            policies = self._sys.glob("devices/system/cpu/cpufreq/policy*/scaling_cur_freq")
            found = [int(_told(policy.read_bytes)) / 1000 for policy in policies]
        if not any(found):
            raise Unavailable(Reason.UNREADABLE)
        return sum(found) / len(found)

    def load_average(self) -> LoadAverage:
        """Run queue over 1, 5 and 15 minutes."""
        return LoadAverage(*_told(os.getloadavg))

    def memory(self) -> MemoryUse:
        """RAM in bytes; what the kernel can free at once (caches) is available, not used."""
        return self._both().ram

    def swap(self) -> MemoryUse:
        """Swap space in bytes; all 0 where there is none."""
        return self._both().swap

    def _both(self) -> Memory:
        if self._memory is None:
            self._memory = _told(lambda: memory(str(self._proc)))
        return self._memory

    def network_rates(self) -> ByteRates:
        """Traffic of the interfaces that `counted_interfaces` picks."""
        return self._network.rates()

    def disk_rates(self) -> ByteRates:
        """Traffic of the disks that `counted_disks` picks: `sent` = written, `received` = read."""
        return self._disks.rates()

    def per_core(self) -> tuple[float, ...]:
        """Percent busy of each core since the last tick; empty on the first, and when cores came or went."""
        return self._cpu.per_core

    def mounts(self) -> tuple[Mount, ...]:
        """Mounted file systems that hold data, with sizes some seconds old at most."""
        return self._mounts.mounts()

    def describe(self, processes: Sequence[GpuProcess]) -> tuple[GpuProcess, ...]:
        """Fill in each process's executable name and CPU use; a process that is gone keeps None."""
        return self._processes.describe(processes)

    def close(self) -> None:
        """End the thread that asks the mounts."""
        self._mounts.close()


class _CpuTimes:
    """Busy percent of the cores between two readings of their times."""

    def __init__(self, times: Callable[[], list[tuple[int, ...]]]) -> None:
        self._times = times
        self._before: list[tuple[int, ...]] = []
        self._overall: float | Reason = Reason.FIRST_READING
        self.per_core: tuple[float, ...] = ()

    def take(self) -> None:
        before = self._before
        try:
            self._before = _told(self._times)
        except Unavailable as missing:
            self._before, self._overall, self.per_core = [], missing.reason, ()
            return
        if len(before) != len(self._before):
            self._overall, self.per_core = Reason.FIRST_READING, ()
            return
        cores = [_busy_and_total(*core) for core in zip(before, self._before, strict=True)]
        total = sum(core[1] for core in cores)
        if total > 0:
            self._overall = 100.0 * sum(core[0] for core in cores) / total
            every = all(whole > 0 for _, whole in cores)
            self.per_core = tuple(100.0 * busy / whole for busy, whole in cores) if every else ()

    def overall(self) -> float:
        if isinstance(self._overall, Reason):
            raise Unavailable(self._overall)
        return self._overall


def _busy_and_total(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[int, int]:
    """Return the ticks a core was busy, and all its ticks. The kernel may take iowait back (proc_stat(5))."""
    spent = [max(0, late - early) for early, late in zip(before, after, strict=True)]
    total = sum(spent)
    return total - sum(spent[position] for position in _IDLE), total


class _Traffic:
    """The rates of one kind of device: which of them count is looked up seldom, their counters each tick."""

    def __init__(
        self,
        counters: Callable[[], dict[str, tuple[int, int]]],
        choose: Callable[[frozenset[str]], frozenset[str]],
    ) -> None:
        self._counters = counters
        self._choose = choose
        self._names: frozenset[str] = frozenset()
        self._counted: frozenset[str] = frozenset()
        self._chosen_at = -float("inf")
        self._sums = TrafficRates()
        self._rates: ByteRates | Reason = Reason.FIRST_READING

    def take(self, now: float) -> None:
        try:
            counters = _told(self._counters)
            names = frozenset(counters)
            if names != self._names or now - self._chosen_at >= RECHECK_S:
                self._counted = _told(lambda: self._choose(names))
                self._names, self._chosen_at = names, now
            self._rates = self._sums.update({name: counters[name] for name in self._counted}, now)
        except Unavailable as missing:
            self._rates = missing.reason

    def rates(self) -> ByteRates:
        if isinstance(self._rates, Reason):
            raise Unavailable(self._rates)
        return self._rates
