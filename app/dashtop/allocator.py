"""Settings of the C library's memory allocator."""

from __future__ import annotations

import ctypes
import os
from typing import Final

# Parameters of mallopt (glibc, malloc.h), with the variables that set them.
M_MMAP_THRESHOLD: Final = (-3, "MALLOC_MMAP_THRESHOLD_")
M_ARENA_MAX: Final = (-8, "MALLOC_ARENA_MAX")
MAX_ARENAS: Final = 2
MMAP_THRESHOLD_BYTES: Final = 2**18


def limit_free_memory() -> None:
    """Have glibc return memory that is not needed to the system. Call it before threads are started.

    By default there are eight arenas a core, and what is freed in one is not used by the threads of the others: with 42
    threads, 36 MB of a server of 170 MB were free memory. One thread runs Python at a time, so
    threads seldom wait for one of two arenas. Blocks of some size are returned as soon as they are freed; by default
    glibc stops that once a larger one was freed, and each compaction of the history left 2 to 9 MB behind.

    Variables in the environment have precedence. Other C libraries have no mallopt.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for (parameter, variable), value in ((M_ARENA_MAX, MAX_ARENAS), (M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)):
        if variable not in os.environ:
            mallopt(parameter, value)
