"""Architecture rules: importing starts nothing, imports run downward only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

_WATCH = """
import os, sys, threading
before = set(os.listdir("/proc/self/fd"))
import dashtop
assert threading.active_count() == 1, threading.enumerate()
assert "pynvml" not in sys.modules and "psutil" not in sys.modules and "dash" not in sys.modules
assert set(os.listdir("/proc/self/fd")) == before
import dashtop.app, dashtop.cli, dashtop.settings, dashtop.history.store, dashtop.ui.page, dashtop.web.api.blueprint
assert threading.active_count() == 1, threading.enumerate()
assert "pynvml" not in sys.modules
assert "libnvidia-ml" not in open("/proc/self/maps").read()
"""


def test_importing_starts_nothing() -> None:
    result = subprocess.run([sys.executable, "-c", _WATCH], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


def test_imports_run_downward_only() -> None:
    lint = Path(sys.executable).parent / "lint-imports"
    result = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stdout
