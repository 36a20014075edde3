"""Faults of the storage: killed processes, full disks, damaged files, wrong clocks. Acknowledged samples are kept."""

from __future__ import annotations

import errno
import json
import logging
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dashtop.history.database import Database
from dashtop.history.rollup import Readings, aggregate, align_buckets
from dashtop.history.sqlite import FILE
from dashtop.history.writer import WRITE_INTERVAL_MS
from dashtop.metrics import METRICS
from dashtop.model.metric import Aggregation, Severity
from dashtop.model.sample import Event, SeriesKey
from dashtop.model.timerange import DAY_MS, HOUR_MS
from tests.builders import is_written, make_device, make_history, make_sample, wait_until_written
from tests.history.writer import CPU, append, count_values, fill
from tests.processes import ROOT, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from dashtop.history.database import Connection
    from dashtop.history.encoder import Record
    from dashtop.history.store import HistoryStore
    from tests.history.conftest import Storage

ROUNDS = {"sqlite": 20, "postgresql": 5}
"""Minimum number. PostgreSQL is not killed with the process, so fewer rounds are enough; each takes a second."""
GPU = make_device(0).uuid
KEYS = [CPU, SeriesKey("gpu.utilization.gpu", GPU), SeriesKey("gpu.clocks.event_reasons", GPU)]


def child(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.history.writer", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def writing(storage: Storage, first: int) -> subprocess.Popen[str]:
    return child("write", str(storage.folder), str(first), storage.url or "")


def acknowledged_until_killed(storage: Storage, first: int, draw: random.Random) -> int:
    """Start a writer, kill it at a random moment, and return the last second that it acknowledged."""
    with writing(storage, first) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline()]
        time.sleep(draw.uniform(0, 0.3))
        writer.send_signal(signal.SIGKILL)
        lines += writer.stdout.read().splitlines()
    if storage.server is not None:  # the server still completes a pending transaction
        eventually(lambda: storage.query_sql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)])
    return max(int(line) for line in lines if line.strip())


@pytest.mark.timeout(240)
def test_no_acknowledged_sample_is_lost_when_the_process_is_killed(storage: Storage) -> None:
    draw = random.Random(4)
    last = rounds = 0
    while rounds < ROUNDS[storage.kind] or last <= 3 * 1200:  # some windows must have been compacted
        rounds += 1
        acknowledged = acknowledged_until_killed(storage, last + 1, draw)
        if storage.server is None:
            assert storage.query_sql("PRAGMA integrity_check") == [("ok",)]
        began = time.monotonic()
        last = newest_ms(storage) // 1000
        assert last >= acknowledged
        first = max(0, last - 2000)
        history = storage.history()
        tail = history.query(KEYS, first * 1000, (last + 1) * 1000, 1000)
        assert time.monotonic() - began < 2
        seconds = np.arange(first, last + 1)
        np.testing.assert_array_equal(tail.series[0].mean[seconds > 0], (seconds * 31 % 101)[seconds > 0])
        history.close()
    assert_roll_ups_match_raw(storage, last)


def newest_ms(storage: Storage) -> int:
    ((newest,),) = storage.query_sql("SELECT max(time_ms) FROM head WHERE tier = 0")
    return int(newest)


def assert_roll_ups_match_raw(storage: Storage, last: int) -> None:
    history = storage.history()
    end = last * 1000 // 600_000 * 600_000
    raw = history.query(KEYS, 0, end, 1000)
    times = np.arange(raw.count, dtype=np.int64) * 1000
    readings = Readings.from_raw(times, np.stack([series.mean for series in raw.series]))
    kinds = [METRICS[key.metric].aggregation for key in KEYS]
    assert Aggregation.OR in kinds
    for step in (15_000, 60_000, 600_000):
        expected = aggregate(readings, align_buckets(0, end, step), kinds)
        for row, series in enumerate(history.query(KEYS, 0, end, step).series):
            np.testing.assert_allclose(series.mean, expected.mean[row], rtol=1e-5)
            np.testing.assert_array_equal(series.minimum, expected.minimum[row])
            np.testing.assert_array_equal(series.maximum, expected.maximum[row])
    history.close()


