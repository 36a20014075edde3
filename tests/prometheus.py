"""Debian's prometheus and promtool for tests: those on PATH, else unpacked from the package without installing it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

PROGRAMS = ("prometheus", "promtool")


def program(name: str) -> str:
    """Return the path of a program; skips the test where it can be had in no way."""
    found = shutil.which(name)
    if found is not None:
        return found
    folder = Path(tempfile.gettempdir()) / f"dashtop-tests-prometheus-{os.getuid()}"
    unpacked = folder / "usr" / "bin" / name
    if not unpacked.exists():
        _unpack(folder)
    return str(unpacked)


def _unpack(folder: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip("Prometheus is neither installed nor to be had: this is no Debian or Ubuntu")
    with tempfile.TemporaryDirectory() as scratch:
        fetched = subprocess.run(
            ["apt-get", "download", "prometheus"], cwd=scratch, capture_output=True, text=True, check=False
        )
        packages = list(Path(scratch).glob("prometheus_*.deb"))
        if fetched.returncode != 0 or not packages:
            pytest.skip(f"Prometheus is not installed, and apt-get cannot fetch it: {fetched.stderr.strip()[-200:]}")
        subprocess.run(["dpkg-deb", "-x", packages[0], folder], check=True)
