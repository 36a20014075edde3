"""Reads the host through psutil, and /proc and /sys if psutil has no cheap or exact value."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import psutil

from dashtop.model.readers import LoadAverage, MemoryUse
from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.host.arc import ArcReader
from dashtop.sources.host.cgroups import CgroupLimits, parse_cpu_list
from dashtop.sources.host.io_devices import TrafficReader, select_disks, select_interfaces
from dashtop.sources.host.memory_pressure import MemoryPressureReader
from dashtop.sources.host.mounts import MountReader, statvfs_directory
from dashtop.sources.host.processes import ProcessReader

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence

    from dashtop.model.ports import Clock
    from dashtop.model.readers import ByteRates
    from dashtop.model.sample import GpuProcess, Mount
    from dashtop.sources.host.notebooks import NotebookFinder

ResultT = TypeVar("ResultT")

# The times of a core that add up to the whole (proc_stat(5)): user, nice, system, idle, iowait, irq, softirq, steal.
# Guest time, which follows, is in user and nice already.
_CORE_TIMES = re.compile(rb"^cpu([0-9]+)((?: [0-9]+){4,8})", re.MULTILINE)
_IDLE = slice(3, 5)
_IOWAIT = 4
_CPU_MHZ = re.compile(rb"^cpu MHz(?: dynamic)?\s*:\s*([0-9.]+)", re.MULTILINE)


def _query_os(read: Callable[[], ResultT]) -> ResultT:
    """Call psutil or read a file; raise Unavailable(UNREADABLE) if that fails. Errors of our own code must show."""
    try:
        return read()
    # ValueError, LookupError: a file is not as psutil expects it (containers emulate files). NotImplementedError: the
    # kernel has no disk counters.
    except (OSError, ValueError, LookupError, NotImplementedError, psutil.Error):
        raise Unavailable(UnavailableReason.UNREADABLE) from None


class PsutilHostReader:
    """Implements HostReader. `proc` and `sys`: where /proc and /sys are mounted, for files not read through psutil.

    `begin` reads counters and CPU times; memory is read once per tick, when it is first needed. Not thread-safe.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        proc: Path = Path("/proc"),
        sys: Path = Path("/sys"),
        statvfs: Callable[[str], os.statvfs_result] = statvfs_directory,
        notebooks: NotebookFinder | None = None,
    ) -> None:
        """`notebooks` None: the notebooks of processes are not looked for."""
        self._clock = clock
        self._proc, self._sys = proc, sys
        self._cpu = _CpuTimes(proc / "stat")
        self._network = TrafficReader(_read_network_counters, lambda names: select_interfaces(names, sys))
        self._disks = TrafficReader(_read_disk_counters, lambda names: select_disks(names, sys))
        self._limits = CgroupLimits(proc=proc, sys=sys)
        self._arc = ArcReader(proc)
        self._pressure = MemoryPressureReader(proc)
        self._online: tuple[int, ...] = ()
        self._offline: tuple[int, ...] = ()
        self._tick_at = 0.0
        self._memory: MemoryUse | None = None
        self._swap: MemoryUse | None = None
        self._processes = ProcessReader(clock=clock, proc=proc, sys=sys, notebooks=notebooks)
        self._mounts = MountReader(clock=clock, proc=proc, statvfs=statvfs)

    def begin(self) -> None:
        """Read the counters of this tick."""
        self._memory = self._swap = None
        self._cpu.update()
        self._tick_at = self._clock.monotonic()
        self._network.update(self._tick_at)
        self._disks.update(self._clock.monotonic())
        self._processes.begin()

    def cpu_percent(self) -> float:
        """Return percent busy of all cores since the last tick: not idle, not in iowait. Steal time counts as busy."""
        return self._cpu.overall()

    def iowait_percent(self) -> float:
        """Return percent of time since the last tick in which cores were idle while a process waited for a disk."""
        return self._cpu.iowait()

    def cpu_count(self) -> int:
        """Return the number of logical cores that are online."""
        count = _query_os(psutil.cpu_count)
        if not count:
            raise Unavailable(UnavailableReason.UNREADABLE)
        return count

    def cpu_frequency(self) -> float:
        """Return MHz, mean of the cores; from /proc/cpuinfo, or from cpufreq if that has none (ARM).

        psutil would also open the files of the minimum and maximum clock of every core.
        """
        found = [float(mhz) for mhz in _CPU_MHZ.findall(_query_os((self._proc / "cpuinfo").read_bytes))]
        if not any(found):
            policies = self._sys.glob("devices/system/cpu/cpufreq/policy*/scaling_cur_freq")
            found = [int(_query_os(policy.read_bytes)) / 1000 for policy in policies]
        if not any(found):
            raise Unavailable(UnavailableReason.UNREADABLE)
        return sum(found) / len(found)

    def load_average(self) -> LoadAverage:
        """Return the run queue over 1, 5 and 15 minutes."""
        return LoadAverage(*_query_os(psutil.getloadavg))

    def memory(self) -> MemoryUse:
        """Return RAM in bytes. Caches that the kernel can free at once are available, not used; so is the ARC of ZFS.

        The kernel does not count the ARC as available (MemAvailable in /proc/meminfo), although it shrinks to its
        minimum when programs need memory.
        """
        if self._memory is None:
            memory = _query_os(psutil.virtual_memory)
            used = memory.total - memory.available
            used -= min(used, self._arc.read_shrinkable())
            self._memory = MemoryUse(used, memory.total, memory.total - used)
        return self._memory

    def memory_pressure(self) -> float:
        """Return percent of the last minute in which all processes waited for memory."""
        return self._pressure.read_pressure()

    def oom_kills(self) -> int:
        """Return how many processes the kernel has ended for lack of memory."""
        return self._pressure.read_oom_kills()

    def swap_rates(self) -> ByteRates:
        """Return the traffic of the swap space since the last reading: `sent` = written, `received` = read back."""
        return self._pressure.read_swap_rates(self._tick_at)

    def zfs_arc(self) -> int:
        """Return the size of the ARC, the read cache of ZFS, in bytes. Raise Unavailable: ABSENT without ZFS."""
        return self._arc.read_size()

    def swap(self) -> MemoryUse:
        """Return swap space in bytes; all 0 if there is none."""
        if self._swap is None:
            swap = _query_os(psutil.swap_memory)
            self._swap = MemoryUse(swap.used, swap.total, swap.free)
        return self._swap

    def cpu_limit(self) -> float:
        """Return the CPU limit of dashtop's own cgroup in cores."""
        return self._limits.cpu_cores()

    def container_memory(self) -> MemoryUse:
        """Return the memory of dashtop's own cgroup and its limit."""
        return self._limits.memory()

    def network_rates(self) -> ByteRates:
        """Return the traffic of the interfaces that `select_interfaces` selects."""
        return self._network.rates()

    def disk_rates(self) -> ByteRates:
        """Return the traffic of the disks that `select_disks` selects: `sent` = written, `received` = read."""
        return self._disks.rates()

    def per_core(self) -> tuple[float, ...]:
        """Return percent busy of each core since the last tick; empty on the first, and if other cores are online."""
        return self._cpu.per_core

    def core_ids(self) -> tuple[int, ...]:
        """Return the kernel's number of each core in `per_core`; those of cores that are offline are missing."""
        return self._cpu.core_ids if self._cpu.per_core else ()

    def offline_cores(self) -> tuple[int, ...]:
        """Return the kernel's number of each core that is present and offline; read again when other cores are online.

        The kernel's list of offline cores has those that the machine could have as well.
        """
        online = self._cpu.core_ids
        if online != self._online:
            self._online, self._offline = online, ()
            folder = self._sys / "devices/system/cpu"
            with suppress(OSError, ValueError):
                offline, present = (parse_cpu_list((folder / name).read_text()) for name in ("offline", "present"))
                self._offline = tuple(sorted((offline & present) - set(online)))
        return self._offline

    def mounts(self) -> tuple[Mount, ...]:
        """Return the mounted file systems that contain data, with sizes a few seconds old at most."""
        return self._mounts.mounts()

    def add_host_info(self, processes: Sequence[GpuProcess]) -> tuple[GpuProcess, ...]:
        """Return the processes with their ProcessInfo, CPU use and memory; None for a process that has ended."""
        return self._processes.add_host_info(processes)

    def close(self) -> None:
        """Stop the thread that reads the mounts."""
        self._mounts.close()


