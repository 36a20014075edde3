"""Sealing and pruning: rows of the head become compressed chunks and roll-ups, the oldest windows go.

Both work on the transaction of the caller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dashtop.history.codec import pack, pack_times
from dashtop.history.rollup import Readings, aggregate, aligned
from dashtop.history.tiers import TIERS, Tier
from dashtop.metrics import METRICS
from dashtop.model.metric import Aggregation

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from dashtop.history.database import Connection

# So many windows go at most with each one sealed, so that no single step takes long.
WINDOWS_A_STEP = 4
MOST_ROWS = 500_000
"""Events kept, and spans of processes."""
COLUMNS = 4
"""Mean, minimum, maximum and count of a rolled-up reading; a raw one has its value alone."""


def aggregation(metric: str) -> Aggregation:
    """Return how readings of a metric are rolled up; one that this version does not know is averaged."""
    known = METRICS.get(metric)
    return known.aggregation if known is not None else Aggregation.MEAN


def seal(connection: Connection, now_ms: int) -> None:
    """Seal every window but the ones that `now_ms` falls into."""
    for tier in TIERS:
        windows = connection.execute(
            "SELECT DISTINCT time_ms / ? FROM head WHERE tier = ? AND time_ms / ? <> ? ORDER BY 1",
            (tier.window_ms, tier.number, tier.window_ms, now_ms // tier.window_ms),
        ).fetchall()
        for (window,) in windows:
            _seal_window(connection, tier, window * tier.window_ms)


def layout_number(connection: Connection, series: NDArray[np.int64]) -> int:
    """Return the number under which this order of series is known, made where it is new."""
    blob = series.tobytes()
    connection.execute("INSERT INTO layout (series) VALUES (?) ON CONFLICT DO NOTHING", (blob,))
    number: int = connection.execute("SELECT id FROM layout WHERE series = ?", (blob,)).fetchone()[0]
    return number


def head(
    connection: Connection, tier: Tier, start_ms: int, end_ms: int, series: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], Readings]:
    """Return the unsealed readings in [start_ms, end_ms) of those series (all that are there, where None)."""
    rows = connection.execute(
        "SELECT time_ms, layout, data FROM head WHERE tier = ? AND time_ms >= ? AND time_ms < ? ORDER BY time_ms, id",
        (tier.number, start_ms, end_ms),
    ).fetchall()
    numbers = sorted({layout for _, layout, _ in rows})
    orders = {
        number: np.frombuffer(
            connection.execute("SELECT series FROM layout WHERE id = ?", (number,)).fetchone()[0], dtype=np.int64
        )
        for number in numbers
    }
    if series is None:
        series = np.unique(np.concatenate([*orders.values(), np.zeros(0, dtype=np.int64)]))
    columns = 1 if tier.width_ms == 0 else COLUMNS
    values = np.full((columns, len(series), len(rows)), np.nan, dtype=np.float32)
    for number, order in orders.items():
        places = [place for place, row in enumerate(rows) if row[1] == number]
        found = np.frombuffer(b"".join(rows[place][2] for place in places), dtype=np.float32)
        table = found.reshape(len(places), columns, len(order)).transpose(1, 2, 0)
        where = {int(one): position for position, one in enumerate(order)}
        kept = [(row, where[int(one)]) for row, one in enumerate(series) if int(one) in where]
        if kept:
            into, out_of = (np.array(side) for side in zip(*kept, strict=True))
            values[:, into[:, None], np.array(places)] = table[:, out_of]
    times = np.array([row[0] for row in rows], dtype=np.int64)
    return series, readings(times, values)


def readings(times: NDArray[np.int64], columns: NDArray[np.float32]) -> Readings:
    """Return the readings that lie in an array of (columns, series, times)."""
    if len(columns) == 1:
        return Readings.raw(times, columns[0])
    mean, minimum, maximum, count = columns
    return Readings(times, mean, minimum, maximum, np.nan_to_num(count))


def _seal_window(connection: Connection, tier: Tier, start_ms: int) -> None:
    end_ms = start_ms + tier.window_ms
    series, found = head(connection, tier, start_ms, end_ms)
    # One writer alone, so the next number is free; to have it told by the INSERT would need SQLite 3.35.
    (window,) = connection.execute('SELECT coalesce(max(id), 0) + 1 FROM "window"').fetchone()
    connection.execute(
        'INSERT INTO "window" (id, tier, start_ms, times) VALUES (?, ?, ?, ?)',
        (window, tier.number, start_ms, pack_times(found.times_ms)),
    )
    columns = np.stack([found.mean] if tier.width_ms == 0 else list(found[1:]))
    connection.executemany(
        'INSERT INTO chunk (series, "window", data) VALUES (?, ?, ?)',
        [
            (int(number), window, pack(columns[:, row]))
            for row, number in enumerate(series)
            if found.weight[row].any()  # a series without any reading is known by having no chunk
        ],
    )
    connection.execute(
        "DELETE FROM head WHERE tier = ? AND time_ms >= ? AND time_ms < ?", (tier.number, start_ms, end_ms)
    )
    if tier.width_ms == 0:
        _roll_up(connection, series, found, start_ms, end_ms)


def _roll_up(connection: Connection, series: NDArray[np.int64], raw: Readings, start_ms: int, end_ms: int) -> None:
    metrics: dict[int, str] = dict(connection.execute("SELECT id, metric FROM series"))
    kinds = [aggregation(metrics[int(number)]) for number in series]
    layout = layout_number(connection, series)
    rolled = raw
    for tier in TIERS[1:]:  # each from the one before, whose buckets are parts of its own
        rolled = aggregate(rolled, aligned(start_ms, end_ms, tier.width_ms), kinds)
        columns = np.stack(list(rolled[1:]))
        filled = np.flatnonzero(rolled.weight.any(axis=0))
        connection.executemany(
            "INSERT INTO head (tier, time_ms, layout, data) VALUES (?, ?, ?, ?)",
            [(tier.number, int(rolled.times_ms[place]), layout, columns[:, :, place].tobytes()) for place in filled],
        )


def prune(connection: Connection, *, kept_ms: int, most_bytes: int, used_bytes: Callable[[Connection], int]) -> None:
    """Delete what was sealed before the newest windows of each tier; where it takes too much room, also finest first.

    Windows are counted, in the order in which they were written: no clock is asked, so none that is wrong, be it by
    decades, wipes anything. `kept_ms` is therefore time in which dashtop ran.
    """
    for tier in TIERS:
        most = -(-min(kept_ms, tier.kept_ms or kept_ms) // tier.window_ms)
        _drop(connection, 'SELECT id FROM "window" WHERE tier = ? ORDER BY id DESC LIMIT ? OFFSET ?', tier.number, most)
    for table in ("event", "process"):
        connection.execute(
            f"DELETE FROM {table} WHERE id <= (SELECT id FROM {table} ORDER BY id DESC LIMIT 1 OFFSET {MOST_ROWS})"  # noqa: S608
        )
    if used_bytes(connection) > most_bytes:
        _drop(connection, 'SELECT id FROM "window" ORDER BY tier, id LIMIT ? OFFSET ?', 0)


def _drop(connection: Connection, question: str, *arguments: int) -> None:
    *which, skipped = arguments
    for window in connection.execute(question, (*which, WINDOWS_A_STEP, skipped)).fetchall():
        connection.execute('DELETE FROM chunk WHERE series IN (SELECT id FROM series) AND "window" = ?', window)
        connection.execute('DELETE FROM "window" WHERE id = ?', window)
