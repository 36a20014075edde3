"""Lack of memory as the kernel reports it: pressure stall information, and processes that it has ended."""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING

from dashtop.model.unavailable import Unavailable, UnavailableReason

if TYPE_CHECKING:
    from pathlib import Path

# The file has two lines, "some" and "full", with the averages of 10, 60 and 300 seconds and a total in microseconds.
_FULL = re.compile(rb"^full avg10=[0-9.]+ avg60=([0-9]+(?:\.[0-9]+)?) ", re.MULTILINE)
_OOM_KILLS = re.compile(rb"^oom_kill ([0-9]+)$", re.MULTILINE)


class MemoryPressureReader:
    """Reads /proc/pressure/memory and /proc/vmstat. `proc`: where /proc is mounted."""

    def __init__(self, proc: Path) -> None:
        self._pressure = proc / "pressure" / "memory"
        self._vmstat = proc / "vmstat"

    def read_pressure(self) -> float:
        """Return percent of the last minute in which all processes waited for memory.

        Raise Unavailable: NOT_SUPPORTED before Linux 4.20, and where the kernel is started without it (psi=0).
        """
        return float(_find(_FULL, self._pressure))

    def read_oom_kills(self) -> int:
        """Return the number of processes ended since boot. Raise Unavailable: NOT_SUPPORTED before Linux 4.13."""
        return int(_find(_OOM_KILLS, self._vmstat))


def _find(pattern: re.Pattern[bytes], file: Path) -> bytes:
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise Unavailable(UnavailableReason.NOT_SUPPORTED) from None
    except OSError as error:
        # Without PSI the file exists, and cannot be opened.
        is_off = error.errno == errno.EOPNOTSUPP
        raise Unavailable(UnavailableReason.NOT_SUPPORTED if is_off else UnavailableReason.UNREADABLE) from None
    found = pattern.search(content)
    if found is None:
        raise Unavailable(UnavailableReason.NOT_SUPPORTED)
    return found[1]
