"""Finds the NVML library and checks access to the control device, in a process that can hang or crash."""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from dashtop.model.python_process import build_python_command
from dashtop.model.text import sanitize_text

NAME = "libnvidia-ml.so.1"
TIMEOUT_S = 5.0

_START = "from dashtop.sources.nvml.library import main; main(sys.argv[1])"
_MAPPED = re.compile(r"(/.*libnvidia-ml\.so.*)$", re.MULTILINE)
_FILE_VERSION = re.compile(r"\.so\.(\d+\.\d[\d.]*)$")
_VERSION_BYTES = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Library:
    """The NVML library. `version`: that of its driver. `error`: why it cannot be loaded, as the system reports it.

    `denied`: why the control device cannot be opened; None if it can, or does not exist. `silent`: the check timed out.
    """

    path: str | None = None
    version: str | None = None
    error: str | None = None
    denied: str | None = None
    silent: bool = False


def find(control: Path = Path("/dev/nvidiactl"), timeout_s: float = TIMEOUT_S) -> Library:
    """Load the library and open the control device in a subprocess."""
    command = build_python_command(_START, str(control))
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False, stdin=subprocess.DEVNULL)
        found = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return Library(silent=True)
    except ValueError:
        return Library(error="loading it crashed")
    texts = {name: sanitize_text(text, limit=200) for name, text in found.items()}
    return Library(
        path=texts.get("path"), version=texts.get("version"), error=texts.get("error"), denied=texts.get("denied")
    )


def main(control: str) -> None:
    """Print the result as JSON, for the parent process."""
    found: dict[str, str] = {}
    try:
        library = ctypes.CDLL(NAME)
    except OSError as error:
        found["error"] = str(error)
    else:
        if mapped := _MAPPED.search(Path("/proc/self/maps").read_text(errors="replace")):
            found["path"] = mapped[1]
        if version := _read_version(library, found.get("path", "")):
            found["version"] = version
    try:
        # The device cgroup of a container denies access only here; os.access does not see it.
        os.close(os.open(control, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        pass
    except OSError as error:
        found["denied"] = error.strerror or str(error)
    print(json.dumps(found))  # noqa: T201 - read by the parent


def _read_version(library: ctypes.CDLL, path: str) -> str | None:
    """Return the version in the file name, which the driver's installer sets, else the one that the library reports."""
    if match := _FILE_VERSION.search(path):
        return match[1]
    text = ctypes.create_string_buffer(_VERSION_BYTES)
    try:
        succeeded = library.nvmlSystemGetNVMLVersion(text, ctypes.c_uint(_VERSION_BYTES)) == 0
    except AttributeError:
        return None
    return text.value.decode("ascii", "replace") if succeeded else None
