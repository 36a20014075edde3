"""Sends runs to their servers, in one daemon thread for each process. Nothing here raises, or waits for a server."""

from __future__ import annotations

import atexit
import json
import logging
import os
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from dashtop.client.environment import Server

log = logging.getLogger("dashtop.run")

REQUEST_TIMEOUT_S: Final = 2.0
HEARTBEAT_INTERVAL_S: Final = 30.0
MARKS_INTERVAL_S: Final = 1.0
"""Between two requests with marks: a server allows ten requests a second to each client."""
EXIT_TIMEOUT_S: Final = 2.0
MAX_RETRY_INTERVAL_S: Final = 30.0
GIVE_UP_S: Final = 60.0
"""How long the end of a run is sent again if the server does not answer."""
MAX_OPEN_RUNS: Final = 100
MAX_MARKS: Final = 10_000
MAX_MARKS_PER_REQUEST: Final = 2_000
MAX_MARKS_BYTES: Final = 500_000
MAX_ANSWER_BYTES: Final = 4_000_000

_HTTP_UNAUTHORIZED, _HTTP_NOT_FOUND, _HTTP_CONFLICT, _HTTP_TOO_MANY, _HTTP_SERVER_ERROR = 401, 404, 409, 429, 500


class _RefusedError(Exception):
    """The server will not take this run."""


class _ForgottenError(Exception):
    """The server does not know the run (any more)."""


@dataclass
class RunState:
    """What is still to be sent of one run. Guarded by the lock of the sender.

    `due_s` is when it is looked at again, `beat_s` when a heartbeat is due: seconds of a clock that is never set.
    """

    server: Server
    body: dict[str, Any]
    process: int = field(default_factory=os.getpid)
    marks: deque[dict[str, Any]] = field(default_factory=deque)
    mark_count: int = 0
    marks_s: float = 0.0
    end: dict[str, Any] | None = None
    ended_s: float = 0.0
    is_created: bool = False
    is_done: bool = False
    error: str | None = None
    failures: int = 0
    due_s: float = 0.0
    beat_s: float = 0.0
    wants_report: bool = False
    report: dict[str, Any] | None = None

    @property
    def id(self) -> str:
        """The id of the run."""
        return str(self.body["id"])

    def take_batch(self) -> list[dict[str, Any]]:
        """Return the first marks, as many as fit into a request. They stay until they are sent."""
        size, batch = 0, []
        for mark in islice(self.marks, MAX_MARKS_PER_REQUEST):
            size += len(json.dumps(mark))
            if size > MAX_MARKS_BYTES:
                break
            batch.append(mark)
        return batch


