"""A few threads for requests. Unlike those of concurrent.futures, they do not delay the end of the process."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from dashtop.model.threads import try_start_thread

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class DaemonPool:
    """Runs calls in at most `max_threads` daemon threads, which start when they are needed. Thread-safe."""

    def __init__(self, max_threads: int, name: str) -> None:
        self._max_threads, self._name = max_threads, name
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = self._pending = 0
        self._is_closed = False

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Run a call soon. Raises RuntimeError if no thread can be started, or the pool is closed."""
        future: Future[T] = Future()
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the pool is closed")
            self._pending += 1
            if self._pending > self._threads < self._max_threads:
                if try_start_thread(self._run, name=self._name) is not None:
                    self._threads += 1
                elif self._threads == 0:
                    self._pending -= 1
                    raise RuntimeError("no thread can be started")
        self._calls.put((future, call))
        return future

    def close(self) -> None:
        """Let the threads end after what they do now. Calls that have not begun are cancelled."""
        with self._lock:
            self._is_closed = True
            threads = self._threads
        while True:
            try:
                waiting = self._calls.get_nowait()
            except queue.Empty:
                break
            if waiting is not None:
                waiting[0].cancel()
        for _ in range(threads):
            self._calls.put(None)

    def _run(self) -> None:
        while (waiting := self._calls.get()) is not None:
            future, call = waiting
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as error:  # noqa: BLE001 - the caller gets it with the result
                    future.set_exception(error)
            with self._lock:
                self._pending -= 1
            del waiting, future, call
