"""A process that is held by a pidfd, so that a signal reaches it or nothing: its PID may be another's by then."""

from __future__ import annotations

import errno
import os
import re
import signal
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dashtop.model.action import ActionRefusedError, ActionSignal, Refusal
from dashtop.sources.host.procfs import FLAGS, PARENT, START, STATE, read_stat

if TYPE_CHECKING:
    from collections.abc import Iterator

PROC = Path("/proc")
_KERNEL_THREAD_FLAG = 0x00200000  # PF_KTHREAD (include/linux/sched.h)
_ENDED_STATES = (b"Z", b"X", b"x")
_UIDS = re.compile(rb"^Uid:\s+(\d+)\s+(\d+)\s+(\d+)", re.MULTILINE)
_SIGNALS = {each: signal.Signals[f"SIG{each.value}"] for each in ActionSignal}


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessFacts:
    """What /proc says of a process. `start_ticks`: since boot; `uids`: real, effective and saved."""

    start_ticks: int
    parent: int
    is_kernel_thread: bool
    has_ended: bool
    uids: tuple[int, int, int]


class ProcessHandle:
    """A process, from `open_process` on the same one. Use `read` for its facts, then `send`.

    If the process ends and its PID is used again, `read` describes the new one, and `send` reaches nothing.
    """

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid = pid
        self._descriptor = descriptor

    def read(self) -> ProcessFacts:
        """Return the facts. Raise ActionRefusedError if it has ended, or if /proc hides it from this user."""
        try:
            return read_facts(self.pid)
        except (OSError, ValueError, LookupError):
            raise ActionRefusedError(Refusal.GONE) from None

    def send(self, wanted: ActionSignal) -> None:
        """Send the signal. Raise ActionRefusedError if the process has ended, or the kernel does not permit it."""
        try:
            signal.pidfd_send_signal(self._descriptor, _SIGNALS[wanted])
        except ProcessLookupError:
            raise ActionRefusedError(Refusal.GONE) from None
        except OSError:
            raise ActionRefusedError(Refusal.NOT_PERMITTED) from None


@contextmanager
def open_process(pid: int) -> Iterator[ProcessHandle]:
    """Hold a process. Raise ActionRefusedError if there is none with this PID, or if it cannot be held."""
    if not hasattr(os, "pidfd_open") or not hasattr(signal, "pidfd_send_signal"):
        raise ActionRefusedError(Refusal.UNSUPPORTED)
    try:
        descriptor = os.pidfd_open(pid)
    except OSError as error:
        # EINVAL: a thread that is not the first of its process
        is_gone = error.errno in {errno.ESRCH, errno.EINVAL}
        raise ActionRefusedError(Refusal.GONE if is_gone else Refusal.NO_PIDFD) from error
    try:
        yield ProcessHandle(pid, descriptor)
    finally:
        os.close(descriptor)


def read_facts(pid: int, proc: Path = PROC) -> ProcessFacts:
    """Return the facts of the process with this PID. Raise OSError, ValueError or LookupError if there is none."""
    _, fields = read_stat(proc, pid)
    uids = _UIDS.search((proc / str(pid) / "status").read_bytes())
    if uids is None:
        raise ValueError("no user ids")
    real, effective, saved = (int(each) for each in uids.groups())
    return ProcessFacts(
        start_ticks=int(fields[START]),
        parent=int(fields[PARENT]),
        is_kernel_thread=bool(int(fields[FLAGS]) & _KERNEL_THREAD_FLAG),
        has_ended=fields[STATE] in _ENDED_STATES,
        uids=(real, effective, saved),
    )


def list_ancestors(pid: int) -> list[int]:
    """Return the PIDs of the processes above this one, the nearest first. Those outside this container are left out."""
    found: list[int] = []
    while True:
        try:
            pid = read_facts(pid).parent
        except (OSError, ValueError, LookupError):
            return found
        if pid == 0 or pid in found:
            return found
        found.append(pid)


def find_pidfd_error() -> str | None:
    """Return why processes cannot be held here; None if they can."""
    try:
        with open_process(os.getpid()):
            return None
    except ActionRefusedError as error:
        return str(error)
