"""Tells from the text of /proc/<pid>/cgroup which container, Kubernetes pod and Slurm job a process belongs to.

The names are made by the container runtimes and by Slurm; tests/sources/test_cgroups.py holds recorded texts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dashtop.model.text import sanitize_text

SHORT_ID = 12

# Of systemd units (docker-<id>.scope) and of cgroupfs directories (libpod-<id>). In crio-conmon-<id> and
# libpod-conmon-<id> runs what watches the container, not the container.
_RUNTIMES = {
    "docker": "docker",
    "cri-containerd": "containerd",
    "containerd": "containerd",
    "nerdctl": "containerd",
    "crio": "crio",
    "libpod": "podman",
}
_PREFIXED = re.compile(rf"(?:.*:)?({'|'.join(_RUNTIMES)})[-:]([0-9a-f]{{64}})(?:\.scope)?")
_PLAIN = re.compile(r"[0-9a-f]{64}")
_LXC = re.compile(r"lxc\.payload\.(.+)")
_NSPAWN = re.compile(r"machine-(?!qemu\\x2d)(.+)\.scope|systemd-nspawn@(.+)\.service")
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")  # systemd-escape(1)
# With dashes under the cgroupfs driver, with underscores under systemd's; the hash stands for a static pod.
_POD = re.compile(r"(?:\S*-)?pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice)?(?::.*)?")
# cgroup v2, then v1; the name of the node stands there when several slurmd share a machine.
_SLURM = re.compile(r"/(?:[^/]*slurmstepd\.scope|slurm[^/]*/uid_\d+)/job_(\d+)(?:/|$)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where the kernel accounts a process. The fields are those of ProcessInfo."""

    container: str | None = None
    runtime: str | None = None
    slurm_job: str | None = None
    kubernetes_pod: str | None = None


def placement(text: str) -> Placement:
    """Return what the lines of /proc/<pid>/cgroup tell, of cgroup v1 and v2 alike (cgroups(7)).

    Of containers inside each other it is the innermost. The runtime is None where the path has an id alone, as
    Kubernetes with the cgroupfs driver leaves it.
    """
    # A path stands once for each v1 hierarchy; those that don't hold the container name its parent.
    paths = dict.fromkeys(line.split(":", 2)[2] for line in text.split("\n") if line.count(":") > 1)
    container: tuple[str, str | None] | None = None
    pod = job = None
    for path in paths:
        container = container or _container(path)
        pod = pod or _pod(path)
        job = job or _SLURM.search(path)
    return Placement(
        container=container[0] if container else None,
        runtime=container[1] if container else None,
        kubernetes_pod=pod,
        slurm_job=job[1] if job else None,
    )


def _container(path: str) -> tuple[str, str | None] | None:
    """Return id and runtime of the innermost container of a path."""
    segments = path.split("/")
    for position in range(len(segments) - 1, 0, -1):
        segment, parent = segments[position], segments[position - 1]
        if prefixed := _PREFIXED.fullmatch(segment):
            return prefixed[2][:SHORT_ID], _RUNTIMES[prefixed[1]]
        if _PLAIN.fullmatch(segment):
            under_docker = parent == "docker" or segments[1] == "ecs"  # Amazon's agent runs Docker
            return segment[:SHORT_ID], "docker" if under_docker else None
        if lxc := _LXC.fullmatch(segment):
            return sanitize_text(lxc[1]), "lxc"
        if parent in {"lxc", "lxc.payload"}:
            return sanitize_text(segment), "lxc"
        if nspawn := _NSPAWN.fullmatch(segment):
            name = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), nspawn[1] or nspawn[2])
            return sanitize_text(name), "systemd-nspawn"
    return None


def _pod(path: str) -> str | None:
    """Return the UID of the innermost pod of a path."""
    if "kubepods" not in path:
        return None
    found = (_POD.fullmatch(segment) for segment in reversed(path.split("/")))
    return next((pod[1].replace("_", "-") for pod in found if pod), None)