def test_no_sample_is_lost_on_a_full_disk(tmp_path: Path) -> None:
    with child("full", str(tmp_path)) as process:
        output, _ = process.communicate(timeout=60)
    result = json.loads(output)
    assert "Free some space" in result["error"]
    assert (result["read"], result["written"], result["stored"]) == (2500, True, 2500)
    assert result["duration_s"] < 10


def make_database(folder: Path) -> Path:
    history = make_history(folder)
    fill(history, 0, 3000)
    wait_until_written(history)
    history.close()
    return folder / FILE


def replace_with_text(path: Path) -> None:
    path.write_bytes(b"not a database " * 1000)


def replace_with_other_database(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE bookmarks (address TEXT)")
    file.close()


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def overwrite_with_noise(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(random.Random(1).randbytes(path.stat().st_size - 8192))


@pytest.mark.parametrize("damage", [replace_with_text, replace_with_other_database, truncate, overwrite_with_noise])
def test_unusable_file_is_renamed_with_a_warning(
    damage: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = make_database(tmp_path)
    damage(path)  # type: ignore[operator]
    damaged = path.read_bytes()
    history = make_history(tmp_path)
    fill(history, 4000, 4100)
    wait_until_written(history)
    (aside,) = tmp_path.glob(f"{FILE}.unusable-*[0-9]")
    assert aside.read_bytes() == damaged
    assert any(aside.name in record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    message = history.status_message()
    assert message is not None
    assert aside.name in message
    append(history, 4100)
    wait_until_written(history)
    (event,) = history.events(0, 2**62)
    assert event.kind == "history_damaged"
    assert event.text in message
    history.close()
    reopened = make_history(tmp_path)
    assert np.isfinite(reopened.query([CPU], 4_000_000, 4_101_000, 1000).series[0].mean).all()
    reopened.close()


def test_file_damaged_while_running_is_renamed(tmp_path: Path) -> None:
    path = make_database(tmp_path)
    history = make_history(tmp_path)
    append(history, 3000)
    wait_until_written(history)
    overwrite_with_noise(path)

    def set_aside() -> bool:
        history.query(KEYS, 0, 10_000, 1000)
        append(history, 3001)
        return any(tmp_path.glob(f"{FILE}.unusable-*"))

    eventually(set_aside)
    wait_until_written(history)
    assert "was renamed to" in str(history.status_message())
    history.close()


def damage_page_of_chunks(path: Path) -> None:
    """Overwrite the page of a chunk in the middle of the history."""
    connection = sqlite3.connect(path)
    count = connection.execute("SELECT count(*) FROM chunk").fetchone()[0]
    (data,) = connection.execute("SELECT data FROM chunk ORDER BY id LIMIT 1 OFFSET ?", (count // 2,)).fetchone()
    connection.close()
    position = path.read_bytes().index(data[:32])
    with path.open("r+b") as file:
        file.seek(position // 8192 * 8192)
        file.write(random.Random(1).randbytes(8192))


@pytest.mark.parametrize("damage", [damage_page_of_chunks, truncate])
def test_readable_windows_of_a_damaged_file_are_copied(damage: Callable[[Path], None], tmp_path: Path) -> None:
    history = make_history(tmp_path)
    seconds = np.arange(0, 40_000, 8)
    for first in range(0, len(seconds), 500):
        for second in seconds[first : first + 500].tolist():
            append(history, second)
        wait_until_written(history)
    event = Event(time_ms=40_000_000, kind="xid", severity=Severity.CRITICAL, text="Xid 79", gpu_uuid=GPU)
    history.append(make_sample(40_000, time_ms=40_000_000, events=(event,)))
    wait_until_written(history)
    history.close()
    damage(tmp_path / FILE)
    repaired = make_history(tmp_path)
    append(repaired, 40_008)
    wait_until_written(repaired)
    found = repaired.query([CPU], 0, 40_000_000, 8000).series[0].mean
    is_kept = np.isfinite(found)
    np.testing.assert_array_equal(found[is_kept], (seconds * 31 % 101)[is_kept])
    assert is_kept.mean() > (0.7 if damage is damage_page_of_chunks else 0.1)  # a page holds many chunks
    if damage is damage_page_of_chunks:
        assert event in repaired.events(0, 2**62)
    append(repaired, 40_016)
    wait_until_written(repaired)
    assert "time windows" in str(repaired.status_message())
    repaired.close()
    assert make_history(tmp_path).status_message() is None


def test_set_aside_files_count_as_history_and_are_deleted_first(tmp_path: Path) -> None:
    path = make_database(tmp_path)
    aside, foreign = (path.with_name(f"{FILE}.unusable-2020010{day}-000000") for day in (1, 2))
    aside.write_bytes(path.read_bytes())
    with aside.open("r+b") as file:
        file.truncate(20_000_000)
    foreign.write_bytes(b"not a history" * 1_000_000)
    history = make_history(tmp_path, max_bytes=25_000_000)
    fill(history, 4000, 6000)
    wait_until_written(history)
    assert aside.exists()
    history.close()
    history = make_history(tmp_path, max_bytes=15_000_000)
    fill(history, 6000, 8000)
    wait_until_written(history)
    assert not aside.exists()
    assert foreign.exists(), "a file of another program is not dashtop's to delete"
    assert count_values(history, 8000) == 7000
    history.close()


def test_unwritable_folder_means_memory_only_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocking_file = tmp_path / "file"
    blocking_file.write_text("not a folder")
    history = make_history(blocking_file / "dashtop")
    for first in range(0, 5000, 1000):
        fill(history, first, first + 1000)
        wait_until_written(history)
    message = history.status_message()
    assert message is not None
    assert "--data-dir" in message
    assert [record.getMessage() for record in caplog.records] == [message]
    assert count_values(history, 5000) == 5000
    history.close()


def test_samples_are_written_in_batches_and_events_at_once(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[list[int]] = []
    write = Database.write

    def seen(self: Database, records: Sequence[Record]) -> None:
        write(self, records)
        written.append([record.time_ms // 1000 for record in records])

    monkeypatch.setattr(Database, "write", seen)
    history = storage.history(write_interval_ms=WRITE_INTERVAL_MS)
    append(history, 0)
    wait_until_written(history)  # the first is written at once, so that a database error is reported soon
    for second in range(1, 7):
        append(history, second)
    eventually(lambda: len(written) == 2)
    wait_until_written(history)
    append(history, 7)
    event = Event(time_ms=8000, kind="xid", severity=Severity.CRITICAL, text="Xid 79", gpu_uuid=GPU)
    history.append(make_sample(8, time_ms=8000, host={CPU.metric: 1}, events=(event,)))
    eventually(lambda: len(written) == 3)
    wait_until_written(history)
    append(history, 9)
    history.close()
    assert written == [[0], [1, 2, 3, 4, 5, 6], [7, 8], [9]]


def test_hanging_disk_does_not_block_append_and_query(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()
    write = Database.write

    def hang(database: Database, records: Sequence[Record]) -> None:
        assert goes_on.wait(30)
        write(database, records)

    monkeypatch.setattr(Database, "write", hang)
    history = storage.history()
    began = time.monotonic()
    fill(history, 0, 300)
    assert count_values(history, 300) == 300
    assert time.monotonic() - began < 2
    assert not is_written(history)
    goes_on.set()
    wait_until_written(history)
    history.close()


def test_write_whose_acknowledgement_fails_is_not_repeated(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks, or the disk is full, after the rows are written and before that is acknowledged."""
    failures = iter([OSError(errno.EIO, "broken")])
    prune = Database._prune

    def broken(database: Database, connection: Connection) -> None:
        if (failure := next(failures, None)) is not None:
            raise failure
        prune(database, connection)

    monkeypatch.setattr(Database, "_prune", broken)
    history = storage.history()
    for first in range(0, 100, 10):
        fill(history, first, first + 10)
        wait_until_written(history)
    history.close()
    assert next(failures, None) is None
    assert storage.query_sql("SELECT count(*), count(DISTINCT time_ms) FROM head WHERE tier = 0") == [(100, 100)]


def at(history: HistoryStore, time_ms: int, value: float) -> None:
    history.append(make_sample(time_ms=time_ms, host={CPU.metric: value}))


def test_clock_set_back_and_forward_by_an_hour_keeps_both_passes(storage: Storage) -> None:
    history = storage.history()
    start = 1_800_000_000_000 // HOUR_MS * HOUR_MS
    passes = ((0, 7200, 1.0), (3600, 5400, 3.0), (9000, 10_000, 5.0))  # back by an hour, then forward by an hour
    for first, last, value in passes:
        for second in range(first, last):
            at(history, start + second * 1000, value)
            if second % 1000 == 0:
                wait_until_written(history)
    wait_until_written(history)
    found = history.query([CPU], start, start + 10_800_000, 600_000).series[0]
    assert found.mean[:6].tolist() == [1.0] * 6
    assert found.mean[6:9].tolist() == [2.0] * 3
    assert (found.minimum[6:9].tolist(), found.maximum[6:9].tolist()) == ([1.0] * 3, [3.0] * 3)
    assert found.mean[9:12].tolist() == [1.0] * 3
    assert np.isnan(found.mean[12:15]).all()
    assert found.mean[15] == 5.0
    history.close()


@pytest.mark.parametrize("wrong_ms", [0, 1_000_000, 1_800_000_000_000 + 20 * 365 * DAY_MS])
def test_clock_wrong_by_decades_deletes_nothing(wrong_ms: int, storage: Storage) -> None:
    start = 1_800_000_000_000
    for first in (start, wrong_ms, start + 2 * HOUR_MS):
        history = storage.history()
        for second in range(3600):
            at(history, first + second * 1000, 7.0)
        wait_until_written(history)
        history.close()
    history = storage.history()
    hours = history.query([CPU], start, start + 3 * HOUR_MS, 60_000).series[0].mean.reshape(3, 60)
    assert np.isnan(hours[1]).all()
    assert (hours[2] == 7.0).all()
    assert (hours[0] == 7.0).all()
    history.close()


def test_old_windows_are_deleted_by_age_and_size_but_roll_ups_are_kept(storage: Storage) -> None:
    history = storage.history(interval_s=15)
    draw = random.Random(2)
    for tick in range(0, 4 * 86_400, 15):
        at(history, tick * 1000, draw.random())
        if tick % 15_000 == 0:
            wait_until_written(history)
    wait_until_written(history)
    for window in range(30):  # each new window deletes a few old ones
        at(history, (4 * 86_400 + 1_200 * window) * 1000, 0.5)
        wait_until_written(history)
    ((oldest, newest),) = storage.query_sql('SELECT min(start_ms), max(start_ms) FROM "window" WHERE tier = 0')
    assert newest - oldest < 2 * DAY_MS + HOUR_MS
    found = history.query([CPU], 0, 4 * DAY_MS, 15_000).series[0]
    assert not np.isnan(found.mean).any()
    history.close()
    small = storage.history(max_bytes=1)
    at(small, 5 * DAY_MS, 1.0)
    wait_until_written(small)
    small.close()
    assert storage.query_sql('SELECT min(start_ms) FROM "window" WHERE tier = 0') > [(oldest,)]
