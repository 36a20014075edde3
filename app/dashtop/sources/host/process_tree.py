"""Start time, owner and parents of processes, from /proc/<pid>."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from dashtop.model.run import START_TOLERANCE_MS
from dashtop.sources.host.processes import UserNames, is_nested
from dashtop.sources.host.procfs import PARENT, START, STATE, read_stat

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_PARENTS: Final = 32
_INIT_PID: Final = 1
_ZOMBIE: Final = b"Z"  # has ended; its parent has not asked for its exit status yet


class _Stat(NamedTuple):
    parent: int
    start_ticks: int


class HostProcessTree:
    """Implements the ProcessTree port. `proc` is where /proc is mounted."""

    def __init__(
        self,
        *,
        proc: Path = Path("/proc"),
        get_user: Callable[[int], str | None] | None = None,
        boot_id: str | None = None,
    ) -> None:
        """`boot_id`: that of this machine."""
        self._proc = proc
        self._boot_id = boot_id
        self._get_user = get_user or UserNames().get
        self._ticks_per_s = float(os.sysconf("SC_CLK_TCK"))

    def find(self, pid: int, started_ms: int, boot_id: str | None) -> int | None:
        """Return the pid here of a process, also of one in a container; see the ProcessTree port.

        The kernel says which pid a process has in its own namespace (NSpid in proc_pid_status(5)). It is the one only
        if no other process with that pid in a namespace began within the same two seconds.
        """
        if boot_id is not None and boot_id != self._boot_id:
            return None
        found = self.start_ms(pid)
        if found is not None and abs(found - started_ms) <= START_TOLERANCE_MS:
            return pid
        nested = self._list_nested(pid) if boot_id is not None else []
        close = [each for each in nested if abs((self.start_ms(each) or 0) - started_ms) <= START_TOLERANCE_MS]
        return close[0] if len(close) == 1 else None

    def has_ended(self, pid: int, boot_id: str | None) -> bool:
        """Return whether a process that `find` does not know has ended; see the ProcessTree port.

        Only where all processes of the machine can be seen: not in a container, nor under the mount option hidepid.
        """
        is_hidden = is_nested(self._proc) or self._read(_INIT_PID) is None
        return boot_id is not None and boot_id == self._boot_id and not is_hidden and not self._list_nested(pid)

    def _list_nested(self, pid: int) -> list[int]:
        """Return the processes that have a pid in a namespace of their own."""
        wanted = str(pid).encode()
        found = []
        for entry in self._proc.iterdir():
            if not entry.name.isdigit():
                continue
            try:
                status = (entry / "status").read_bytes()
            except OSError:  # it has ended
                continue
            pids = status.partition(b"\nNSpid:")[2].partition(b"\n")[0].split()
            if len(pids) > 1 and pids[-1] == wanted:
                found.append(int(entry.name))
        return found

    def start_ms(self, pid: int) -> int | None:
        """Return when a process started, epoch milliseconds; None if there is none with this pid."""
        stat = self._read(pid)
        if stat is None:
            return None
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - stat.start_ticks / self._ticks_per_s
        return round(1000 * (time.time() - age_s))

    def user(self, pid: int) -> str | None:
        """Return the name of the owner of a process."""
        try:
            return self._get_user((self._proc / str(pid)).stat().st_uid)
        except OSError:
            return None

    def ancestors(self, pid: int) -> tuple[int, ...]:
        """Return the pids of the parents of a process, the nearest first."""
        found: list[int] = []
        stat = self._read(pid)
        while stat is not None and stat.parent > 0 and len(found) < MAX_PARENTS:
            found.append(stat.parent)
            stat = self._read(stat.parent)
        return tuple(found)

    def _read(self, pid: int) -> _Stat | None:
        try:
            _, fields = read_stat(self._proc, pid)
            found = _Stat(int(fields[PARENT]), int(fields[START]))
        except (OSError, ValueError, IndexError):
            return None
        return None if fields[STATE] == _ZOMBIE else found
