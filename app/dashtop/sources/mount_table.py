"""Reads the kernel's table of mounts and keeps the file systems that hold data, each once."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

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
