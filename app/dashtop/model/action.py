"""Process actions: the signals that the page can send, the table of refusals, and the records of the audit log."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from dashtop.model.errors import DashtopError

KILL_AFTER_S: Final = 10.0
"""How long a process has to end after SIGTERM before SIGKILL is allowed."""


class ActionScope(Enum):
    """Whose processes may be sent signals: nobody's, those of dashtop's own user, everybody's."""

    OFF = "off"
    OWN = "own"
    ALL = "all"

    def __str__(self) -> str:
        """Return the value of --allow-actions."""
        return self.value


class ActionSignal(Enum):
    """The signals that can be sent: SIGINT, SIGTERM, SIGKILL, SIGSTOP (pause) and SIGCONT (resume)."""

    INT = "INT"
    TERM = "TERM"
    KILL = "KILL"
    STOP = "STOP"
    CONT = "CONT"


class _Row(NamedTuple):
    status: int
    text: str


class Refusal(Enum):
    """Why an action is refused. `status`: of the HTTP response; `text`: a sentence for people, `{left_s}` filled in.

    The name in lower case is the outcome in the audit log.
    """

    SIMULATED = _Row(403, "These GPUs are simulated: their processes do not exist.")
    DISABLED = _Row(403, "Process actions are disabled. Enable them with --allow-actions and --action-token.")
    EMBEDDED = _Row(403, "Embedded pages cannot act on processes. Open dashtop itself.")
    NO_TOKEN = _Row(401, "Action token required: send it in the header X-Dashtop-Action-Token.")
    WRONG_TOKEN = _Row(401, "The action token is wrong.")
    TOO_MANY_TOKENS = _Row(429, "Too many wrong action tokens. Try again in {left_s} s.")
    UNSUPPORTED = _Row(501, "This system cannot signal a process safely: it needs Linux 5.3 or later (pidfd).")
    NO_PIDFD = _Row(501, "pidfd_open is not permitted here, and without it the signal could reach another process.")
    STALE = _Row(503, "The last reading is too old to say which processes hold GPU memory.")
    NOT_RECORDED = _Row(503, "The audit log cannot be written, so nothing was done. See dashtop's log.")
    INIT = _Row(403, "Process 1 runs the machine or the container.")
    DASHTOP = _Row(403, "This is dashtop itself, or a process that it has started.")
    ANCESTOR = _Row(403, "dashtop runs below this process and would end with it.")
    FOREIGN = _Row(403, "The process cannot be identified from here: another PID namespace, or hidden by the system.")
    GRAPHICS_ONLY = _Row(403, "The process only draws (type G): it may be the desktop of somebody.")
    KERNEL_THREAD = _Row(403, "This is a thread of the kernel.")
    OTHER_USER = _Row(403, "The process belongs to another user; only processes of dashtop's own user are allowed.")
    NOT_ROOT = _Row(403, "--allow-actions all needs root, and dashtop does not run as root.")
    NOT_PERMITTED = _Row(403, "The kernel does not permit dashtop to signal this process.")
    OTHER_PROCESS = _Row(409, "Another process has this PID now.")
    NO_GPU_MEMORY = _Row(409, "The newest reading lists no memory of this GPU for the process.")
    TOO_EARLY_TO_KILL = _Row(409, "Kill is possible 10 s after Terminate.")
    WAIT_TO_KILL = _Row(409, "Kill is possible 10 s after Terminate: in {left_s} s.")
    GONE = _Row(410, "The process has ended.")

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.value.status

    @property
    def text(self) -> str:
        """The sentence, before `{left_s}` is filled in."""
        return self.value.text

    @property
    def outcome(self) -> str:
        """What the audit log says."""
        return self.name.lower()


class ActionRefusedError(DashtopError):
    """An action is refused. `left_s`: after how many seconds it is possible, if time is what is missing."""

    def __init__(self, refusal: Refusal, left_s: int = 0) -> None:
        super().__init__(refusal.text.format(left_s=left_s))
        self.refusal = refusal
        self.left_s = left_s


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionRequest:
    """What a client asks for. `gpu_uuid`: the UUID of a GPU that the process uses, or its beginning.

    `started_ms`: when the process started, as the client has seen it. `client`: address, `viewer`: name that a trusted
    proxy gives.
    """

    pid: int
    started_ms: int
    gpu_uuid: str
    signal: ActionSignal
    client: str
    viewer: str | None


SENT: Final = "sent"


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionRecord:
    """A line of the audit log. `outcome`: SENT, or that of a Refusal. `owner` and `name` are of the process."""

    time_ms: int
    client: str
    viewer: str | None
    pid: int
    started_ms: int
    owner: str | None
    name: str | None
    signal: str
    outcome: str


class NoActions:
    """Implements Actions where they are disabled: everything is refused, and nothing is recorded."""

    scope = ActionScope.OFF
    user = ""

    def send(self, request: ActionRequest) -> None:
        """Refuse it."""
        raise self.refuse(request, Refusal.DISABLED)

    def refuse(self, _request: ActionRequest, refusal: Refusal, left_s: int = 0) -> ActionRefusedError:
        """Return the error."""
        return ActionRefusedError(refusal, left_s)

    def records(self) -> tuple[ActionRecord, ...]:
        """Return no records."""
        return ()
