"""What the machine tells about itself without the driver: container, device files, kernel modules, distribution."""

from __future__ import annotations

import grp
import os
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dashtop.model.text import sanitize_text
from dashtop.sources.host.cgroups import placement

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_MODULE_VERSION = re.compile(r"Kernel Module\S*(?: for \S+)?\s+(\d+\.[\d.]+)")
_NVIDIA_VENDOR = "0x10de"
# Files that container engines leave inside: podman and buildah, docker.
_MARKS = {"run/.containerenv": "podman", ".dockerenv": "docker"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """Facts; None or empty: not so, or not told."""

    runtime: str | None
    container: str | None
    kubernetes: bool
    cgroup_version: int
    visible_devices: str | None
    capabilities: str | None
    wsl: bool
    distribution: str
    device_files: tuple[str, ...]
    device_group: str | None
    module_version: str | None
    nouveau: bool
    cards_on_bus: int | None
    as_root: bool

    @property
    def in_container(self) -> bool:
        """Tell whether this is a container."""
        return self.runtime is not None or self.kubernetes


def look(root: Path, environ: Mapping[str, str]) -> Surroundings:
    """Look around under `root`, the root directory."""
    placed = placement(_text(root / "proc/self/cgroup"))
    marked = next((name for file, name in _MARKS.items() if (root / file).exists()), None)
    told = _text(root / "run/systemd/container").strip() or environ.get("container")
    runtime = placed.runtime or marked or told or ("a container engine" if placed.container else None)
    control = root / "dev/nvidiactl"
    return Surroundings(
        runtime=sanitize_text(runtime) if runtime else None,
        container=placed.container,
        kubernetes=placed.kubernetes_pod is not None or "KUBERNETES_SERVICE_HOST" in environ,
        cgroup_version=2 if (root / "sys/fs/cgroup/cgroup.controllers").exists() else 1,
        visible_devices=environ.get("NVIDIA_VISIBLE_DEVICES"),
        capabilities=environ.get("NVIDIA_DRIVER_CAPABILITIES"),
        wsl="microsoft" in _text(root / "proc/version").lower(),
        distribution=_distribution(root),
        device_files=tuple(sorted(file.name for file in (root / "dev").glob("nvidia*") if "caps" not in file.name)),
        device_group=_writing_group(control),
        module_version=_module_version(root),
        nouveau=(root / "sys/module/nouveau").exists(),
        cards_on_bus=_cards_on_bus(root),
        as_root=os.geteuid() == 0,
    )


def _module_version(root: Path) -> str | None:
    """Return the version of the driver that the kernel has loaded."""
    if version := _text(root / "sys/module/nvidia/version").strip():
        return sanitize_text(version)
    found = _MODULE_VERSION.search(_text(root / "proc/driver/nvidia/version"))
    return found[1] if found else None


def _cards_on_bus(root: Path) -> int | None:
    """Count the display controllers of NVIDIA on the PCI bus, with or without a driver; None: no bus to be seen."""
    devices = root / "sys/bus/pci/devices"
    if not devices.is_dir():
        return None
    ids = ((_text(device / "vendor").strip(), _text(device / "class").strip()) for device in devices.iterdir())
    return sum(vendor == _NVIDIA_VENDOR and kind.startswith("0x03") for vendor, kind in ids)


def _distribution(root: Path) -> str:
    """Return the words of ID and ID_LIKE of os-release(5)."""
    pairs = (line.partition("=") for line in _text(root / "etc/os-release").splitlines())
    found = {key: value.strip("\"'") for key, _, value in pairs}
    return f"{found.get('ID', '')} {found.get('ID_LIKE', '')}"


def _writing_group(device: Path) -> str | None:
    """Return the group that may write to a device file, where one other than root's may."""
    try:
        status = device.stat()
        return grp.getgrgid(status.st_gid).gr_name if status.st_gid and status.st_mode & stat.S_IWGRP else None
    except (OSError, KeyError):
        return None


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
