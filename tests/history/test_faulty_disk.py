"""The real command with a disk that fails or hangs for a time: the page goes on, and no sample is lost."""

from __future__ import annotations

import errno
import os
import sqlite3
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from dashtop.history.sqlite import FILE
from tests.history.faulty_disk import FaultyDisk
from tests.processes import Running, eventually, running

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = ("--no-gpu", "--interval", "0.5")
ERRORS_WHILE_RUNNING = (errno.EROFS, errno.ETIMEDOUT, errno.ENOTCONN)
ERRORS_AT_THE_START = (errno.EROFS, errno.ESTALE, errno.ENOMEM, errno.EMFILE)


@pytest.fixture
def disk(tmp_path: Path) -> FaultyDisk:
    return FaultyDisk(tmp_path)


def read_status(dashtop: Running) -> str:
    """Return what /readyz says about the history."""
    status, body = dashtop.status("/readyz")
    assert status == 200, body
    return str(body.get("detail", ""))


def read_times(disk: FaultyDisk) -> list[int]:
    with sqlite3.connect(disk.data / FILE) as file:
        times = [time_ms for (time_ms,) in file.execute("SELECT time_ms FROM head WHERE tier = 0 ORDER BY id")]
    file.close()
    return times


@pytest.mark.timeout(120)
def test_samples_of_an_error_that_ends_are_written(disk: FaultyDisk) -> None:
    with running(*OPTIONS, env=disk.env) as dashtop:
        eventually(lambda: (disk.data / FILE).exists() and read_times(disk))
        for error in ERRORS_WHILE_RUNNING:
            disk.fail(error)
            status = eventually(lambda: read_status(dashtop))
            assert "kept in memory meanwhile" in status, os.strerror(error)
            disk.work()
            eventually(lambda: not read_status(dashtop), 15)
    times = read_times(disk)
    assert len(times) > 2 * len(ERRORS_WHILE_RUNNING)
    assert max(after - before for before, after in pairwise(times)) < 2000


@pytest.mark.parametrize("error", ERRORS_AT_THE_START)
def test_error_at_the_start_that_ends_is_retried(disk: FaultyDisk, error: int) -> None:
    disk.fail(error)
    with running(*OPTIONS, env=disk.env) as dashtop:
        assert "kept in memory meanwhile" in eventually(lambda: read_status(dashtop))
        disk.work()
        eventually(lambda: not read_status(dashtop), 15)
        assert read_times(disk)


def test_missing_permission_at_the_start_is_final(disk: FaultyDisk) -> None:
    disk.fail(errno.EACCES)
    with running(*OPTIONS, env=disk.env) as dashtop:
        assert "kept in memory only, until dashtop ends" in eventually(lambda: read_status(dashtop))
