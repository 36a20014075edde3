"""What the Linux kernel reports about GPUs without NVML: power state, PCI bus, WSL, and the memory of the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dashtop.model.ports import MemoryUse
from dashtop.model.text import sanitize_text
from dashtop.model.unavailable import Unavailable, UnavailableReason

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_NVIDIA_VENDOR = "0x10de"
_DISPLAY_CLASS = "0x03"
_MAX_TEXT_LENGTH = 96


class SuspendedGpu(NamedTuple):
    """A GPU that is suspended; None: not known."""

    uuid: str | None
    name: str | None
    bus_id: str


class PowerState:
    """Reads whether a GPU is suspended. Reading it does not wake the GPU.

    The kernel reports it in `power/runtime_status` of the PCI device (Documentation/power/runtime_pm.rst).
    A device whose `power/control` is not "auto" is never suspended, and its status is not read again.
    """

    def __init__(self, sys_root: Path, bus_id: str | None) -> None:
        self._status: Path | None = None
        if bus_id is not None:
            power = sys_root / "bus" / "pci" / "devices" / to_sysfs_name(bus_id) / "power"
            if _read_first_line(power / "control") == "auto":
                self._status = power / "runtime_status"

    def is_suspended(self) -> bool:
        """Return whether the GPU is suspended now."""
        return self._status is not None and _read_first_line(self._status) == "suspended"


def find_suspended_gpus(proc: Path, sys_root: Path) -> list[SuspendedGpu]:
    """Return the GPUs on the PCI bus if all of them are suspended, else an empty list.

    nvmlInit would wake them. Their names are in files of the driver, which can be read without waking them.
    """
    found: list[SuspendedGpu] = []
    for device in sorted((sys_root / "bus" / "pci" / "devices").glob("*")):
        is_display = _read_first_line(device / "class").startswith(_DISPLAY_CLASS)
        if not is_display or _read_first_line(device / "vendor") != _NVIDIA_VENDOR:
            continue
        if not PowerState(sys_root, device.name).is_suspended():
            return []
        facts = _read_driver_file(proc / "driver" / "nvidia" / "gpus" / device.name / "information")
        found.append(SuspendedGpu(facts.get("GPU UUID"), facts.get("Model"), device.name))
    return found


def list_bus_ids(proc: Path) -> tuple[str, ...]:
    """Return the PCI bus ids of the GPUs that the driver has claimed; empty if it does not list them."""
    try:
        return tuple(sorted(entry.name for entry in (proc / "driver" / "nvidia" / "gpus").iterdir()))
    except OSError:
        return ()


def is_wsl(proc: Path) -> bool:
    """Return whether this is WSL, where the driver is that of Windows (its kernel says so in /proc/version)."""
    return "microsoft" in _read_first_line(proc / "version").lower()


def build_host_memory_reader(proc: Path) -> Callable[[], MemoryUse]:
    """Return a function that reads the memory of the host, for a GPU that shares it. It can raise Unavailable."""
    meminfo = proc / "meminfo"

    def read() -> MemoryUse:
        try:
            lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
            total, available = (int(lines[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
        except (OSError, KeyError, ValueError):
            raise Unavailable(UnavailableReason.UNIFIED_MEMORY) from None
        return MemoryUse(total - available, total, available)

    return read


def to_sysfs_name(bus_id: str) -> str:
    """Return a PCI bus id as sysfs spells it: NVML's domain has eight digits and capitals, that of the kernel four."""
    domain, _, rest = bus_id.lower().partition(":")
    return f"{domain[-4:]}:{rest}"


def _read_first_line(file: Path) -> str:
    try:
        return file.read_text(errors="replace").partition("\n")[0].strip()
    except OSError:
        return ""


def _read_driver_file(file: Path) -> dict[str, str]:
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {
        key.strip(): sanitize_text(value.strip(), limit=_MAX_TEXT_LENGTH) for key, _, value in pairs if value.strip()
    }
