"""Runs slow NVML queries in a background thread and keeps their newest results.

A query of a microsecond runs in every tick, one after the other (threads make it slower). Process lists, byte counters,
fans and energy take 0.1 to 20 ms each and would delay a tick of eight GPUs.
"""

from __future__ import annotations

import heapq
import math
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from dashtop.model.threads import try_start_thread
from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.nvml.bindings import call
from dashtop.sources.nvml.call_marker import build_mark

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from dashtop.sources.nvml.call_marker import CallMarker

    _Key = tuple[object, object]
    _ScheduledQuery = tuple[float, int, _Key, "_Query[Any]"]

ResultT = TypeVar("ResultT")

STALE_AFTER_S = 5.0
"""A result is stale when it is this much older than its interval."""
SECOND_READING_DELAY_S = 1.0
SCHEDULE_TOLERANCE_S = 0.25
"""How much a query may run before or after its time, to run together with a tick and save a wake-up."""


class RetryAfter(Exception):  # noqa: N818 - a request, not an error
    """Raised by a query that must run again after `seconds` before it has a result."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


class QueryOwner(Protocol):
    """A device whose queries run in the background."""

    @property
    def gpu_index(self) -> int:
        """NVML's index of the physical GPU."""


@dataclass(slots=True)
class _Query(Generic[ResultT]):
    function: Callable[[], ResultT]
    interval_s: float
    mark: bytes
    requested_at: float
    due: float = 0.0
    result: ResultT | Unavailable | None = None
    finished_at: float = 0.0


class BackgroundPoller:
    """Runs each query once per interval and keeps the newest result. The thread starts with the first query."""

    def __init__(self, marker: CallMarker) -> None:
        """`marker` shows the parent process which query is running."""
        self._marker = marker
        self._queries: dict[_Key, _Query[Any]] = {}
        # New queries; None: run what is due.
        self._requests: SimpleQueue[tuple[_Key, _Query[Any]] | None] = SimpleQueue()
        self._closed = False
        self._due = math.inf
        self._thread: threading.Thread | None = None

    def get(self, owner: QueryOwner, function: Callable[[], ResultT], interval_s: float) -> ResultT:
        """Return the newest result of a query, identified by `owner` and `function`; the first call only schedules it.

        Raise what the query raised, Unavailable(FIRST_READING) before there is a result, and Unavailable(STALE) if the
        result is too old or does not arrive.
        """
        if self._thread is None:
            self._thread = try_start_thread(self._run, name="dashtop-nvml-poller")
        query = self._queries.get((owner, function))
        if query is None:
            mark = build_mark(owner.gpu_index, get_function_name(function))
            query = _Query(function, interval_s, mark, time.monotonic())
            self._queries[owner, function] = query
            self._requests.put(((owner, function), query))
            raise Unavailable(UnavailableReason.FIRST_READING)
        result = query.result
        if result is None:
            is_late = time.monotonic() - query.requested_at > interval_s + STALE_AFTER_S
            raise Unavailable(UnavailableReason.STALE if is_late else UnavailableReason.FIRST_READING)
        if isinstance(result, Unavailable):
            raise Unavailable(result.reason)
        if time.monotonic() - query.finished_at > interval_s + STALE_AFTER_S:
            raise Unavailable(UnavailableReason.STALE)
        value: ResultT = result
        return value

    def discard(self, owner: QueryOwner) -> None:
        """Stop the queries of `owner` and forget their results. `get` schedules them again."""
        for key in [key for key in self._queries if key[0] == owner]:
            self._queries.pop(key, None)

    def run_due(self) -> None:
        """Run the queries that are due now: the processor is awake, and a later wake-up would cost as much."""
        if time.monotonic() >= self._due:
            self._requests.put(None)

    def _run(self) -> None:
        # Heaps owned by this thread: scanning the forty queries of each GPU would take longer than running them.
        scheduled: list[_ScheduledQuery] = []
        retries: list[_ScheduledQuery] = []
        order = count()
        while not self._closed:
            wake_times = [entry[0] + 2 * SCHEDULE_TOLERANCE_S for entry in scheduled[:1]]
            wake_at = min(wake_times + [entry[0] for entry in retries[:1]], default=None)
            with suppress(Empty):
                request = self._requests.get(
                    timeout=None if wake_at is None else max(0.001, wake_at - time.monotonic())
                )
                while True:
                    if request is not None:
                        key, query = request
                        heapq.heappush(scheduled, (0.0, next(order), key, query))
                    request = self._requests.get_nowait()
            self._due = math.inf  # not known until the queries have run
            for heap in (retries, scheduled):
                while heap and heap[0][0] <= time.monotonic() and not self._closed:
                    _, _, key, query = heapq.heappop(heap)
                    if self._queries.get(key) is not query:
                        continue  # discarded
                    retry_after_s = self._execute(query)
                    if retry_after_s is None:
                        heapq.heappush(scheduled, (query.due, next(order), key, query))
                    else:
                        heapq.heappush(retries, (time.monotonic() + retry_after_s, next(order), key, query))
            self._due = scheduled[0][0] if scheduled else math.inf

    def _execute(self, query: _Query[Any]) -> float | None:
        """Run a query and store its result. Return the seconds until it must run again to have one, or None."""
        interval_s = query.interval_s
        result: Any
        self._marker.begin_marked(query.mark)
        try:
            result = call(query.function)
        except RetryAfter as retry:
            return retry.seconds
        except Unavailable as error:
            result = error.with_traceback(None)
            if error.reason is UnavailableReason.FIRST_READING:
                interval_s = min(interval_s, SECOND_READING_DELAY_S)
            elif error.reason.retry_after_s is not None:
                interval_s = error.reason.retry_after_s
        except Exception:  # noqa: BLE001 - pynvml can fail to parse one result; the other queries must go on
            result = Unavailable(UnavailableReason.DRIVER_ERROR)
        finally:
            self._marker.end()
        query.finished_at = time.monotonic()
        query.due = query.finished_at + max(interval_s / 2, interval_s - SCHEDULE_TOLERANCE_S)
        query.result = result  # last: `get` runs in another thread and checks the age of a result
        return None

    def close(self) -> None:
        """Stop the thread. Wait up to half a second for a query that is running."""
        self._closed = True
        self._requests.put(None)  # wake the thread
        if self._thread is not None:
            self._thread.join(0.5)


def get_function_name(function: Callable[..., object]) -> str:
    """Return the name of a function, a method, or the function of a partial call."""
    name: str = getattr(getattr(function, "func", function), "__qualname__", "call")
    return name
