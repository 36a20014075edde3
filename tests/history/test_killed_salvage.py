"""A salvage of a damaged history that is killed, or has no space: the next start resumes it, and nothing is lost."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from dashtop.history import sqlite
from dashtop.history.sqlite import FILE
from tests.builders import make_history, wait_until_written
from tests.history.writer import append, count_values, fill
from tests.processes import ROOT, eventually

if TYPE_CHECKING:
    from pathlib import Path

    from dashtop.history.database import Connection

SECONDS = 3000
SALVAGE = """
import os, signal, sys
from pathlib import Path
from dashtop.history import salvage, sqlite
from tests.builders import make_history, wait_until_written
from tests.history.writer import append

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def kill_after(count, function):
    calls = 0
    def counted(*arguments):
        nonlocal calls
        calls += 1
        if calls > count:
            kill()
        return function(*arguments)
    return counted

moment, folder = sys.argv[1], Path(sys.argv[2])
sqlite.CHECK_TIMEOUT_S = 30.0  # on a busy machine, the damage is not found within a second
if moment == "half of the set aside":
    sqlite._rename_companions = kill
elif moment == "before the copy":
    sqlite.salvage = kill
elif moment == "half of the copy":
    salvage._Checks._check_chunk = kill_after(3, salvage._Checks._check_chunk)
elif moment == "copied":
    sqlite._rename = kill
history = make_history(folder)
append(history, 5000)
wait_until_written(history)
history.close()
"""
MOMENTS = ["half of the set aside", "before the copy", "half of the copy", "copied"]


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """A folder with a history whose index of events is damaged."""
    history = make_history(tmp_path)
    fill(history, 0, SECONDS)
    wait_until_written(history)
    history.close()
    with sqlite3.connect(tmp_path / FILE) as file:
        (root,) = file.execute("SELECT rootpage FROM sqlite_master WHERE name = 'event_time'").fetchone()
    file.close()
    with (tmp_path / FILE).open("r+b") as page:
        page.seek((root - 1) * 8192)
        page.write(random.Random(1).randbytes(8192))
    return tmp_path


def run_salvage(folder: Path, moment: str) -> int:
    """Open the history until it is killed at a moment; return the exit status."""
    command = [sys.executable, "-c", SALVAGE, moment, str(folder)]
    return subprocess.run(command, cwd=ROOT, timeout=60, check=False).returncode


def count_after_start(folder: Path) -> tuple[int, int]:
    """Start once more; return how many samples are stored, and how many rows are there twice."""
    history = make_history(folder)
    append(history, 6000)
    wait_until_written(history)
    count = count_values(history, SECONDS)
    history.close()
    with sqlite3.connect(folder / FILE) as file:
        (twice,) = file.execute("SELECT count(*) - count(DISTINCT time_ms) FROM head WHERE tier = 0").fetchone()
    file.close()
    return count, int(twice)


@pytest.mark.parametrize("moment", MOMENTS)
def test_salvage_that_is_killed_is_resumed(moment: str, damaged: Path) -> None:
    assert run_salvage(damaged, moment) == -signal.SIGKILL
    assert run_salvage(damaged, moment) in {0, -signal.SIGKILL}
    assert count_after_start(damaged) == (SECONDS, 0)
    assert not list(damaged.glob(f"{FILE}.damaged-*"))
    assert list(damaged.glob(f"{FILE}.unusable-*[0-9]"))


def test_log_is_found_if_killed_before_it_was_renamed(tmp_path: Path) -> None:
    running, folder = tmp_path / "running", tmp_path / "data"
    for each in (running, folder):
        each.mkdir()
    history = make_history(running)
    fill(history, 0, SECONDS)
    wait_until_written(history)
    shutil.copy(running / FILE, folder / f"{FILE}.damaged-20260101-000000")
    shutil.copy(running / f"{FILE}-wal", folder)
    history.close()
    assert count_after_start(folder) == (SECONDS, 0)


def test_salvage_killed_at_any_time_is_resumed(damaged: Path) -> None:
    draw = random.Random(7)
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", SALVAGE, "never", str(damaged)], cwd=ROOT)
        try:
            process.wait(draw.uniform(0.2, 1.5))
        except subprocess.TimeoutExpired:
            process.kill()
        process.wait(10)
    assert count_after_start(damaged) == (SECONDS, 0)


def test_salvage_without_space_is_repeated(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_damaged: Path, _connection: Connection, _application_id: int) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite, "CHECK_TIMEOUT_S", 30.0)
    with monkeypatch.context() as full:
        full.setattr(sqlite, "salvage", fail)
        history = make_history(damaged)
        append(history, 5000)
        assert "Free some space" in eventually(history.status_message)
        assert count_values(history, SECONDS) == 0
    wait_until_written(history)
    history.close()
    assert count_after_start(damaged) == (SECONDS, 0)
