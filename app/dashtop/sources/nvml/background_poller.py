"""The slow lane: questions that cost the driver milliseconds, asked in a thread beside the main path.

Reading is scheduled by cost: what takes a microsecond is asked every tick, serially (threads make it slower); process
lists, byte counters, fans and energy take 0.1 to 20 ms each and would make a tick of eight GPUs late.
"""

from __future__ import annotations

import heapq
import math
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.nvml.errors import call

if TYPE_CHECKING:
    from collections.abc import Callable

    _Key = tuple[object, object]
    _Turn = tuple[float, int, _Key, "_Question[Any]"]

ResultT = TypeVar("ResultT")

STALE_S = 5.0
SECOND_READING_S = 1.0
SLACK_S = 0.25
"""How much sooner or later than its period a question is asked, for it to be asked when the main path has just run."""


class Again(Exception):  # noqa: N818 - not an error: the answer needs a second look
    """Raised by a question that is to be asked again after `seconds` before it has an answer."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


@dataclass(slots=True)
class _Question(Generic[ResultT]):
    ask: Callable[[], ResultT]
    period_s: float
    due: float = 0.0
    answer: ResultT | Unavailable | None = None
    answered_at: float = 0.0


class BackgroundPoller:
    """Asks each question once a period and keeps the newest answer. The thread starts with the first question."""

    def __init__(self) -> None:
        self._questions: dict[_Key, _Question[Any]] = {}
        # What is new; None: look what is due.
        self._posed: SimpleQueue[tuple[_Key, _Question[Any]] | None] = SimpleQueue()
        self._closed = False
        self._due = math.inf
        self._thread: threading.Thread | None = None

    def answer(self, owner: object, ask: Callable[[], ResultT], period_s: float) -> ResultT:
        """Return the newest answer to `ask` (identified by it and its `owner`); the first call only poses it.

        Raises what the question raised; FIRST_READING before there is an answer; STALE when it is too old.
        """
        question = self._questions.get((owner, ask))
        if question is None:
            question = self._questions[owner, ask] = _Question(ask, period_s)
            self._posed.put(((owner, ask), question))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dashtop-slow-lane", daemon=True)
                self._thread.start()
            raise Unavailable(UnavailableReason.FIRST_READING)
        answer = question.answer
        if answer is None:
            raise Unavailable(UnavailableReason.FIRST_READING)
        if isinstance(answer, Unavailable):
            raise Unavailable(answer.reason)
        if time.monotonic() - question.answered_at > period_s + STALE_S:
            raise Unavailable(UnavailableReason.STALE)
        result: ResultT = answer
        return result

    def pause(self, owner: object) -> None:
        """Ask nothing more about `owner` until it is asked about again: its answers are forgotten."""
        for key in [key for key in self._questions if key[0] == owner]:
            self._questions.pop(key, None)

    def turn(self) -> None:
        """Ask what is due: now the processor has all that it takes at hand, and a wake-up later would cost as much."""
        if time.monotonic() >= self._due:
            self._posed.put(None)

    def _run(self) -> None:
        # The thread's own: a GPU has forty questions, and to look through all of them would take longer than to ask.
        heap: list[_Turn] = []
        again: list[_Turn] = []
        turns = count()
        while not self._closed:
            until = min([turn[0] + 2 * SLACK_S for turn in heap[:1]] + [turn[0] for turn in again[:1]], default=None)
            with suppress(Empty):
                posed = self._posed.get(timeout=None if until is None else max(0.001, until - time.monotonic()))
                while True:
                    if posed is not None:
                        key, question = posed
                        heapq.heappush(heap, (0.0, next(turns), key, question))
                    posed = self._posed.get_nowait()
            self._due = math.inf  # until it is known again
            for due in (again, heap):
                while due and due[0][0] <= time.monotonic() and not self._closed:
                    _, _, key, question = heapq.heappop(due)
                    if self._questions.get(key) is not question:
                        continue  # its GPU is to be left alone from now on
                    later_s = self._ask(question)
                    if later_s is None:
                        heapq.heappush(heap, (question.due, next(turns), key, question))
                    else:
                        heapq.heappush(again, (time.monotonic() + later_s, next(turns), key, question))
            self._due = heap[0][0] if heap else math.inf

    @staticmethod
    def _ask(question: _Question[Any]) -> float | None:
        """Ask it; return after how many seconds it is to be asked again for the answer, if it is."""
        period_s = question.period_s
        try:
            question.answer = call(question.ask)
        except Again as later:
            return later.seconds
        except Unavailable as missing:
            question.answer = missing
            first = missing.reason is UnavailableReason.FIRST_READING
            retry_s = missing.reason.retry_after_s
            period_s = min(period_s, SECOND_READING_S) if first else period_s if retry_s is None else retry_s
        except Exception:  # noqa: BLE001 - a binding that stumbles over one answer must not end the lane
            question.answer = Unavailable(UnavailableReason.DRIVER_ERROR)
        question.answered_at = time.monotonic()
        question.due = question.answered_at + max(period_s / 2, period_s - SLACK_S)
        return None

    def close(self) -> None:
        """Stop the thread; a question under way is given a moment to be answered."""
        self._closed = True
        self._posed.put(None)  # which wakes it
        if self._thread is not None:
            self._thread.join(0.5)
