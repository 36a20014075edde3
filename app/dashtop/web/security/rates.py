"""Limit of requests: each client may make a number of them in any time of a given length."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from limits import RateLimitItem

MAX_CLIENTS = 10_000


class RateLimiter:
    """A moving window for each client. Thread-safe.

    The storage of `limits` starts a thread to forget requests: it fails every request while the process may not have
    another one.
    """

    def __init__(self, limit: RateLimitItem, now_s: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._now_s = now_s
        self._lock = threading.Lock()
        self._times_s: OrderedDict[str, deque[float]] = OrderedDict()
        """Times of the allowed requests by client; the one that was here last is the last."""

    def hit(self, client: str) -> float:
        """Count a request if it is allowed. Return the seconds until the client may make one: 0 if it is."""
        window_s = self._limit.get_expiry()
        with self._lock:
            now_s = self._now_s()
            times_s = self._times_s.setdefault(client, deque())
            self._times_s.move_to_end(client)
            while times_s and times_s[0] <= now_s - window_s:
                times_s.popleft()
            if len(times_s) >= self._limit.amount:
                return times_s[0] + window_s - now_s
            times_s.append(now_s)
            self._forget_clients(now_s - window_s)
            return 0.0

    def _forget_clients(self, before_s: float) -> None:
        """Forget the clients without a request since then, and the oldest if there are too many."""
        while self._times_s:
            client, times_s = next(iter(self._times_s.items()))
            if len(self._times_s) <= MAX_CLIENTS and times_s and times_s[-1] > before_s:
                break
            del self._times_s[client]
