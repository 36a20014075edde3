"""Sizes of mounted file systems, read in a thread: statvfs hangs while the server of a file system does not respond."""

from __future__ import annotations

import os
import re
import threading
from collections import Counter, deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dashtop.model.sample import Mount
from dashtop.model.text import sanitize_text
from dashtop.model.threads import try_start_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from dashtop.model.ports import Clock

REFRESH_INTERVAL_S = 5.0
HANG_TIMEOUT_S = 5.0
FIRST_READING_TIMEOUT_S = 0.3
MAX_HUNG_THREADS = 4

_MAX_PATH_LENGTH = 256
# These have no data of their own. Automount points are among them: reading the size of one mounts it. Images need no
# name here: see `_is_image`.
_WITHOUT_DATA = frozenset(
    (
        *("autofs", "binder", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "devtmpfs"),
        *("efivarfs", "fusectl", "hugetlbfs", "mqueue", "nsfs", "overlay", "proc", "pstore", "ramfs", "rootfs"),
        *("rpc_pipefs", "securityfs", "selinuxfs", "smackfs", "sysfs", "tmpfs", "tracefs"),
        *("fuse.fuse-overlayfs", "fuse.gvfsd-fuse", "fuse.lxcfs", "fuse.portal"),
    )
)
# An overlay has the space of the file system below it, and tmpfs is shown as memory. But the root of a container or a
# live system is one of these, and people store data in /tmp.
_DATA_MOUNT_POINTS = {
    "overlay": ("/",),
    "fuse.fuse-overlayfs": ("/",),
    "ramfs": ("/",),
    "rootfs": ("/",),
    "tmpfs": ("/", "/tmp"),  # noqa: S108 - a name to compare with
}
_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class FileSystem:
    """One mounted file system. `mount_points`: the best one first. `is_local`: its disk is in this machine."""

    device: str
    kind: str
    mount_points: tuple[str, ...]
    is_local: bool


@dataclass(frozen=True, slots=True)
class _Row:
    mount_id: bytes
    parent_id: bytes
    device: str
    root: bytes
    mount_point: str
    kind: str
    source: bytes


def parse_mountinfo(text: bytes) -> tuple[FileSystem, ...]:
    """Return the file systems with data in /proc/self/mountinfo (proc_pid_mountinfo(5)).

    One that is mounted several times (bind mounts, subvolumes) is one file system with several mount points. One that
    another mount hides is left out: its mount point leads to the other one.
    """
    rows = [row for line in text.split(b"\n") if (row := _parse_row(line)) is not None]
    tree = _MountTree(rows)
    by_device: dict[str, list[_Row]] = {}
    for row in rows:
        has_data = row.kind not in _WITHOUT_DATA or row.mount_point in _DATA_MOUNT_POINTS.get(row.kind, ())
        if has_data and tree.is_visible(row):
            by_device.setdefault(row.device, []).append(row)
    found = []
    for device, group in by_device.items():
        group.sort(key=lambda row: (row.mount_point != "/", row.root != b"/", len(row.mount_point), row.mount_point))
        best = group[0]
        is_local = best.source.startswith(b"/dev/") or best.mount_point == "/"
        found.append(FileSystem(device, best.kind, tuple(row.mount_point for row in group), is_local))
    return tuple(sorted(found, key=lambda system: system.mount_points[0]))


class _MountTree:
    """Follows paths through the mounts as the kernel does, which enters a mount if the path has led to its parent."""

    def __init__(self, rows: list[_Row]) -> None:
        self._count = len(rows)
        ids = {row.mount_id for row in rows}
        # The parent of the root's mount is not in the table.
        self._children = {
            (row.parent_id if row.parent_id in ids and row.parent_id != row.mount_id else None, row.mount_point): row
            for row in rows
        }

    def is_visible(self, row: _Row) -> bool:
        """Return whether the mount point leads to this mount, not to one mounted later there or on a folder above."""
        names = row.mount_point.rstrip("/").split("/")
        reached: bytes | None = None
        for depth in range(1, len(names) + 1):
            path = "/".join(names[:depth]) or "/"
            following = self._children.get((reached, path)) or self._children.get((None, path))
            for _ in range(self._count):  # several mounts on one mount point
                if following is None:
                    break
                reached = following.mount_id
                following = self._children.get((reached, path))
        return reached == row.mount_id


