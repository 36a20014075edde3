"""Running processes whose names contain control characters or markup."""

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

# A program can take any name of up to 15 bytes with prctl(PR_SET_NAME).
_RENAMED = (
    "import ctypes, sys, time; name = bytes.fromhex(sys.argv[1]);"
    "assert ctypes.CDLL(None).prctl(15, name, 0, 0, 0) == 0; print('ready', flush=True); time.sleep(120)"
)
# Name of a program -> name that dashtop shows.
NAMES = {
    b"\x1b[31mred\r\nx": "\ufffd[31mred\ufffd\ufffdx",
    b"<img src=x>": "<img src=x>",
    b"\xff\xfe\xc3": "\ufffd\ufffd\ufffd",
    b"a\xe2\x80\xaegnp.exe": "a\ufffdgnp.exe",
}
SCRIPT = "<script>window.hurt=1"
"""Sets window.hurt if a page runs it as markup."""


@contextmanager
def hostile_processes(folder: Path, environment: str) -> Iterator[dict[int, str]]:
    """Yield the name to show for each pid; `environment` is the name of their Python environment."""
    env = {**os.environ, "VIRTUAL_ENV": f"/nowhere/{environment}", "CONDA_DEFAULT_ENV": "x"}
    with ExitStack() as stack:

        def start(*command: str, executable: Path | None = None) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(command, executable=executable, env=env, stdout=subprocess.PIPE)
            stack.callback(_end, process)
            return process

        started = {}
        # The kernel keeps 15 bytes of a program's name; the first argument, here of 4 KiB, has all of it.
        for name, argument, shown in (("n" * 20, "n" * 4096, "n" * 63 + "…"), (SCRIPT, SCRIPT, SCRIPT)):
            shutil.copy(shutil.which("sleep") or "/bin/sleep", folder / name)
            started[start(argument, "120", executable=folder / name).pid] = shown
        for renamed, shown in NAMES.items():
            process = start(sys.executable, "-c", _RENAMED, renamed.hex())
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            started[process.pid] = shown
        yield started


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()
