"""Sends runs to their servers, in one daemon thread for each process. Nothing here raises, or waits for a server."""

from __future__ import annotations

import atexit
import json
import logging
import os
import random
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
MARKS_INTERVAL_S: Final = 5.0
"""Between two requests with marks of a run that goes on. Its end takes the last ones along."""
EXIT_TIMEOUT_S: Final = 2.0
"""How long the end of the process waits for servers to take the ends of its runs."""
BUSY_EXIT_TIMEOUT_S: Final = 6.0
"""The same where a server has answered that it is busy."""
MAX_BUSY_WAIT_S: Final = 60.0
MIN_BUSY_WAIT_S: Final = 0.5
BUSY_JITTER: Final = 0.5
"""Clients that a server has refused together come back spread over this share of the time that it asks for."""
MAX_QUIET_REFUSALS: Final = 3
"""Times that a server may answer that it is busy before a warning is logged."""
MAX_RETRY_INTERVAL_S: Final = 30.0
GIVE_UP_S: Final = 60.0
"""How long the end of a run is sent again if the server does not answer."""
MAX_OPEN_RUNS: Final = 100
MAX_MARKS: Final = 10_000
MAX_MARKS_PER_REQUEST: Final = 2_000
MAX_MARKS_BYTES: Final = 500_000
MAX_ANSWER_BYTES: Final = 4_000_000

_HTTP_UNAUTHORIZED, _HTTP_NOT_FOUND, _HTTP_CONFLICT, _HTTP_TOO_MANY = 401, 404, 409, 429
_HTTP_SERVER_ERROR, _HTTP_UNAVAILABLE = 500, 503


class _RefusedError(Exception):
    """The server will not take this run."""


class _ForgottenError(Exception):
    """The server does not know the run (any more)."""


class _BusyError(Exception):
    """The server asks to send the request again after `wait_s`."""

    def __init__(self, reason: str, wait_s: float) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


@dataclass
class RunState:
    """What is still to be sent of one run. Guarded by the lock of the sender.

    `due_s`: when it is looked at again; `beat_s`: when a heartbeat is due; `busy_until_s`: the server wants no request
    before. All are seconds of a clock that is never set.
    """

    server: Server
    body: dict[str, Any]
    process: int = field(default_factory=os.getpid)
    marks: deque[dict[str, Any]] = field(default_factory=deque)
    mark_count: int = 0
    marks_due_s: float = 0.0
    end: dict[str, Any] | None = None
    ended_s: float = 0.0
    is_created: bool = False
    is_done: bool = False
    error: str | None = None
    failures: int = 0
    refusals: int = 0
    busy_until_s: float = 0.0
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
        """Send a mark within MARKS_INTERVAL_S, or with the end of the run."""
        with self._changed:
            if not state.is_done:
                state.mark_count += 1
                state.marks.append(mark)
                self._wake(state, state.marks_due_s)

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
            state.due_s = state.busy_until_s  # also while the server does not answer: now somebody waits
            self._changed.wait_for(lambda: not state.wants_report, timeout_s)
            state.wants_report = False
            return state.report

    def flush(self, timeout_s: float, busy_timeout_s: float) -> None:
        """Wait until the ends of runs are sent, `busy_timeout_s` for servers that are busy.

        A server that did not answer before gets one more request, unless one is under way.
        """
        with self._changed:
            ended = [state for state in self._runs.values() if state.end is not None]
            tries = {state.id: state.failures for state in ended}
            for state in ended:
                state.due_s = state.busy_until_s

            def has_ends(*, is_busy: bool) -> bool:
                return any(
                    not state.is_done and state.failures <= tries[state.id] and (state.busy_until_s > 0 or not is_busy)
                    for state in ended
                )

            self._changed.notify_all()
            if not self._changed.wait_for(lambda: not has_ends(is_busy=False), timeout_s):
                self._changed.wait_for(lambda: not has_ends(is_busy=True), busy_timeout_s - timeout_s)

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
        due_s = max(due_s, state.busy_until_s)
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
        except _BusyError as error:
            self._postpone(state, f"{state.server.url} is busy ({error})", error.wait_s)
        except _RefusedError as error:
            self._drop(state, str(error))
        except OSError as error:
            cause = getattr(error, "reason", error)
            is_down = isinstance(cause, ConnectionRefusedError)
            self._retry(state, f"{state.server.url} does not answer ({cause})", is_down=is_down)
        except ValueError as error:
            self._retry(state, f"{state.server.url} answers something else ({error})")

    def _send_next(self, state: RunState) -> bool:
        """Send one request. Return False if there was none to send: then `due_s` is when to look again."""
        path = f"runs/{quote(state.id)}"
        with self._changed:
            batch, end = state.take_batch(), None if state.is_done else state.end
            is_last = len(batch) == len(state.marks)
            wants_report = state.wants_report
            is_due = end is not None or wants_report or not is_last or time.monotonic() >= state.marks_due_s
        if not state.is_created:
            _request(state.server, "POST", "runs", state.body)
            self._succeed(state, is_created=True)
        elif end is not None and is_last:
            _request(state.server, "PATCH", path, {**end, "marks": batch} if batch else end)
            self._succeed(state, sent=len(batch), is_done=True)
        elif batch and is_due:
            _request(state.server, "POST", f"{path}/marks", {"marks": batch})
            self._succeed(state, sent=len(batch))
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
            state.failures, state.refusals, state.error = 0, 0, None
            state.beat_s = now_s + HEARTBEAT_INTERVAL_S
            state.is_created |= is_created
            state.is_done |= is_done
            if sent or is_created:
                state.marks_due_s = now_s + MARKS_INTERVAL_S
            for _ in range(sent):
                state.marks.popleft()
            if report is not None:
                state.report, state.wants_report = report, False
            self._changed.notify_all()

    def _rest(self, state: RunState) -> bool:
        """Wait for the next marks or heartbeat, or leave a run that is sent. False: there is more meanwhile."""
        with self._changed:
            if state.wants_report or (state.end is not None and not state.is_done):
                return False
            if state.is_done:
                self._runs.pop(state.id, None)
            state.due_s = min(state.beat_s, state.marks_due_s) if state.marks else state.beat_s
            self._changed.notify_all()
            return True

    def _retry(self, state: RunState, reason: str, *, is_down: bool = False) -> None:
        """Try again later. `is_down`: nothing listens there, so that nobody needs to wait for a report."""
        with self._changed:
            is_new = state.failures == 0
            state.error = reason
            state.wants_report &= not is_down
            state.failures += 1
            self._wait(state, min(2.0 ** (state.failures - 1), MAX_RETRY_INTERVAL_S))
        if is_new:
            warn(reason)

    def _postpone(self, state: RunState, reason: str, wait_s: float) -> None:
        """Try again when the server allows it."""
        with self._changed:
            state.error = reason
            state.refusals += 1
            wait_s *= 1.0 + BUSY_JITTER * random.random()  # noqa: S311 - spreads requests
            state.busy_until_s = time.monotonic() + wait_s
            self._wait(state, wait_s)
            is_lasting = state.refusals == MAX_QUIET_REFUSALS
        if is_lasting:
            warn(reason)

    def _wait(self, state: RunState, wait_s: float) -> None:
        """Look at a run again after a time, unless it ended long ago. Called with the lock."""
        now_s = time.monotonic()
        state.due_s = now_s + wait_s
        if state.end is not None and now_s - state.ended_s > GIVE_UP_S:
            self._runs.pop(state.id, None)
            state.is_done, state.wants_report = True, False
        self._changed.notify_all()

    def _drop(self, state: RunState, reason: str) -> None:
        with self._changed:
            state.error, state.is_done, state.wants_report = reason, True, False
            state.marks.clear()
            self._runs.pop(state.id, None)
            self._changed.notify_all()
        warn(reason)


