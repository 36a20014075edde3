"""Sizes of mounted file systems, asked off the main path: a file system whose server is gone never answers."""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dashtop.model.sample import Mount
from dashtop.model.text import sanitize_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from dashtop.model.ports import Clock

# These only show kernel state, or are images that are full by nature. Automount points stand here too: asking one for
# its size mounts it.
_NO_DATA = frozenset(
    (
        *("autofs", "binder", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "cramfs", "debugfs", "devpts"),
        *("devtmpfs", "efivarfs", "erofs", "fusectl", "hugetlbfs", "iso9660", "mqueue", "nsfs", "overlay", "proc"),
        *("pstore", "ramfs", "romfs", "rootfs", "rpc_pipefs", "securityfs", "selinuxfs", "smackfs", "squashfs"),
        *("sysfs", "tmpfs", "tracefs", "fuse.fuse-overlayfs", "fuse.gvfsd-fuse", "fuse.lxcfs", "fuse.portal"),
        *("fuse.snapfuse", "fuse.squashfuse"),
    )
)
# An overlay shows the space of the file system below it, and memory is shown as memory; but the root of a container or
# a live system is one of these, and people put data into /tmp.
_DATA_AT = {
    "overlay": ("/",),
    "fuse.fuse-overlayfs": ("/",),
    "ramfs": ("/",),
    "rootfs": ("/",),
    "tmpfs": ("/", "/tmp"),  # noqa: S108 - a name to compare with
}
_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class FileSystem:
    """One mounted file system: where it can be asked, the best place first, and whether its disk is in this machine."""

    device: str
    kind: str
    places: tuple[str, ...]
    local: bool


@dataclass(frozen=True, slots=True)
class _Row:
    device: str
    root: bytes
    place: str
    kind: str
    source: bytes


def file_systems(mountinfo: bytes) -> tuple[FileSystem, ...]:
    """Return the file systems that hold data from the text of /proc/self/mountinfo (proc_pid_mountinfo(5)).

    What is mounted in several places (bind mounts, subvolumes) is one file system with several places.
    """
    # A later mount on the same place hides the earlier one.
    rows = {row.place: row for line in mountinfo.splitlines() if (row := _row(line)) is not None}
    by_device: dict[str, list[_Row]] = {}
    for row in rows.values():
        if row.kind not in _NO_DATA or row.place in _DATA_AT.get(row.kind, ()):
            by_device.setdefault(row.device, []).append(row)
    found = []
    for device, group in by_device.items():
        group.sort(key=lambda row: (row.place != "/", row.root != b"/", len(row.place), row.place))
        first = group[0]
        local = first.source.startswith(b"/dev/") or first.place == "/"
        found.append(FileSystem(device, first.kind, tuple(row.place for row in group), local))
    return tuple(sorted(found, key=lambda system: system.places[0]))


def _row(line: bytes) -> _Row | None:
    """Split `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`; None if it is not so."""
    left, dash, right = line.partition(b" - ")
    before, after = left.split(b" "), right.split(b" ")
    if not dash or len(before) < 6 or len(after) < 2:  # noqa: PLR2004 - the fixed fields of the format
        return None
    return _Row(
        device=before[2].decode("ascii", "replace"),
        root=before[3],
        place=os.fsdecode(_plain(before[4])),
        kind=after[0].decode("ascii", "replace"),
        source=_plain(after[1]),
    )


def _plain(field: bytes) -> bytes:
    """Undo the kernel's octal escapes of space, tab, newline and backslash."""
    return _ESCAPE.sub(lambda match: bytes((int(match[1], 8) & 0xFF,)), field)


REFRESH_S = 5.0
PATIENCE_S = 5.0
FIRST_ANSWER_S = 0.3
MAX_STUCK = 4
_PLACE_LENGTH = 256


def statvfs_directory(path: str) -> os.statvfs_result:
    """Return statvfs of `path`; NotADirectoryError where a single file is mounted (as /etc/hosts in containers)."""
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return os.fstatvfs(descriptor)
    finally:
        os.close(descriptor)


@dataclass(slots=True)
class _Worker:
    """A thread, and what it is asking at present: a file system, or (None) for the table of mounts."""

    busy: bool = False
    asking: FileSystem | None = None
    since: float = 0.0


