"""Host information about GPU processes, from /proc/<pid>: name, CPU, memory, user, container, job, environment."""

from __future__ import annotations

import os
import pwd
import re
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dashtop.model.sample import ProcessInfo
from dashtop.model.text import sanitize_text
from dashtop.model.threads import try_start_thread
from dashtop.sources.host.cgroups import parse_cgroup
from dashtop.sources.host.process_tree_load import UNKNOWN, TreeLoad, TreeLoadReader
from dashtop.sources.host.procfs import RSS, START, STATE, STIME, UTIME, read_start, read_stat

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from dashtop.model.ports import Clock
    from dashtop.model.sample import GpuProcess
    from dashtop.sources.host.notebooks import Kernel, NotebookFinder

USER_LOOKUP_TIMEOUT_S = 0.02
MAX_USERS = 1_000
# How long a pid may be absent here before it is not that of a process that just ended: the driver's list is up to two
# seconds old.
EXIT_GRACE_S = 5.0

# The kernel keeps 15 bytes of a program's name (TASK_COMM_LEN without the closing zero).
_COMM_LENGTH = 15
_STOPPED = b"T"  # by a signal; a debugger stops with "t"
# Thirteen v1 hierarchies of Kubernetes take 4 KiB; the environment of a pod names every service of its namespace.
_MAX_CGROUP_BYTES = 65_536
_MAX_ENVIRON_BYTES = 262_144
_REAL_UID = re.compile(rb"^Uid:\s+(\d+)", re.MULTILINE)
# Set by `activate`: the path of a venv; the name of a conda environment or, if it has none, its path.
_ENVIRONMENT_VARIABLES = (b"\0VIRTUAL_ENV=", b"\0CONDA_DEFAULT_ENV=")
# Inode of the first pid namespace: PROC_PID_INIT_INO (include/linux/proc_ns.h).
_FIRST_PID_NAMESPACE = "pid:[4026531836]"


class UserNames:
    """Names of users by uid, looked up in a thread, because a directory service (LDAP, SSSD) can hang."""

    def __init__(self, lookup: Callable[[int], str | None] | None = None) -> None:
        self._lookup = lookup or _read_passwd
        self._names: dict[int, str] = {}
        self._thread: threading.Thread | None = None

    def get(self, uid: int) -> str | None:
        """Return the user's name; the uid if it has no name; None while it is being looked up."""
        name = self._names.get(uid)
        if name is None and (self._thread is None or not self._thread.is_alive()):
            if len(self._names) >= MAX_USERS:
                self._names = {}
            self._thread = try_start_thread(self._find, uid, name="dashtop-users")
            if self._thread is not None:
                self._thread.join(USER_LOOKUP_TIMEOUT_S)
            name = self._names.get(uid)
        return name

    def _find(self, uid: int) -> None:
        self._names[uid] = sanitize_text(self._lookup(uid) or str(uid))


def _read_passwd(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OSError):
        return None


def parse_environment_name(environ: bytes) -> str | None:
    """Return the last component of VIRTUAL_ENV or, without it, of CONDA_DEFAULT_ENV; None if neither is set."""
    environ = b"\0" + environ
    for variable in _ENVIRONMENT_VARIABLES:
        value = environ.partition(variable)[2].partition(b"\0")[0]
        if name := value.rstrip(b"/").rpartition(b"/")[2]:
            return sanitize_text(name)
    return None


