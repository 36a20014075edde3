"""The usage ledger in the database: buckets of ten minutes and of days, to which records are added.

Each record is added to both buckets in the transaction that writes its sample, so that neither a killed process nor a
failed write counts a time twice. Ten-minute buckets are kept for 90 days, days for two years.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import fields
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, TypeVar

from dashtop.model.usage import (
    BUCKET_MS,
    DAILY_MS,
    NO_USAGE,
    OTHERS,
    GpuUsage,
    ProcessUsage,
    StoredUsage,
    UsageRecords,
    list_sums,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from dashtop.history.database import Connection

MAX_BUCKET_DAYS: Final = 90
MAX_DAYS: Final = 730
MAX_ROWS: Final = 1_000_000
"""Rows of processes kept of each width: a machine can start thousands of processes a day."""
_BYTES_PER_ROW: Final = 1_000
"""One row of each width for so much of the size limit of the history: they take a third of it at most."""
MAX_RESULTS: Final = 5_000
"""Processes in one result; the others are added up: records of 50 000 would take two seconds."""

# `gpu_uuid` of the records is `gpu` here, as in the other tables. Sums are DOUBLE PRECISION: byte × ms of a day exceed
# 64 bits. Days are rows with `width_ms` of a day.
_TABLES: Final[dict[type[ProcessUsage | GpuUsage], tuple[str, tuple[str, ...]]]] = {
    ProcessUsage: ("usage", ("width_ms", "bucket_ms", "gpu", "pid", "started_ms")),
    GpuUsage: ("gpu_usage", ("width_ms", "bucket_ms", "gpu")),
}
_ANY_WIDTH_MS: Final = 2**62
"""One bucket for all times."""
_FACTS: Final = ("owner", "container", "slurm_job", "pod", "name")
RecordT = TypeVar("RecordT", ProcessUsage, GpuUsage)


def _build_table(table: str) -> str:
    columns = [f"{name} {kind}{'' if is_optional else ' NOT NULL'}" for name, kind, is_optional in list_columns(table)]
    keys = next(keys for name, keys in _TABLES.values() if name == table)
    return f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(columns)}, PRIMARY KEY ({', '.join(keys)}));"


def list_columns(table: str) -> Iterator[tuple[str, str, bool]]:
    """Yield name and type of each column, and whether it may be NULL."""
    record = next(each for each, (name, _) in _TABLES.items() if name == table)
    optional = {each.name for each in fields(record) if each.default is None}
    for key in _TABLES[record][1]:
        yield key, "TEXT" if key == "gpu" else "BIGINT", False
    for fact in _list_facts(record):
        yield fact, "TEXT", False
    for name in list_sums(record):
        yield name, "DOUBLE PRECISION", name in optional


def _list_facts(record: type[ProcessUsage | GpuUsage]) -> tuple[str, ...]:
    return _FACTS if record is ProcessUsage else ()


TABLE_NAMES: Final = tuple(table for table, _ in _TABLES.values())
USAGE_TABLES: Final = "\n".join(map(_build_table, TABLE_NAMES))


def _build_upsert(record: type[ProcessUsage | GpuUsage]) -> str:
    table, keys = _TABLES[record]
    facts, optional = _list_facts(record), {each.name for each in fields(record) if each.default is None}
    columns = (*keys, *facts, *list_sums(record))
    updates = [f"{name} = excluded.{name}" for name in facts]
    for name in list_sums(record):
        total = f"{table}.{name} + excluded.{name}"
        updates.append(
            f"{name} = coalesce({total}, {table}.{name}, excluded.{name})" if name in optional else f"{name} = {total}"
        )
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608 - constants
        f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {', '.join(updates)}"
    )


_UPSERTS: Final = {record: _build_upsert(record) for record in _TABLES}


def add_usage(connection: Connection, records: Iterable[UsageRecords]) -> None:
    """Add records to their buckets and days, in the caller's transaction."""
    found = list(records)
    processes = merge((each for part in found for each in part.processes), BUCKET_MS)
    rows = [row for each in processes for row in _list_rows(each)]
    if rows:
        connection.executemany(_UPSERTS[ProcessUsage], rows)
    gpus = merge((each for part in found for each in part.gpus), BUCKET_MS)
    rows = [row for each in gpus for row in _list_rows(each)]
    if rows:
        connection.executemany(_UPSERTS[GpuUsage], rows)


