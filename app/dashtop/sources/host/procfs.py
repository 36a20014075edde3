"""Reads files of /proc with as few system calls as possible."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

STATE, PARENT, FLAGS, UTIME, STIME, START, RSS = 0, 1, 6, 11, 12, 19, 21
"""Positions among the fields that `read_stat` returns. proc_pid_stat(5) numbers them from 3."""
CPU_TIMES: Final = slice(11, 15)
"""utime, stime, and both of children that have ended."""


def read_stat(proc: Path | str, pid: int) -> tuple[bytes, list[bytes]]:
    """Return the name in /proc/<pid>/stat, and the fields after it.

    Raise OSError if there is no such process, ValueError if the file is not as the kernel writes it.
    """
    stat = read_start(f"{proc}/{pid}/stat")
    # The name is in parentheses and can itself contain parentheses, spaces and line breaks.
    opening, closing = stat.index(b"("), stat.rindex(b")")
    return stat[opening + 1 : closing], stat[closing + 2 :].split()


def read_start(path: str, limit: int = 4096) -> bytes:
    """Return at most the first `limit` bytes of a file, in one read. Raise OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, limit)
    finally:
        os.close(descriptor)
