"""What is made once for everybody who looks at the same thing at the same time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, TypeVar

from flask_caching import Cache

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Flask

MadeT = TypeVar("MadeT")

_MOST: Final = 256
# What is kept is named by the moment it is for and never grows wrong; this bounds how long it stays unasked for.
_KEPT_S: Final = 300


class RenderCache:
    """Keeps what was made, by name. Thread-safe; `server` is the Flask application that the cache belongs to."""

    def __init__(self, server: Flask) -> None:
        settings = {"CACHE_TYPE": "SimpleCache", "CACHE_THRESHOLD": _MOST, "CACHE_DEFAULT_TIMEOUT": _KEPT_S}
        self._cache = Cache(server, config=settings)
        self._making = threading.Lock()

    def once(self, name: str, make: Callable[[], MadeT]) -> MadeT:
        """Return what `make` returned (never None) when it was last called for `name`; call it if that is long ago.

        Whoever asks while it is being made waits: many viewers at the same moment cost one making.
        """
        found: MadeT | None = self._cache.get(name)
        if found is not None:
            return found
        with self._making:
            found = self._cache.get(name)
            if found is None:
                found = make()
                self._cache.set(name, found)
        return found
