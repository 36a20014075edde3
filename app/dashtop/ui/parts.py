"""The parts of a snapshot: a part is sent only to browsers that do not have it, and built once for all of them.

A request carries {"versions": {part: version}}. The answer carries the parts whose version differs, and the new
versions. assets/store-delta.js is the other side of the protocol.
"""

from __future__ import annotations

import heapq
import threading
import time
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import orjson
from flask_caching import Cache
from flask_caching.backends import SimpleCache

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flask import Flask

    from dashtop.model.sample import Sample

ValueT = TypeVar("ValueT")

# These parts change with every sample: they are always sent, because a version costs more than it saves.
UNVERSIONED_PARTS: Final = frozenset({"cores", "error"})
MAX_ENTRIES: Final = 512
# Keys name the moment that a value is for, so no value becomes wrong; the limit frees memory.
MAX_AGE_S: Final = 60
# Those of a sample that stays the newest, because collection has stopped, follow what happens beside it.
MAX_SAMPLE_AGE_S: Final = 5


class Part(NamedTuple):
    """A part of the page whose version is known before it is built: `build` is called only if it is to be sent."""

    name: str
    version: str
    build: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows that change with every sample. They travel as arrays; the names of their columns travel once."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def calculate_version(text: str) -> str:
    """Return a short version tag for `text`. It is the same in every process and after a restart."""
    return _calculate_checksum(text.encode())


def _calculate_checksum(data: bytes) -> str:
    return f"{zlib.crc32(data):08x}"


class DeltaEncoder:
    """Encode snapshots for browsers that have some parts already. Thread-safe."""

    def __init__(self) -> None:
        self._newest: dict[str, tuple[Any, str]] = {}

    def encode(
        self, snapshot: Mapping[str, Any], versions: Mapping[str, str], parts: Sequence[Part] = ()
    ) -> dict[str, Any]:
        """Return `snapshot` and `parts` without what the browser has, and the versions of what is sent.

        A dict or list in the snapshot is a part of its own; its version is the checksum of its content. Tables send
        their rows each time, and all names of columns together as the part "columns".
        """
        live: dict[str, Any] = {}
        columns: dict[str, Sequence[str]] = {}
        candidates = list(parts)
        for name, content in snapshot.items():
            if isinstance(content, Table):
                live[name], columns[name] = content.rows, content.columns
            elif name in UNVERSIONED_PARTS or not isinstance(content, (dict, list)):
                live[name] = content
            else:
                candidates.append(self._part(name, content))
        candidates.append(self._part("columns", columns))
        changed = [part for part in candidates if versions.get(part.name) != part.version]
        live |= {part.name: part.build() for part in changed}
        return live | {"versions": {part.name: part.version for part in changed}}

    def _part(self, name: str, content: Any) -> Part:
        """Return a part whose version is the checksum of its content.

        Most contents equal those of the last sample, and comparing them costs less than encoding them.
        """
        newest, version = self._newest.get(name, (None, ""))
        if newest != content:
            version = _calculate_checksum(orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS))
            self._newest[name] = (content, version)
        return Part(name, version, lambda: content)


class _NoSerializer:
    """Keeps values as they are: pickling them takes as long as creating many of them."""

    @staticmethod
    def dumps(value: ValueT) -> ValueT:
        return value

    @staticmethod
    def loads(value: ValueT) -> ValueT:
        return value


class _ObjectCache(SimpleCache):
    serializer: Any = _NoSerializer()


class RenderCache:
    """Keep values by key, in flask-caching, which lets ten concurrent misses create a value ten times. Thread-safe.

    All viewers get the same object, which none of them may change. Each key that is being created has its own lock: a
    slow rendering delays those who ask for the same key, and nobody else. `server` is the Flask application that the
    cache belongs to.
    """

    def __init__(self, server: Flask) -> None:
        cache_type = f"{_ObjectCache.__module__}.{_ObjectCache.__qualname__}"
        config = {"CACHE_TYPE": cache_type, "CACHE_THRESHOLD": MAX_ENTRIES, "CACHE_DEFAULT_TIMEOUT": MAX_AGE_S}
        cache = Cache(server, config=config)
        # It looks its backend up with every read, and that of the current application, which may be another.
        self._cache: SimpleCache = server.extensions["cache"][cache]
        self._expiries: list[tuple[float, str]] = []  # a heap
        self._creating: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._changes: dict[str, tuple[int, Any]] = {}

    def count_changes(self, name: str, value: object) -> int:
        """Return how often this value has changed: a part of keys in which it may return to what it was."""
        with self._lock:
            count, last = self._changes.get(name, (0, None))
            if last != value:
                count += 1
                self._changes[name] = count, value
            return count

    def get_or_create(self, key: str, create: Callable[[], ValueT], *, max_age_s: int = MAX_AGE_S) -> ValueT:
        """Return the value of `key`; call `create`, which never returns None, if there is none.

        Threads that ask for a key while another thread creates its value wait for that value. If `create` raises,
        the error goes to its own caller and the others try again.
        """
        value: ValueT | None = self._cache.get(key)
        if value is None:
            with self._creating.setdefault(key, threading.Lock()):
                try:
                    value = self._cache.get(key)
                    if value is None:
                        value = create()
                        self._cache.set(key, value, timeout=max_age_s)
                        self._delete_expired(key, max_age_s)
                finally:
                    self._creating.pop(key, None)
        return value

    def get_or_create_for_sample(self, sample: Sample, name: str, create: Callable[[], ValueT]) -> ValueT:
        """Return what `create` makes of a sample."""
        return self.get_or_create(f"{name}|{sample.sequence}|{sample.time_ms}", create, max_age_s=MAX_SAMPLE_AGE_S)

    def _delete_expired(self, new_key: str, max_age_s: int) -> None:
        """Note when `new_key` expires, and delete what has expired: the cache itself keeps that until it is full."""
        now_s = time.monotonic()
        with self._lock:
            heapq.heappush(self._expiries, (now_s + max_age_s, new_key))
            expired = []
            while self._expiries[0][0] < now_s:
                expired.append(heapq.heappop(self._expiries)[1])
        for key in expired:
            self._cache.delete(key)
