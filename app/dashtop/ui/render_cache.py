"""A cache of rendered parts, so that many viewers of the same thing cost one rendering."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

ValueT = TypeVar("ValueT")

MAX_ENTRIES: Final = 256
# Keys name the moment that a value is for, so no value becomes wrong; the limit frees memory.
MAX_AGE_S: Final = 300.0


@dataclass(slots=True)
class _Entry:
    created_s: float
    lock: threading.Lock = field(default_factory=threading.Lock)
    value: Any = None
    is_ready: bool = False


class RenderCache:
    """Keep values by key. Thread-safe.

    Each key has its own lock: a slow rendering delays those who ask for the same key, and nobody else.
    Callers share the values and must not change them.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def get_or_create(self, key: str, create: Callable[[], ValueT]) -> ValueT:
        """Return the value of `key`; call `create` if there is none, or if it is older than `MAX_AGE_S`.

        Threads that ask for a key while another thread creates its value wait for that value. If `create` raises,
        the error goes to its own caller and the next thread tries again.
        """
        entry = self._find_entry(key)
        if not entry.is_ready:
            with entry.lock:
                if not entry.is_ready:
                    entry.value = create()
                    entry.is_ready = True
        value: ValueT = entry.value
        return value

    def _find_entry(self, key: str) -> _Entry:
        now_s = self._monotonic()
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or now_s - entry.created_s > MAX_AGE_S:
                entry = self._entries[key] = _Entry(now_s)
            self._entries.move_to_end(key)
            while len(self._entries) > MAX_ENTRIES:
                self._entries.popitem(last=False)
            return entry
