"""Events in the database: frequent ones never push out those that are rare or severe."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

from dashtop.model.metric import Severity
from dashtop.model.sample import Event

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dashtop.history.database import Connection
    from dashtop.model.sample import EventFilter

MAX_RESULTS = 10_000
"""Newest events in a result."""
MIN_RESULTS_OF_A_KIND = 1_000
"""Events of each kind and severity that a result has, even if they are older than its newest events."""
MAX_EVENTS = 500_000
"""Newest events kept."""
MIN_EVENTS_OF_A_KIND = 5_000
"""Events of each kind and severity that are kept, even if they are older."""

# Version 0.1 had none.
EVENT_INDEX = "CREATE INDEX IF NOT EXISTS event_kind ON event (kind, severity, time_ms)"


def read_events(connection: Connection, start_ms: int, end_ms: int, wanted: EventFilter) -> tuple[Event, ...]:
    """Return the newest events in [start_ms, end_ms) that are wanted, in ascending time.

    Without a limit MAX_RESULTS and MIN_RESULTS_OF_A_KIND apply.
    """
    limit = MAX_RESULTS if wanted.limit is None else min(wanted.limit, MAX_RESULTS)
    kinds = wanted.kinds
    if wanted.severities and not kinds:
        kinds = tuple(_list_kinds(connection))  # with both, the query uses the index: 1 ms instead of 300
    rows = _select(connection, start_ms, end_ms, kinds, wanted.severities, wanted.gpu_uuid, limit)
    if wanted.limit is None and len(rows) == MAX_RESULTS:
        kinds = kinds or tuple(_list_kinds(connection))
        for kind, severity in product(kinds, wanted.severities or tuple(Severity)):
            group = (kind,), (severity,), wanted.gpu_uuid, MIN_RESULTS_OF_A_KIND
            rows |= _select(connection, start_ms, end_ms, *group)
    return tuple(event for _, event in sorted(rows.items(), key=lambda item: (item[1].time_ms, item[0])))


def _select(  # noqa: PLR0917 - the conditions of one query
    connection: Connection,
    start_ms: int,
    end_ms: int,
    kinds: Sequence[str],
    severities: Sequence[Severity],
    gpu_uuid: str | None,
    limit: int,
) -> dict[int, Event]:
    """Return the newest events by their id; no kind or severity: all of them."""
    conditions, parameters = ["time_ms >= ?", "time_ms < ?"], list[Any]((start_ms, end_ms))
    for column, values in (("kind", kinds), ("severity", [severity.value for severity in severities])):
        if values:
            conditions.append(f"{column} IN ({', '.join('?' * len(values))})")
            parameters += values
    if gpu_uuid is not None:
        conditions.append("gpu = ?")
        parameters.append(gpu_uuid)
    rows = connection.execute(
        "SELECT id, time_ms, kind, severity, text, gpu, advice, code FROM event"  # noqa: S608 - constants
        f" WHERE {' AND '.join(conditions)} ORDER BY time_ms DESC, id DESC LIMIT ?",
        (*parameters, limit),
    ).fetchall()
    return {
        number: Event(
            time_ms=time_ms, kind=kind, severity=Severity(severity), text=text, gpu_uuid=gpu, advice=advice, code=code
        )
        for number, time_ms, kind, severity, text, gpu, advice, code in rows
    }


def _list_kinds(connection: Connection) -> Iterator[str]:
    """Yield the kinds of stored events, each from the index: DISTINCT would read all of it."""
    kind = ""
    while True:
        (kind,) = connection.execute("SELECT min(kind) FROM event WHERE kind > ?", (kind,)).fetchone()
        if kind is None:
            return
        yield kind


def prune_events(connection: Connection) -> None:
    """Delete the oldest events beyond MAX_EVENTS, except for the newest of each kind and severity."""
    row = connection.execute("SELECT id FROM event ORDER BY id DESC LIMIT 1 OFFSET ?", (MAX_EVENTS,)).fetchone()
    if row is None:
        return
    for group in product(_list_kinds(connection), (severity.value for severity in Severity)):
        connection.execute(
            "DELETE FROM event WHERE kind = ? AND severity = ? AND id <= ? AND time_ms <= (SELECT time_ms FROM event"
            " WHERE kind = ? AND severity = ? ORDER BY time_ms DESC LIMIT 1 OFFSET ?)",
            (*group, row[0], *group, MIN_EVENTS_OF_A_KIND),
        )
