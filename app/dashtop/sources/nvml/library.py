"""Looks at NVIDIA's library and device file without a session with the driver, in a process that may hang or crash."""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from dashtop.model.text import sanitize_text

NAME = "libnvidia-ml.so.1"
TIMEOUT_S = 5.0

_START = "import sys; sys.path.append(sys.argv[1]); from dashtop.sources.nvml.library import main; main(sys.argv[2])"
_MAPPED = re.compile(r"(/.*libnvidia-ml\.so.*)$", re.MULTILINE)
_FILE_VERSION = re.compile(r"\.so\.(\d+\.\d[\d.]*)$")
_VERSION_BYTES = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Library:
    """What was found. `version` is that of the driver it belongs to; `error` and `denied` are the system's own words.

    `denied` says why the control device cannot be opened; None where it can, or is not there. `silent`: no answer came.
    """

    path: str | None = None
    version: str | None = None
    error: str | None = None
    denied: str | None = None
    silent: bool = False


def find(control: Path = Path("/dev/nvidiactl"), timeout_s: float = TIMEOUT_S) -> Library:
    """Load the library and open the control device, in a process of its own."""
    command = [sys.executable, "-c", _START, str(Path(__file__).parents[3]), str(control)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False, stdin=subprocess.DEVNULL)
        found = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return Library(silent=True)
    except ValueError:
        return Library(error="loading it crashed")
    told = {name: sanitize_text(text, limit=200) for name, text in found.items()}
    return Library(
        path=told.get("path"), version=told.get("version"), error=told.get("error"), denied=told.get("denied")
    )


def main(control: str) -> None:
    """Print what is found as JSON."""
    found: dict[str, str] = {}
    try:
        library = ctypes.CDLL(NAME)
    except OSError as error:
        found["error"] = str(error)
    else:
        if mapped := _MAPPED.search(Path("/proc/self/maps").read_text(errors="replace")):
            found["path"] = mapped[1]
        if version := _version(library, found.get("path", "")):
            found["version"] = version
    try:
        # The device cgroup of a container refuses here, not where permissions are asked about.
        os.close(os.open(control, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        pass
    except OSError as error:
        found["denied"] = error.strerror or str(error)
    print(json.dumps(found))  # noqa: T201 - to the parent


def _version(library: ctypes.CDLL, path: str) -> str | None:
    """Return the version in the file's name, as the driver's installer gives it, else what the library itself says."""
    if in_name := _FILE_VERSION.search(path):
        return in_name[1]
    text = ctypes.create_string_buffer(_VERSION_BYTES)
    try:
        answered = library.nvmlSystemGetNVMLVersion(text, ctypes.c_uint(_VERSION_BYTES)) == 0
    except AttributeError:
        return None
    return text.value.decode("ascii", "replace") if answered else None
