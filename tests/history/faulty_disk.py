"""A folder whose disk fails or hangs for one process, by a library that is preloaded into it."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("faulty_disk.c")
HANG = -1


class FaultyDisk:
    """A data folder for a dashtop that is started with `env`. Faults begin and end while it runs."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which(os.environ.get("CC", "gcc")) or shutil.which("cc")
        if compiler is None:
            pytest.skip("no C compiler is installed: tests with a faulty disk are skipped")
        library = folder / "faulty_disk.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", SOURCE, "-o", library, "-ldl"], check=True)
        self.data = folder / "data"
        self.data.mkdir()
        self._control = folder / "control"
        self._control.write_bytes(struct.pack("i", 0))
        self.env = {
            "DASHTOP_DATA_DIR": str(self.data),
            "LD_PRELOAD": str(library),
            "FAULT_FOLDER": str(self.data),
            "FAULT_CONTROL": str(self._control),
        }

    def fail(self, error: int) -> None:
        """Let every call on the folder fail with this errno, or hang (HANG)."""
        self._set(error)

    def work(self) -> None:
        """End the fault."""
        self._set(0)

    def _set(self, value: int) -> None:
        with self._control.open("r+b") as file:  # in place: the process maps the file
            file.write(struct.pack("i", value))
