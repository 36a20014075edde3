"""Tells whether a pid that the driver names is the process of that number here.

Drivers up to about R545 tell the pids of the machine's first pid namespace to everybody, containers included
(github.com/NVIDIA/nvidia-docker/issues/1483); later ones translate them for whoever asks and leave out the processes
that the asker cannot see (NVIDIA/open-gpu-kernel-modules, gpuGetProcWithObject). Which of both a driver does cannot be
asked. So inside a container a process is taken for the driver's only if it has an NVIDIA device open, and none is any
more once the driver has gone on naming a pid that does not exist here.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from dashtop.model.ports import Clock


def read_start(path: str, limit: int = 4096) -> bytes:
    """Return at most the first `limit` bytes of a file, in one read. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, limit)
    finally:
        os.close(descriptor)


# The inode of the first pid namespace: PROC_PID_INIT_INO in the kernel's include/linux/proc_ns.h.
_FIRST_NAMESPACE = "pid:[4026531836]"
# A process may end between the driver's list, which is up to two seconds old, and the look at it.
GONE_S = 5.0


class PidNamespace:
    """One for the life of a reader; `proc` is the root of /proc.

    `outer` is set for good once the driver is known to tell pids of another namespace.
    """

    def __init__(self, *, proc: Path, clock: Clock) -> None:
        self._proc = proc
        self._clock = clock
        self._nested = _nested(proc)
        self._absent: dict[int, float] = {}
        self._absent_before: dict[int, float] = {}
        self.outer = False

    def begin(self) -> None:
        """Start a tick."""
        self._absent, self._absent_before = {}, self._absent

    def absent_is_foreign(self, pid: int) -> bool:
        """Return whether a pid that no process here has is one of another namespace, rather than just ended."""
        if self._nested:
            now = self._clock.monotonic()
            since = self._absent[pid] = self._absent_before.get(pid, now)
            self.outer = self.outer or now - since > GONE_S
        return self._nested

    def present_is_foreign(self, pid: int) -> bool:
        """Return whether the process with that pid here is, as far as can be known, not the one the driver reports."""
        return self._nested and not self._has_gpu_open(pid)

    def _has_gpu_open(self, pid: int) -> bool:
        try:
            descriptors = list((self._proc / str(pid) / "fd").iterdir())
        except OSError:  # another user's, or gone: then it is better not to name it
            return False
        for descriptor in descriptors:
            with contextlib.suppress(OSError):  # closed meanwhile
                if str(descriptor.readlink()).startswith("/dev/nvidia"):
                    return True
        return False


def _nested(proc: Path) -> bool:
    try:
        return str((proc / "self" / "ns" / "pid").readlink()) != _FIRST_NAMESPACE
    except FileNotFoundError:  # a kernel without pid namespaces
        return False
    except OSError:
        return True