class Sender:
    """Sends the runs of this process in one daemon thread, which ends when there is nothing to send."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._runs: dict[str, RunState] = {}
        self._thread: threading.Thread | None = None

    def add(self, state: RunState) -> str:
        """Send a run from now on. Return why it is not sent, "" if it is."""
        with self._changed:
            if len(self._runs) >= MAX_OPEN_RUNS:
                return f"more than {MAX_OPEN_RUNS} runs are open in this process"
            return self._schedule(state)

    def add_mark(self, state: RunState, mark: dict[str, Any]) -> None:
        """Send a mark within a second or so."""
        with self._changed:
            if not state.is_done:
                state.mark_count += 1
                state.marks.append(mark)
                self._wake(state, state.marks_s + MARKS_INTERVAL_S)

    def finish(self, state: RunState, end: dict[str, Any]) -> None:
        """Send the end of a run."""
        with self._changed:
            if not state.is_done and state.end is None:
                state.end, state.ended_s = end, time.monotonic()
                self._wake(state)

    def fetch_report(self, state: RunState, timeout_s: float) -> dict[str, Any] | None:
        """Return the report once everything before it is sent; None if the server does not answer in time."""
        with self._changed:
            if state.is_done and state.error is not None:
                return None
            state.wants_report, state.report = True, None
            if self._schedule(state):
                return None
            state.due_s = 0.0  # also while the server does not answer: now somebody waits
            self._changed.wait_for(lambda: not state.wants_report, timeout_s)
            state.wants_report = False
            return state.report

    def flush(self, timeout_s: float) -> None:
        """Wait until the ends of runs are sent, unless the server has not answered before."""
        with self._changed:
            self._changed.wait_for(
                lambda: not any(state.end is not None and not state.failures for state in self._runs.values()),
                timeout_s,
            )

    def _schedule(self, state: RunState) -> str:
        """Put a run among those to send, and start the thread. Return why that is not possible."""
        self._runs[state.id] = state
        self._wake(state)
        if self._thread is None:
            thread = threading.Thread(target=self._work, name="dashtop-run", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no thread can be started: a limit, or Python is ending
                del self._runs[state.id]
                return str(error)
            self._thread = thread
        return ""

    def _wake(self, state: RunState, due_s: float = 0.0) -> None:
        if not state.failures and due_s < state.due_s:
            state.due_s = due_s
        self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._runs:
                    self._thread = None
                    return
                state = min(self._runs.values(), key=lambda each: each.due_s)
                wait_s = state.due_s - time.monotonic()
                if wait_s > 0:
                    self._changed.wait(wait_s)
                    continue
            try:
                self._send(state)
            except Exception as error:  # noqa: BLE001 - this thread must not end, nor print into a training
                self._drop(state, f"unexpected error: {type(error).__name__}: {error}")

    def _send(self, state: RunState) -> None:
        """Send what there is of one run, and say when to look at it again."""
        try:
            while self._send_next(state):
                pass
        except _ForgottenError:
            # The server was restarted without its runs: begin again, with the time of the first begin.
            state.is_created = False
            self._retry(state, "the server has forgotten the run")
        except _RefusedError as error:
            self._drop(state, str(error))
        except OSError as error:
            self._retry(state, f"{state.server.url} does not answer ({getattr(error, 'reason', error)})")
        except ValueError as error:
            self._retry(state, f"{state.server.url} answers something else ({error})")

    def _send_next(self, state: RunState) -> bool:
        """Send one request. Return False if there was none to send: then `due_s` is when to look again."""
        path = f"runs/{quote(state.id)}"
        with self._changed:
            batch, end = state.take_batch(), None if state.is_done else state.end
            wants_report = state.wants_report
        if not state.is_created:
            _request(state.server, "POST", "runs", state.body)
            self._succeed(state, is_created=True)
        elif batch:
            _request(state.server, "POST", f"{path}/marks", {"marks": batch})
            self._succeed(state, sent=len(batch))
        elif end is not None:
            _request(state.server, "PATCH", path, end)
            self._succeed(state, is_done=True)
        elif wants_report:
            self._succeed(state, report=_request(state.server, "GET", f"{path}/report", None))
        elif not state.is_done and time.monotonic() >= state.beat_s:
            _request(state.server, "PATCH", path, {})
            self._succeed(state)
        else:
            return not self._rest(state)
        return True

    def _succeed(
        self,
        state: RunState,
        *,
        is_created: bool = False,
        sent: int = 0,
        is_done: bool = False,
        report: dict[str, Any] | None = None,
    ) -> None:
        now_s = time.monotonic()
        with self._changed:
            state.failures, state.error, state.beat_s = 0, None, now_s + HEARTBEAT_INTERVAL_S
            state.is_created |= is_created
            state.is_done |= is_done
            if sent:
                state.marks_s = now_s
            for _ in range(sent):
                state.marks.popleft()
            if report is not None:
                state.report, state.wants_report = report, False
            self._changed.notify_all()

    def _rest(self, state: RunState) -> bool:
        """Wait for the next heartbeat, or leave a run of which everything is sent. False: there is more meanwhile."""
        with self._changed:
            if state.marks or state.wants_report or (state.end is not None and not state.is_done):
                return False
            if state.is_done:
                self._runs.pop(state.id, None)
            state.due_s = state.beat_s
            self._changed.notify_all()
            return True

    def _retry(self, state: RunState, reason: str) -> None:
        now_s = time.monotonic()
        with self._changed:
            is_new = state.failures == 0
            state.error, state.wants_report = reason, False
            state.failures += 1
            state.due_s = now_s + min(2.0 ** (state.failures - 1), MAX_RETRY_INTERVAL_S)
            if state.end is not None and now_s - state.ended_s > GIVE_UP_S:
                self._runs.pop(state.id, None)
                state.is_done = True
            self._changed.notify_all()
        if is_new:
            warn(reason)

    def _drop(self, state: RunState, reason: str) -> None:
        with self._changed:
            state.error, state.is_done, state.wants_report = reason, True, False
            state.marks.clear()
            self._runs.pop(state.id, None)
            self._changed.notify_all()
        warn(reason)


def _request(server: Server, method: str, path: str, body: object) -> dict[str, Any]:
    """Return the JSON that the server answers. Raises OSError, ValueError, _RefusedError or _ForgottenError."""
    import urllib.request  # noqa: PLC0415 - takes 30 ms, which this thread has
    from urllib.error import HTTPError  # noqa: PLC0415

    class NoRedirects(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_arguments: Any, **_named: Any) -> None:
            return None  # the token is for this server only

    is_own = urlsplit(server.url).hostname in {"127.0.0.1", "localhost", "::1"}
    proxies = urllib.request.ProxyHandler({} if is_own else None)
    opener = urllib.request.build_opener(proxies, NoRedirects)
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(  # noqa: S310 - the scheme was checked
        f"{server.url}api/v1/system/{path}", data=data, method=method, headers={"Content-Type": "application/json"}
    )
    if server.token is not None:
        request.add_unredirected_header("Authorization", f"Bearer {server.token}")
    try:
        with opener.open(request, timeout=REQUEST_TIMEOUT_S) as answer:
            found = json.loads(answer.read(MAX_ANSWER_BYTES))
    except HTTPError as error:
        with error:
            if error.code == _HTTP_NOT_FOUND and path != "runs":
                raise _ForgottenError from None
            if error.code in {_HTTP_TOO_MANY, _HTTP_CONFLICT} or error.code >= _HTTP_SERVER_ERROR:
                raise OSError(f"it answers with status {error.code}") from None
            hint = ": the access token is missing or wrong (DASHTOP_TOKEN)" if error.code == _HTTP_UNAUTHORIZED else ""
            raise _RefusedError(f"{server.url} answers with status {error.code}{hint}") from None
    if not isinstance(found, dict):
        raise ValueError("no JSON object")  # noqa: TRY004 - from outside
    return found


def warn(reason: str) -> None:
    """Log why a run is not reported. The training goes on."""
    log.warning("This run is not recorded by dashtop at present: %s.", reason.rstrip("."))


current = Sender()


def _forget() -> None:
    """Begin anew in a forked process: its parent reports the runs, and the thread and locks are not its own."""
    global current  # noqa: PLW0603 - one thread for each process
    current = Sender()


os.register_at_fork(after_in_child=_forget)
atexit.register(lambda: current.flush(EXIT_TIMEOUT_S))
