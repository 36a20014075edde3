"""Whose a process is: user, container, pod, job and Python environment, from /proc/<pid>."""

from __future__ import annotations

import pwd
import re
import threading
from typing import TYPE_CHECKING

from dashtop.model.sample import ProcessInfo
from dashtop.model.text import sanitize_text
from dashtop.sources.host.cgroups import placement
from dashtop.sources.host.procfs import read_start

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# Thirteen v1 hierarchies of Kubernetes take 4 KiB; a pod's environment names every service of its namespace.
_CGROUP_BYTES = 65_536
_ENVIRON_BYTES = 262_144
_REAL_UID = re.compile(rb"^Uid:\s+(\d+)", re.MULTILINE)
# What `activate` sets: the path of a venv, and the name of a conda environment or, where it has none, its path.
_ENVIRONMENTS = (b"\0VIRTUAL_ENV=", b"\0CONDA_DEFAULT_ENV=")
LOOKUP_WAIT_S = 0.02
MOST_USERS = 1_000


class UserNames:
    """Names of users by number. A directory (LDAP, SSSD) that does not answer delays no reading."""

    def __init__(self, lookup: Callable[[int], str | None] | None = None) -> None:
        self._lookup = lookup or _passwd_name
        self._names: dict[int, str] = {}
        self._thread: threading.Thread | None = None

    def name(self, uid: int) -> str | None:
        """Return the user's name, the number where there is no name, None while the question is under way."""
        found = self._names.get(uid)
        if found is None and (self._thread is None or not self._thread.is_alive()):
            if len(self._names) >= MOST_USERS:
                self._names = {}
            self._thread = threading.Thread(target=self._find, args=(uid,), name="dashtop-users", daemon=True)
            self._thread.start()
            self._thread.join(LOOKUP_WAIT_S)
            found = self._names.get(uid)
        return found

    def _find(self, uid: int) -> None:
        self._names[uid] = sanitize_text(self._lookup(uid) or str(uid))


def _passwd_name(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return None


class OwnerReader:
    """Reads owners. `proc` is the root of the files; `user_name` the names of users by number."""

    def __init__(self, *, proc: Path, user_name: Callable[[int], str | None] | None = None) -> None:
        self._proc = str(proc)
        self._user_name = user_name or UserNames().name

    def read(self, pid: int) -> tuple[int | None, ProcessInfo]:
        """Return the user's number, and container, jobs and environment. What may not be read is None.

        Of the environment nothing but the name of a conda or venv environment leaves this function.
        """
        status = self._text(pid, "status")
        uid = _REAL_UID.search(status)
        placed = placement(self._text(pid, "cgroup", _CGROUP_BYTES).decode("utf-8", "replace"))
        info = ProcessInfo(
            container=placed.container,
            container_runtime=placed.runtime,
            slurm_job=placed.slurm_job,
            kubernetes_pod=placed.kubernetes_pod,
            environment=environment_name(self._text(pid, "environ", _ENVIRON_BYTES)),
        )
        return (int(uid[1]) if uid else None), info

    def user(self, uid: int | None) -> str | None:
        """Return the name that belongs to a number of `read`; None while it is being looked up."""
        return self._user_name(uid) if uid is not None else None

    def _text(self, pid: int, file: str, limit: int = 4096) -> bytes:
        try:
            return read_start(f"{self._proc}/{pid}/{file}", limit)
        except OSError:  # gone, or another user's
            return b""


def environment_name(environ: bytes) -> str | None:
    """Return the last component of VIRTUAL_ENV or, without one, of CONDA_DEFAULT_ENV; None where neither is set."""
    environ = b"\0" + environ
    for variable in _ENVIRONMENTS:
        value = environ.partition(variable)[2].partition(b"\0")[0]
        if name := value.rstrip(b"/").rpartition(b"/")[2]:
            return sanitize_text(name)
    return None
