"""Lack of memory as the kernel reports it: pressure stall information, swapping, and processes that it has ended."""

from __future__ import annotations

import errno
import re
import resource
from typing import TYPE_CHECKING

from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.host.io_devices import TrafficRates

if TYPE_CHECKING:
    from pathlib import Path

    from dashtop.model.readers import ByteRates

# The file has two lines, "some" and "full", with the averages of 10, 60 and 300 seconds and a total in microseconds.
_FULL = re.compile(rb"^full avg10=[0-9.]+ avg60=([0-9]+(?:\.[0-9]+)?) ", re.MULTILINE)
_SWAPPED_IN = re.compile(rb"^pswpin ([0-9]+)$", re.MULTILINE)
_SWAPPED_OUT = re.compile(rb"^pswpout ([0-9]+)$", re.MULTILINE)
_OOM_KILLS = re.compile(rb"^oom_kill ([0-9]+)$", re.MULTILINE)


class MemoryPressureReader:
    """Reads /proc/pressure/memory and /proc/vmstat. `proc`: where /proc is mounted."""

    def __init__(self, proc: Path) -> None:
        self._pressure = proc / "pressure" / "memory"
        self._vmstat = proc / "vmstat"
        self._swap = TrafficRates()
        self._rates_at = -1.0
        self._rates: ByteRates | Unavailable = Unavailable(UnavailableReason.FIRST_READING)

    def read_pressure(self) -> float:
        """Return percent of the last minute in which all processes waited for memory.

        Raise Unavailable: NOT_SUPPORTED before Linux 4.20, and where the kernel is started without it (psi=0).
        """
        return float(_find(_FULL, self._pressure))

    def read_oom_kills(self) -> int:
        """Return the number of processes ended since boot. Raise Unavailable: NOT_SUPPORTED before Linux 4.13."""
        return int(_find(_OOM_KILLS, self._vmstat))

    def read_swap_rates(self, now: float) -> ByteRates:
        """Return bytes per second since the last call; `now` in monotonic seconds. Both metrics of a tick share them.

        Raise Unavailable: FIRST_READING the first time.
        """
        if now != self._rates_at:
            self._rates_at = now
            try:
                self._rates = self._calculate_swap_rates(now)
            except Unavailable as missing:
                self._rates = missing
        if isinstance(self._rates, Unavailable):
            raise Unavailable(self._rates.reason)
        return self._rates

    def _calculate_swap_rates(self, now: float) -> ByteRates:
        page = resource.getpagesize()
        sent, received = (page * int(_find(pattern, self._vmstat)) for pattern in (_SWAPPED_OUT, _SWAPPED_IN))
        return self._swap.update({"swap": (sent, received)}, now)


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