class PidNamespace:
    """Decides whether a pid from the driver is the process with that pid here. `proc` is where /proc is mounted.

    Drivers up to about R545 report pids of the first pid namespace, also in containers
    (github.com/NVIDIA/nvidia-docker/issues/1483); later ones translate them for the caller and leave out processes that
    it cannot see (NVIDIA/open-gpu-kernel-modules, gpuGetProcWithObject). NVML does not say which of both a driver does.
    So inside a container a process is taken for the driver's only if it has an NVIDIA device open, and no process is
    once the driver keeps reporting a pid that does not exist here.
    """

    def __init__(self, *, proc: Path, clock: Clock) -> None:
        self._proc = proc
        self._clock = clock
        self._is_nested = is_nested(proc)
        self._absent_since: dict[int, float] = {}
        self._absent_before: dict[int, float] = {}
        self.reports_outer_pids = False
        """Whether the driver is known to report pids of another namespace. Never reset."""

    def begin(self) -> None:
        """Start a tick."""
        self._absent_since, self._absent_before = {}, self._absent_since

    def is_absent_foreign(self, pid: int) -> bool:
        """Return whether a pid that does not exist here is of another namespace, rather than of an ended process."""
        if self._is_nested:
            now = self._clock.monotonic()
            since = self._absent_since[pid] = self._absent_before.get(pid, now)
            self.reports_outer_pids = self.reports_outer_pids or now - since > EXIT_GRACE_S
        return self._is_nested

    def is_present_foreign(self, pid: int) -> bool:
        """Return whether the process with this pid here is probably not the one that the driver reports."""
        return self._is_nested and not self._has_gpu_open(pid)

    def _has_gpu_open(self, pid: int) -> bool:
        try:
            descriptors = list((self._proc / str(pid) / "fd").iterdir())
        except OSError:  # another user's process, or ended: a wrong name would be worse than none
            return False
        for descriptor in descriptors:
            with suppress(OSError):  # closed meanwhile
                if str(descriptor.readlink()).startswith("/dev/nvidia"):
                    return True
        return False


def is_nested(proc: Path) -> bool:
    """Return whether this process is in another pid namespace than the first one. `proc`: where /proc is mounted."""
    try:
        return str((proc / "self" / "ns" / "pid").readlink()) != _FIRST_PID_NAMESPACE
    except FileNotFoundError:  # a kernel without pid namespaces
        return False
    except OSError:
        return True


@dataclass(slots=True, kw_only=True)
class _Process:
    """State of one process. `start` (clock ticks since boot) and pid together identify it."""

    start: int
    started_ms: int
    is_foreign: bool
    uid: int | None = None
    kernel: Kernel | None = None
    info: ProcessInfo | None = None
    comm: bytes = b""
    cpu_ticks: int
    read_at: float
    cpu_percent: float | None = None
    memory_bytes: int
    is_paused: bool
    tree: TreeLoad = UNKNOWN
    tick: int


