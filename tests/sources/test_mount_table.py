from __future__ import annotations

import os

from dashtop.sources.host.mounts import FileSystem, parse_mountinfo

DESKTOP = rb"""
22 28 0:21 / /sys rw,nosuid - sysfs sysfs rw
23 28 0:22 / /proc rw,nosuid - proc proc rw
25 28 0:24 / /run rw,nosuid - tmpfs tmpfs rw,size=3253900k
28 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw
30 22 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
33 22 0:34 / /sys/firmware/efi/efivars rw - efivarfs efivarfs rw
35 28 0:36 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw,fd=29
36 24 0:25 / /dev/shm rw - tmpfs tmpfs rw
40 28 7:0 / /snap/core22/1234 ro,nodev - squashfs /dev/loop0 ro
41 28 259:1 / /boot/efi rw - vfat /dev/nvme0n1p1 rw
42 28 8:1 / /data rw - xfs /dev/sda1 rw
43 28 8:1 /projects /home/me/projects rw - xfs /dev/sda1 rw
44 28 0:50 / /mnt/nas rw - nfs4 nas:/export rw,addr=10.0.0.2
45 28 0:51 / /net rw - autofs /etc/auto.net rw,fd=7
46 28 0:52 / /tmp rw - tmpfs tmpfs rw
47 28 0:60 / /var/lib/docker/overlay2/abc/merged rw - overlay overlay rw,lowerdir=/a
48 25 0:61 / /run/user/1000/gvfs rw - fuse.gvfsd-fuse gvfsd-fuse rw
49 28 0:62 / /home/me/remote rw - fuse.sshfs me@host:/ rw
50 28 0:63 / /tank rw - zfs tank rw
51 50 0:64 / /tank/sets rw - zfs tank/sets rw
"""


def best_mount_points(mountinfo: bytes) -> list[str]:
    return [system.mount_points[0] for system in parse_mountinfo(mountinfo)]


def test_only_file_systems_with_data_are_listed() -> None:
    assert best_mount_points(DESKTOP) == [
        "/",
        "/boot/efi",
        "/data",
        "/home/me/remote",
        "/mnt/nas",
        "/snap/core22/1234",  # left out by its sizes
        "/tank",
        "/tank/sets",
        "/tmp",
    ]


def test_bind_mount_is_another_mount_point_of_the_file_system() -> None:
    data = next(system for system in parse_mountinfo(DESKTOP) if system.device == "8:1")

    assert data == FileSystem("8:1", "xfs", ("/data", "/home/me/projects"), is_local=True)


def test_file_systems_without_local_disk_are_not_local() -> None:
    assert [system.mount_points[0] for system in parse_mountinfo(DESKTOP) if not system.is_local] == [
        "/home/me/remote",
        "/mnt/nas",
        "/tank",
        "/tank/sets",
        "/tmp",
    ]


def test_overlay_root_of_a_container_is_listed() -> None:
    mountinfo = rb"""
100 90 0:100 / / rw - overlay overlay rw,lowerdir=/l
101 100 259:1 /var/lib/docker/containers/f00/hosts /etc/hosts rw - ext4 /dev/nvme0n1p1 rw
102 100 259:1 /var/lib/docker/volumes/v/_data /models rw - ext4 /dev/nvme0n1p1 rw
103 100 0:101 / /proc/acpi ro - tmpfs tmpfs ro
"""

    assert parse_mountinfo(mountinfo) == (
        FileSystem("0:100", "overlay", ("/",), is_local=True),
        FileSystem("259:1", "ext4", ("/models", "/etc/hosts"), is_local=True),
    )


def test_subvolumes_are_one_file_system_at_the_root() -> None:
    mountinfo = rb"""
28 1 0:30 /@ / rw - btrfs /dev/sda2 rw
40 28 0:30 /@home /home rw - btrfs /dev/sda2 rw
41 28 0:30 / /mnt/top rw - btrfs /dev/sda2 rw
"""

    assert best_mount_points(mountinfo) == ["/"]


def test_last_mount_on_a_mount_point_hides_the_others() -> None:
    mountinfo = rb"""
40 28 0:40 / /home/me rw - autofs /etc/auto.home rw
41 40 0:41 / /home/me rw - nfs4 nas:/me rw
42 28 8:1 / /secret rw - ext4 /dev/sda1 rw
43 42 0:43 / /secret rw - tmpfs tmpfs rw
"""

    assert best_mount_points(mountinfo) == ["/home/me"]


def test_mount_below_a_later_mount_is_hidden() -> None:
    mountinfo = rb"""
28 1 8:1 / / rw - ext4 /dev/sda1 rw
40 28 8:2 / /data/inner rw - ext4 /dev/sdb1 rw
41 28 8:3 / /data rw - ext4 /dev/sdc1 rw
42 41 8:4 / /data/other rw - ext4 /dev/sdd1 rw
43 28 8:5 / /database rw - ext4 /dev/sde1 rw
"""

    assert best_mount_points(mountinfo) == ["/", "/data", "/data/other", "/database"]


def test_order_of_the_table_does_not_matter() -> None:
    mountinfo = rb"""
41 28 8:3 / /data rw - ext4 /dev/sdc1 rw
45 44 8:5 / /data/a/b rw - ext4 /dev/sde1 rw
44 41 8:4 / /data/a rw - ext4 /dev/sdd1 rw
46 41 8:6 / /data/a/b rw - ext4 /dev/sdf1 rw
28 1 8:1 / / rw - ext4 /dev/sda1 rw
"""

    assert [system.device for system in parse_mountinfo(mountinfo)] == ["8:1", "8:3", "8:4", "8:5"]


def test_file_system_is_listed_where_it_is_not_hidden() -> None:
    mountinfo = rb"""
28 1 8:1 / / rw - ext4 /dev/sda1 rw
40 28 8:2 / /data rw - ext4 /dev/sdb1 rw
41 28 8:2 /projects /home/me/projects rw - ext4 /dev/sdb1 rw
42 40 0:9 / /data rw - tmpfs tmpfs rw
"""

    assert best_mount_points(mountinfo) == ["/", "/home/me/projects"]


def test_parents_in_a_circle_end() -> None:
    mountinfo = b"1 1 0:2 / / rw - rootfs rootfs rw\n2 3 8:1 / /a rw - ext4 a rw\n3 2 8:2 / /a rw - ext4 b rw\n"

    assert best_mount_points(mountinfo) == ["/"]


def test_octal_escapes_are_decoded_and_other_bytes_kept() -> None:
    line = rb"40 28 8:1 / /mnt/my\040disk\011\012\134\043x" + b"\xff rw - ext4 /dev/sda1 rw\n"

    assert best_mount_points(line) == ["/mnt/my disk\t\n\\#x\udcff"]
    assert os.fsencode(best_mount_points(line)[0]) == b"/mnt/my disk\t\n\\#x\xff"


def test_carriage_return_in_a_name_does_not_end_the_line() -> None:
    assert best_mount_points(b"40 28 8:1 / /mnt/a\rb rw - ext4 /dev/sda1 rw\n") == ["/mnt/a\rb"]


def test_invalid_lines_are_skipped() -> None:
    assert parse_mountinfo(b"\n40 28 8:1 / /mnt\nnonsense - \n40 28 8:1 / /x rw -\n") == ()
