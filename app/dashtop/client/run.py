"""A run of a training: never raises into it, blocks it or slows it."""

from __future__ import annotations

import functools
import inspect
import os
import secrets
import time
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from dashtop.client import sender
from dashtop.client.environment import find_rank, find_root_pid, find_server, find_user, read_boot_id, read_start_ms
from dashtop.client.report import RunReport
from dashtop.client.sender import MAX_MARKS, RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

REPORT_TIMEOUT_S: Final = 6.0
MAX_NAME_CHARS, MAX_TEXT_CHARS, MAX_TAGS = 100, 200, 20
MAX_TAG_NAME_CHARS: Final = 40

FunctionT = TypeVar("FunctionT", bound="Callable[..., Any]")
Status = Literal["finished", "failed"]


class Run:
    """A run, as context manager, as decorator, or with `start` and `finish`. See `dashtop.run`."""

    def __init__(
        self,
        name: str,
        tags: Mapping[str, object] | None = None,
        *,
        url: str | None = None,
        token: str | None = None,
        pid: int | None = None,
    ) -> None:
        self._given = (name, tags, url, token, pid)
        self._state: RunState | None = None
        self._reason = "it has not begun"

    def __enter__(self) -> Run:
        """Begin the run."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """End the run: failed if an exception ends it."""
        is_exit = isinstance(error, SystemExit) and error.code in {None, 0}
        self.finish("finished" if kind is None or is_exit else "failed")

    def __call__(self, function: FunctionT) -> FunctionT:
        """Return the function as one whose every call is a run."""
        name, tags, url, token, pid = self._given

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def run_async(*arguments: Any, **named: Any) -> Any:
                with Run(name, tags, url=url, token=token, pid=pid):
                    return await function(*arguments, **named)

            return run_async  # type: ignore[return-value]

        @functools.wraps(function)
        def run(*arguments: Any, **named: Any) -> Any:
            with Run(name, tags, url=url, token=token, pid=pid):
                return function(*arguments, **named)

        return run  # type: ignore[return-value]

    @property
    def id(self) -> str | None:
        """The id of the run; None if this process does not report it."""
        return self._state.id if self._state is not None else None

    def start(self) -> Run:
        """Begin the run, without waiting for the server."""
        name, tags, url, token, pid = self._given
        try:
            self._state = None
            rank = find_rank()
            if rank != 0:
                self._reason = f"rank 0 reports it, and this is rank {rank}"
                return self
            state = RunState(find_server(url, token), _build_body(name, tags, pid))
            self._reason = sender.current.add(state)
            self._state = state if not self._reason else None
            if self._reason:
                sender.warn(self._reason)
        except Exception as error:  # noqa: BLE001 - a training must not end because of this
            self._reason = str(error)
            sender.warn(self._reason)
        return self

    def mark(self, text: object) -> None:
        """Note that something has happened now, such as "epoch 3". At most 10 000 marks are sent."""
        state = self._own()
        if state is not None and state.mark_count < MAX_MARKS:
            sender.current.add_mark(state, {"text": _to_text(text, MAX_TEXT_CHARS) or "?", "time": _now_ms()})

    def finish(self, status: Status = "finished") -> None:
        """End the run, without waiting for the server. A second call does nothing."""
        state = self._own()
        if state is not None:
            sender.current.finish(state, {"status": status, "end": _now_ms()})

    def report(self, timeout_s: float = REPORT_TIMEOUT_S) -> RunReport:
        """Return the report, until now if the run has not ended. Waits for the server until `timeout_s`."""
        state = self._own()
        if state is None:
            reason = self._reason if self._state is None else "the process that began the run reports it"
            return RunReport(None, reason)
        data = sender.current.fetch_report(state, timeout_s)
        return RunReport(data, None if data is not None else state.error or "the server did not answer in time")

    def _own(self) -> RunState | None:
        """Return the state, None in a process that was forked from the one that began the run."""
        state = self._state
        return state if state is not None and state.process == os.getpid() else None


def _build_body(name: str, tags: Mapping[str, object] | None, pid: int | None) -> dict[str, Any]:
    pid = find_root_pid() if pid is None or find_root_pid() != os.getpid() else pid
    pairs = list((tags or {}).items())[:MAX_TAGS]
    return {
        "id": secrets.token_hex(8),
        "name": _to_text(name, MAX_NAME_CHARS).strip() or "run",
        "pid": pid,
        "started_ms": read_start_ms(pid),
        "tags": {_to_text(key, MAX_TAG_NAME_CHARS): _to_text(value, MAX_TEXT_CHARS) for key, value in pairs},
        "boot_id": read_boot_id(),
        "user": find_user(),
        "begin": _now_ms(),
    }


def _to_text(value: object, limit: int) -> str:
    try:
        return str(value)[:limit]
    except Exception:  # noqa: BLE001 - a text that cannot be made must not end a training
        return type(value).__name__


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