def merge(records: Iterable[RecordT], width_ms: int) -> list[RecordT]:
    """Return the records added up by bucket, GPU and process; `start_ms` is that of the first one."""
    merged: dict[tuple[object, ...], RecordT] = {}
    for record in records:
        key = (record.start_ms // width_ms, record.gpu_uuid, _get_process(record))
        known = merged.get(key)
        merged[key] = record if known is None else _add(known, record)
    return list(merged.values())


def _get_process(record: ProcessUsage | GpuUsage) -> tuple[int, ...]:
    """Return what identifies a process on a GPU; nothing for the GPU itself."""
    return (record.pid, record.started_ms) if isinstance(record, ProcessUsage) else ()


def _add(one: RecordT, other: RecordT) -> RecordT:
    """Return the sums of both, with the facts of the later one."""
    values: dict[str, Any] = {}
    for each in fields(one):
        before, after = getattr(one, each.name), getattr(other, each.name)
        if not each.metadata.get("is_sum"):
            values[each.name] = before if each.name == "start_ms" else after
        else:
            values[each.name] = after if before is None else before if after is None else before + after
    return type(one)(**values)


def _list_rows(record: ProcessUsage | GpuUsage) -> Iterator[tuple[object, ...]]:
    """Yield the row of the bucket and the row of the day."""
    values: list[object] = [*_get_process(record)]
    values += [getattr(record, name) for name in _list_facts(type(record))]
    sums = (getattr(record, name) for name in list_sums(type(record)))
    values += [None if value is None else float(round(value)) for value in sums]  # SQLite stores these in few bytes
    for width_ms in (BUCKET_MS, DAILY_MS):
        yield (width_ms, record.start_ms // width_ms * width_ms, record.gpu_uuid, *values)


def read_usage(
    connection: Connection, start_ms: int, end_ms: int, pending: Iterable[tuple[int, UsageRecords]] = ()
) -> StoredUsage:
    """Return the sums of the buckets that overlap [start_ms, end_ms); see the History port.

    `pending`: time of a sample and its records, of which those count that the database does not have yet. Where the
    buckets are deleted already, the range begins with a whole day.
    """
    days_ms, buckets_ms = (_read_start(connection, width_ms) for width_ms in (DAILY_MS, BUCKET_MS))
    began_ms = days_ms
    start_ms, end_ms = align(start_ms, end_ms)
    if buckets_ms is not None and days_ms is not None:
        if days_ms == buckets_ms // DAILY_MS * DAILY_MS:
            began_ms = buckets_ms
        elif start_ms < buckets_ms:
            start_ms = start_ms // DAILY_MS * DAILY_MS
    newest_ms = _read_newest_ms(connection)
    unwritten = [records for time_ms, records in pending if time_ms > newest_ms]
    ranges = list(_split(start_ms, end_ms))
    processes = list(_read_processes(connection, ranges))
    gpus = [row for each in ranges for row in _read(connection, GpuUsage, each)]
    return combine(
        [*unwritten, UsageRecords(tuple(processes), tuple(gpus))],
        start_ms,
        end_ms,
        began_ms=find_begin(unwritten, began_ms),
        is_cut=any(row.name == OTHERS and row.started_ms < 0 for row in processes),
    )


def drop_before(usage: UsageRecords, time_ms: int) -> UsageRecords:
    """Return the records of times that begin later: another process may have written the earlier ones."""
    if usage is NO_USAGE:
        return usage
    return UsageRecords(
        tuple(each for each in usage.processes if each.start_ms > time_ms),
        tuple(each for each in usage.gpus if each.start_ms > time_ms),
    )


def align(start_ms: int, end_ms: int) -> tuple[int, int]:
    """Return start and end of the buckets that overlap a range."""
    return start_ms // BUCKET_MS * BUCKET_MS, -(-end_ms // BUCKET_MS) * BUCKET_MS


def find_begin(unwritten: Iterable[UsageRecords], stored_ms: int | None = None) -> int | None:
    """Return the first bucket that is stored or not written yet; None: there is none."""
    times_ms = [row.start_ms for records in unwritten for row in records.gpus]
    begins = [] if stored_ms is None else [stored_ms]
    return min([*begins, *(time_ms // BUCKET_MS * BUCKET_MS for time_ms in times_ms)], default=None)


def combine(
    records: Iterable[UsageRecords], start_ms: int, end_ms: int, *, began_ms: int | None = None, is_cut: bool = False
) -> StoredUsage:
    """Return the sums of the records in [start_ms, end_ms) by process and GPU."""
    """Return the sums of the records in [start_ms, end_ms) by process and GPU."""
    found = list(records)
    processes = (row for each in found for row in each.processes if start_ms <= row.start_ms < end_ms)
    gpus = (row for each in found for row in each.gpus if start_ms <= row.start_ms < end_ms)
    sums = UsageRecords(tuple(merge(processes, _ANY_WIDTH_MS)), tuple(merge(gpus, _ANY_WIDTH_MS)))
    return StoredUsage(start_ms=start_ms, end_ms=end_ms, began_ms=began_ms, is_cut=is_cut, records=sums)


def _read_start(connection: Connection, width_ms: int) -> int | None:
    row = connection.execute("SELECT min(bucket_ms) FROM gpu_usage WHERE width_ms = ?", (width_ms,)).fetchone()
    return None if row[0] is None else int(row[0])


def _read_newest_ms(connection: Connection) -> int:
    row = connection.execute("SELECT time_ms FROM head WHERE tier = 0 ORDER BY id DESC LIMIT 1").fetchone()
    return int(row[0]) if row else -1


def _split(start_ms: int, end_ms: int) -> Iterator[tuple[int, int, int]]:
    """Yield width, start and end of the buckets to read: whole days, and ten-minute buckets before and after these."""
    first_ms, last_ms = -(-start_ms // DAILY_MS) * DAILY_MS, end_ms // DAILY_MS * DAILY_MS
    if first_ms >= last_ms:
        yield BUCKET_MS, start_ms, end_ms
        return
    yield DAILY_MS, first_ms, last_ms
    if start_ms < first_ms:
        yield BUCKET_MS, start_ms, first_ms
    if last_ms < end_ms:
        yield BUCKET_MS, last_ms, end_ms


def _read(connection: Connection, record: type[RecordT], buckets: tuple[int, int, int]) -> Iterator[RecordT]:
    """Yield the sums of a range of buckets: of the processes, MAX_RESULTS that held GPUs the longest."""
    keys, facts, sums = list(_TABLES[record][1][2:]), list(_list_facts(record)), list(list_sums(record))
    columns = keys + [f"max({name})" for name in facts]
    order = f" ORDER BY sum(held_ms) DESC LIMIT {MAX_RESULTS}" if record is ProcessUsage else ""
    names = list(chain(("gpu_uuid",), keys[1:], facts, sums))
    for row in _select_sums(connection, record, columns, keys, buckets, order):
        yield record(start_ms=buckets[1], **dict(zip(names, row, strict=True)))


def _select_sums(  # noqa: PLR0917 - the parts of one query
    connection: Connection,
    record: type[ProcessUsage | GpuUsage],
    columns: Sequence[str],
    keys: Sequence[str],
    buckets: tuple[int, int, int],
    order: str = "",
) -> list[Any]:
    """Return the columns and the sums of the rows of each key."""
    selected = [*columns, *(f"sum({name})" for name in list_sums(record))]
    return connection.execute(
        f"SELECT {', '.join(selected)} FROM {_TABLES[record][0]}"  # noqa: S608 - constants
        f" WHERE width_ms = ? AND bucket_ms >= ? AND bucket_ms < ? GROUP BY {', '.join(keys)}{order}",
        buckets,
    ).fetchall()


def _read_processes(connection: Connection, ranges: Sequence[tuple[int, int, int]]) -> Iterator[ProcessUsage]:
    """Yield the sums of the processes; those that are not listed are one record for each owner, container and job.

    Such a record has the name OTHERS, and a negative number that tells it from others in place of its start.
    """
    numbers: dict[tuple[str, ...], int] = {}
    for buckets in ranges:
        listed = list(_read(connection, ProcessUsage, buckets))
        yield from listed
        if len(listed) < MAX_RESULTS:
            continue
        sums: dict[tuple[str, ...], list[float]] = defaultdict(lambda: [0.0] * len(list_sums(ProcessUsage)))
        for row in listed:
            known = sums[row.gpu_uuid, row.owner, row.container, row.slurm_job]
            for position, name in enumerate(list_sums(ProcessUsage)):
                known[position] += getattr(row, name) or 0.0
        keys = ["gpu", "owner", "container", "slurm_job"]
        for gpu, owner, container, slurm_job, *totals in _select_sums(connection, ProcessUsage, keys, keys, buckets):
            key = (gpu, owner, container, slurm_job)
            rest = [
                None if total is None else max(0.0, total - listed_sum)
                for total, listed_sum in zip(totals, sums[key], strict=True)
            ]
            if any(rest):
                yield ProcessUsage(
                    start_ms=buckets[1],
                    gpu_uuid=gpu,
                    pid=0,
                    started_ms=numbers.setdefault(key, -1 - len(numbers)),
                    owner=owner,
                    container=container,
                    slurm_job=slurm_job,
                    pod="",
                    name=OTHERS,
                    **dict(zip(list_sums(ProcessUsage), rest, strict=True)),  # type: ignore[arg-type]
                )


def prune_usage(connection: Connection, *, kept_ms: int, max_bytes: int) -> None:
    """Delete the oldest buckets and days beyond those that are kept, in the caller's transaction.

    Days are counted, whatever their dates: a clock that is wrong, even by decades, deletes nothing.
    """
    kept_days = max(1, kept_ms // DAILY_MS)
    for width_ms, max_days in ((BUCKET_MS, MAX_BUCKET_DAYS), (DAILY_MS, MAX_DAYS)):
        oldest_ms = _find_oldest_kept(connection, width_ms, min(max_days, kept_days))
        row = connection.execute(
            "SELECT bucket_ms FROM usage WHERE width_ms = ? ORDER BY bucket_ms DESC LIMIT 1 OFFSET ?",
            (width_ms, min(MAX_ROWS, max_bytes // _BYTES_PER_ROW)),
        ).fetchone()
        if row is not None:
            oldest_ms = max(oldest_ms, row[0] + 1)
        for table in TABLE_NAMES:
            bounds = (width_ms, oldest_ms)
            connection.execute(f"DELETE FROM {table} WHERE width_ms = ? AND bucket_ms < ?", bounds)  # noqa: S608


def _find_oldest_kept(connection: Connection, width_ms: int, max_days: int) -> int:
    """Return the begin of the oldest of the newest `max_days` days that have buckets."""
    first_ms, day_ms = _read_start(connection, width_ms), None
    if first_ms is None:
        return 0
    for _ in range(max_days):
        condition, bounds = ("", ()) if day_ms is None else (" AND bucket_ms < ?", (day_ms,))
        row = connection.execute(
            f"SELECT max(bucket_ms) FROM gpu_usage WHERE width_ms = ?{condition}",  # noqa: S608 - constants
            (width_ms, *bounds),
        ).fetchone()
        if row[0] is None or (day_ms is None and row[0] - first_ms < (max_days - 1) * DAILY_MS):
            return first_ms
        day_ms = int(row[0]) // DAILY_MS * DAILY_MS
    return day_ms or 0
