"""The real command with a disk that fails or hangs for a time: the page goes on, and no sample is lost."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from dashtop.history.sqlite import FILE
from tests.history.faulty_disk import HANG, FaultyDisk
from tests.processes import Running, eventually, running

if TYPE_CHECKING:
    from pathlib import Path

HISTORY = "/api/v1/system/history?range=24h&metrics=system.cpu.usage_percent"
EVENTS = "/api/v1/system/events?range=24h"
OPTIONS = ("--no-gpu", "--interval", "0.5")
ERRORS_WHILE_RUNNING = (errno.EROFS, errno.ENOTCONN)
ERRORS_AT_THE_START = (errno.ESTALE, errno.EMFILE)


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
            assert dashtop.json(EVENTS) == [], os.strerror(error)  # the page goes on, too: see benchmarks/soak.py
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


def test_hanging_disk_delays_no_request_and_is_reported(disk: FaultyDisk) -> None:
    with running(*OPTIONS, env=disk.env) as dashtop:
        eventually(lambda: (disk.data / FILE).exists() and read_times(disk))
        disk.fail(HANG)
        durations = []
        for _ in range(20):
            for path in ("/healthz", "/readyz", "/", HISTORY, EVENTS):
                began = time.monotonic()
                assert dashtop.get(path)
                durations.append(time.monotonic() - began)
        assert max(durations) < 1.5
        assert sum(duration > 0.9 for duration in durations) <= 1, "only the first read waits for the deadline"
        status = eventually(lambda: found if "not been written for" in (found := read_status(dashtop)) else "", 20)
        assert f"{disk.data} does not answer" in status
        disk.work()
        eventually(lambda: not read_status(dashtop), 15)
        assert len(dashtop.json(EVENTS)) == 1
    times = read_times(disk)
    assert max(after - before for before, after in pairwise(times)) < 2000


def test_hanging_data_folder_does_not_block_the_start_and_the_end(disk: FaultyDisk) -> None:
    disk.fail(HANG)
    began = time.monotonic()
    with running(*OPTIONS, env=disk.env) as dashtop:
        assert time.monotonic() - began < 10
        eventually(lambda: "does not answer" in read_status(dashtop), 20)
        began = time.monotonic()
        dashtop.stop()
        assert time.monotonic() - began < 5


def test_hanging_data_folder_with_the_token_does_not_block_the_start(disk: FaultyDisk) -> None:
    disk.fail(HANG)
    began = time.monotonic()
    with running(*OPTIONS, "--host", "0.0.0.0", env=disk.env, ready=False) as dashtop:
        assert time.monotonic() - began < 10
        assert "?token=" in dashtop.url
        eventually(lambda: any("the access token changes at each start" in line for line in dashtop.lines))