class MountReader:
    """Keeps the sizes of all mounts about `REFRESH_S` old.

    One thread asks them in turn. While a file system does not answer within `PATIENCE_S` its thread is left behind
    with it, and another goes on with the rest: at most `MAX_STUCK` + 1 threads, none started while none gets stuck.
    The time is judged by the caller's clock at each call of `mounts`; a thread with nothing to do sleeps.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        proc: Path = Path("/proc"),
        statvfs: Callable[[str], os.statvfs_result] = statvfs_directory,
    ) -> None:
        self._clock = clock
        self._mountinfo = proc / "self" / "mountinfo"
        self._statvfs = statvfs
        self._changed = threading.Condition()
        self._systems: tuple[FileSystem, ...] = ()
        self._answers: dict[FileSystem, Mount | None] = {}
        self._waiting: deque[FileSystem | None] = deque()
        self._stuck: set[FileSystem | None] = set()
        self._worker: _Worker | None = None
        self._thread: threading.Thread | None = None
        self._due = -float("inf")
        self._closed = False

    def mounts(self) -> tuple[Mount, ...]:
        """Return every file system as it last answered. Waits briefly where nothing recent is known."""
        now = self._clock.monotonic()
        with self._changed:
            self._leave_behind(now)
            first = False
            if now >= self._due and not self._busy() and None not in self._stuck and not self._closed:
                first = now - self._due > REFRESH_S
                self._due = now + REFRESH_S
                self._waiting.append(None)
                self._changed.notify_all()
            self._ensure_worker()
            if first:
                self._changed.wait_for(lambda: not self._busy(), FIRST_ANSWER_S)
            return tuple(mount for system in self._systems if (mount := self._answer(system)) is not None)

    def close(self) -> None:
        """End the thread; one that is stuck is a daemon and ends with the process."""
        with self._changed:
            self._closed = True
            thread = self._thread if self._worker is not None and not self._worker.busy else None
            self._changed.notify_all()
        if thread is not None:
            thread.join(FIRST_ANSWER_S)

    def _busy(self) -> bool:
        return bool(self._waiting) or (self._worker is not None and self._worker.busy)

    def _leave_behind(self, now: float) -> None:
        worker = self._worker
        if worker is not None and worker.busy and now - worker.since >= PATIENCE_S:
            self._stuck.add(worker.asking)
            self._worker = None

    def _ensure_worker(self) -> None:
        if self._worker is None and self._waiting and len(self._stuck) <= MAX_STUCK and not self._closed:
            worker = _Worker()
            thread = threading.Thread(target=self._work, args=(worker,), name="dashtop-mounts", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no thread to give at present: the next call tries again
                return
            self._worker, self._thread = worker, thread

    def _answer(self, system: FileSystem) -> Mount | None:
        """Return what is shown of a file system; None where it is no directory or has no size of its own."""
        nobody_left = len(self._stuck) > MAX_STUCK or None in self._stuck
        if system in self._stuck or nobody_left or system not in self._answers:
            return _silent(system)
        return self._answers[system]

    def _work(self, me: _Worker) -> None:
        """Ask what is waiting until closed, or until left behind and replaced."""
        while self._next(me):
            if me.asking is None:
                self._take_table(me)
            else:
                answer = self._ask(me.asking)
                with self._changed:
                    self._answers[me.asking] = answer
                    self._done(me)

    def _next(self, me: _Worker) -> bool:
        """Wait for something to ask; False when this thread is no longer wanted."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._worker is not me or bool(self._waiting))
            if self._closed or self._worker is not me:
                return False
            me.asking = self._waiting.popleft()
            me.since, me.busy = self._clock.monotonic(), True
            return True

    def _done(self, me: _Worker) -> None:
        me.busy = False
        if self._worker is not me:
            self._stuck.discard(me.asking)
        self._changed.notify_all()

    def _take_table(self, me: _Worker) -> None:
        try:
            systems = file_systems(self._mountinfo.read_bytes())
        except OSError:
            systems = ()
        with self._changed:
            self._systems = systems
            self._answers = {system: self._answers[system] for system in systems if system in self._answers}
            # The nearest first, so that no remote one delays them.
            nearest_first = sorted(systems, key=lambda system: not system.local)
            self._waiting.extend(system for system in nearest_first if system not in self._stuck)
            self._done(me)

    def _ask(self, system: FileSystem) -> Mount | None:
        if not system.local and len(self._stuck) >= MAX_STUCK:
            return _silent(system)  # the last thread is kept for the disks of this machine
        for place in system.places:
            try:
                sizes = self._statvfs(place)
            except (NotADirectoryError, FileNotFoundError):
                continue
            except (OSError, ValueError):
                return _silent(system)
            return _mount(system, place, sizes)
        return None


def _silent(system: FileSystem) -> Mount:
    return Mount(
        mount_point=sanitize_text(system.places[0], _PLACE_LENGTH),
        filesystem=sanitize_text(system.kind),
        used_bytes=None,
        total_bytes=None,
        used_percent=None,
    )


def _mount(system: FileSystem, place: str, sizes: os.statvfs_result) -> Mount | None:
    """Turn blocks into bytes and percent as df does: the share of what an ordinary user may fill."""
    if sizes.f_blocks == 0:
        return None
    used = sizes.f_blocks - sizes.f_bfree
    fillable = used + sizes.f_bavail
    if used < 0 or fillable <= 0:
        return _silent(system)
    return Mount(
        mount_point=sanitize_text(place, _PLACE_LENGTH),
        filesystem=sanitize_text(system.kind),
        used_bytes=used * sizes.f_frsize,
        total_bytes=sizes.f_blocks * sizes.f_frsize,
        used_percent=100.0 * used / fillable,
    )
