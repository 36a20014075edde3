"""Container, Kubernetes pod and Slurm job of a process, from the names of its cgroups in /proc/<pid>/cgroup.

Container runtimes and Slurm choose the names; tests/sources/test_cgroups.py has recorded examples.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dashtop.model.text import sanitize_text

SHORT_ID_LENGTH = 12

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
