"""The notebook that a process belongs to: that of the Jupyter kernel which is the process or one of its parents.

A kernel is known by its connection file `kernel-<uuid>.json` among its arguments. JPY_SESSION_NAME in its environment
has the path of its notebook (jupyter_server 2 and later), and so has `/api/sessions` of a Jupyter server. Only the name
of the file is kept. The files of a server itself, which hold its token, are never read.
"""

from __future__ import annotations

import json
import logging
import os
import re
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import parse_qs, urlsplit, urlunsplit

import urllib3

from dashtop.model.text import sanitize_text
from dashtop.model.threads import try_start_thread
from dashtop.sources.host.procfs import PARENT, read_stat

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping

    from dashtop.model.ports import Clock

log = logging.getLogger(__name__)

MAX_PARENTS: Final = 5
MAX_KERNELS: Final = 1_000
SESSIONS_INTERVAL_S: Final = 30.0
SESSIONS_TIMEOUT_S: Final = 5.0
MAX_SESSIONS_BYTES: Final = 4_000_000
MAX_FILE_BYTES: Final = 262_144
_KERNEL: Final = re.compile(rb"kernel-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.json")
_VARIABLE: Final = b"\0JPY_SESSION_NAME="


class Kernel(NamedTuple):
    """A Jupyter kernel: its process, and the id that its server gives it."""

    pid: int
    id: str


class JupyterSessions:
    """The notebooks of kernels, from a Jupyter server. A thread reads them, while somebody looks for a kernel.

    `url`: its address, with `?token=` if it needs one.
    """

    def __init__(self, url: str, *, clock: Clock) -> None:
        parts = urlsplit(url)
        path = f"{parts.path.rstrip('/')}/api/sessions"
        self._url = urlunsplit((parts.scheme, parts.netloc, path, "", ""))
        token = parse_qs(parts.query).get("token", [None])[0]
        self._headers = {"Authorization": f"token {token}"} if token is not None else {}
        self._clock = clock
        self._names: Mapping[str, str] = {}
        self._asked_s: float | None = None
        self._thread: threading.Thread | None = None
        self._has_failed = False
        self._http = urllib3.PoolManager(maxsize=1, retries=False, timeout=SESSIONS_TIMEOUT_S)

    def get(self, kernel_id: str) -> str | None:
        """Return the name of the notebook of a kernel, as far as it is known. Never waits."""
        now = self._clock.monotonic()
        is_due = self._asked_s is None or now - self._asked_s >= SESSIONS_INTERVAL_S
        if is_due and (self._thread is None or not self._thread.is_alive()):
            self._asked_s = now
            self._thread = try_start_thread(self._read, name="dashtop-jupyter")
        return self._names.get(kernel_id)

    def _read(self) -> None:
        try:
            self._names = self._request()
        except (urllib3.exceptions.HTTPError, ValueError, RecursionError) as error:
            if not self._has_failed:
                log.warning("--jupyter: the sessions of the Jupyter server cannot be read (%s).", _describe(error))
            self._has_failed = True
        else:
            self._has_failed = False

    def _request(self) -> dict[str, str]:
        """Return the names of notebooks by kernel id. Raises HTTPError or ValueError."""
        answer = self._http.request("GET", self._url, headers=self._headers, redirect=False, preload_content=False)
        try:
            if answer.status != HTTPStatus.OK:
                raise ValueError(f"status {answer.status}")
            return parse_sessions(json.loads(answer.read(MAX_SESSIONS_BYTES)))
        finally:
            answer.close()


def _describe(error: Exception) -> str:
    """Return what failed, without the address, which may be private."""
    return str(error) if isinstance(error, ValueError) else type(error).__name__


def parse_sessions(sessions: Any) -> dict[str, str]:
    """Return the names of notebooks by kernel id. What is not as Jupyter describes it is left out."""
    names = {}
    for session in sessions if isinstance(sessions, list) else ():
        kernel = session.get("kernel") if isinstance(session, dict) else None
        kernel_id = kernel.get("id") if isinstance(kernel, dict) else None
        path = (session.get("path") or session.get("name")) if isinstance(session, dict) else None
        if isinstance(kernel_id, str) and isinstance(path, str) and (name := _get_name(path.encode())):
            names[kernel_id] = name
    return names


def _get_name(path: bytes) -> str | None:
    """Return the last component of a path, to display."""
    return sanitize_text(path.rstrip(b"/").rpartition(b"/")[2]) or None


class NotebookFinder:
    """Finds the notebooks of processes. `proc` is where /proc is mounted, `uid` the user that dashtop runs as."""

    def __init__(
        self, *, proc: Path = Path("/proc"), sessions: JupyterSessions | None = None, uid: int | None = None
    ) -> None:
        self._proc = proc
        self._sessions = sessions
        self._uid = os.geteuid() if uid is None else uid
        self._started_for: dict[Kernel, str | None] = {}

    def find_kernel(self, pid: int) -> Kernel | None:
        """Return the kernel that a process or one of its parents is."""
        for _ in range(MAX_PARENTS + 1):
            if pid <= 1:
                return None
            found = _KERNEL.search(self._read(pid, "cmdline"))
            if found is not None:
                return Kernel(pid, found[1].decode())
            pid = self._read_parent(pid)
        return None

    def find_name(self, kernel: Kernel) -> str | None:
        """Return the name of the notebook of a kernel: what its server says now, else what it was started for."""
        if self._sessions is not None and (name := self._sessions.get(kernel.id)) is not None:
            return name
        if kernel not in self._started_for:
            if len(self._started_for) >= MAX_KERNELS:
                self._started_for.clear()
            self._started_for[kernel] = self._read_session_name(kernel.pid)
        return self._started_for[kernel]

    def _read_session_name(self, pid: int) -> str | None:
        """Return the notebook in the environment of a process of dashtop's own user; root may read those of all."""
        try:
            owner = (self._proc / str(pid)).stat().st_uid
        except OSError:
            return None
        if self._uid not in {0, owner}:
            return None
        environ = b"\0" + self._read(pid, "environ")
        return _get_name(environ.partition(_VARIABLE)[2].partition(b"\0")[0])

    def _read_parent(self, pid: int) -> int:
        try:
            return int(read_stat(self._proc, pid)[1][PARENT])
        except (OSError, ValueError, IndexError):
            return 0

    def _read(self, pid: int, file: str) -> bytes:
        """Return the start of a file of a process; empty if it has ended or belongs to another user."""
        try:
            with (self._proc / str(pid) / file).open("rb") as opened:
                return opened.read(MAX_FILE_BYTES)
        except OSError:
            return b""
