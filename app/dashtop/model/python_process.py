"""Command lines of Python processes that import dashtop, and nothing from the current folder."""

from __future__ import annotations

import sys
from pathlib import Path

_PACKAGE_FOLDER = str(Path(__file__).parents[2])


def build_python_command(code: str, *arguments: str) -> list[str]:
    """Return a command that runs `code` with the arguments in sys.argv[1:].

    `-c` and `-m` put the current folder first on sys.path: a file there such as queue.py would hide the standard
    library and run as this user. The folder of dashtop is appended at the end for the same reason. PYTHONPATH keeps its
    effect.
    """
    start = f"import sys; sys.path[:] = [*filter(None, sys.path), {_PACKAGE_FOLDER!r}]; {code}"
    return [sys.executable, "-c", start, *arguments]
