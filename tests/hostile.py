"""Running processes with names that should do harm, for tests of what becomes of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# prctl(PR_SET_NAME) is what a program may call to take any name of 15 bytes.
_RENAMED = (
    "import ctypes, sys, time; name = bytes.fromhex(sys.argv[1]);"
    "assert ctypes.CDLL(None).prctl(15, name, 0, 0, 0) == 0; print('ready', flush=True); time.sleep(120)"
)
# What a program calls itself, and what may be shown of that.
NAMES = {
    b"\x1b[31mred\r\nx": "\ufffd[31mred\ufffd\ufffdx",
    b"<img src=x>": "<img src=x>",
    b"\xff\xfe\xc3": "\ufffd\ufffd\ufffd",
    b"a\xe2\x80\xaegnp.exe": "a\ufffdgnp.exe",
}
SCRIPT = "<script>window.hurt=1"
"""Set by whatever of this is taken for markup and run."""


@contextmanager
def hostile_processes(folder: Path, environment: str) -> Iterator[dict[int, str]]:
    """Yield what may be shown of each process's name, by pid; `environment` is the name of their Python environment."""
    env = {**os.environ, "VIRTUAL_ENV": f"/nowhere/{environment}", "CONDA_DEFAULT_ENV": "x"}
    with ExitStack() as stack:

        def start(*command: str, executable: Path | None = None) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(command, executable=executable, env=env, stdout=subprocess.PIPE)
            stack.callback(_end, process)
            return process

        started = {}
        # The kernel keeps 15 bytes of a program's name; the first argument, 4 KiB here, tells the rest.
        for name, told, shown in (("n" * 20, "n" * 4096, "n" * 63 + "…"), (SCRIPT, SCRIPT, SCRIPT)):
            shutil.copy(shutil.which("sleep") or "/bin/sleep", folder / name)
            started[start(told, "120", executable=folder / name).pid] = shown
        for renamed, shown in NAMES.items():
            process = start(sys.executable, "-c", _RENAMED, renamed.hex())
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            started[process.pid] = shown
        yield started


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()