def _request(server: Server, method: str, path: str, body: object) -> dict[str, Any]:
    """Return the JSON that the server answers.

    Raises OSError, ValueError, _BusyError, _RefusedError or _ForgottenError.
    """
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
            wait_s = _read_retry_after(error.headers.get("Retry-After"))
            if error.code == _HTTP_TOO_MANY or (error.code == _HTTP_UNAVAILABLE and wait_s is not None):
                raise _BusyError(f"status {error.code}", 1.0 if wait_s is None else wait_s) from None
            if error.code == _HTTP_CONFLICT or error.code >= _HTTP_SERVER_ERROR:
                raise OSError(f"it answers with status {error.code}") from None
            hint = ": the access token is missing or wrong (DASHTOP_TOKEN)" if error.code == _HTTP_UNAUTHORIZED else ""
            raise _RefusedError(f"{server.url} answers with status {error.code}{hint}") from None
    if not isinstance(found, dict):
        raise ValueError("no JSON object")  # noqa: TRY004 - from outside
    return found


def _read_retry_after(value: str | None) -> float | None:
    """Return the seconds of a header Retry-After, within bounds; None if there is none, or a date."""
    if value is None or not (value.isascii() and value.isdigit()):
        return None
    return min(max(float(value[:9]), MIN_BUSY_WAIT_S), MAX_BUSY_WAIT_S)


def warn(reason: str) -> None:
    """Log why a run is not reported. The training goes on."""
    log.warning("This run is not recorded by dashtop at present: %s.", reason.rstrip("."))


current = Sender()


def _forget() -> None:
    """Begin anew in a forked process: its parent reports the runs, and the thread and locks are not its own."""
    global current  # noqa: PLW0603 - one thread for each process
    current = Sender()


os.register_at_fork(after_in_child=_forget)
atexit.register(lambda: current.flush(EXIT_TIMEOUT_S, BUSY_EXIT_TIMEOUT_S))
