"""Queries of the database: readings of a time range from the tiers that still hold it, and process spans."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from dashtop.history.compaction import ROLLUP_COLUMNS, read_buffer, to_readings
from dashtop.history.rollup import Readings, concatenate
from dashtop.history.schema import RAW, TIERS, Tier, decompress, decompress_times, find_tier
from dashtop.model.sample import ProcessInfo, ProcessSpan, SeriesKey, StoredGpu

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dashtop.history.database import Connection

log = logging.getLogger(__name__)

MAX_ROWS = 10_000
"""Spans in one result."""


def read_readings(
    connection: Connection, keys: Sequence[SeriesKey], start_ms: int, end_ms: int, step_ms: int
) -> Readings:
    """Return the readings in [start_ms, end_ms) of the coarsest tier that makes up buckets of `step_ms`.

    For times before that tier begins, coarser tiers take its place.
    """
    series = _read_series_ids(connection, keys)
    finest = find_tier(step_ms)
    parts = []
    if finest.width_ms:
        parts.append(read_buffer(connection, RAW, start_ms, end_ms, series)[1])
    for tier in TIERS[finest.number :]:
        parts.insert(0, read_buffer(connection, tier, start_ms, end_ms, series)[1])
        parts[:0] = _read_windows(connection, tier, start_ms, end_ms, series)
        end_ms = min(end_ms, _read_start(connection, tier, end_ms))
        if end_ms <= start_ms:
            break
    return concatenate(parts)


def read_series(connection: Connection) -> list[SeriesKey]:
    """Return every series that was ever written."""
    rows = connection.execute("SELECT metric, gpu FROM series").fetchall()
    return [SeriesKey(metric, gpu or None) for metric, gpu in rows]


def read_gpus(connection: Connection) -> list[StoredGpu]:
    """Return the GPUs that were ever written, in the order in which they were first sampled with their index."""
    rows = connection.execute("SELECT uuid, position, name FROM gpu ORDER BY time_ms, uuid").fetchall()
    return [StoredGpu(uuid, index, name) for uuid, index, name in rows]


def read_newest_ms(connection: Connection) -> int:
    """Return the time of the sample that was written last, -1 if there is none."""
    row = connection.execute("SELECT time_ms FROM head WHERE tier = 0 ORDER BY id DESC LIMIT 1").fetchone()
    return int(row[0]) if row else -1


def read_processes(
    connection: Connection, gpu_uuids: Sequence[str], start_ms: int, end_ms: int
) -> tuple[ProcessSpan, ...]:
    """Return the newest spans on these GPUs that overlap [start_ms, end_ms), in ascending order of their start."""
    if not gpu_uuids:
        return ()
    rows = connection.execute(
        "SELECT gpu, pid, start_ms, end_ms, memory, peak_memory, peak_sm, facts FROM process"  # noqa: S608 - constants
        f" WHERE gpu IN ({', '.join('?' * len(gpu_uuids))}) AND end_ms >= ? AND start_ms < ?"
        " ORDER BY start_ms DESC, id DESC LIMIT ?",
        (*gpu_uuids, start_ms, end_ms, MAX_ROWS),
    ).fetchall()
    return tuple(_to_span(*row[:-1], facts=json.loads(row[-1])) for row in reversed(rows))


def _decode_info(facts: dict[str, Any]) -> ProcessInfo:
    if "owner" not in facts:
        return ProcessInfo.from_json(facts)
    # Version 0.1 wrote these names, and the owner as a record of its own.
    owner = dict(facts["owner"] or {})
    owner["username"], owner["container_runtime"] = owner.pop("user", None), owner.pop("runtime", None)
    renamed = {"process_name": facts["name"], "started": facts["started_ms"], "foreign": facts["foreign"]}
    return ProcessInfo.from_json(owner | renamed)


def _to_span(  # noqa: PLR0917 - the columns of the query above
    gpu: str,
    pid: int,
    start_ms: int,
    end_ms: int,
    memory: int | None,
    peak_memory: int | None,
    peak_sm: float | None,
    *,
    facts: dict[str, Any],
) -> ProcessSpan:
    return ProcessSpan(
        gpu_uuid=gpu,
        pid=pid,
        start_ms=start_ms,
        end_ms=end_ms,
        gpu_memory_bytes=memory,
        peak_gpu_memory_bytes=peak_memory,
        peak_sm_percent=peak_sm,
        kind=facts["kind"],
        info=_decode_info(facts),
    )


def _read_series_ids(connection: Connection, keys: Sequence[SeriesKey]) -> NDArray[np.int64]:
    """Return the id of each series; for an unknown one a negative id, which no row has."""
    ids = []
    for position, key in enumerate(keys):
        row = connection.execute(
            "SELECT id FROM series WHERE metric = ? AND gpu = ?", (key.metric, key.gpu_uuid or "")
        ).fetchone()
        ids.append(row[0] if row else -1 - position)
    return np.array(ids, dtype=np.int64)


def _read_windows(
    connection: Connection, tier: Tier, start_ms: int, end_ms: int, series: NDArray[np.int64]
) -> list[Readings]:
    """Return the compacted readings in [start_ms, end_ms); an empty list if there are none."""
    # A window may begin before the range does.
    bounds = (tier.number, start_ms - tier.window_ms, end_ms)
    windows = connection.execute(
        'SELECT id, times FROM "window" WHERE tier = ? AND start_ms > ? AND start_ms < ? ORDER BY start_ms, id', bounds
    ).fetchall()
    if not windows:
        return []
    times = [decompress_times(blob) for _, blob in windows]
    edges = np.cumsum([0, *map(len, times)])
    slices = {window: slice(edges[row], edges[row + 1]) for row, (window, _) in enumerate(windows)}
    columns = 1 if tier.width_ms == 0 else ROLLUP_COLUMNS
    values = np.full((columns, len(series), edges[-1]), np.nan, dtype=np.float32)
    for row, series_id in enumerate(series):
        chunks = connection.execute(
            'SELECT chunk."window", data FROM "window" CROSS JOIN chunk'
            ' WHERE tier = ? AND start_ms > ? AND start_ms < ? AND chunk."window" = "window".id AND chunk.series = ?',
            (*bounds, int(series_id)),
        )
        for window, blob in chunks:
            try:
                values[:, row, slices[window]] = decompress(blob, np.float32).reshape(columns, -1)
            except ValueError:
                log.warning("A damaged chunk of the history is left out: series %d, window %d", series_id, window)
    readings = to_readings(np.concatenate(times), values)
    is_inside = (readings.times_ms >= start_ms) & (readings.times_ms < end_ms)
    if is_inside.all():
        return [readings]
    return [Readings(readings.times_ms[is_inside], *(part[:, is_inside] for part in readings[1:]))]


def _read_start(connection: Connection, tier: Tier, end_ms: int) -> int:
    """Return where a tier begins: coarser tiers may hold earlier times. `end_ms` if the tier is empty."""
    (compacted,) = connection.execute('SELECT min(start_ms) FROM "window" WHERE tier = ?', (tier.number,)).fetchone()
    (buffered,) = connection.execute("SELECT min(time_ms) FROM head WHERE tier = ?", (tier.number,)).fetchone()
    starts = [time_ms for time_ms in (compacted, buffered) if time_ms is not None]
    # Coarser buckets never cross the edge of a window, so no reading counts twice.
    return min(starts) // tier.window_ms * tier.window_ms if starts else end_ms
