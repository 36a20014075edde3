"""CPU of process trees: against a /proc of files, and against real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dashtop.model.ports import SystemClock
from dashtop.sources.host import process_tree_load as module
from dashtop.sources.host.process_tree_load import UNKNOWN, TreeLoadReader
from tests.clock import FakeClock
from tests.processes import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Files:
    """A /proc and a /sys of files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = FakeClock()
        self.trees = TreeLoadReader(clock=self.clock, proc=root / "proc", sys=root / "sys")

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def process(self, pid: int, seconds: float, *, children: Sequence[int] = (), ended_children_s: float = 0.0) -> None:
        """Write a process with a name that looks like fields."""
        ticks = f"{round(seconds * TICKS_PER_S)} 0 {round(ended_children_s * TICKS_PER_S)} 0"
        self.write(f"proc/{pid}/stat", f"{pid} (a) R 1 (b)) S {' '.join(['0'] * 10)} {ticks} 20 0 1 0 77 0 0\n")
        self.write(f"proc/{pid}/task/{pid}/children", " ".join(map(str, children)) + " ")
        self.write(f"proc/{pid}/status", "Name:\tx\nCpus_allowed_list:\t0-3,8\n")

    def measure(self, after_s: float = module.INTERVAL_S) -> module.TreeLoad:
        self.clock.advance(after_s)
        return self.trees.measure(10, 77)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_workers_count_also_once_they_have_ended(files: Files) -> None:
    files.process(10, 5, children=(11, 12))
    files.process(11, 20, children=(13,))
    files.process(12, 1)
    files.process(13, 2)
    assert files.measure() == (None, 5.0)
    files.process(13, 32)
    files.process(12, 31)
    assert files.measure(1.0).cpu_percent is None, "a tree is read every half a minute"
    assert files.measure(module.INTERVAL_S - 1).cpu_percent == pytest.approx(200.0)
    files.process(10, 8, children=(11,), ended_children_s=34)
    assert files.measure().cpu_percent == pytest.approx(20.0), "31 s of the ended one were counted before"


def test_affinity_cpuset_and_quota_say_which_cpus_it_may_use(files: Files) -> None:
    files.process(10, 0)
    assert files.measure().usable_cpus == 5.0
    files.trees.keep(set())
    files.write("proc/10/cgroup", "0::/slurm/job_1\n")
    files.write("sys/fs/cgroup/slurm/job_1/cpu.max", "250000 100000\n")
    assert files.measure().usable_cpus == 2.5


def test_what_cannot_be_read_is_unknown(files: Files) -> None:
    assert files.measure() == UNKNOWN
    assert files.measure().cpu_percent == 0.0
    files.process(10, 3, children=(99,))
    (files.root / "proc/10/status").write_bytes(b"Cpus_allowed_list:\tmany\n")
    files.trees.keep(set())
    assert files.measure() == UNKNOWN, "a child that has just ended is left out"
    files.process(10, 18)
    assert files.measure().cpu_percent == pytest.approx(50.0)


def test_processes_that_start_each_other_for_ever_are_bounded(files: Files) -> None:
    files.process(10, 1, children=(11, 11))
    files.process(11, 1, children=(10, 10))
    assert files.measure() == (None, 5.0)


def test_real_worker_of_a_real_process(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import multiprocessing, os, sys\n"
        "def spin():\n    while os.getppid() == parent: pass\n"
        "parent = os.getpid()\n"
        "multiprocessing.get_context('fork').Process(target=spin, daemon=True).start()\n"
        "sys.stdin.read()\n"
    )
    clock = SystemClock()
    trees = TreeLoadReader(clock=clock, proc=Path("/proc"), sys=Path("/sys"))
    monkeypatch.setattr(module, "INTERVAL_S", 0.3)
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as process:
        load = trees.measure(process.pid, 1)
        assert load.usable_cpus is not None
        assert load.usable_cpus <= len(os.sched_getaffinity(0))
        eventually(lambda: (trees.measure(process.pid, 1).cpu_percent or 0.0) > 10.0, 20)
        process.terminate()
