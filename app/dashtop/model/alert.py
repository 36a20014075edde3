"""The records of alerts: an alert, a step of its life, a silence, a service, and a watch."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dashtop.model.metric import Severity


class AlertState(str, Enum):
    """PENDING: the condition holds, not long enough yet. RECOVERING: it has ended, not long enough yet."""

    PENDING = "pending"
    FIRING = "firing"
    RECOVERING = "recovering"
    RESOLVED = "resolved"

    @property
    def is_active(self) -> bool:
        """Whether people are to see it."""
        return self in {AlertState.FIRING, AlertState.RECOVERING}


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """One alert. `id` is the same for the same rule, GPU and subject (mount point, or pid and start), for ever.

    `pending_ms`, `since_ms`, `ended_ms`: when the condition began, when it fired, when it ended; epoch milliseconds.
    `inhibited_by`: the id of an alert that explains this one, so that no notice is sent. `observable`: False if it
    ended because it could no longer be judged. `user`: the owner of the process that it is about. `channel`: the only
    one that gets its notices.
    """

    id: str
    rule: str
    severity: Severity
    state: AlertState
    text: str
    advice: str
    pending_ms: int
    gpu_uuid: str | None = None
    gpu_id: int | None = None
    subject: str = ""
    user: str | None = None
    since_ms: int | None = None
    ended_ms: int | None = None
    value: float | None = None
    threshold: float | None = None
    acked_by: str | None = None
    acked_ms: int | None = None
    silenced_by: str | None = None
    inhibited_by: str | None = None
    flaps: int = 0
    observable: bool = True
    channel: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertRule:
    """A rule as it applies, with the changes of the settings. Times in seconds.

    `clear_s` None: it ends when it is acknowledged. `limits`: those that can be set, in the unit that the docs name.
    """

    id: str
    title: str
    severity: Severity
    enabled: bool
    for_s: float
    clear_s: float | None
    limits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelStatus:
    """A channel for notices: when it took the last one, and why it fails at present, if it does."""

    name: str
    kind: str
    sent_ms: int | None
    error: str | None
    pending_count: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Silence:
    """Suppresses the notices of matching alerts until `until_ms`; evaluation goes on.

    `rule` is a pattern such as "gpu_*". `gpu_uuid` and `user` None: any.
    """

    id: str
    rule: str
    gpu_uuid: str | None
    user: str | None
    from_ms: int
    until_ms: int
    reason: str
    author: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceMark:
    """Processes that may hold GPU memory without computing: those of this owner, name and container."""

    id: str
    owner: str | None
    name: str | None
    container: str | None
    time_ms: int
    author: str = ""


class WatchKind(str, Enum):
    """What somebody waits for."""

    GPU_FREE = "gpu_free"
    PROCESS_END = "process_end"


@dataclass(frozen=True, kw_only=True, slots=True)
class Watch:
    """Somebody waits for a GPU or for the end of a process, until `until_ms`.

    `subject`: "GPU 3 (H100)", or "python of ada (pid 4711)". `channel`: which one is notified; None: only browsers.
    `met_ms`: when it happened.
    """

    id: str
    kind: WatchKind
    subject: str
    gpu_uuid: str | None
    pid: int | None
    started_ms: int | None
    channel: str | None
    from_ms: int
    until_ms: int
    author: str = ""
    met_ms: int | None = None
