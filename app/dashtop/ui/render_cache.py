"""A cache of rendered parts, so that many viewers of the same thing cost one rendering."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from flask_caching import Cache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask

ValueT = TypeVar("ValueT")

MAX_ENTRIES: Final = 256
# Keys name the moment that a value is for, so no value becomes wrong; the limit frees memory.
MAX_AGE_S: Final = 300


class RenderCache:
    """Keep values by key, in flask-caching, which lets ten concurrent misses create a value ten times. Thread-safe.

    Each key that is being created has its own lock: a slow rendering delays those who ask for the same key, and nobody
    else. `server` is the Flask application that the cache belongs to.
    """

    def __init__(self, server: Flask) -> None:
        config = {"CACHE_TYPE": "SimpleCache", "CACHE_THRESHOLD": MAX_ENTRIES, "CACHE_DEFAULT_TIMEOUT": MAX_AGE_S}
        self._cache = Cache(server, config=config)
        self._creating: dict[str, tuple[threading.Lock, int]] = {}
        self._creating_lock = threading.Lock()

    def get_or_create(self, key: str, create: Callable[[], ValueT]) -> ValueT:
        """Return the value of `key`; call `create`, which never returns None, if there is none.

        Threads that ask for a key while another thread creates its value wait for that value. If `create` raises,
        the error goes to its own caller and the next thread tries again.
        """
        value: ValueT | None = self._cache.get(key)
        if value is None:
            with self._lock(key):
                value = self._cache.get(key)
                if value is None:
                    value = create()
                    self._cache.set(key, value)
        return value

    @contextmanager
    def _lock(self, key: str) -> Iterator[None]:
        """Hold the lock of a key, which exists while a thread holds it or waits for it."""
        with self._creating_lock:
            lock, users = self._creating.get(key, (threading.Lock(), 0))
            self._creating[key] = lock, users + 1
        try:
            with lock:
                yield
        finally:
            with self._creating_lock:
                lock, users = self._creating.pop(key)
                if users > 1:
                    self._creating[key] = lock, users - 1
