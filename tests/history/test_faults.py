"""Kills, full disks, broken files, wrong clocks, two writers: what was acknowledged stays, and the trouble is said."""

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
from tests.history.child import CPU, append, fill, known
from tests.processes import ROOT, eventually

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dashtop.history.database import Connection
    from dashtop.history.encoder import Record
    from dashtop.history.store import HistoryStore
    from tests.history.conftest import Place

ROUNDS = {"sqlite": 20, "postgresql": 5}
"""At least. The server is not killed with the process, so fewer rounds show it there; each costs a second."""
GPU = make_device(0).uuid
KEYS = [CPU, SeriesKey("gpu.utilization.gpu", GPU), SeriesKey("gpu.clocks.event_reasons", GPU)]


def child(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.history.child", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def writing(place: Place, first: int) -> subprocess.Popen[str]:
    return child("write", str(place.folder), str(first), place.url or "")


def acknowledged_until_killed(place: Place, first: int, draw: random.Random) -> int:
    """Let a child write, kill it at any moment, and return the last second that it said was written."""
    with writing(place, first) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline()]
        time.sleep(draw.uniform(0, 0.3))
        writer.send_signal(signal.SIGKILL)
        lines += writer.stdout.read().splitlines()
    if place.server is not None:  # what was on its way is still written there
        eventually(lambda: place.ask("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == [(0,)])
    return max(int(line) for line in lines if line.strip())


@pytest.mark.timeout(240)
def test_killed_over_and_over_at_full_speed_nothing_acknowledged_is_lost(place: Place) -> None:
    draw = random.Random(4)
    last = rounds = 0
    while rounds < ROUNDS[place.kind] or last <= 3 * 1200:  # some windows must have been sealed
        rounds += 1
        acknowledged = acknowledged_until_killed(place, last + 1, draw)
        if place.server is None:
            assert place.ask("PRAGMA integrity_check") == [("ok",)]
        began = time.monotonic()
        last = newest_ms(place) // 1000
        assert last >= acknowledged
        first = max(0, last - 2000)
        history = place.history()
        tail = history.query(KEYS, first * 1000, (last + 1) * 1000, 1000)
        assert time.monotonic() - began < 2
        seconds = np.arange(first, last + 1)
        np.testing.assert_array_equal(tail.series[0].mean[seconds > 0], (seconds * 31 % 101)[seconds > 0])
        history.close()
    assert_roll_ups_match_raw(place, last)


def newest_ms(place: Place) -> int:
    ((newest,),) = place.ask("SELECT max(time_ms) FROM head WHERE tier = 0")
    return int(newest)


def assert_roll_ups_match_raw(place: Place, last: int) -> None:
    history = place.history()
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


def test_a_full_disk_costs_nothing_and_writing_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with child("full", str(tmp_path)) as process:
        output, _ = process.communicate(timeout=60)
    said = json.loads(output)
    assert "Free some space" in said["trouble"]
    assert (said["seen"], said["written"], said["kept"]) == (2500, True, 2500)
    assert said["took"] < 10


def filled(folder: Path) -> Path:
    history = make_history(folder)
    fill(history, 0, 3000)
    wait_until_written(history)
    history.close()
    return folder / FILE


def foreign(path: Path) -> None:
    path.write_bytes(b"photographs of a cat " * 1000)


def of_another_program(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE bookmarks (address TEXT)")
    file.close()


def truncated(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def overwritten(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(random.Random(1).randbytes(path.stat().st_size - 8192))


@pytest.mark.parametrize("spoil", [foreign, of_another_program, truncated, overwritten])
def test_a_file_of_no_use_is_set_aside_and_said(
    spoil: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = filled(tmp_path)
    spoil(path)  # type: ignore[operator]
    spoiled = path.read_bytes()
    history = make_history(tmp_path)
    fill(history, 4000, 4100)
    wait_until_written(history)
    (aside,) = tmp_path.glob(f"{FILE}.unusable-*[0-9]")
    assert aside.read_bytes() == spoiled
    assert any(aside.name in record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert history.status_message() is None
    history.close()
    reopened = make_history(tmp_path)
    assert known(reopened, 5000) == 100
    reopened.close()


def test_damage_found_while_running_is_set_aside_too(tmp_path: Path) -> None:
    path = filled(tmp_path)
    history = make_history(tmp_path)
    append(history, 3000)
    wait_until_written(history)
    overwritten(path)

    def set_aside() -> bool:
        history.query(KEYS, 0, 10_000, 1000)
        append(history, 3001)
        return any(tmp_path.glob(f"{FILE}.unusable-*"))

    eventually(set_aside)
    wait_until_written(history)
    assert history.status_message() is None
    history.close()


def test_a_folder_that_cannot_be_written_means_memory_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a folder")
    history = make_history(in_the_way / "dashtop")
    for first in range(0, 5000, 1000):
        fill(history, first, first + 1000)
        wait_until_written(history)
    trouble = history.status_message()
    assert trouble is not None
    assert "--data-dir" in trouble
    assert [record.getMessage() for record in caplog.records] == [trouble]
    assert known(history, 5000) == 5000
    history.close()


def test_some_seconds_are_written_together_and_an_event_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[list[int]] = []
    write = Database.write

    def seen(self: Database, records: Sequence[Record]) -> None:
        write(self, records)
        written.append([record.time_ms // 1000 for record in records])

    monkeypatch.setattr(Database, "write", seen)
    history = place.history(write_interval_ms=WRITE_INTERVAL_MS)
    append(history, 0)
    wait_until_written(history)  # the first at once, so that a fault of the database shows soon
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


def test_a_disk_that_hangs_keeps_nobody_waiting(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()
    write = Database.write

    def hang(database: Database, records: Sequence[Record]) -> None:
        assert goes_on.wait(30)
        write(database, records)

    monkeypatch.setattr(Database, "write", hang)
    history = place.history()
    began = time.monotonic()
    fill(history, 0, 300)
    assert known(history, 300) == 300
    assert time.monotonic() - began < 2
    assert not is_written(history)
    goes_on.set()
    wait_until_written(history)
    history.close()


def test_a_write_that_fails_after_all_is_not_repeated(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection breaks, or a disk is full, when everything was written and the answer was on its way."""
    failures = iter([OSError(errno.EIO, "broken")])
    prune = Database._prune

    def broken(database: Database, connection: Connection) -> None:
        if (failure := next(failures, None)) is not None:
            raise failure
        prune(database, connection)

    monkeypatch.setattr(Database, "_prune", broken)
    history = place.history()
    for first in range(0, 100, 10):
        fill(history, first, first + 10)
        wait_until_written(history)
    history.close()
    assert next(failures, None) is None
    assert place.ask("SELECT count(*), count(DISTINCT time_ms) FROM head WHERE tier = 0") == [(100, 100)]


def at(history: HistoryStore, time_ms: int, value: float) -> None:
    history.append(make_sample(time_ms=time_ms, host={CPU.metric: value}))


def test_an_hour_back_and_forth_keeps_both_passes_and_orders_them(place: Place) -> None:
    history = place.history()
    start = 1_800_000_000_000 // HOUR_MS * HOUR_MS
    passes = ((0, 7200, 1.0), (3600, 5400, 3.0), (9000, 10_000, 5.0))  # back by an hour, then forth by one
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
def test_a_clock_wrong_by_decades_wipes_nothing(wrong_ms: int, place: Place) -> None:
    start = 1_800_000_000_000
    for first in (start, wrong_ms, start + 2 * HOUR_MS):
        history = place.history()
        for second in range(3600):
            at(history, first + second * 1000, 7.0)
        wait_until_written(history)
        history.close()
    history = place.history()
    hours = history.query([CPU], start, start + 3 * HOUR_MS, 60_000).series[0].mean.reshape(3, 60)
    assert np.isnan(hours[1]).all()
    assert (hours[2] == 7.0).all()
    assert (hours[0] == 7.0).all()
    history.close()


def test_old_windows_go_by_time_and_by_size_and_roll_ups_stay(place: Place) -> None:
    history = place.history(interval_s=10)
    draw = random.Random(2)
    for tick in range(0, 4 * 86_400, 10):
        at(history, tick * 1000, draw.random())
        if tick % 10_000 == 0:
            wait_until_written(history)
    wait_until_written(history)
    for window in range(30):  # old windows go a few at a time, with each new one
        at(history, (4 * 86_400 + 1_200 * window) * 1000, 0.5)
        wait_until_written(history)
    ((oldest, newest),) = place.ask('SELECT min(start_ms), max(start_ms) FROM "window" WHERE tier = 0')
    assert newest - oldest < 2 * DAY_MS + HOUR_MS
    found = history.query([CPU], 0, 4 * DAY_MS, 15_000).series[0]
    assert not np.isnan(found.mean).any()
    history.close()
    small = place.history(max_bytes=1)
    at(small, 5 * DAY_MS, 1.0)
    wait_until_written(small)
    small.close()
    assert place.ask('SELECT min(start_ms) FROM "window" WHERE tier = 0') > [(oldest,)]