def _parse_row(line: bytes) -> _Row | None:
    """Parse `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`. None: not such a line."""
    left, dash, right = line.partition(b" - ")
    before, after = left.split(b" "), right.split(b" ")
    if not dash or len(before) < 6 or len(after) < 2:  # noqa: PLR2004 - the fixed fields of the format
        return None
    return _Row(
        mount_id=before[0],
        parent_id=before[1],
        device=before[2].decode("ascii", "replace"),
        root=before[3],
        mount_point=os.fsdecode(_unescape(before[4])),
        kind=after[0].decode("ascii", "replace"),
        source=_unescape(after[1]),
    )


def _unescape(field: bytes) -> bytes:
    """Replace the kernel's octal escapes of space, tab, newline and backslash."""
    return _ESCAPE.sub(lambda match: bytes((int(match[1], 8) & 0xFF,)), field)


def statvfs_directory(path: str) -> os.statvfs_result:
    """Return statvfs of `path`. Raise NotADirectoryError if a file is mounted there (as /etc/hosts in containers)."""
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return os.fstatvfs(descriptor)
    finally:
        os.close(descriptor)


@dataclass(slots=True)
class _Worker:
    """State of a thread. `reading`: the file system that it reads; None: the table of mounts."""

    is_busy: bool = False
    reading: FileSystem | None = None
    since: float = 0.0


class MountReader:
    """Reads the sizes of all mounts every `REFRESH_INTERVAL_S`.

    One thread reads them in turn. If a file system does not answer within `HANG_TIMEOUT_S`, its thread is abandoned and
    another one reads the rest: at most `MAX_HUNG_THREADS` + 1 threads. `mounts` checks the timeout with the caller's
    clock; an idle thread sleeps.
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
        self._sizes: dict[FileSystem, Mount | None] = {}
        self._queue: deque[FileSystem | None] = deque()
        self._hung: set[FileSystem | None] = set()
        self._worker: _Worker | None = None
        self._thread: threading.Thread | None = None
        self._due = -float("inf")
        self._is_closed = False

    def mounts(self) -> tuple[Mount, ...]:
        """Return every file system with its newest sizes. Wait briefly if there are none, or old ones."""
        now = self._clock.monotonic()
        with self._changed:
            self._abandon_hung_worker(now)
            is_first = False
            if now >= self._due and not self._is_busy() and None not in self._hung and not self._is_closed:
                is_first = now - self._due > REFRESH_INTERVAL_S
                self._due = now + REFRESH_INTERVAL_S
                self._queue.append(None)
                self._changed.notify_all()
            self._ensure_worker()
            if is_first:
                self._changed.wait_for(lambda: not self._is_busy(), FIRST_READING_TIMEOUT_S)
            return _make_unique(
                [(system, mount) for system in self._systems if (mount := self._get_mount(system)) is not None]
            )

    def close(self) -> None:
        """Stop the thread. One that hangs is a daemon and ends with the process."""
        with self._changed:
            self._is_closed = True
            thread = self._thread if self._worker is not None and not self._worker.is_busy else None
            self._changed.notify_all()
        if thread is not None:
            thread.join(FIRST_READING_TIMEOUT_S)

    def _is_busy(self) -> bool:
        return bool(self._queue) or (self._worker is not None and self._worker.is_busy)

    def _abandon_hung_worker(self, now: float) -> None:
        worker = self._worker
        if worker is not None and worker.is_busy and now - worker.since >= HANG_TIMEOUT_S:
            self._hung.add(worker.reading)
            self._worker = None

    def _ensure_worker(self) -> None:
        if self._worker is None and self._queue and len(self._hung) <= MAX_HUNG_THREADS and not self._is_closed:
            worker = _Worker()
            if (thread := try_start_thread(self._run, worker, name="dashtop-mounts")) is not None:
                self._worker, self._thread = worker, thread

    def _get_mount(self, system: FileSystem) -> Mount | None:
        """Return a file system with its sizes. None: not a directory, or without sizes of its own."""
        has_no_worker = len(self._hung) > MAX_HUNG_THREADS or None in self._hung
        if system in self._hung or has_no_worker or system not in self._sizes:
            return _build_without_sizes(system)
        return self._sizes[system]

    def _run(self, worker: _Worker) -> None:
        """Read what is in the queue, until closed or abandoned."""
        while self._wait_for_work(worker):
            if worker.reading is None:
                self._read_table(worker)
            else:
                mount = self._read_sizes(worker.reading)
                with self._changed:
                    self._sizes[worker.reading] = mount
                    self._finish(worker)

    def _wait_for_work(self, worker: _Worker) -> bool:
        """Wait for something to read. Return False if this thread must end."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._worker is not worker or bool(self._queue))
            if self._is_closed or self._worker is not worker:
                return False
            worker.reading = self._queue.popleft()
            worker.since, worker.is_busy = self._clock.monotonic(), True
            return True

    def _finish(self, worker: _Worker) -> None:
        worker.is_busy = False
        if self._worker is not worker:
            self._hung.discard(worker.reading)
        self._changed.notify_all()

    def _read_table(self, worker: _Worker) -> None:
        try:
            systems = parse_mountinfo(self._mountinfo.read_bytes())
        except OSError:
            systems = ()
        with self._changed:
            self._systems = systems
            self._sizes = {system: self._sizes[system] for system in systems if system in self._sizes}
            # Local ones first, so that no remote one delays them.
            local_first = sorted(systems, key=lambda system: not system.is_local)
            self._queue.extend(system for system in local_first if system not in self._hung)
            self._finish(worker)

    def _read_sizes(self, system: FileSystem) -> Mount | None:
        if not system.is_local and len(self._hung) >= MAX_HUNG_THREADS:
            return _build_without_sizes(system)  # the last thread is for local disks
        for mount_point in system.mount_points:
            try:
                sizes = self._statvfs(mount_point)
            except (NotADirectoryError, FileNotFoundError):
                continue
            except (OSError, ValueError):
                return _build_without_sizes(system)
            return _build_mount(system, mount_point, sizes)
        return None


