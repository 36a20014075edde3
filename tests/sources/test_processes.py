from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from dashtop.domain.sample import GpuProcess
from dashtop.sources.clock import SystemClock
from dashtop.sources.processes import ProcessReader
from tests.clock import FakeClock

if TYPE_CHECKING:
    from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class FakeProc:
    """A /proc of processes."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, pid: int, name: bytes, *, ticks: int = 0, start: int = 77, command: bytes = b"") -> None:
        here = self.root / str(pid)
        here.mkdir(exist_ok=True)
        fields = ["R", "1", *["0"] * 9, str(ticks), "0", *["0"] * 6, str(start), "0"]
        (here / "stat").write_bytes(b"%d (%s) %s\n" % (pid, name, " ".join(fields).encode()))
        (here / "cmdline").write_bytes(command)

    def remove(self, pid: int) -> None:
        for file in (self.root / str(pid)).iterdir():
            file.unlink()
        (self.root / str(pid)).rmdir()


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def reader(proc: FakeProc, clock: FakeClock) -> ProcessReader:
    return ProcessReader(clock=clock, proc=proc.root)


def on_gpu(pid: int) -> GpuProcess:
    return GpuProcess(pid=pid, kind="C", gpu_memory_bytes=123)


def describe(reader: ProcessReader, *pids: int) -> tuple[GpuProcess, ...]:
    reader.begin()
    return reader.describe([on_gpu(pid) for pid in pids])


def test_name_at_once_and_cpu_from_the_second_tick_on(proc: FakeProc, clock: FakeClock, reader: ProcessReader) -> None:
    proc.write(10, b"python3", ticks=500)
    assert describe(reader, 10) == (
        GpuProcess(pid=10, kind="C", gpu_memory_bytes=123, name="python3", cpu_percent=None),
    )

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

    first = reader.describe([on_gpu(10)])
    clock.advance(0.001)
    assert reader.describe([on_gpu(10)]) == first
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
    assert (described.name, described.cpu_percent) == ("new", None)


def test_a_process_that_left_the_gpus_is_forgotten(proc: FakeProc, clock: FakeClock, reader: ProcessReader) -> None:
    for pid in range(1, 200):
        proc.write(pid, b"short-lived")
        describe(reader, pid)
        clock.advance(1.0)

    assert len(reader._seen) <= 2


def test_a_name_changed_while_running_is_seen(proc: FakeProc, clock: FakeClock, reader: ProcessReader) -> None:
    proc.write(10, b"python3")
    describe(reader, 10)
    proc.write(10, b"pt_main_thread")
    clock.advance(1.0)

    assert describe(reader, 10)[0].name == "pt_main_thread"


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

    assert describe(reader, 10)[0].name == shown


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

    assert describe(reader, 10)[0].name == shown


def test_a_stat_that_makes_no_sense_is_no_answer(proc: FakeProc, reader: ProcessReader) -> None:
    for pid, text in enumerate((b"", b"10 (x", b"10 (x) R 1 2", b"10 (x) " + b"z " * 30), start=1):
        proc.write(pid, b"x")
        (proc.root / str(pid) / "stat").write_bytes(text)

        assert describe(reader, pid) == (on_gpu(pid),)


def test_this_very_process() -> None:
    reader = ProcessReader(clock=SystemClock())
    describe(reader, os.getpid())
    started, worked = time.monotonic(), time.process_time()
    while time.monotonic() - started < 0.4:
        pass
    worked, elapsed = time.process_time() - worked, time.monotonic() - started

    described = describe(reader, os.getpid())[0]
    assert described.name == psutil.Process().name()
    assert described.cpu_percent == pytest.approx(100 * worked / elapsed, abs=15)
