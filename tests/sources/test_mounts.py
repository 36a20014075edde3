from __future__ import annotations

import ast
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from dashtop.model.ports import SystemClock
from dashtop.model.sample import Mount
from dashtop.sources.host.mounts import MAX_HUNG_THREADS, MountReader, statvfs_directory
from tests.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAIT_S = 20.0


class FakeDisks:
    """Answers statvfs by path; a path in `hanging_paths` hangs until `release` is set."""

    def __init__(self) -> None:
        self.used = 10
        self.failing: dict[str, OSError] = {}
        self.hanging_paths: set[str] = set()
        self.images: set[str] = set()
        self.release = threading.Event()
        self.hang_started = threading.Semaphore(0)
        self.paths: list[str] = []
        self._earlier = set(threading.enumerate())

    def statvfs(self, path: str) -> os.statvfs_result:
        self.paths.append(path)
        if path in self.hanging_paths:
            self.hang_started.release()
            assert self.release.wait(WAIT_S)
        if path in self.failing:
            raise self.failing[path]
        # bsize, frsize, blocks, bfree, bavail, files, ffree, favail, flag, namemax
        free, flags = (0, os.ST_RDONLY) if path in self.images else (100 - self.used, 0)
        return os.statvfs_result((4096, 1024, 100, free, max(0, free - 20), 0, 0, 0, flags, 255))

    def threads(self) -> list[threading.Thread]:
        """Return the threads that ask these disks."""
        new = set(threading.enumerate()) - self._earlier
        return [thread for thread in new if thread.name == "dashtop-mounts"]

    def wait_until_one_hangs(self) -> None:
        assert self.hang_started.acquire(timeout=WAIT_S)


@pytest.fixture
def disks() -> Iterator[FakeDisks]:
    disks = FakeDisks()
    yield disks
    disks.release.set()
    for thread in disks.threads():
        thread.join(WAIT_S)
        assert not thread.is_alive()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@contextmanager
def reading(tmp_path: Path, disks: FakeDisks, clock: FakeClock, *lines: str) -> Iterator[MountReader]:
    write_table(tmp_path, *lines)
    reader = MountReader(clock=clock, proc=tmp_path, statvfs=disks.statvfs)
    try:
        yield reader
    finally:
        disks.release.set()
        reader.close()


def write_table(root: Path, *lines: str) -> None:
    (root / "self").mkdir(exist_ok=True)
    rows = (f"{20 + n} 1 {line} rw\n" for n, line in enumerate(lines))
    (root / "self" / "mountinfo").write_text("".join(rows))


ROOT = "8:1 / / rw - ext4 /dev/sda1"
DATA = "8:2 / /data rw - xfs /dev/sdb1"
NAS = "0:50 / /nas rw - nfs4 nas:/"


def settle(reader: MountReader) -> None:
    with reader._changed:
        assert reader._changed.wait_for(lambda: not reader._is_busy(), WAIT_S)


def refresh(reader: MountReader, clock: FakeClock, seconds: float = 5.0) -> dict[str, Mount]:
    """Let a round begin and end, and return what is known then."""
    clock.advance(seconds)
    reader.mounts()
    settle(reader)
    return {mount.mount_point: mount for mount in reader.mounts()}


def test_no_thread_before_the_first_call(disks: FakeDisks, clock: FakeClock, tmp_path: Path) -> None:
    with reading(tmp_path, disks, clock, ROOT):
        assert disks.threads() == []


def test_sizes_are_those_of_df(disks: FakeDisks, clock: FakeClock, tmp_path: Path) -> None:
    with reading(tmp_path, disks, clock, ROOT) as reader:
        assert refresh(reader, clock)["/"] == Mount(
            mount_point="/",
            filesystem="ext4",
            used_bytes=10 * 1024,
            total_bytes=100 * 1024,
            used_percent=100 * 10 / (10 + 70),
        )


