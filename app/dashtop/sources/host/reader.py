"""The machine itself, through psutil and, where psutil has no cheap or exact answer, /proc and /sys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import psutil

from dashtop.model.ports import ByteRates, LoadAverage, MemoryUse
from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.host.io_devices import counted_disks, counted_interfaces
from dashtop.sources.host.mounts import MountReader, statvfs_directory
from dashtop.sources.host.processes import ProcessReader
from dashtop.sources.host.rates import TrafficRates

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from dashtop.model.ports import Clock
    from dashtop.model.sample import GpuProcess, Mount

AnswerT = TypeVar("AnswerT")

# Bonds are made and cards plugged in while we run; looking at /sys each tick would cost more than the counters.
RECHECK_S = 10.0
# The times of one core that make up the whole (proc_stat(5)): guest time is in user and nice already.
_TIMES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_IDLE = (_TIMES.index("idle"), _TIMES.index("iowait"))
_CPU_MHZ = re.compile(rb"^cpu MHz(?: dynamic)?\s*:\s*([0-9.]+)", re.MULTILINE)


def _told(ask: Callable[[], AnswerT]) -> AnswerT:
    """Ask the operating system; any way it has of not answering is Unavailable(UNREADABLE)."""
    try:
        return ask()
    # Files that look otherwise than psutil expects (containers emulate them) are ValueError or LookupError from its
    # parsers; a kernel without disk counters is NotImplementedError.
    except (OSError, ValueError, LookupError, NotImplementedError, psutil.Error):
        raise Unavailable(UnavailableReason.UNREADABLE) from None


class PsutilHostReader:
    """Implements HostReader. `proc` and `sys` are the roots of what is not asked through psutil.

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
        self._cpu = _CpuTimes()
        self._network = _Traffic(_network_counters, lambda names: counted_interfaces(names, sys))
        self._disks = _Traffic(_disk_counters, lambda names: counted_disks(names, sys))
        self._memory: MemoryUse | None = None
        self._swap: MemoryUse | None = None
        self._processes = ProcessReader(clock=clock, proc=proc)
        self._mounts = MountReader(clock=clock, proc=proc, statvfs=statvfs)

    def begin(self) -> None:
        """Take the counters of this tick."""
        self._memory = self._swap = None
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
        count = _told(psutil.cpu_count)
        if not count:
            raise Unavailable(UnavailableReason.UNREADABLE)
        return count

    def cpu_frequency(self) -> float:
        """MHz, mean of the cores; from /proc/cpuinfo, or from cpufreq where that has none (ARM).

        Not through psutil, which also opens the files of the lowest and highest clock of every core.
        """
        found = [float(mhz) for mhz in _CPU_MHZ.findall(_told((self._proc / "cpuinfo").read_bytes))]
        if not any(found):
            policies = self._sys.glob("devices/system/cpu/cpufreq/policy*/scaling_cur_freq")
            found = [int(_told(policy.read_bytes)) / 1000 for policy in policies]
        if not any(found):
            raise Unavailable(UnavailableReason.UNREADABLE)
        return sum(found) / len(found)

    def load_average(self) -> LoadAverage:
        """Run queue over 1, 5 and 15 minutes."""
        return LoadAverage(*_told(psutil.getloadavg))

    def memory(self) -> MemoryUse:
        """RAM in bytes; what the kernel can free at once (caches) is available, not used."""
        if self._memory is None:
            memory = _told(psutil.virtual_memory)
            self._memory = MemoryUse(memory.total - memory.available, memory.total, memory.available)
        return self._memory

    def swap(self) -> MemoryUse:
        """Swap space in bytes; all 0 where there is none."""
        if self._swap is None:
            swap = _told(psutil.swap_memory)
            self._swap = MemoryUse(swap.used, swap.total, swap.free)
        return self._swap

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

    def __init__(self) -> None:
        self._before: list[tuple[float, ...]] = []
        self._overall: float | UnavailableReason = UnavailableReason.FIRST_READING
        self.per_core: tuple[float, ...] = ()

    def take(self) -> None:
        before = self._before
        try:
            self._before = _told(_core_times)
        except Unavailable as missing:
            self._before, self._overall, self.per_core = [], missing.reason, ()
            return
        if len(before) != len(self._before):
            self._overall, self.per_core = UnavailableReason.FIRST_READING, ()
            return
        cores = [_busy_and_total(*core) for core in zip(before, self._before, strict=True)]
        total = sum(core[1] for core in cores)
        if total > 0:
            self._overall = 100.0 * sum(core[0] for core in cores) / total
            every = all(whole > 0 for _, whole in cores)
            self.per_core = tuple(100.0 * busy / whole for busy, whole in cores) if every else ()

    def overall(self) -> float:
        if isinstance(self._overall, UnavailableReason):
            raise Unavailable(self._overall)
        return self._overall


def _core_times() -> list[tuple[float, ...]]:
    cores = [tuple(getattr(core, name, 0.0) for name in _TIMES) for core in psutil.cpu_times(percpu=True)]
    if not cores:
        raise Unavailable(UnavailableReason.UNREADABLE)
    return cores


def _busy_and_total(before: tuple[float, ...], after: tuple[float, ...]) -> tuple[float, float]:
    """Return the seconds a core was busy, and all its seconds. The kernel may take iowait back (proc_stat(5))."""
    spent = [max(0.0, late - early) for early, late in zip(before, after, strict=True)]
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
        self._rates: ByteRates | UnavailableReason = UnavailableReason.FIRST_READING

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
        if isinstance(self._rates, UnavailableReason):
            raise Unavailable(self._rates)
        return self._rates


def _network_counters() -> dict[str, tuple[int, int]]:
    # psutil's own handling of wraps keeps state for the whole process, and takes a reset for a wrap.
    found = psutil.net_io_counters(pernic=True, nowrap=False)
    return {name: (counters.bytes_sent, counters.bytes_recv) for name, counters in found.items()}


def _disk_counters() -> dict[str, tuple[int, int]]:
    found = psutil.disk_io_counters(perdisk=True, nowrap=False)
    return {name: (counters.write_bytes, counters.read_bytes) for name, counters in found.items()}
