"""Runtime power management: whether a GPU is suspended, and when it is left alone so that it can suspend.

Laptops with hybrid graphics suspend an idle GPU (runtime D3). An NVML call wakes it, and an open NVML session keeps it
awake: on an RTX 2000 Ada laptop the GPU was suspended 6 s after the last handle was closed, and never before
(D-Brox/cosmic-ext-applet-system-monitor, issue 38).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dashtop.sources.nvml.driver_files import GpuIdentity, read_first_line, read_identity, read_runtime_d3_status

if TYPE_CHECKING:
    from pathlib import Path

_NVIDIA_VENDOR = "0x10de"
_DISPLAY_CLASS = "0x03"
ACTIVE, SUSPENDED = "active", ("suspended", "suspending")
CONTROL_INTERVAL_S = 5.0

MIN_IDLE_S = 30.0
"""A GPU that can suspend is read in every tick until it has been idle for so long."""
MAX_IDLE_S = 900.0
PAUSE_S = 20.0
"""For so long it is then left alone. It suspends within 6 to 10 s, or something else keeps it awake."""


class PowerState:
    """Reads whether a GPU is suspended. Reading it does not wake the GPU.

    The kernel reports it in `power/runtime_status` of the PCI device (Documentation/power/runtime_pm.rst).
    A device whose `power/control` is not "auto" is never suspended: its status is not read, and whether it is "auto"
    by now only every CONTROL_INTERVAL_S.
    """

    def __init__(self, proc: Path, sys_root: Path, bus_id: str | None) -> None:
        self._proc = proc
        self._name = to_sysfs_name(bus_id) if bus_id is not None else ""
        self._folder = sys_root / "bus" / "pci" / "devices" / self._name / "power"
        self._is_auto = False
        self._check_control_at = -math.inf
        self._has_runtime_d3: bool | None = None

    def read(self, now: float) -> str:
        """Return the kernel's status at `now` (monotonic seconds): ACTIVE, one of SUSPENDED, or another one.

        Empty if the kernel may not suspend the GPU, which can be changed at any time.
        """
        if not self._name:
            return ""
        if now >= self._check_control_at:
            self._check_control_at = now + CONTROL_INTERVAL_S
            self._is_auto = read_first_line(self._folder / "control") == "auto"
        return read_first_line(self._folder / "runtime_status") if self._is_auto else ""

    def has_runtime_d3(self) -> bool:
        """Return whether the driver suspends the GPU when it is idle.

        Distributions set `power/control` of every NVIDIA GPU to "auto", also where the driver never suspends it. True
        if the driver does not say.
        """
        if self._has_runtime_d3 is None:
            status = read_runtime_d3_status(self._proc, self._name)
            self._has_runtime_d3 = status is None or status.startswith("Enabled")
        return self._has_runtime_d3


class IdlePause:
    """Decides when an idle GPU that can suspend is left alone.

    After MIN_IDLE_S of idleness it is not called for PAUSE_S. If it is not suspended by then, something else keeps it
    awake: it is read again, and the next pause comes after twice the idle time, up to MAX_IDLE_S.
    """

    def __init__(self) -> None:
        self.until = -math.inf
        """When the pause ends (monotonic seconds)."""
        self._idle_since: float | None = None
        self._idle_s = MIN_IDLE_S

    def is_active(self, now: float) -> bool:
        """Return whether the GPU is left alone now."""
        return now < self.until

    def update(self, now: float, *, is_idle: bool | None) -> None:
        """Count the idle time after a reading. `is_idle` None: not known."""
        if is_idle is None:
            self._idle_since = None
        elif not is_idle:
            self.reset()
        elif self._idle_since is None:
            self._idle_since = now
        elif now - self._idle_since >= self._idle_s:
            self.until = now + PAUSE_S
            self._idle_since = None
            self._idle_s = min(2 * self._idle_s, MAX_IDLE_S)

    def reset(self) -> None:
        """Start again with MIN_IDLE_S: the GPU is in use, or was suspended."""
        self.until = -math.inf
        self._idle_since, self._idle_s = None, MIN_IDLE_S


def find_suspended_gpus(proc: Path, sys_root: Path) -> list[GpuIdentity]:
    """Return the GPUs of the NVIDIA driver if all of them are suspended, else an empty list.

    Those bound to nouveau or vfio-pci are left out: NVML does not know them. nvmlInit would wake the others. Their
    names are in files of the driver, which can be read without waking them.
    """
    found: list[GpuIdentity] = []
    for device in sorted((sys_root / "bus" / "pci" / "devices").glob("*")):
        is_display = read_first_line(device / "class").startswith(_DISPLAY_CLASS)
        if not is_display or read_first_line(device / "vendor") != _NVIDIA_VENDOR:
            continue
        if not _is_bound_to_nvidia(device):
            continue
        if PowerState(proc, sys_root, device.name).read(0.0) not in SUSPENDED:
            return []
        found.append(read_identity(proc, device.name))
    return found


def _is_bound_to_nvidia(device: Path) -> bool:
    """Return whether the NVIDIA driver has claimed a PCI device (the `driver` link in its folder)."""
    try:
        return (device / "driver").readlink().name == "nvidia"
    except OSError:
        return False


def to_sysfs_name(bus_id: str) -> str:
    """Return a PCI bus id as sysfs spells it: NVML's domain has eight digits and capitals, that of the kernel four."""
    domain, _, rest = bus_id.lower().partition(":")
    return f"{domain[-4:]}:{rest}"
