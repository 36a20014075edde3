"""Container, Kubernetes pod and Slurm job of a process, from the names of its cgroups; limits of a cgroup.

Container runtimes and Slurm choose the names; tests/sources/test_cgroups.py has recorded examples.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dashtop.model.readers import MemoryUse
from dashtop.model.text import sanitize_text
from dashtop.model.unavailable import Unavailable, UnavailableReason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHORT_ID_LENGTH = 12
# v1 reports "no limit" as the largest multiple of the page size that fits into 63 bits.
_NO_LIMIT_BYTES = 2**62

# Prefixes of systemd units (docker-<id>.scope) and of cgroupfs directories (libpod-<id>). crio-conmon-<id> and
# libpod-conmon-<id> do not match: the monitor of the container runs there.
_RUNTIMES = {
    "docker": "docker",
    "cri-containerd": "containerd",
    "containerd": "containerd",
    "nerdctl": "containerd",
    "crio": "crio",
    "libpod": "podman",
}
_WITH_RUNTIME = re.compile(rf"(?:.*:)?({'|'.join(_RUNTIMES)})[-:]([0-9a-f]{{64}})(?:\.scope)?")
_ID_ONLY = re.compile(r"[0-9a-f]{64}")
_LXC = re.compile(r"lxc\.payload\.(.+)")
_NSPAWN = re.compile(r"machine-(?!qemu\\x2d)(.+)\.scope|systemd-nspawn@(.+)\.service")
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")  # systemd-escape(1)
# With dashes for the cgroupfs driver, with underscores for that of systemd. A static pod has a hash.
_POD = re.compile(r"(?:\S*-)?pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?(?::.*)?")
# cgroup v2, then v1. The name contains that of the node if several slurmd share a machine.
_SLURM_JOB = re.compile(r"/(?:[^/]*slurmstepd\.scope|slurm[^/]*/uid_\d+)/job_(\d+)(?:/|$)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Cgroup:
    """What the cgroups of a process say about it. None: not in one. `runtime`: the container runtime."""

    container: str | None = None
    runtime: str | None = None
    slurm_job: str | None = None
    kubernetes_pod: str | None = None


def parse_cgroup(text: str) -> Cgroup:
    """Return what /proc/<pid>/cgroup says, of cgroup v1 and v2 alike (cgroups(7)).

    Of nested containers it is the innermost. The runtime is None if the path has only an id, as with Kubernetes and the
    cgroupfs driver.
    """
    # v1 has a line for each hierarchy; one that the container is not in has the path of its parent.
    paths = dict.fromkeys(line.split(":", 2)[2] for line in text.split("\n") if line.count(":") > 1)
    container, runtime = next(filter(None, map(_find_container, paths)), (None, None))
    job = next(filter(None, map(_SLURM_JOB.search, paths)), None)
    return Cgroup(
        container=container,
        runtime=runtime,
        slurm_job=job[1] if job else None,
        kubernetes_pod=next(filter(None, map(_find_pod, paths)), None),
    )


def _find_container(path: str) -> tuple[str, str | None] | None:
    """Return id and runtime of the innermost container of a path."""
    segments = path.split("/")
    for position in range(len(segments) - 1, 0, -1):
        segment, parent = segments[position], segments[position - 1]
        if match := _WITH_RUNTIME.fullmatch(segment):
            return match[2][:SHORT_ID_LENGTH], _RUNTIMES[match[1]]
        if _ID_ONLY.fullmatch(segment):
            is_docker = parent == "docker" or segments[1] == "ecs"  # Amazon's agent runs Docker
            return segment[:SHORT_ID_LENGTH], "docker" if is_docker else None
        if match := _LXC.fullmatch(segment):
            return sanitize_text(match[1]), "lxc"
        if parent in {"lxc", "lxc.payload"}:
            return sanitize_text(segment), "lxc"
        if match := _NSPAWN.fullmatch(segment):
            name = _ESCAPED.sub(lambda escaped: chr(int(escaped[1], 16)), match[1] or match[2])
            return sanitize_text(name), "systemd-nspawn"
    return None


def _find_pod(path: str) -> str | None:
    """Return the UID of the innermost pod of a path."""
    if "kubepods" not in path:
        return None
    matches = (_POD.fullmatch(segment) for segment in reversed(path.split("/")))
    return next((match[1].replace("_", "-") for match in matches if match), None)


class CgroupLimits:
    """Reads the limits of the cgroup of a process, v1 and v2. `proc` and `sys`: where /proc and /sys are mounted.

    A limit applies to all cgroups below it, so the lowest one counts. A container may see its own cgroup as the root
    (cgroup_namespaces(7)), or only that one mounted while /proc has the path of the host: folders that do not exist are
    skipped.
    """

    def __init__(self, *, proc: Path, sys: Path, pid: int | None = None) -> None:
        """`pid` None: this process."""
        self._cgroup = proc / ("self" if pid is None else str(pid)) / "cgroup"
        self._mount = sys / "fs" / "cgroup"
        self._online = sys / "devices" / "system" / "cpu" / "online"

    def cpu_cores(self) -> float:
        """Return how many cores may be used: the CPU time of a quota, or the CPUs of a cpuset if these are fewer.

        Raise Unavailable: NO_LIMIT or UNREADABLE.
        """
        try:
            limits = [limit for folder in self._find_folders("cpu") if (limit := _read_cpu_limit(folder)) is not None]
            limits += self._read_cpuset_limits()
        except (OSError, ValueError):
            raise Unavailable(UnavailableReason.UNREADABLE) from None
        if not limits:
            raise Unavailable(UnavailableReason.NO_LIMIT)
        return min(limits)

    def _read_cpuset_limits(self) -> list[float]:
        """Return the number of CPUs in each cpuset that has not all that are online."""
        online = parse_cpu_list(_read_or_none(self._online) or "")
        cpusets = [_read_cpuset(folder) for folder in self._find_folders("cpuset")]
        return [float(len(usable)) for cpus in cpusets if (usable := cpus & online) and usable != online]

    def memory(self) -> MemoryUse:
        """Return the lowest memory limit, and what is used in its cgroup. Raise Unavailable: NO_LIMIT or UNREADABLE."""
        try:
            limits = [
                (limit, folder)
                for folder in self._find_folders("memory")
                if (limit := _read_memory_limit(folder)) is not None
            ]
            if not limits:
                raise Unavailable(UnavailableReason.NO_LIMIT)
            limit, folder = min(limits)
            used = _read_memory_use(folder)
        except (OSError, ValueError):
            raise Unavailable(UnavailableReason.UNREADABLE) from None
        return MemoryUse(used, limit, max(0, limit - used))

    def _find_folders(self, controller: str) -> Iterator[Path]:
        """Yield the folder of the cgroup in each hierarchy of this controller, and the folders above it."""
        for line in (_read_or_none(self._cgroup) or "").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:  # v2; beside v1 it is mounted at "unified"
                hierarchies = [self._mount / "unified", self._mount]
            elif controller in controllers.split(","):
                hierarchies = [self._mount / controller, self._mount / controllers]
            else:
                continue
            root = next((folder for folder in hierarchies if folder.is_dir()), None)
            # Beyond the root of its namespace, a path has "..".
            parts = [part for part in path.split("/") if part not in {"", ".", ".."}]
            if root is not None:
                yield from (root.joinpath(*parts[:depth]) for depth in range(len(parts) + 1))


def _read_cpu_limit(folder: Path) -> float | None:
    """Return cores. None: no limit at this level."""
    if (text := _read_or_none(folder / "cpu.max")) is not None:
        quota_us, period_us = text.split()
    else:
        quota_us = _read_or_none(folder / "cpu.cfs_quota_us") or "max"
        period_us = _read_or_none(folder / "cpu.cfs_period_us") or ""
    if quota_us in {"max", "-1"}:
        return None
    if int(quota_us) <= 0 or int(period_us) <= 0:
        raise ValueError(f"{folder}: a quota of {quota_us} in {period_us} us")
    return int(quota_us) / int(period_us)


def parse_cpu_list(text: str) -> frozenset[int]:
    """Return the numbers in a list such as `0-3,8` (cpuset(7)). Raises ValueError."""
    ranges = [each.partition("-") for each in text.strip().split(",") if each]
    return frozenset(cpu for first, _, last in ranges for cpu in range(int(first), int(last or first) + 1))


def _read_cpuset(folder: Path) -> frozenset[int]:
    """Return the CPUs of a cpuset, of cgroup v2 or v1; empty if there is none at this level."""
    names = ("cpuset.cpus.effective", "cpuset.effective_cpus", "cpuset.cpus")
    return parse_cpu_list(next(filter(None, (_read_or_none(folder / name) for name in names)), ""))


def _read_memory_limit(folder: Path) -> int | None:
    """Return bytes. None: no limit at this level."""
    text = _read_or_none(folder / "memory.max") or _read_or_none(folder / "memory.limit_in_bytes") or "max"
    if text == "max" or int(text) >= _NO_LIMIT_BYTES:
        return None
    return int(text)


def _read_memory_use(folder: Path) -> int:
    """Return bytes as `docker stats` does: without file pages that are not in use."""
    is_v2 = (usage := _read_or_none(folder / "memory.current")) is not None
    usage = usage if usage is not None else (folder / "memory.usage_in_bytes").read_text("ascii")
    inactive = "inactive_file" if is_v2 else "total_inactive_file"
    stat = dict(line.split(" ", 1) for line in (_read_or_none(folder / "memory.stat") or "").splitlines())
    return max(0, int(usage) - int(stat.get(inactive, 0)))


def _read_or_none(file: Path) -> str | None:
    try:
        return file.read_text("ascii", errors="surrogateescape").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
