"""Reads the small files of /proc, and the counters in them that are asked for each tick."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from dashtop.domain.readings import MemoryUse

_SECTOR_BYTES = 512  # of /proc/diskstats, whatever the disk's own are
_MEMINFO = re.compile(rb"^(MemTotal|MemFree|MemAvailable|SwapTotal|SwapFree): +(\d+) kB$", re.MULTILINE)
# In /proc/stat: user nice system idle iowait irq softirq steal; guest time is in user and nice already.
_TIMES = 8


def read_start(path: str, limit: int = 4096) -> bytes:
    """Return at most the first `limit` bytes of a file, in one read. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, limit)
    finally:
        os.close(descriptor)


def read_whole(path: str) -> bytes:
    """Return a file of /proc that may be longer than what one read gives, which is a page of it. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return b"".join(iter(lambda: os.read(descriptor, 65_536), b""))
    finally:
        os.close(descriptor)


class Memory(NamedTuple):
    """RAM and swap space of the machine."""

    ram: MemoryUse
    swap: MemoryUse


def memory(proc: str) -> Memory:
    """Return both from /proc/meminfo (proc_meminfo(5)). Raises OSError or LookupError."""
    told = {name: int(kib) * 1024 for name, kib in _MEMINFO.findall(read_whole(f"{proc}/meminfo"))}
    total, available = told[b"MemTotal"], told[b"MemAvailable"]
    if available > total:  # in containers that are told their own limit as the total, and the rest of the machine
        available = told[b"MemFree"]
    swap, free = told[b"SwapTotal"], told[b"SwapFree"]
    return Memory(MemoryUse(total - available, total, available), MemoryUse(swap - free, swap, free))


def core_times(proc: str) -> list[tuple[int, ...]]:
    """Return each core's clock ticks from /proc/stat (proc_stat(5)), in the order user nice system idle iowait irq
    softirq steal. Raises OSError, ValueError or LookupError."""
    cores = read_whole(f"{proc}/stat").partition(b"\nintr ")[0].splitlines()[1:]
    if not cores:
        raise LookupError("no cores in /proc/stat")
    return [tuple(map(int, core.split()[1 : 1 + _TIMES])) for core in cores]


def network_counters(proc: str) -> dict[str, tuple[int, int]]:
    """Return (sent, received) bytes of each interface from /proc/net/dev. Raises OSError, ValueError or LookupError."""
    found = {}
    for line in read_whole(f"{proc}/net/dev").splitlines()[2:]:
        name, _, counters = line.rpartition(b":")
        fields = counters.split()
        found[os.fsdecode(name.strip())] = (int(fields[8]), int(fields[0]))
    return found


def disk_counters(proc: str) -> dict[str, tuple[int, int]]:
    """Return (written, read) bytes of each disk and partition from /proc/diskstats (Documentation/admin-guide/iostats).

    Raises OSError, ValueError or LookupError.
    """
    found = {}
    for line in read_whole(f"{proc}/diskstats").splitlines():
        fields = line.split()
        found[os.fsdecode(fields[2])] = (int(fields[9]) * _SECTOR_BYTES, int(fields[5]) * _SECTOR_BYTES)
    return found
