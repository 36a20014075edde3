"""The host's memory, for GPUs that have none of their own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dashtop.model.ports import MemoryUse
from dashtop.model.unavailable import Unavailable, UnavailableReason

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Parts that use the host's memory (NVIDIA's DGX Spark and Jetson documentation).
_INTEGRATED = re.compile(r"\b(GB10|N1X|Thor|Orin|Xavier|Tegra)\b", re.IGNORECASE)


def is_shared(name: str, memory_total_bytes: int | None) -> bool:
    """Tell whether a GPU of this name, which tells this much memory of its own, uses the host's."""
    return memory_total_bytes is None and _INTEGRATED.search(name) is not None


def host_memory(proc: Path) -> Callable[[], MemoryUse]:
    """Return how to read the memory of the host. `proc`: the root of /proc. It raises Unavailable where that fails."""
    meminfo = proc / "meminfo"

    def read() -> MemoryUse:
        try:
            lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
            total, available = (int(lines[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
        except (OSError, KeyError, ValueError):
            raise Unavailable(UnavailableReason.UNIFIED_MEMORY) from None
        return MemoryUse(total - available, total, available)

    return read
