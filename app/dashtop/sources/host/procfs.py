"""Reads files of /proc with as few system calls as possible."""

from __future__ import annotations

import os


def read_start(path: str, limit: int = 4096) -> bytes:
    """Return at most the first `limit` bytes of a file, in one read. Raise OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, limit)
    finally:
        os.close(descriptor)
