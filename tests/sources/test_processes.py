from __future__ import annotations

import gc
import os
import shutil
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import psutil
import pytest

from dashtop.model.ports import SystemClock
from dashtop.model.sample import GpuProcess, ProcessInfo
from dashtop.sources.host.processes import EXIT_GRACE_S, ProcessReader
from tests.clock import FakeClock

if TYPE_CHECKING:
    from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
UP_S = 10_000.0


class FakeProc:
    """A /proc of processes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(
        self,
        pid: int,
        name: bytes,
        *,
        ticks: int = 0,
        start: int = 77,
        pages: int = 0,
        command: bytes = b"",
        uid: int = 1000,
        cgroup: str = "0::/\n",
        environ: bytes = b"",
    ) -> None:
        here = self.root / str(pid)
        here.mkdir(exist_ok=True)
        self.write_stat(pid, name, ticks=ticks, start=start, pages=pages)
        (here / "cmdline").write_bytes(command)
        (here / "status").write_text(f"Name:\tx\nPid:\t{pid}\nUid:\t{uid}\t0\t0\t0\nGid:\t0\t0\t0\t0\n")
        (here / "cgroup").write_text(cgroup)
        (here / "environ").write_bytes(environ)

    def write_stat(
        self, pid: int, name: bytes, *, ticks: int = 0, start: int, pages: int = 0, state: str = "R"
    ) -> None:
        fields = [state, "1", *["0"] * 9, str(ticks), "0", *["0"] * 6, str(start), "0", str(pages), "0"]
        (self.root / str(pid) / "stat").write_bytes(b"%d (%s) %s\n" % (pid, name, " ".join(fields).encode()))

    def opens(self, pid: int, *targets: str) -> None:
        """Give the process file descriptors."""
        (self.root / str(pid) / "fd").mkdir(exist_ok=True)
        for number, target in enumerate(targets):
            (self.root / str(pid) / "fd" / str(number)).symlink_to(target)

    def in_container(self) -> None:
        """Put the reader itself into a pid namespace of its own."""
        (self.root / "self" / "ns").mkdir(parents=True)
        (self.root / "self" / "ns" / "pid").symlink_to("pid:[4026533333]")

    def remove(self, pid: int) -> None:
        shutil.rmtree(self.root / str(pid))


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def reader(proc: FakeProc, clock: FakeClock) -> ProcessReader:
    return reader_of(proc, clock)


def reader_of(proc: FakeProc, clock: FakeClock) -> ProcessReader:
    return ProcessReader(clock=clock, proc=proc.root, boot_clock=lambda: UP_S, get_user={1000: "ada", 0: "root"}.get)


def on_gpu(pid: int) -> GpuProcess:
    return GpuProcess(pid=pid, kind="C", gpu_memory_bytes=123)


def owner(process: GpuProcess) -> ProcessInfo:
    """The facts without those that identify the process itself."""
    return replace(process.info, name=None, started_ms=None)


def describe(reader: ProcessReader, *pids: int) -> tuple[GpuProcess, ...]:
    reader.begin()
    return reader.add_host_info([on_gpu(pid) for pid in pids])


def test_name_at_once_and_cpu_from_the_second_tick_on(proc: FakeProc, clock: FakeClock, reader: ProcessReader) -> None:
    proc.write(10, b"python3", ticks=500)
    first = describe(reader, 10)[0]
    assert (first.pid, first.kind, first.gpu_memory_bytes) == (10, "C", 123)
    assert (first.info.name, first.cpu_percent) == ("python3", None)

    proc.write(10, b"python3", ticks=500 + round(3 / TICK_S))
    clock.advance(2.0)
    assert describe(reader, 10)[0].cpu_percent == pytest.approx(150.0)

    clock.advance(2.0)
    assert describe(reader, 10)[0].cpu_percent == 0.0


def test_a_process_on_two_gpus_is_read_once_a_tick(proc: FakeProc, clock: FakeClock, reader: ProcessReader) -> None:
    proc.write(10, b"python3")
    describe(reader, 10)
    proc.write(10, b"python3", ticks=round(1 / TICK_S))
    clock.advance(1.0)
    reader.begin()

    first = reader.add_host_info([on_gpu(10)])
    clock.advance(0.001)
    assert reader.add_host_info([on_gpu(10)]) == first
    assert first[0].cpu_percent == pytest.approx(100.0)


def test_a_process_that_is_gone_keeps_none(proc: FakeProc, reader: ProcessReader) -> None:
    proc.write(10, b"python3")
    describe(reader, 10)
    proc.remove(10)

    assert describe(reader, 10, 11) == (on_gpu(10), on_gpu(11))


def test_a_pid_given_to_another_process_starts_anew(proc: FakeProc, clock: FakeClock, reader: ProcessReader) -> None:
    proc.write(10, b"old", ticks=9_000, start=1)
    describe(reader, 10)
    proc.write(10, b"new", ticks=9_500, start=2)
    clock.advance(1.0)

    described = describe(reader, 10)[0]
    assert (described.info.name, described.cpu_percent) == ("new", None)


def test_a_process_that_left_the_gpus_is_forgotten(proc: FakeProc, clock: FakeClock, reader: ProcessReader) -> None:
    for pid in range(1, 200):
        proc.write(pid, b"short-lived")
        describe(reader, pid)
        clock.advance(1.0)

    assert len(reader._processes) <= 2


def test_a_name_changed_while_running_is_seen(proc: FakeProc, clock: FakeClock, reader: ProcessReader) -> None:
    proc.write(10, b"python3")
    describe(reader, 10)
    proc.write(10, b"pt_main_thread")
    clock.advance(1.0)

    assert describe(reader, 10)[0].info.name == "pt_main_thread"


@pytest.mark.parametrize(
    ("comm", "shown"),
    [
        (b"a) R 1 (b", "a) R 1 (b"),
        (b"x\ny\x1b[1m", "x\ufffdy\ufffd[1m"),
        (b"<b>bold</b>", "<b>bold</b>"),
        (b"\xff\xfepy", "\ufffd\ufffdpy"),
        (b"n" * 2_000, "n" * 63 + "…"),
        (b"", None),
    ],
)
def test_hostile_names_are_made_printable(
    proc: FakeProc, reader: ProcessReader, comm: bytes, shown: str | None
) -> None:
    proc.write(10, comm)

    assert describe(reader, 10)[0].info.name == shown


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (b"/opt/bin/text-generation-launcher\0--token\0secret\0", "text-generation-launcher"),
        (b"text-generation-launcher --token secret\0", "text-generation-launcher"),
        (b"/home/me/other-program\0", "text-generation"),
        (b"", "text-generation"),
    ],
)
def test_a_name_the_kernel_cut_is_completed_without_telling_the_command_line(
    proc: FakeProc, reader: ProcessReader, command: bytes, shown: str
) -> None:
    proc.write(10, b"text-generation", command=command)

    assert describe(reader, 10)[0].info.name == shown


def test_a_stat_that_makes_no_sense_is_no_answer(proc: FakeProc, reader: ProcessReader) -> None:
    for pid, text in enumerate((b"", b"10 (x", b"10 (x) R 1 2", b"10 (x) " + b"z " * 30), start=1):
        proc.write(pid, b"x")
        (proc.root / str(pid) / "stat").write_bytes(text)

        assert describe(reader, pid) == (on_gpu(pid),)


def test_memory_is_read_each_tick_and_the_start_once(proc: FakeProc, clock: FakeClock, reader: ProcessReader) -> None:
    proc.write(10, b"python3", start=round((UP_S - 90) / TICK_S), pages=100)
    first = describe(reader, 10)[0]
    assert first.host_memory_bytes == 100 * PAGE
    assert first.info.started_ms == clock.now_ms() - 90_000

    proc.write(10, b"python3", start=round((UP_S - 90) / TICK_S), pages=250)
    clock.advance(5.0)
    later = describe(reader, 10)[0]
    assert later.host_memory_bytes == 250 * PAGE
    assert later.info.started_ms == first.info.started_ms


def test_a_process_that_a_signal_has_stopped(proc: FakeProc, clock: FakeClock, reader: ProcessReader) -> None:
    proc.write(10, b"python3", start=100)
    found = []
    for state in "RTtS":
        proc.write_stat(10, b"python3", start=100, state=state)
        found.append(describe(reader, 10)[0].is_paused)
        clock.advance(1.0)
    assert found == [False, True, False, False]


def test_whose_it_is(proc: FakeProc, reader: ProcessReader) -> None:
    job = "0::/system.slice/slurmstepd.scope/job_42/step_0/user/task_0\n"
    proc.write(10, b"python3", cgroup=job, environ=b"HOME=/home/ada\0VIRTUAL_ENV=/home/ada/train/\0SECRET=x\0")
    proc.write(11, b"python3", uid=0, environ=b"NOT_VIRTUAL_ENV=/a/b\0CONDA_DEFAULT_ENV=torch\0")
    proc.write(12, b"python3", uid=7)

    owners = [owner(process) for process in describe(reader, 10, 11, 12)]
    assert owners == [
        ProcessInfo(username="ada", slurm_job="42", environment="train"),
        ProcessInfo(username="root", environment="torch"),
        ProcessInfo(),
    ]


def test_an_owner_is_read_once_for_each_process(proc: FakeProc, clock: FakeClock, reader: ProcessReader) -> None:
    proc.write(10, b"python3", cgroup="0::/lxc.payload.one\n")
    before = describe(reader, 10)[0].info
    for file in ("status", "cgroup", "environ", "cmdline"):
        (proc.root / "10" / file).unlink()
    clock.advance(1.0)
    assert describe(reader, 10)[0].info is before

    proc.write(10, b"python3", start=78, uid=0, cgroup="0::/lxc.payload.two\n")
    assert owner(describe(reader, 10)[0]) == ProcessInfo(username="root", container="two", container_runtime="lxc")


def test_what_another_user_keeps_private_is_none(proc: FakeProc, reader: ProcessReader) -> None:
    proc.write(10, b"python3")
    (proc.root / "10" / "environ").unlink()
    (proc.root / "10" / "cgroup").unlink()

    assert owner(describe(reader, 10)[0]) == ProcessInfo(username="ada")


class TestInAContainer:
    """The driver may tell pids of the machine, of which this pid namespace knows nothing or another process."""

    @pytest.fixture
    def reader(self, proc: FakeProc, clock: FakeClock) -> ProcessReader:
        proc.in_container()
        return reader_of(proc, clock)

    def test_a_process_that_has_the_gpu_open_is_named(self, proc: FakeProc, reader: ProcessReader) -> None:
        proc.write(10, b"python3")
        proc.opens(10, "/dev/null", "socket:[1]", "/dev/nvidiactl", "/dev/nvidia0")

        described = describe(reader, 10)[0]
        assert (described.info.name, described.info.foreign) == ("python3", False)

    def test_one_that_cannot_be_the_drivers_is_not(self, proc: FakeProc, reader: ProcessReader) -> None:
        proc.write(10, b"sshd")
        proc.opens(10, "/dev/null")
        proc.write(11, b"of-another-user")

        assert describe(reader, 10, 11, 12) == tuple(
            replace(on_gpu(pid), info=ProcessInfo(foreign=True)) for pid in (10, 11, 12)
        )

    def test_a_driver_that_tells_outer_pids_is_believed_in_nothing(
        self, proc: FakeProc, clock: FakeClock, reader: ProcessReader
    ) -> None:
        proc.write(10, b"python3")
        proc.opens(10, "/dev/nvidia0")
        for _ in range(int(EXIT_GRACE_S)):
            assert not describe(reader, 10, 99)[0].info.foreign
            clock.advance(1.0)
        clock.advance(0.5)

        describe(reader, 10, 99)
        assert describe(reader, 10, 99)[0] == replace(on_gpu(10), info=ProcessInfo(foreign=True))

    def test_processes_that_end_are_no_such_sign(self, proc: FakeProc, clock: FakeClock, reader: ProcessReader) -> None:
        proc.write(10, b"python3")
        proc.opens(10, "/dev/nvidia0")
        for ended in range(100, 130):
            assert not describe(reader, 10, ended)[0].info.foreign
            clock.advance(1.0)


def test_in_the_first_pid_namespace_every_process_is_what_it_seems(proc: FakeProc, clock: FakeClock) -> None:
    (proc.root / "self" / "ns").mkdir(parents=True)
    (proc.root / "self" / "ns" / "pid").symlink_to("pid:[4026531836]")
    proc.write(10, b"python3")

    known, gone = describe(reader_of(proc, clock), 10, 11)
    assert (known.info.name, known.info.foreign, gone.info.foreign) == ("python3", False, False)


@pytest.mark.long
def test_a_day_of_short_processes_leaves_memory_flat(proc: FakeProc, clock: FakeClock) -> None:
    """10,080 processes in 24 hours, three at a time; every pid is used again and again."""
    reader = ProcessReader(clock=clock, proc=proc.root, boot_clock=lambda: UP_S, get_user=str)
    hours, per_hour, pids, alive = 24, 420, 200, 3
    for pid in range(pids):
        proc.write(pid, b"x", environ=b"VIRTUAL_ENV=/x/%d" % pid)
    blocks: list[int] = []
    for number in range(hours * per_hour):
        proc.write_stat(number % pids, b"short-%d" % number, start=number)
        described = describe(reader, *((number - back) % pids for back in range(alive)))
        assert described[0].info.name == f"short-{number}"
        assert owner(described[0]) == ProcessInfo(username="1000", environment=str(number % pids))
        assert len(reader._processes) <= alive + 1
        clock.advance(3600 / per_hour)
        if number % per_hour == per_hour - 1:
            gc.collect()
            blocks.append(sys.getallocatedblocks())
    # What the first hours leave behind are this test's own paths and the interpreter's free lists.
    assert max(blocks[8:]) - blocks[7] < per_hour


def test_this_very_process_is_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = ProcessReader(clock=SystemClock())
    me = psutil.Process()

    described = describe(reader, me.pid)[0]
    assert described.info.username == me.username()
    assert described.host_memory_bytes == pytest.approx(me.memory_info().rss, rel=0.1)
    assert described.info.started_ms == pytest.approx(1000 * me.create_time(), abs=1_500)
    assert not described.info.foreign


def test_this_very_process() -> None:
    reader = ProcessReader(clock=SystemClock())
    describe(reader, os.getpid())
    started, worked = time.monotonic(), time.process_time()
    while time.monotonic() - started < 0.4:
        pass
    worked, elapsed = time.process_time() - worked, time.monotonic() - started

    described = describe(reader, os.getpid())[0]
    assert described.info.name == psutil.Process().name()
    assert described.cpu_percent == pytest.approx(100 * worked / elapsed, abs=15)