def test_first_call_waits_for_fast_file_systems(
    disks: FakeDisks, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dashtop.sources.host.mounts.FIRST_READING_TIMEOUT_S", WAIT_S)
    with reading(tmp_path, disks, clock, ROOT, DATA) as reader:
        assert [mount.used_bytes for mount in reader.mounts()] == [10 * 1024] * 2


def test_first_call_does_not_wait_for_a_hung_mount(disks: FakeDisks, clock: FakeClock, tmp_path: Path) -> None:
    disks.hanging_paths.add("/nas")
    with reading(tmp_path, disks, clock, NAS, ROOT, DATA) as reader:
        reader.mounts()
        disks.wait_until_one_hangs()
        known = {mount.mount_point: mount.used_bytes for mount in reader.mounts()}

    assert known == {"/": 10 * 1024, "/data": 10 * 1024, "/nas": None}


def test_sizes_are_refreshed_every_five_seconds(disks: FakeDisks, clock: FakeClock, tmp_path: Path) -> None:
    with reading(tmp_path, disks, clock, ROOT) as reader:
        refresh(reader, clock)
        disks.used = 20
        assert refresh(reader, clock, 4.9)["/"].used_bytes == 10 * 1024
        assert len(disks.paths) == 1

        assert refresh(reader, clock, 0.1)["/"].used_bytes == 20 * 1024


def test_mounts_added_and_removed(disks: FakeDisks, clock: FakeClock, tmp_path: Path) -> None:
    with reading(tmp_path, disks, clock, ROOT) as reader:
        assert set(refresh(reader, clock)) == {"/"}
        write_table(tmp_path, ROOT, DATA)
        assert set(refresh(reader, clock)) == {"/", "/data"}
        write_table(tmp_path, DATA)
        assert set(refresh(reader, clock)) == {"/data"}


def test_hung_mount_has_no_sizes_and_others_are_refreshed(disks: FakeDisks, clock: FakeClock, tmp_path: Path) -> None:
    with reading(tmp_path, disks, clock, ROOT, NAS, DATA) as reader:
        assert refresh(reader, clock)["/nas"].used_bytes == 10 * 1024
        disks.hanging_paths.add("/nas")
        clock.advance(5.0)
        reader.mounts()
        disks.wait_until_one_hangs()
        clock.advance(4.9)
        assert {mount.mount_point: mount.used_bytes for mount in reader.mounts()}["/nas"] == 10 * 1024

        clock.advance(0.1)
        hung_mount = {mount.mount_point: mount for mount in reader.mounts()}["/nas"]
        assert hung_mount == Mount(
            mount_point="/nas", filesystem="nfs4", used_bytes=None, total_bytes=None, used_percent=None
        )

        for used in range(20, 40):
            disks.used = used
            known = refresh(reader, clock)
            assert known["/"].used_bytes == known["/data"].used_bytes == used * 1024
            assert known["/nas"].used_bytes is None
        assert disks.paths.count("/nas") == 2
        assert len(disks.threads()) == 2


def test_mount_recovers_after_a_hang(disks: FakeDisks, clock: FakeClock, tmp_path: Path) -> None:
    disks.hanging_paths.add("/nas")
    with reading(tmp_path, disks, clock, ROOT, NAS) as reader:
        reader.mounts()
        disks.wait_until_one_hangs()
        abandoned = reader._thread
        assert abandoned is not None
        clock.advance(5.0)
        assert refresh(reader, clock)["/nas"].used_bytes is None

        disks.hanging_paths.clear()
        disks.release.set()
        abandoned.join(WAIT_S)
        disks.used = 33
        assert refresh(reader, clock)["/nas"].used_bytes == 33 * 1024
        assert len(disks.threads()) == 1


def test_number_of_threads_is_limited(disks: FakeDisks, clock: FakeClock, tmp_path: Path) -> None:
    remote = [f"0:{60 + n} / /nas{n} rw - nfs4 nas:/{n}" for n in range(12)]
    disks.hanging_paths = {f"/nas{n}" for n in range(12)}
    with reading(tmp_path, disks, clock, ROOT, *remote) as reader:
        reader.mounts()
        for _ in range(MAX_HUNG_THREADS):
            disks.wait_until_one_hangs()
            clock.advance(5.0)
            reader.mounts()
        settle(reader)

        for used in range(20, 30):
            disks.used = used
            known = refresh(reader, clock)
            assert known["/"].used_bytes == used * 1024
            assert [known[path].used_bytes for path in sorted(disks.hanging_paths)] == [None] * 12
        assert len(disks.threads()) == MAX_HUNG_THREADS + 1
        assert sum(path in disks.hanging_paths for path in disks.paths) == MAX_HUNG_THREADS


def test_without_free_thread_old_sizes_are_not_shown(disks: FakeDisks, clock: FakeClock, tmp_path: Path) -> None:
    local = [f"8:{n} / /disk{n} rw - ext4 /dev/sd{n}" for n in range(MAX_HUNG_THREADS + 3)]
    with reading(tmp_path, disks, clock, ROOT, *local) as reader:
        refresh(reader, clock)
        disks.hanging_paths = {f"/disk{n}" for n in range(MAX_HUNG_THREADS + 3)}
        clock.advance(5.0)
        for _ in range(MAX_HUNG_THREADS + 1):
            reader.mounts()
            disks.wait_until_one_hangs()
            clock.advance(5.0)

        assert {mount.used_bytes for mount in reader.mounts()} == {None}
        assert len(disks.threads()) == MAX_HUNG_THREADS + 1


def test_mounted_files_are_not_file_systems(disks: FakeDisks, clock: FakeClock, tmp_path: Path) -> None:
    disks.failing = {"/etc/hosts": NotADirectoryError(), "/gone": FileNotFoundError()}
    hosts, models = "8:5 /h /etc/hosts rw - ext4 /dev/sdc1", "8:5 /m /models/large rw - ext4 /dev/sdc1"
    with reading(tmp_path, disks, clock, ROOT, hosts, models, "8:6 / /gone rw - ext4 /dev/sdd1") as reader:
        assert set(refresh(reader, clock)) == {"/", "/models/large"}


def test_mount_with_an_error_has_no_sizes(disks: FakeDisks, clock: FakeClock, tmp_path: Path) -> None:
    disks.failing = {"/nas": OSError(107, "Transport endpoint is not connected"), "/data": PermissionError()}
    with reading(tmp_path, disks, clock, ROOT, NAS, DATA) as reader:
        known = refresh(reader, clock)

    assert known["/"].used_bytes == 10 * 1024
    assert known["/nas"].used_bytes is known["/data"].used_bytes is None


def test_names_are_sanitized_and_read_unchanged(disks: FakeDisks, clock: FakeClock, tmp_path: Path) -> None:
    with reading(tmp_path, disks, clock, r"8:1 / /mnt/a\011\033[1m\040b rw - ext4 /dev/sda1") as reader:
        assert set(refresh(reader, clock)) == {"/mnt/a\ufffd\ufffd[1m b"}
    assert disks.paths == ["/mnt/a\t\x1b[1m b"]


def test_names_that_are_not_utf8_are_told_apart(disks: FakeDisks, clock: FakeClock, tmp_path: Path) -> None:
    names = (b"caf\xe9", b"caf\xe8", b"a\x01", b"a\x02")
    with reading(tmp_path, disks, clock) as reader:
        table = b"".join(b"2%d 1 8:%d / /mnt/%s rw - ext4 disk rw\n" % (n, n, name) for n, name in enumerate(names))
        (tmp_path / "self" / "mountinfo").write_bytes(table)
        assert set(refresh(reader, clock)) == {
            r"/mnt/caf\xe9",
            r"/mnt/caf\xe8",
            "/mnt/a\N{REPLACEMENT CHARACTER} (8:2)",
            "/mnt/a\N{REPLACEMENT CHARACTER} (8:3)",
        }
    assert sorted(map(os.fsencode, disks.paths)) == sorted(b"/mnt/" + name for name in names)


def test_long_names_with_the_same_beginning_are_told_apart(disks: FakeDisks, clock: FakeClock, tmp_path: Path) -> None:
    lines = [f"8:{n} / /{'x' * 300}{n} rw - ext4 disk{n}" for n in range(2)]
    with reading(tmp_path, disks, clock, *lines) as reader:
        found = refresh(reader, clock)
    assert [name[-7:] for name in found] == ["\N{HORIZONTAL ELLIPSIS} (8:0)", "\N{HORIZONTAL ELLIPSIS} (8:1)"]


def test_full_and_read_only_file_systems_are_images(disks: FakeDisks, clock: FakeClock, tmp_path: Path) -> None:
    images = [
        "7:1 / /snap/core rw - squashfs /dev/loop1",
        "0:70 / /tmp/.mount_app rw - fuse.dwarfs dwarfs",
        "11:0 / /media/dvd rw - udf /dev/sr0",
        "0:71 / / rw - overlay composefs",
    ]
    disks.images = {line.split()[2] for line in images}
    with reading(tmp_path, disks, clock, DATA, *images) as reader:
        assert set(refresh(reader, clock)) == {"/data"}


def test_full_disk_is_listed(disks: FakeDisks, clock: FakeClock, tmp_path: Path) -> None:
    disks.used = 100
    with reading(tmp_path, disks, clock, DATA) as reader:
        assert refresh(reader, clock)["/data"].used_percent == 100.0


LIST_MOUNTS = """
import sys
from dashtop.model.ports import SystemClock
from dashtop.sources.host.mounts import MountReader
reader = MountReader(clock=SystemClock())
reader.mounts()
with reader._changed:
    assert reader._changed.wait_for(lambda: not reader._is_busy(), 20)
for mount in reader.mounts():
    print(ascii(mount.mount_point), mount.total_bytes, mount.used_percent)
"""


def list_mounts_in_namespace(commands: str, folder: Path) -> dict[str, list[str]]:
    """Return size and percent of each mount after these commands in a mount namespace of its own."""
    script = f'set -e\ncd "$1"\n{commands}\ncd /\nexec "$2" -c "$3"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(folder), sys.executable, LIST_MOUNTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = (line.rsplit(maxsplit=2) for line in done.stdout.splitlines())
    return {ast.literal_eval(name): sizes for name, *sizes in rows}


def can_mount_loop_devices() -> bool:
    probe = "truncate -s 1M x && mkfs.ext4 -q x && mkdir d && mount -o loop x d"
    with tempfile.TemporaryDirectory() as folder:
        command = ["unshare", "--mount", "sh", "-c", probe]
        try:
            return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0
        except FileNotFoundError:
            return False


@pytest.fixture(scope="module")
def _loop_devices() -> None:
    if not can_mount_loop_devices():
        pytest.skip("mounting needs root, unshare, mkfs.ext4 and loop devices")


@pytest.mark.usefixtures("_loop_devices")
def test_kernel_shows_the_cover_of_a_hidden_mount(tmp_path: Path) -> None:
    commands = """
    for size in 8 16; do truncate -s ${size}M $size.img; mkfs.ext4 -q $size.img; done
    mkdir -p data/inner other
    mount -o loop 8.img data/inner
    mount -o loop 16.img data
    mkdir data/inner
    """
    found = list_mounts_in_namespace(commands, tmp_path)
    assert f"{tmp_path}/data/inner" not in found
    assert int(found[f"{tmp_path}/data"][0]) > 8 * 2**20


@pytest.mark.usefixtures("_loop_devices")
def test_kernel_mounts_with_names_that_are_not_utf8(tmp_path: Path) -> None:
    commands = r"""
    for name in "$(printf 'caf\351')" "$(printf 'caf\350')"; do
        truncate -s 8M "$name.img"; mkfs.ext4 -q "$name.img"; mkdir "$name"; mount -o loop "$name.img" "$name"
    done
    """
    found = list_mounts_in_namespace(commands, tmp_path)
    assert {rf"{tmp_path}/caf\xe9", rf"{tmp_path}/caf\xe8"} <= set(found)
    assert found[rf"{tmp_path}/caf\xe9"][0] != "None"


@pytest.mark.usefixtures("_loop_devices")
def test_kernel_reports_a_full_image_as_read_only(tmp_path: Path) -> None:
    fill = "mount -t tmpfs -o size=64k full /tmp; head -c 65536 /dev/zero >/tmp/x || true"
    assert list_mounts_in_namespace(fill, tmp_path)["/tmp"] == ["65536", "100.0"]
    assert "/tmp" not in list_mounts_in_namespace(f"{fill}; mount -o remount,ro /tmp", tmp_path)


def test_missing_mount_table(disks: FakeDisks, clock: FakeClock, tmp_path: Path) -> None:
    reader = MountReader(clock=clock, proc=tmp_path / "nowhere", statvfs=disks.statvfs)

    assert refresh(reader, clock) == {}
    reader.close()


def test_close_ends_the_thread_and_does_not_wait_for_a_hung_mount(
    disks: FakeDisks, clock: FakeClock, tmp_path: Path
) -> None:
    with reading(tmp_path, disks, clock, ROOT) as reader:
        refresh(reader, clock)
        reader.close()
        assert disks.threads() == []
        assert [mount.used_bytes for mount in reader.mounts()] == [10 * 1024]

    disks.release.clear()
    disks.hanging_paths.add("/nas")
    with reading(tmp_path, disks, clock, NAS) as reader:
        reader.mounts()
        disks.wait_until_one_hangs()
        reader.close()


def test_statvfs_of_a_file_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        statvfs_directory(str(tmp_path / "file"))
    assert statvfs_directory(str(tmp_path)).f_blocks == os.statvfs(tmp_path).f_blocks


def test_this_machine_agrees_with_df() -> None:
    reader = MountReader(clock=SystemClock())
    try:
        mounts = reader.mounts()
    finally:
        reader.close()
    assert mounts
    for mount in mounts:
        df = ["df", "-B1", "--output=used,size,pcent,fstype", "--", mount.mount_point]
        answer = subprocess.run(df, capture_output=True, text=True, check=True).stdout
        used, size, percent, kind = answer.splitlines()[1].split()
        assert mount.filesystem == kind
        assert mount.total_bytes == int(size)
        # Others write to the disk between the two questions.
        assert mount.used_bytes == pytest.approx(int(used), abs=512 * 2**20)
        assert mount.used_percent == pytest.approx(int(percent.rstrip("%")), abs=1.5)
