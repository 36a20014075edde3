"""Host values computed from /proc directly, without psutil, to compare with those that dashtop shows."""

from __future__ import annotations

import pwd
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dashtop.model.metric import GIB, KIB
from dashtop.sources.host.io_devices import select_disks, select_interfaces

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# Documentation/admin-guide/iostats.rst: sectors of 512 bytes, whatever the disk's own size is.
SECTOR_BYTES = 512
# proc_stat(5): idle and iowait.
_IDLE_COLUMNS = slice(3, 5)
# Guest time, after these eight, is contained in user and nice.
_TIME_COLUMNS = 8
_KIB_IN_GIB = KIB / GIB
_CPU_MHZ = re.compile(r"^cpu MHz(?: dynamic)?\s*:\s*([\d.]+)", re.MULTILINE)
_FIELD = re.compile(r"^(\w+):\s+(\d+)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcSnapshot:
    """Counters at one time. `cpu`: busy and total ticks. `network`: bytes sent, received; `disks`: written, read."""

    monotonic_s: float
    cpu: tuple[int, int]
    network: Mapping[str, tuple[int, int]]
    disks: Mapping[str, tuple[int, int]]


def read_snapshot(proc: Path) -> ProcSnapshot:
    """Read the counters. Raise OSError or ValueError if a file is not as proc(5) says."""
    times = [int(column) for column in _read(proc / "stat").splitlines()[0].split()[1 : 1 + _TIME_COLUMNS]]
    total = sum(times)
    network, disks = {}, {}
    for line in _read(proc / "net/dev").splitlines()[2:]:
        name, _, counters = line.partition(":")
        columns = counters.split()
        network[name.strip()] = int(columns[8]), int(columns[0])
    for line in _read(proc / "diskstats").splitlines():
        columns = line.split()
        disks[columns[2]] = SECTOR_BYTES * int(columns[9]), SECTOR_BYTES * int(columns[5])
    busy = total - sum(times[_IDLE_COLUMNS])
    return ProcSnapshot(monotonic_s=time.monotonic(), cpu=(busy, total), network=network, disks=disks)


def read_values(before: ProcSnapshot, after: ProcSnapshot, proc: Path, sys_root: Path) -> dict[str, float]:
    """Return host metrics in the units of the table; rates are those between two snapshots.

    Raise OSError or ValueError if a file is not as proc(5) says.
    """
    memory = {key: int(value) * _KIB_IN_GIB for key, value in _FIELD.findall(_read(proc / "meminfo"))}
    load = _read(proc / "loadavg").split()
    values = {
        "system.cpu.core_count": float(len(re.findall(r"^cpu\d+ ", _read(proc / "stat"), re.MULTILINE))),
        **{f"system.cpu.load_{name}": float(text) for name, text in zip(("1m", "5m", "15m"), load, strict=False)},
        **_describe_memory("system.memory", memory["MemTotal"], memory["MemAvailable"]),
        **_describe_memory("system.swap", memory["SwapTotal"], memory["SwapFree"]),
    }
    if clocks := [float(mhz) for mhz in _CPU_MHZ.findall(_read(proc / "cpuinfo"))]:
        values["system.cpu.frequency_mhz"] = sum(clocks) / len(clocks)
    busy, total = (late - early for early, late in zip(before.cpu, after.cpu, strict=True))
    if total > 0:
        values["system.cpu.usage_percent"] = 100.0 * busy / total
    seconds = after.monotonic_s - before.monotonic_s
    if interfaces := select_interfaces(after.network, sys_root):
        sent, received = _sum_growth(before.network, after.network, interfaces)
        values["system.network.upload_mbps"] = sent * 8e-6 / seconds
        values["system.network.download_mbps"] = received * 8e-6 / seconds
    if disks := select_disks(after.disks, sys_root):
        written, read = _sum_growth(before.disks, after.disks, disks)
        values["system.disk_io.write_mbps"] = written * 1e-6 / seconds
        values["system.disk_io.read_mbps"] = read * 1e-6 / seconds
    return values


def _describe_memory(prefix: str, total: float, available: float) -> dict[str, float]:
    used = total - available
    values = {f"{prefix}.total_gb": total, f"{prefix}.used_gb": used, f"{prefix}.available_gb": available}
    return {**values, f"{prefix}.used_percent": 100.0 * used / total} if total else values


def _sum_growth(
    before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]], names: frozenset[str]
) -> tuple[int, int]:
    known = [name for name in names if name in before]
    first, second = (sum(after[name][way] - before[name][way] for name in known) for way in (0, 1))
    return first, second


def read_process(proc: Path, pid: int) -> tuple[str | None, int] | None:
    """Return the user of a process and its resident memory in bytes; None if it has ended or is not visible."""
    try:
        status = dict(_FIELD.findall(_read(proc / str(pid) / "status")))
        uid, resident = int(status["Uid"]), int(status.get("VmRSS", "0"))
    except (OSError, KeyError):
        return None
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    return user, resident * KIB


def _read(file: Path) -> str:
    return file.read_text(errors="replace")
