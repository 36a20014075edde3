"""Runs reads of the database in a few threads with a deadline: a database that hangs delays nobody for long."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from dashtop.model.threads import try_start_thread

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_THREADS = 4
ResultT = TypeVar("ResultT")


class ReadTimeoutError(Exception):
    """The database did not answer in time, or an earlier read still waits for it."""


class ReadPool:
    """Up to MAX_THREADS threads, which do not keep the process from ending."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._changed = threading.Condition()
        self._waiting: deque[_Read[object]] = deque()
        self._threads = 0
        self._idle_threads = 0
        self._hanging = 0

    @property
    def is_hanging(self) -> bool:
        """Whether a read whose deadline has passed still runs."""
        return self._hanging > 0

    def run(self, read: Callable[[], ResultT]) -> ResultT:
        """Return the result of `read`, or raise what it raises.

        Raises ReadTimeoutError after the deadline, and if no thread can be started. Until a read whose deadline has
        passed returns, other reads fail at once: one page would otherwise wait for the deadline several times.
        """
        task = _Read(read)
        with self._changed:
            if self._hanging:
                raise ReadTimeoutError
            self._waiting.append(task)  # type: ignore[arg-type]
            if self._idle_threads < len(self._waiting) and self._threads < MAX_THREADS:
                self._threads += try_start_thread(self._work, name="dashtop-history-reader") is not None
            if not self._threads:
                self._waiting.remove(task)  # type: ignore[arg-type]
                raise ReadTimeoutError
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: task.is_done, self._timeout_s):
                task.is_abandoned = True
                if task.is_started:
                    self._hanging += 1
                else:
                    self._waiting.remove(task)  # type: ignore[arg-type]
                raise ReadTimeoutError
        return task.get_result()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._idle_threads += 1
                self._changed.wait_for(lambda: self._waiting)
                self._idle_threads -= 1
                task = self._waiting.popleft()
                task.is_started = True
            task.run()
            with self._changed:
                task.is_done = True
                self._hanging -= task.is_abandoned
                self._changed.notify_all()
            del task  # and its result, until the next one


class _Read(Generic[ResultT]):
    """One read. `is_abandoned`: its deadline has passed."""

    def __init__(self, read: Callable[[], ResultT]) -> None:
        self._read = read
        self._result: ResultT
        self._error: Exception | None = None
        self.is_started = False
        self.is_done = False
        self.is_abandoned = False

    def run(self) -> None:
        try:
            self._result = self._read()
        except Exception as error:  # noqa: BLE001 - raised in the thread that waits for it
            self._error = error

    def get_result(self) -> ResultT:
        if self._error is not None:
            raise self._error
        return self._result