def _format_path(path: str) -> str:
    """Return a path as text; bytes that are not UTF-8 as `\\xe9`."""
    return sanitize_text(os.fsencode(path).decode("utf-8", "backslashreplace"), _MAX_PATH_LENGTH)


def _make_unique(mounts: list[tuple[FileSystem, Mount]]) -> tuple[Mount, ...]:
    """Add the device number to mount points whose texts are the same: cut off, or with replaced characters."""
    counts = Counter(mount.mount_point for _, mount in mounts)
    return tuple(
        mount
        if counts[mount.mount_point] == 1
        else replace(mount, mount_point=f"{mount.mount_point} ({system.device})")
        for system, mount in mounts
    )


def _build_without_sizes(system: FileSystem) -> Mount:
    return Mount(
        mount_point=_format_path(system.mount_points[0]),
        filesystem=sanitize_text(system.kind),
        used_bytes=None,
        total_bytes=None,
        used_percent=None,
    )


def _is_image(sizes: os.statvfs_result) -> bool:
    """Return whether the file system was written once and is full by nature.

    So are squashfs, erofs and composefs, CDs and DVDs, and images in FUSE. A disk that is only mounted read-only has
    free blocks.
    """
    return bool(sizes.f_flag & os.ST_RDONLY) and sizes.f_bfree == 0


def _build_mount(system: FileSystem, mount_point: str, sizes: os.statvfs_result) -> Mount | None:
    """Convert blocks to bytes and percent like df: the share of what an unprivileged user can fill.

    None: without a size of its own, or an image.
    """
    if sizes.f_blocks == 0:
        return None
    if _is_image(sizes):
        return None
    used = sizes.f_blocks - sizes.f_bfree
    usable = used + sizes.f_bavail
    if used < 0 or usable <= 0:
        return _build_without_sizes(system)
    return Mount(
        mount_point=_format_path(mount_point),
        filesystem=sanitize_text(system.kind),
        used_bytes=used * sizes.f_frsize,
        total_bytes=sizes.f_blocks * sizes.f_frsize,
        used_percent=100.0 * used / usable,
    )
