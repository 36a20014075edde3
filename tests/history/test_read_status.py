"""Whether the database answers: what is read while it does not lacks a part, and is read again afterwards."""

from __future__ import annotations

import errno
import sqlite3
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dashtop.history import store
from dashtop.history.sqlite import FILE, SqliteDatabase
from tests.builders import make_history, wait_until_written
from tests.history.writer import append, count_values, fill
from tests.processes import eventually

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from dashtop.history.database import Connection
    from dashtop.history.store import HistoryStore

TIMEOUT_S = 0.3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a history of ten seconds."""
    history = make_history(tmp_path)
    fill(history, 1, 11)
    wait_until_written(history)
    history.close()
    return tmp_path


@contextmanager
def before_each_read(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> Iterator[None]:
    """Call a function before each read of the database."""
    connect = SqliteDatabase._connect_reader

    @contextmanager
    def interrupted(database: SqliteDatabase) -> Iterator[Connection]:
        act()
        with connect(database) as connection:
            yield connection

    with monkeypatch.context() as patched:
        patched.setattr(SqliteDatabase, "_connect_reader", interrupted)
        yield


def fail() -> None:
    raise sqlite3.OperationalError("disk I/O error")


def find_error(history: HistoryStore) -> str:
    return history.read_status().error or ""


def test_disk_that_does_not_even_tell_whether_the_file_exists_is_an_outage(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = make_history(folder, read_timeout_s=TIMEOUT_S, starts=False)
    assert count_values(history, 11) == 10
    stat = Path.stat

    def fail_stat(path: Path, **options: bool) -> os.stat_result:
        if path.name == FILE:
            raise OSError(errno.EIO, "Input/output error", str(path))
        return stat(path, **options)

    with before_each_read(monkeypatch, fail), monkeypatch.context() as patched:
        patched.setattr(Path, "stat", fail_stat)
        assert count_values(history, 11) == 0
        assert history.events(0, 2**53) == ()
        assert "cannot be read (disk I/O error)" in find_error(history)
    assert count_values(history, 11) == 10
    assert find_error(history) == ""
    history.close()


def test_read_that_hangs_is_reported_until_it_returns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history, goes_on = make_history(folder, read_timeout_s=TIMEOUT_S, starts=False), threading.Event()
    assert count_values(history, 11) == 10
    version = history.read_status().version
    with before_each_read(monkeypatch, lambda: goes_on.wait(30)):
        assert count_values(history, 11) == 0
        assert "does not answer" in find_error(history)
        assert history.read_status().version == version, "what was read before is still right"
        goes_on.set()
        eventually(lambda: not find_error(history))  # without another read
    assert history.read_status().version == version + 1
    assert count_values(history, 11) == 10
    history.close()


def test_failed_read_is_reported_until_a_write_succeeds(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history = make_history(folder, read_timeout_s=TIMEOUT_S)
    append(history, 11)
    wait_until_written(history)
    version = history.read_status().version
    with before_each_read(monkeypatch, fail):
        assert count_values(history, 12) == 1
        assert find_error(history) == f"The history in {folder} cannot be read (disk I/O error)."
    assert find_error(history)
    append(history, 12)
    eventually(lambda: not find_error(history))
    assert history.read_status().version == version + 1
    assert count_values(history, 13) == 12
    history.close()


def test_failed_read_of_a_process_that_does_not_write_is_reported_for_a_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "READ_RETRY_INTERVAL_S", 0.5)
    writer = make_history(folder)
    append(writer, 11)
    wait_until_written(writer)
    reader = make_history(folder, read_timeout_s=TIMEOUT_S)
    append(reader, 11)
    eventually(reader.status_message)
    version = reader.read_status().version
    with before_each_read(monkeypatch, fail):
        assert count_values(reader, 11) == 0
        assert "cannot be read" in str(reader.status_message())
    eventually(lambda: not find_error(reader))  # without another read
    assert reader.read_status().version == version + 1
    assert count_values(reader, 11) == 10
    for history in (reader, writer):
        history.close()


def test_damage_is_no_outage(folder: Path) -> None:
    history = make_history(folder, read_timeout_s=TIMEOUT_S, starts=False)
    (folder / FILE).write_bytes(b"not a database" * 1000)
    status = history.read_status()
    assert count_values(history, 11) == 0
    assert history.read_status() == status
    history.close()
