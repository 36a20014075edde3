"""Several processes with one history: one writes it, the others read it and take over when it exits."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from dashtop.history.lock import DatabaseLockedError, FileLock, LockHolder
from dashtop.history.sqlite import FILE, LOCK_FILE
from dashtop.model.sample import GpuProcess, ProcessInfo
from tests.builders import make_device, make_gpu, make_history, make_sample, wait_until_written
from tests.history.test_faults import make_database, newest_ms, overwrite_with_noise, writing
from tests.history.writer import append, count_values
from tests.processes import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from dashtop.history.store import HistoryStore
    from tests.history.conftest import Storage

HOST = socket.gethostname()


def reading(history: HistoryStore, second: int = 0) -> str:
    """Append a sample, and return the status message of a process that only reads."""
    append(history, second)
    return str(eventually(history.status_message))


def test_second_process_reads_names_the_writer_and_takes_over_without_a_gap(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    with writing(storage, 1) as first:
        assert first.stdout is not None
        acknowledged = [first.stdout.readline()]
        second = storage.history()
        message = reading(second, 1_000_000)
        assert f"Process {first.pid} on {HOST} writes the history in" in message
        assert "This process only reads it and takes over when that process ends." in message
        assert count_values(second, 50) == 49  # from second 1 on
        assert caplog.messages.count(message) == 1
        for second_s in range(1_000_001, 1_000_010):
            append(second, second_s)
        assert newest_ms(storage) < 1_000_000_000
        first.kill()
        acknowledged += first.stdout.read().split()
    last = max(map(int, acknowledged))
    eventually(lambda: second.status_message() is None, timeout_s=20)
    append(second, 1_000_010)
    wait_until_written(second)
    assert count_values(second, last) == last - 1
    second.close()
    rows = storage.query_sql("SELECT time_ms / 1000 FROM head WHERE tier = 0 AND time_ms >= 1000000000 ORDER BY id")
    assert rows == [(second_s,) for second_s in range(1_000_000, 1_000_011)]


def test_takeover_does_not_write_samples_twice(storage: Storage) -> None:
    first, second = storage.history(), storage.history(starts=False)
    append(first, 1)
    wait_until_written(first)
    second.start()
    reading(second)
    for seconds in (2, 3):
        append(first, seconds)
        append(second, seconds)
    first.close()
    eventually(lambda: second.status_message() is None)
    append(second, 4)
    wait_until_written(second)
    second.close()
    assert storage.query_sql("SELECT time_ms FROM head WHERE tier = 0 ORDER BY id") == [
        (1000,),
        (2000,),
        (3000,),
        (4000,),
    ]


def test_process_spans_of_both_writers_do_not_overlap(storage: Storage) -> None:
    gpus = (
        make_gpu(processes=(GpuProcess(pid=7, kind="C", gpu_memory_bytes=2**30, info=ProcessInfo(name="train.py")),)),
    )
    first, second = storage.history(), storage.history(starts=False)
    first.append(make_sample(time_ms=0, gpus=gpus))
    wait_until_written(first)
    second.start()
    reading(second)
    for seconds in range(1, 60):
        first.append(make_sample(time_ms=seconds * 1000, gpus=gpus))
        second.append(make_sample(time_ms=seconds * 1000 + 500, gpus=gpus))
    first.close()
    eventually(lambda: second.status_message() is None)
    for seconds in range(60, 100):
        second.append(make_sample(time_ms=seconds * 1000 + 500, gpus=gpus))
    spans = second.processes(make_device().uuid, 0, 100_000)
    assert len(spans) == 2
    assert spans[0].end_ms < spans[1].start_ms
    second.close()


def test_reader_shows_its_own_samples_with_a_damaged_database(tmp_path: Path) -> None:
    make_database(tmp_path)
    with (tmp_path / LOCK_FILE).open("w") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        overwrite_with_noise(tmp_path / FILE)
        history = make_history(tmp_path)
        assert reading(history).startswith("Another process writes the history in")
        for second in range(4000, 4100):
            append(history, second)
        assert count_values(history, 5000) == 101
        assert not list(tmp_path.glob(f"{FILE}.unusable-*")), "another process may use it"
        history.close()


def test_lock_file_names_its_holder_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / LOCK_FILE
    first, second = FileLock(path), FileLock(path)
    first.acquire()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(DatabaseLockedError) as error:
        second.acquire()
    assert error.value.holder == LockHolder(os.getpid(), HOST)
    first.release()
    second.acquire()
    second.release()


@pytest.mark.parametrize("text", ["", "7", "7 on ", "x on y", "-7 on y", "\0\n\N{SUPERSCRIPT TWO} on y"])
def test_lock_file_with_other_content_names_no_holder(text: str) -> None:
    assert LockHolder.parse(text) is None


def test_file_system_without_locks_gives_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    history = make_history(tmp_path)
    append(history, 1)
    wait_until_written(history)
    assert history.status_message() is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "cannot be locked" in record.getMessage()
    history.close()


def test_symbolic_link_as_lock_file_is_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("content")
    (tmp_path / LOCK_FILE).symlink_to(other)
    history = make_history(tmp_path)
    assert "memory only" in reading(history)
    assert other.read_text() == "content"
    history.close()


def test_close_right_after_takeover_writes_the_samples_kept_until_then(storage: Storage) -> None:
    first, second = storage.history(), storage.history(starts=False)
    append(first, 1)
    wait_until_written(first)
    second.start()
    reading(second, 2)
    append(second, 3)
    first.close()
    eventually(lambda: second.status_message() is None)
    second.close()
    assert storage.query_sql("SELECT time_ms FROM head WHERE tier = 0 ORDER BY id") == [(1000,), (2000,), (3000,)]
