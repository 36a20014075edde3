"""The usage ledger is stored: buckets and days are added to, read over any range, kept, salvaged, and taken over."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from dashtop.history import usage as usage_module
from dashtop.history.sqlite import FILE, set_aside
from dashtop.model.timerange import DAY_MS, HOUR_MS
from dashtop.model.usage import BUCKET_MS, NO_PRICES, GpuUsage, ProcessUsage, UsageRecords
from dashtop.usage.summary import summarize
from tests.builders import make_device, make_history, make_sample, wait_until_written
from tests.processes import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from dashtop.history.store import HistoryStore
    from tests.history.conftest import Storage

MIDNIGHT_MS = 20_000 * DAY_MS
GPU = make_device(0).uuid


def record(
    start_ms: int, *, pid: int = 1, owner: str = "ada", held_ms: float = 10_000.0, uuid: str = GPU
) -> UsageRecords:
    row = ProcessUsage(
        start_ms=start_ms, gpu_uuid=uuid, pid=pid, started_ms=7, owner=owner, container="", slurm_job="12", pod="",
        name="=train", held_ms=held_ms, share_ms=held_ms, memory_byte_ms=8e10 * held_ms, active_mj=2 * held_ms,
    )  # fmt: skip
    total = GpuUsage(start_ms=start_ms, gpu_uuid=uuid, seen_ms=held_ms, held_ms=held_ms, energy_mj=3 * held_ms)
    return UsageRecords((row,), (total,))


def write(history: HistoryStore, *records: UsageRecords, second: int = 0) -> None:
    for number, each in enumerate(records):
        sample = make_sample(time_ms=each.gpus[0].start_ms + 25_000 + 1000 * (second + number))
        history.append(replace(sample, usage=each))


def held(history: HistoryStore, start_ms: int, end_ms: int) -> dict[int, float]:
    """Return the held seconds of each process."""
    return {row.pid: row.held_ms / 1000 for row in history.usage(start_ms, end_ms).records.processes}


def test_records_are_added_up_by_bucket_and_read_pending_and_written(storage: Storage) -> None:
    history = storage.history()
    for start_ms in (MIDNIGHT_MS, MIDNIGHT_MS + 30_000, MIDNIGHT_MS + BUCKET_MS):
        write(history, record(start_ms))
    for _ in ("perhaps pending", "written"):
        found = history.usage(MIDNIGHT_MS + 1, MIDNIGHT_MS + BUCKET_MS)
        assert (found.start_ms, found.end_ms) == (MIDNIGHT_MS, MIDNIGHT_MS + BUCKET_MS)
        (row,) = found.records.processes
        assert (row.pid, row.started_ms, row.owner, row.slurm_job, row.name) == (1, 7, "ada", "12", "=train")
        assert (row.held_ms, row.active_mj, row.base_mj) == (20_000, 40_000, None)
        assert row.memory_byte_ms == pytest.approx(8e10 * 20_000)
        (total,) = found.records.gpus
        assert (total.seen_ms, total.energy_mj, total.integrated_mj) == (20_000, 60_000, None)
        assert held(history, MIDNIGHT_MS, MIDNIGHT_MS + 2 * BUCKET_MS) == {1: 30}
        wait_until_written(history)
    history.close()
    history = storage.history()
    assert history.usage(MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS).began_ms == MIDNIGHT_MS
    assert held(history, MIDNIGHT_MS + BUCKET_MS, MIDNIGHT_MS + DAY_MS) == {1: 10}
    assert storage.query_sql("SELECT count(*), sum(held_ms) FROM usage WHERE width_ms = 86400000") == [(1, 30_000)]
    history.close()


def test_what_is_not_written_is_read_from_memory(storage: Storage) -> None:
    history = storage.history(starts=False)
    assert history.usage(MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS).began_ms is None
    write(history, record(MIDNIGHT_MS + BUCKET_MS + 5))
    found = history.usage(MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS)
    assert (found.began_ms, found.records.processes[0].held_ms) == (MIDNIGHT_MS + BUCKET_MS, 10_000)
    history.close()


def test_a_range_of_days_is_read_from_days_and_its_ends_from_buckets(storage: Storage) -> None:
    history = storage.history()
    times = [MIDNIGHT_MS + hours * HOUR_MS for hours in (1, 20, 30, 50, 70, 75)]
    for start_ms in times:
        write(history, record(start_ms))
    wait_until_written(history)
    for first in range(0, 96, 7):
        for last in range(first + 1, 96, 11):
            start_ms, end_ms = MIDNIGHT_MS + first * HOUR_MS, MIDNIGHT_MS + last * HOUR_MS
            expected = 10 * sum(start_ms <= time_ms < end_ms for time_ms in times)
            assert held(history, start_ms, end_ms) == ({1: expected} if expected else {}), (first, last)
    history.close()


def test_buckets_and_days_beyond_their_time_are_deleted_and_the_days_stay(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_module, "MAX_BUCKET_DAYS", 3)
    monkeypatch.setattr(usage_module, "MAX_DAYS", 6)
    history = storage.history()
    for day in range(10):
        write(history, record(MIDNIGHT_MS + day * DAY_MS + 5 * HOUR_MS))
    wait_until_written(history)
    days = "SELECT count(DISTINCT bucket_ms / 86400000) FROM usage WHERE width_ms = {}"
    assert storage.query_sql(days.format(BUCKET_MS)) == [(3,)]
    assert storage.query_sql(days.format(DAY_MS)) == [(6,)]
    assert storage.query_sql("SELECT count(*) FROM gpu_usage") == [(9,)]
    found = history.usage(MIDNIGHT_MS + 5 * DAY_MS + 12 * HOUR_MS, MIDNIGHT_MS + 10 * DAY_MS)
    assert found.start_ms == MIDNIGHT_MS + 5 * DAY_MS, "the begin of a day of which no buckets are kept"
    assert found.began_ms == MIDNIGHT_MS + 4 * DAY_MS
    assert found.records.processes[0].held_ms == 50_000
    history.close()


def test_a_clock_that_is_wrong_for_a_while_deletes_nothing(storage: Storage) -> None:
    history = storage.history()
    for day in (0, 9000, 1):
        write(history, record(MIDNIGHT_MS + day * DAY_MS))
    wait_until_written(history)
    assert held(history, MIDNIGHT_MS, MIDNIGHT_MS + 2 * DAY_MS) == {1: 20}
    history.close()


def test_rows_beyond_the_limit_are_deleted_the_oldest_first(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_module, "MAX_ROWS", 5)
    history = storage.history()
    for bucket in range(9):
        write(history, record(MIDNIGHT_MS + bucket * BUCKET_MS, pid=bucket + 1))
    wait_until_written(history)
    kept = storage.query_sql(f"SELECT pid FROM usage WHERE width_ms = {BUCKET_MS} ORDER BY pid")
    assert len(kept) <= 7
    assert kept[-1] == (9,)
    history.close()


def test_processes_that_are_not_listed_are_added_up(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    history = storage.history()
    for day in range(3):
        for pid in range(1, 9):
            owner = "ada" if pid % 2 else "grace"
            start_ms = MIDNIGHT_MS + day * DAY_MS + pid * BUCKET_MS
            write(history, record(start_ms, pid=pid, owner=owner, held_ms=1000.0 * pid))
    wait_until_written(history)
    start_ms, end_ms = MIDNIGHT_MS + 3 * BUCKET_MS, MIDNIGHT_MS + 2 * DAY_MS + 5 * BUCKET_MS
    whole = history.usage(start_ms, end_ms)
    monkeypatch.setattr(usage_module, "MAX_RESULTS", 3)
    cut = history.usage(start_ms, end_ms)
    assert (whole.is_cut, cut.is_cut) == (False, True)
    assert len(cut.records.processes) < len(whole.records.processes) + 2
    for by in ("user", "slurm_job", "container"):
        sums = [
            {row.key: round(row.held_h or 0.0, 6) for row in summarize(usage, by, now_ms=end_ms, prices=NO_PRICES).rows}
            for usage in (whole, cut)
        ]
        assert sums[0] == sums[1], by
    rows = summarize(cut, "process", now_ms=end_ms, prices=NO_PRICES).rows
    assert "(others)" in {row.key for row in rows}
    history.close()


def test_a_database_without_the_ledger_gets_its_tables(storage: Storage) -> None:
    history = storage.history()
    write(history, record(MIDNIGHT_MS))
    wait_until_written(history)
    history.close()
    for table in ("usage", "gpu_usage"):
        storage.query_sql(f"DROP TABLE {table}")
    reader = storage.history(starts=False)
    empty = reader.usage(MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS)
    assert (empty.began_ms, empty.records.processes, reader.read_status().error) == (None, (), None)
    reader.close()
    history = storage.history()
    write(history, record(MIDNIGHT_MS + HOUR_MS))
    wait_until_written(history)
    assert history.usage(MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS).began_ms == MIDNIGHT_MS + HOUR_MS
    history.close()


def test_the_process_that_takes_over_counts_no_time_twice(storage: Storage) -> None:
    writer = storage.history()
    write(writer, record(MIDNIGHT_MS), record(MIDNIGHT_MS + 30_000))
    wait_until_written(writer)
    reader = storage.history()
    write(reader, record(MIDNIGHT_MS), record(MIDNIGHT_MS + 30_000))
    eventually(lambda: reader._writer.is_locked_out, 30.0)
    assert held(reader, MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS) == {1: 20}
    # Half of this time was written by the other process.
    write(reader, record(MIDNIGHT_MS + 40_000), record(MIDNIGHT_MS + 90_000))
    writer.close()
    eventually(lambda: not reader._writer.is_locked_out, 30.0)
    write(reader, record(MIDNIGHT_MS + 120_000), second=9)
    wait_until_written(reader)
    assert held(reader, MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS) == {1: 40}
    reader.close()


def test_the_ledger_of_a_damaged_file_is_copied(tmp_path: Path) -> None:
    history = make_history(tmp_path)
    write(history, record(MIDNIGHT_MS), record(MIDNIGHT_MS + BUCKET_MS, pid=2, owner="grace"))
    wait_until_written(history)
    before = history.usage(MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS)
    history.close()
    set_aside(tmp_path / FILE, MIDNIGHT_MS)
    history = make_history(tmp_path)
    write(history, record(MIDNIGHT_MS + 2 * BUCKET_MS, pid=3))
    wait_until_written(history)
    after = history.usage(MIDNIGHT_MS, MIDNIGHT_MS + DAY_MS)
    assert {row for row in after.records.processes if row.pid != 3} == set(before.records.processes)
    assert after.records.gpus[0].held_ms == 30_000
    history.close()
