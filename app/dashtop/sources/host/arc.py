"""The ARC, the read cache of ZFS, which is not part of the kernel's page cache."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dashtop.model.unavailable import Unavailable, UnavailableReason

if TYPE_CHECKING:
    from pathlib import Path

# "size  4  8589934592": name, type and value.
_ROW = re.compile(rb"^(c_min|size) +[0-9]+ +([0-9]+)$", re.MULTILINE)


class ArcReader:
    """Reads /proc/spl/kstat/zfs/arcstats. `proc`: where /proc is mounted."""

    def __init__(self, proc: Path) -> None:
        self._proc = proc
        self._file = proc / "spl" / "kstat" / "zfs" / "arcstats"

    def read_size(self) -> int:
        """Return bytes. Raise Unavailable: ABSENT without ZFS, UNREADABLE if the file is not as expected."""
        return self._read()[b"size"]

    def read_shrinkable(self) -> int:
        """Return how many bytes ZFS frees when programs need memory: all above its minimum. 0 without ZFS.

        0 as well if lxcfs shows the memory of this container only, which the ARC of the machine is no part of.
        """
        try:
            counters = self._read()
            is_machine = (self._proc / "meminfo").stat().st_dev == self._proc.stat().st_dev
        except (Unavailable, OSError):
            return 0
        return max(0, counters[b"size"] - counters[b"c_min"]) if is_machine else 0

    def _read(self) -> dict[bytes, int]:
        try:
            content = self._file.read_bytes()
        except FileNotFoundError:
            raise Unavailable(UnavailableReason.ABSENT) from None
        except OSError:
            raise Unavailable(UnavailableReason.UNREADABLE) from None
        counters = {name: int(value) for name, value in _ROW.findall(content)}
        if counters.keys() != {b"c_min", b"size"}:
            raise Unavailable(UnavailableReason.UNREADABLE)
        return counters
