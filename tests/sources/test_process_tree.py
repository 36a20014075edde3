"""Processes and their parents, and which process a client means that names its own pid."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from dashtop.client.environment import read_boot_id, read_start_ms
from dashtop.sources.host.process_tree import HostProcessTree

if TYPE_CHECKING:
    from pathlib import Path

BOOT = "0b7e6a3a-5c1f-4f9a-9f6e-2f1f3f0f7a11"


def test_the_own_process() -> None:
    tree = HostProcessTree(boot_id=read_boot_id())
    pid, started_ms = os.getpid(), read_start_ms(os.getpid())
    assert started_ms is not None
    assert tree.ancestors(pid)[0] == os.getppid()
    for boot_id in (read_boot_id(), None):
        assert tree.find(pid, started_ms, boot_id) == pid
        assert tree.find(pid, started_ms - 60_000, boot_id) is None
    assert tree.find(pid, started_ms, BOOT) is None, "another machine"
    assert tree.user(pid) is not None


def test_a_process_that_has_ended() -> None:
    tree = HostProcessTree()
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie from now on
        assert tree.start_ms(child.pid) is None
        assert tree.ancestors(child.pid) == ()
    assert (tree.start_ms(child.pid), tree.user(child.pid)) == (None, None)


def write_process(proc: Path, pid: int, namespaces: str, age_s: float) -> None:
    ticks = round((time.clock_gettime(time.CLOCK_BOOTTIME) - age_s) * os.sysconf("SC_CLK_TCK"))
    (proc / str(pid)).mkdir()
    (proc / str(pid) / "stat").write_text(f"{pid} (a b) S 1 {' '.join('0' for _ in range(17))} {ticks} 0 0\n")
    (proc / str(pid) / "status").write_text(f"Name:\tx\nNSpid:\t{namespaces}\nNSsid:\t1\n")


def test_processes_in_containers_are_found_if_there_is_no_doubt(tmp_path: Path) -> None:
    write_process(tmp_path, 7, "7", 90_000)  # has the pid here, but is another one
    write_process(tmp_path, 4711, "4711\t7", 100)
    write_process(tmp_path, 4712, "4712\t8", 100)
    write_process(tmp_path, 4713, "4713\t30\t9", 50)
    write_process(tmp_path, 4714, "4714\t9", 50.5)
    (tmp_path / "version").write_text("")
    write_process(tmp_path, 1, "1", 100_000)
    (tmp_path / "self" / "ns").mkdir(parents=True)
    (tmp_path / "self" / "ns" / "pid").symlink_to("pid:[4026531836]")
    tree = HostProcessTree(proc=tmp_path, boot_id=BOOT)
    now_ms = round(1000 * time.time())
    assert tree.find(7, now_ms - 100_000, BOOT) == 4711
    assert tree.find(8, now_ms - 100_000, BOOT) == 4712
    assert tree.find(9, now_ms - 50_000, BOOT) is None, "two containers began at the same time"
    assert tree.find(7, now_ms - 500_000, BOOT) is None
    assert tree.find(7, now_ms - 100_000, None) is None, "it is not known whether the client is on this machine"
    ended = [tree.has_ended(pid, boot_id) for pid, boot_id in ((10, BOOT), (10, None), (9, BOOT))]
    assert ended == [True, False, False], "only if it is in no container"
    (tmp_path / "1" / "stat").unlink()
    assert not tree.has_ended(10, BOOT), "processes of other users are hidden"
