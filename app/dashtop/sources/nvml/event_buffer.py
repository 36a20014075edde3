"""Counts events of the driver that repeat, so that they do not displace others."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dashtop.model.sample import Event

REPEAT_INTERVAL_S = 60.0
MAX_KINDS = 512


@dataclass(slots=True)
class _Repetition:
    """An event that was reported at `reported_at` (monotonic seconds) and came `count` times since, last as `event`."""

    event: Event
    reported_at: float
    count: int = 0


class EventBuffer:
    """Keeps the first event of each kind and GPU, and counts those that follow within REPEAT_INTERVAL_S.

    A fault can repeat thousands of times a minute; it must not displace the event that explains it. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: list[Event] = []
        self._repetitions: dict[tuple[object, ...], _Repetition] = {}

    def add(self, event: Event, now: float) -> None:
        """Add an event; `now` in monotonic seconds. Events of more than MAX_KINDS kinds are counted as one kind."""
        key: tuple[object, ...] = (event.gpu_uuid, event.kind, event.code, event.text)
        with self._lock:
            if key not in self._repetitions and len(self._repetitions) >= MAX_KINDS:
                key = ()
            known = self._repetitions.get(key)
            if known is None:
                self._repetitions[key] = _Repetition(event, now)
                self._pending.append(event)
            else:
                known.event = event
                known.count += 1

    def drain(self, now: float) -> tuple[Event, ...]:
        """Return the first events since the last call, and the number of those repeated for REPEAT_INTERVAL_S."""
        if not self._repetitions:
            return ()
        with self._lock:
            events, self._pending = self._pending, []
            for key, known in list(self._repetitions.items()):
                if now - known.reported_at < REPEAT_INTERVAL_S:
                    continue
                if known.count:
                    seconds = round(now - known.reported_at)
                    events.append(replace(known.event, text=f"{known.event.text} {known.count} more in {seconds} s."))
                    known.reported_at, known.count = now, 0
                else:
                    del self._repetitions[key]
        return tuple(events)
