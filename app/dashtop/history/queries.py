"""Questions to the database: readings of a stretch of time from the tiers that still hold it, events, processes."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from dashtop.history import compaction as seal
from dashtop.history.codec import unpack, unpack_times
from dashtop.history.rollup import Readings, joined
from dashtop.history.tiers import TIERS, Tier, tier_for
from dashtop.model.metric import Severity
from dashtop.model.sample import Event, Owner, ProcessSpan, SeriesKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dashtop.history.database import Connection

log = logging.getLogger(__name__)

RAW = TIERS[0]
MOST_ROWS = 10_000
"""Events or spans that one answer may hold."""


def readings(connection: Connection, keys: Sequence[SeriesKey], start_ms: int, end_ms: int, step_ms: int) -> Readings:
    """Return what is kept of [start_ms, end_ms) in the coarsest tier that makes up buckets of `step_ms`.

    Where that tier no longer reaches back far enough, coarser ones take its place.
    """
    series = _numbers(connection, keys)
    chosen = tier_for(step_ms)
    parts = []
    if chosen.width_ms:
        parts.append(seal.head(connection, RAW, start_ms, end_ms, series)[1])
    for tier in TIERS[chosen.number :]:
        parts.insert(0, seal.head(connection, tier, start_ms, end_ms, series)[1])
        parts[:0] = _sealed(connection, tier, start_ms, end_ms, series)
        end_ms = min(end_ms, _oldest(connection, tier, end_ms))
        if end_ms <= start_ms:
            break
    return joined(parts)


def series(connection: Connection) -> list[SeriesKey]:
    """Return every series that was ever written."""
    rows = connection.execute("SELECT metric, gpu FROM series").fetchall()
    return [SeriesKey(metric, gpu or None) for metric, gpu in rows]


def newest_ms(connection: Connection) -> int:
    """Return the time of the sample that was written last, -1 where there is none."""
    found = connection.execute("SELECT time_ms FROM head WHERE tier = 0 ORDER BY id DESC LIMIT 1").fetchone()
    return int(found[0]) if found else -1


def events(connection: Connection, start_ms: int, end_ms: int) -> tuple[Event, ...]:
    """Return the newest events in [start_ms, end_ms), in the order of time."""
    rows = connection.execute(
        "SELECT time_ms, kind, severity, text, gpu, advice, code FROM event"
        " WHERE time_ms >= ? AND time_ms < ? ORDER BY time_ms DESC, id DESC LIMIT ?",
        (start_ms, end_ms, MOST_ROWS),
    ).fetchall()
    return tuple(
        Event(
            time_ms=time_ms, kind=kind, severity=Severity(severity), text=text, gpu_uuid=gpu, advice=advice, code=code
        )
        for time_ms, kind, severity, text, gpu, advice, code in reversed(rows)
    )


def processes(connection: Connection, gpu_uuid: str, start_ms: int, end_ms: int) -> tuple[ProcessSpan, ...]:
    """Return the newest spans on one GPU that reach into [start_ms, end_ms), in the order of their start."""
    rows = connection.execute(
        "SELECT gpu, pid, start_ms, end_ms, memory, peak_memory, peak_sm, facts FROM process"
        " WHERE gpu = ? AND end_ms >= ? AND start_ms < ? ORDER BY start_ms DESC, id DESC LIMIT ?",
        (gpu_uuid, start_ms, end_ms, MOST_ROWS),
    ).fetchall()
    return tuple(_span(*row[:-1], facts=json.loads(row[-1])) for row in reversed(rows))


def _span(  # noqa: PLR0917 - the columns of the question above
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
        name=facts["name"],
        kind=facts["kind"],
        started_ms=facts["started_ms"],
        foreign=facts["foreign"],
        owner=Owner(**facts["owner"]) if facts["owner"] else None,
    )


def _numbers(connection: Connection, keys: Sequence[SeriesKey]) -> NDArray[np.int64]:
    """Return the number of each series; one that was never written has a negative one, which nothing bears."""
    found = []
    for position, key in enumerate(keys):
        row = connection.execute(
            "SELECT id FROM series WHERE metric = ? AND gpu = ?", (key.metric, key.gpu_uuid or "")
        ).fetchone()
        found.append(row[0] if row else -1 - position)
    return np.array(found, dtype=np.int64)


def _sealed(
    connection: Connection, tier: Tier, start_ms: int, end_ms: int, series: NDArray[np.int64]
) -> list[Readings]:
    # A window may begin before the question does; its first readings then fall before the first bucket and drop out.
    bounds = (tier.number, start_ms - tier.window_ms, end_ms)
    windows = connection.execute(
        'SELECT id, times FROM "window" WHERE tier = ? AND start_ms > ? AND start_ms < ? ORDER BY start_ms, id', bounds
    ).fetchall()
    if not windows:
        return []
    times = [unpack_times(blob) for _, blob in windows]
    edges = np.cumsum([0, *map(len, times)])
    place = {number: (edges[row], edges[row + 1]) for row, (number, _) in enumerate(windows)}
    columns = 1 if tier.width_ms == 0 else seal.COLUMNS
    values = np.full((columns, len(series), edges[-1]), np.nan, dtype=np.float32)
    for row, number in enumerate(series):
        chunks = connection.execute(
            'SELECT chunk."window", data FROM "window" CROSS JOIN chunk'
            ' WHERE tier = ? AND start_ms > ? AND start_ms < ? AND chunk."window" = "window".id AND chunk.series = ?',
            (*bounds, int(number)),
        )
        for window, blob in chunks:
            first, last = place[window]
            try:
                values[:, row, first:last] = unpack(blob, np.float32).reshape(columns, -1)
            except ValueError:
                log.warning("A block of the history is damaged and left out: series %d, window %d", number, window)
    found = seal.readings(np.concatenate(times), values)
    kept = (found.times_ms >= start_ms) & (found.times_ms < end_ms)
    if kept.all():
        return [found]
    return [Readings(found.times_ms[kept], *(part[:, kept] for part in found[1:]))]


def _oldest(connection: Connection, tier: Tier, end_ms: int) -> int:
    """Return where a tier begins: before that, coarser ones may still hold something."""
    (sealed,) = connection.execute('SELECT min(start_ms) FROM "window" WHERE tier = ?', (tier.number,)).fetchone()
    (unsealed,) = connection.execute("SELECT min(time_ms) FROM head WHERE tier = ?", (tier.number,)).fetchone()
    begins = [time_ms for time_ms in (sealed, unsealed) if time_ms is not None]
    # Coarser buckets never straddle the edge of a window, so nothing is counted twice.
    return min(begins) // tier.window_ms * tier.window_ms if begins else end_ms
