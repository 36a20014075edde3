"""Facts about this machine that need no driver, and checks of the data folder and the port."""

from __future__ import annotations

import errno
import grp
import http.client
import json
import os
import re
import shlex
import shutil
import socket
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dashtop.addresses import find_addresses, format_address
from dashtop.app import build_database, data_folder, is_on_server
from dashtop.doctor.report import Finding, State
from dashtop.history.database import DatabaseReadError
from dashtop.history.memory import FIX, MISSING_SQLITE, MissingDatabase
from dashtop.model.text import sanitize_text
from dashtop.sources.host.cgroups import parse_cgroup

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from dashtop.history.database import Database
    from dashtop.settings import Settings

HISTORY = "History"
PAGE = "Page"
READYZ_TIMEOUT_S = 1.0
MIN_FREE_BYTES = 2**30

_MODULE_VERSION = re.compile(r"Kernel Module\S*(?: for \S+)?\s+(\d+\.[\d.]+)")
_NVIDIA_VENDOR = "0x10de"
# Files that container engines create in a container: podman and buildah, docker.
_CONTAINER_FILES = {"run/.containerenv": "podman", ".dockerenv": "docker"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """Facts about this machine. None or empty: absent or unknown."""

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
    gpus_on_bus: int | None
    is_root: bool

    @property
    def in_container(self) -> bool:
        """Return whether this is a container."""
        return self.runtime is not None or self.kubernetes


def read_environment(root: Path, environ: Mapping[str, str]) -> Environment:
    """Read the facts from the files under `root`, the root directory."""
    cgroup = parse_cgroup(_read_text(root / "proc/self/cgroup"))
    from_file = next((name for file, name in _CONTAINER_FILES.items() if (root / file).exists()), None)
    from_systemd = _read_text(root / "run/systemd/container").strip() or environ.get("container")
    runtime = cgroup.runtime or from_file or from_systemd or ("a container engine" if cgroup.container else None)
    control = root / "dev/nvidiactl"
    return Environment(
        runtime=sanitize_text(runtime) if runtime else None,
        container=cgroup.container,
        kubernetes=cgroup.kubernetes_pod is not None or "KUBERNETES_SERVICE_HOST" in environ,
        cgroup_version=2 if (root / "sys/fs/cgroup/cgroup.controllers").exists() else 1,
        visible_devices=environ.get("NVIDIA_VISIBLE_DEVICES"),
        capabilities=environ.get("NVIDIA_DRIVER_CAPABILITIES"),
        wsl="microsoft" in _read_text(root / "proc/version").lower(),
        distribution=_read_distribution(root),
        device_files=tuple(sorted(file.name for file in (root / "dev").glob("nvidia*") if "caps" not in file.name)),
        device_group=_group_with_access(control),
        module_version=_read_module_version(root),
        nouveau=(root / "sys/module/nouveau").exists(),
        gpus_on_bus=_count_gpus_on_bus(root),
        is_root=os.geteuid() == 0,
    )


def _read_module_version(root: Path) -> str | None:
    """Return the version of the loaded kernel module."""
    if version := _read_text(root / "sys/module/nvidia/version").strip():
        return sanitize_text(version)
    found = _MODULE_VERSION.search(_read_text(root / "proc/driver/nvidia/version"))
    return found[1] if found else None


def _count_gpus_on_bus(root: Path) -> int | None:
    """Count the display controllers of NVIDIA on the PCI bus, with or without a driver. None: no bus is visible."""
    devices = root / "sys/bus/pci/devices"
    if not devices.is_dir():
        return None
    ids = (
        (_read_text(device / "vendor").strip(), _read_text(device / "class").strip()) for device in devices.iterdir()
    )
    return sum(vendor == _NVIDIA_VENDOR and kind.startswith("0x03") for vendor, kind in ids)


def _read_distribution(root: Path) -> str:
    """Return ID and ID_LIKE of os-release(5)."""
    pairs = (line.partition("=") for line in _read_text(root / "etc/os-release").splitlines())
    found = {key: value.strip("\"'") for key, _, value in pairs}
    return f"{found.get('ID', '')} {found.get('ID_LIKE', '')}"


def _group_with_access(device: Path) -> str | None:
    """Return the group that may write to a device file, None if only root's may."""
    try:
        status = device.stat()
        return grp.getgrgid(status.st_gid).gr_name if status.st_gid and status.st_mode & stat.S_IWGRP else None
    except (OSError, KeyError):
        return None


def _read_text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def check_storage_and_port(settings: Settings) -> Iterator[Finding]:
    """Check the database, the data folder and the port that `dashtop serve` uses."""
    yield _check_database(build_database(settings))
    if not is_on_server(settings):
        yield _check_folder(data_folder(settings))
    yield _check_port(settings)


def _check_database(database: Database) -> Finding:
    if isinstance(database, MissingDatabase):
        return Finding(area=HISTORY, state=State.WARN, text=MISSING_SQLITE, fix=FIX)
    try:
        return Finding(area=HISTORY, text=database.describe())
    except DatabaseReadError as error:
        return Finding(area=HISTORY, state=State.FAIL, text=str(error), fix=f"psql {shlex.quote(database.location)}")
    finally:
        database.close()


def _check_folder(folder: Path | None) -> Finding:
    if folder is None:
        return Finding(area=HISTORY, text="kept in memory only: lost when dashtop ends")
    existing = next(path for path in (folder, *folder.parents) if os.access(path, os.F_OK))
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        text = f"{folder} is not writable: the history would be kept in memory only"
        return Finding(area=HISTORY, state=State.FAIL, text=text, fix="dashtop --data-dir FOLDER")
    free = shutil.disk_usage(existing).free
    text = f"{folder} is writable; {free / 2**30:.1f} GiB free"
    if free < MIN_FREE_BYTES:
        return Finding(area=HISTORY, state=State.WARN, text=text, fix="dashtop --keep-mb 50")
    return Finding(area=HISTORY, text=text)


def _check_port(settings: Settings) -> Finding:
    host, port = settings.host, settings.port
    address_text = format_address(host, port)
    if port == 0:
        return Finding(area=PAGE, text=f"{host}: dashtop takes a free port")
    try:
        for family, address in find_addresses(host, port)[0]:
            _try_to_listen(family, address)
    except OSError as error:
        return _explain_bind_error(address_text, settings, error)
    return Finding(area=PAGE, text=f"{address_text} is free")


def _try_to_listen(family: socket.AddressFamily, address: tuple[str, int]) -> None:
    """Listen as the server does, and stop. Raises OSError."""
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        # Without it, a connection closed a moment ago counts as in use.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # [::] and 0.0.0.0 are two listeners
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen()


def _explain_bind_error(address_text: str, settings: Settings, error: OSError) -> Finding:
    if error.errno == errno.EADDRINUSE:
        if _is_dashtop(settings):
            return Finding(area=PAGE, text=f"dashtop is running at {address_text}")
        return Finding(area=PAGE, state=State.FAIL, text=f"{address_text} is in use", fix="dashtop --port 0")
    if error.errno in {errno.EACCES, errno.EPERM}:
        text = f"{address_text}: this user may not listen on a port below 1024"
        return Finding(area=PAGE, state=State.FAIL, text=text, fix="dashtop --port 8050")
    text = f"cannot listen on {address_text}: {error.strerror or error}"
    return Finding(area=PAGE, state=State.FAIL, text=text, fix="dashtop --host 127.0.0.1")


def _is_dashtop(settings: Settings) -> bool:
    """Return whether the server at that address answers like dashtop's /readyz."""
    connectable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    connection = http.client.HTTPConnection(connectable, settings.port, timeout=READYZ_TIMEOUT_S)
    try:
        connection.request("GET", f"{settings.url_prefix}readyz")
        body = json.loads(connection.getresponse().read(1_000))
    except (OSError, ValueError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return isinstance(body, dict) and "ready" in body