class _CpuTimes:
    """Percent busy of the cores between two readings of their times in /proc/stat, which psutil does not number."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._before: dict[int, list[int]] = {}
        self._overall: float | UnavailableReason = UnavailableReason.FIRST_READING
        self._iowait = 0.0
        self.per_core: tuple[float, ...] = ()

    @property
    def core_ids(self) -> tuple[int, ...]:
        """The numbers of the cores that are online, ascending."""
        return tuple(self._before)

    def update(self) -> None:
        before = self._before
        try:
            self._before = self._read()
        except Unavailable as missing:
            self._before, self._overall, self.per_core = {}, missing.reason, ()
            return
        if before.keys() != self._before.keys():
            self._overall, self.per_core = UnavailableReason.FIRST_READING, ()
            return
        cores = [_busy_and_total(before[core], times) for core, times in self._before.items()]
        total = sum(core[1] for core in cores)
        if total > 0:
            waits = (times[_IOWAIT] - before[core][_IOWAIT] for core, times in self._before.items())
            self._iowait = 100.0 * sum(max(0, ticks) for ticks in waits) / total
            self._overall = 100.0 * sum(core[0] for core in cores) / total
            every = all(whole > 0 for _, whole in cores)
            self.per_core = tuple(100.0 * busy / whole for busy, whole in cores) if every else ()

    def overall(self) -> float:
        if isinstance(self._overall, UnavailableReason):
            raise Unavailable(self._overall)
        return self._overall

    def iowait(self) -> float:
        self.overall()  # raises where there is no value
        return self._iowait

    def _read(self) -> dict[int, list[int]]:
        """Return the times of each core in clock ticks."""
        # The line of interrupts, which follows, can have thousands of numbers.
        cores = _query_os(self._file.read_bytes).partition(b"\nintr ")[0]
        found = _CORE_TIMES.findall(cores)
        if not found:
            raise Unavailable(UnavailableReason.UNREADABLE)
        return {int(core): [int(ticks) for ticks in times.split()] for core, times in found}


def _busy_and_total(before: list[int], after: list[int]) -> tuple[int, int]:
    """Return the busy time of a core, and all its time. The kernel can reduce iowait (proc_stat(5))."""
    spent = [max(0, late - early) for early, late in zip(before, after, strict=True)]
    total = sum(spent)
    return total - sum(spent[_IDLE]), total


def _read_network_counters() -> dict[str, tuple[int, int]]:
    # With nowrap, psutil keeps global state and takes a reset for a wrap.
    found = _query_os(lambda: psutil.net_io_counters(pernic=True, nowrap=False))
    return {name: (counters.bytes_sent, counters.bytes_recv) for name, counters in found.items()}


def _read_disk_counters() -> dict[str, tuple[int, int]]:
    found = _query_os(lambda: psutil.disk_io_counters(perdisk=True, nowrap=False))
    return {name: (counters.write_bytes, counters.read_bytes) for name, counters in found.items()}
