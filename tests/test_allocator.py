"""The memory allocator of the server, in processes of their own: the limit of arenas cannot be taken back."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from dashtop.allocator import MAX_ARENAS
from tests.processes import ROOT

COUNT_ARENAS = """
import ctypes, sys, threading
from dashtop.allocator import limit_free_memory

limit_free_memory()
started, ended = threading.Barrier(9), threading.Event()

def allocate():
    held = [bytes(50_000) for _ in range(20)]
    started.wait()
    ended.wait()

for _ in range(8):
    threading.Thread(target=allocate, daemon=True).start()
started.wait()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info(0, ctypes.c_void_p(libc.fdopen(1, b"w")))
libc.fflush(None)
"""


def count_arenas(**variables: str) -> int:
    """Return the number of arenas from which eight threads have allocated."""
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    command = [sys.executable, "-c", COUNT_ARENAS]
    info = subprocess.check_output(command, env={**environment, **variables}, cwd=ROOT, text=True)
    return info.count("<heap nr=")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library is not glibc")
def test_threads_share_few_arenas_unless_the_environment_says_otherwise() -> None:
    assert count_arenas() <= MAX_ARENAS
    assert count_arenas(MALLOC_ARENA_MAX="5") == 5
