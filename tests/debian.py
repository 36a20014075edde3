"""Paths of prometheus, victoria-metrics, alertmanager, nginx and openssl: from PATH, else from the Debian package.

The package is not installed: that would start services and leave them running.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

PACKAGES = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "victoria-metrics": "victoria-metrics",
    "nginx": "nginx",
    "openssl": "openssl",
}


def program(name: str) -> str:
    """Return the path of a program; skip the test if it is not available."""
    package = PACKAGES[name]
    folder = Path(tempfile.gettempdir()) / f"dashtop-tests-{package}-{os.getuid()}"
    searched = os.pathsep.join((os.environ["PATH"], "/usr/sbin", f"{folder}/usr/bin", f"{folder}/usr/sbin"))
    found = shutil.which(name, path=searched)
    if found is None:
        _unpack(package, folder)
        found = shutil.which(name, path=searched)
    if found is None:
        pytest.skip(f"The package {package} of this system has no {name}")
    return found


def _unpack(package: str, folder: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip(f"{package} is not installed, and this is not Debian or Ubuntu")
    with tempfile.TemporaryDirectory() as scratch:
        fetched = subprocess.run(
            ["apt-get", "download", package], cwd=scratch, capture_output=True, text=True, check=False
        )
        packages = list(Path(scratch).glob(f"{package}_*.deb"))
        if fetched.returncode != 0 or not packages:
            pytest.skip(f"{package} is not installed, and apt-get cannot fetch it: {fetched.stderr.strip()[-200:]}")
        subprocess.run(["dpkg-deb", "-x", packages[0], folder], check=True)