def _read_boot_clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class ProcessReader:
    """Adds host information to GPU processes. Reads each process once per tick, on however many GPUs it is.

    `/proc/<pid>/stat` is read without psutil: it has name, CPU time, memory and start at once, in a quarter of the
    time, and a reused pid is noticed at every reading. User, container and job are read once per process, and again if
    it changes its name (exec). `boot_clock`: seconds since boot, in which /proc counts. `notebooks` None: notebooks are
    not looked for.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        proc: Path = Path("/proc"),
        sys: Path = Path("/sys"),
        boot_clock: Callable[[], float] = _read_boot_clock,
        get_user: Callable[[int], str | None] | None = None,
        notebooks: NotebookFinder | None = None,
    ) -> None:
        self._clock = clock
        self._proc = str(proc)
        self._notebooks = notebooks
        self._boot_clock = boot_clock
        self._get_user = get_user or UserNames().get
        self._namespace = PidNamespace(proc=proc, clock=clock)
        self._trees = TreeLoadReader(clock=clock, proc=proc, sys=sys)
        self._ticks_per_s = float(os.sysconf("SC_CLK_TCK"))
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._processes: dict[int, _Process] = {}
        self._tick = 0

    def begin(self) -> None:
        """Start a tick. Forget the processes that were not read in the last one."""
        self._processes = {pid: process for pid, process in self._processes.items() if process.tick == self._tick}
        self._trees.keep({(pid, process.start) for pid, process in self._processes.items()})
        self._namespace.begin()
        self._tick += 1

    def add_host_info(self, processes: Sequence[GpuProcess]) -> tuple[GpuProcess, ...]:
        """Return the processes with host information; `cpu_percent` is since the last tick."""
        return tuple(self._add_host_info(process) for process in processes)

    def _add_host_info(self, process: GpuProcess) -> GpuProcess:
        known = self._read(process.pid)
        if known is None:
            is_foreign = self._namespace.is_absent_foreign(process.pid)
            return replace(process, info=ProcessInfo(foreign=True)) if is_foreign else process
        if known.is_foreign or self._namespace.reports_outer_pids:
            return replace(process, info=ProcessInfo(foreign=True))
        return replace(
            process,
            cpu_percent=known.cpu_percent,
            host_memory_bytes=known.memory_bytes,
            tree_cpu_percent=known.tree.cpu_percent,
            usable_cpus=known.tree.usable_cpus,
            start_ticks=known.start,
            is_paused=known.is_paused,
            info=known.info or ProcessInfo(started_ms=known.started_ms),
        )

    def _read(self, pid: int) -> _Process | None:
        known = self._processes.get(pid)
        if known is not None and known.tick == self._tick:
            return known
        try:
            (comm, fields), now = read_stat(self._proc, pid), self._clock.monotonic()
            cpu_ticks, start = int(fields[UTIME]) + int(fields[STIME]), int(fields[START])
            memory_bytes = int(fields[RSS]) * self._page_bytes
            is_paused = fields[STATE] == _STOPPED
        except (OSError, ValueError, IndexError):
            self._processes.pop(pid, None)
            return None
        if known is None or known.start != start:
            known = self._processes[pid] = _Process(
                start=start,
                started_ms=self._clock.now_ms() - round(1000 * (self._boot_clock() - start / self._ticks_per_s)),
                is_foreign=self._namespace.is_present_foreign(pid),
                cpu_ticks=cpu_ticks,
                read_at=now,
                memory_bytes=memory_bytes,
                is_paused=is_paused,
                tick=self._tick,
            )
        elif now > known.read_at:
            # Clock ticks are coarse and both ends are rounded: the result can exceed 100 % per thread.
            seconds = (cpu_ticks - known.cpu_ticks) / self._ticks_per_s
            known.cpu_percent = max(0.0, 100.0 * seconds / (now - known.read_at))
            known.cpu_ticks, known.read_at = cpu_ticks, now
        known.tick, known.memory_bytes, known.is_paused = self._tick, memory_bytes, is_paused
        if not known.is_foreign:
            self._update_info(pid, known, comm)
            known.tree = self._trees.measure(pid, start)
        return known

    def _update_info(self, pid: int, process: _Process, comm: bytes) -> None:
        """Read what is not known yet, and everything again if the name has changed."""
        if process.info is None or comm != process.comm:
            process.comm = comm
            uid = _REAL_UID.search(self._read_file(pid, "status"))
            process.uid = int(uid[1]) if uid else None
            cgroup = parse_cgroup(self._read_file(pid, "cgroup", _MAX_CGROUP_BYTES).decode("utf-8", "replace"))
            process.info = ProcessInfo(
                name=self._read_name(pid, comm),
                container=cgroup.container,
                container_runtime=cgroup.runtime,
                slurm_job=cgroup.slurm_job,
                kubernetes_pod=cgroup.kubernetes_pod,
                # Nothing else of the environment is kept: it can contain secrets.
                environment=parse_environment_name(self._read_file(pid, "environ", _MAX_ENVIRON_BYTES)),
                started_ms=process.started_ms,
            )
            process.kernel = self._notebooks.find_kernel(pid) if self._notebooks is not None else None
        if self._notebooks is not None and process.kernel is not None:
            self._update_notebook(process, process.info, self._notebooks.find_name(process.kernel))
        if process.info.username is None and process.uid is not None:
            user = self._get_user(process.uid)
            process.info = replace(process.info, username=user) if user is not None else process.info

    @staticmethod
    def _update_notebook(process: _Process, info: ProcessInfo, name: str | None) -> None:
        """Note the name of the notebook, which can change. A kernel that has ended has no name any more."""
        if name is not None and name != info.notebook:
            process.info = replace(info, notebook=name)

    def _read_name(self, pid: int, comm: bytes) -> str | None:
        """Return the program's name. One that the kernel has cut is completed from the command line."""
        if len(comm) == _COMM_LENGTH:
            # Up to the first space: programs that set their title put arguments there as well.
            words = self._read_file(pid, "cmdline").partition(b"\0")[0].split(maxsplit=1)
            program = words[0].rpartition(b"/")[2] if words else b""
            comm = program if program.startswith(comm) else comm
        return sanitize_text(comm) or None

    def _read_file(self, pid: int, file: str, limit: int = 4096) -> bytes:
        """Return the start of a file of a process; empty if it has ended or belongs to another user."""
        try:
            return read_start(f"{self._proc}/{pid}/{file}", limit)
        except OSError:
            return b""
