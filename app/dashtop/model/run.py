"""A run: a training or another piece of work that somebody named, with its processes, its marks and its report."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NoReturn

from dashtop.model.errors import RunsError
from dashtop.model.metric import MIB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RUN_ID_PATTERN: Final = r"^[0-9a-f]{8,32}$"
MAX_NAME_CHARS, MAX_TAG_CHARS, MAX_MARK_CHARS = 100, 200, 200
MAX_TAGS: Final = 20
START_TOLERANCE_MS: Final = 2_000
"""The start time of a process is calculated from two clocks. No pid is used again so soon."""
MAX_MARKS: Final = 10_000
"""Marks of one run. Further ones are not kept."""
MAX_MARKS_PER_REQUEST: Final = 2_000
TOO_SHORT_MS: Final = 4_000
"""The processes on GPUs are looked at every two seconds: they need not have been seen in a shorter run."""
NO_PID: Final = "the run was sent without a pid, so that its processes and their GPUs are not known"
FOREIGN: Final = (
    "the process was not known on this machine when the run was reported, so that its GPUs are not known: it had ended"
    " already, or it runs on another machine, or in a container that dashtop cannot look into"
)
SILENCE_MS: Final = 90_000
"""A run is lost after this time without a heartbeat. Clients send one every 30 s."""


class RunStatus(Enum):
    """What has become of a run. LOST: its process ended, or fell silent, without saying so."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class RunMark:
    """Something that happened in a run."""

    time_ms: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run. `pid` and `started_ms` identify its process, `beat_ms` is when it was last heard of.

    `is_local`: the process with that pid runs, or ran, on this machine, so that its children can be found.
    `processes`: pid and start time of those of its tree that held a GPU, `gpus`: the UUIDs of these GPUs.
    `energy_wh` and `peak_bytes` (the most memory on one GPU) are those until now while it runs, and final once its
    report is stored.
    """

    id: str
    name: str
    tags: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    pid: int | None = None
    started_ms: int | None = None
    begin_ms: int
    end_ms: int | None = None
    status: RunStatus = RunStatus.RUNNING
    beat_ms: int
    is_local: bool = False
    is_simulated: bool = False
    gpus: tuple[str, ...] = ()
    processes: tuple[tuple[int, int | None], ...] = ()
    mark_count: int = 0
    has_report: bool = False
    energy_wh: float | None = None
    energy_kind: str | None = None
    peak_bytes: int | None = None

    @property
    def no_gpus_reason(self) -> str:
        """Why the GPUs are not known; "" if they are."""
        if self.is_local:
            return ""
        return NO_PID if self.pid is None or self.started_ms is None else FOREIGN

    def to_json(self) -> dict[str, Any]:
        """Return the run as the API describes it (schemas.Run)."""
        return {
            "id": self.id,
            "name": self.name,
            "tags": dict(self.tags),
            "user": self.user,
            "pid": self.pid,
            "started_ms": self.started_ms,
            "begin": self.begin_ms,
            "end": self.end_ms,
            "status": self.status.value,
            "gpu_uuids": list(self.gpus) if self.is_local else None,
            "marks": self.mark_count,
            "energy_wh": self.energy_wh,
            "energy_kind": self.energy_kind,
            "peak_gpu_memory_mb": None if self.peak_bytes is None else round(self.peak_bytes / MIB, 1),
            "simulated": self.is_simulated,
        }


class NoRuns:
    """Implements the Runs port where runs cannot be stored."""

    def __init__(self, reason: str = "Runs are not recorded here.") -> None:
        self._reason = reason

    def start(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def recent(self) -> tuple[Run, ...]:
        """Return nothing."""
        return ()

    def find(self, run_id: str) -> NoReturn:  # noqa: ARG002
        """Raise RunsError."""
        raise RunsError(self._reason)

    def add(self, run: Run, boot_id: str | None = None) -> NoReturn:  # noqa: ARG002
        """Raise RunsError."""
        raise RunsError(self._reason)

    def update(self, run_id: str, status: RunStatus | None, end_ms: int | None) -> NoReturn:  # noqa: ARG002
        """Raise RunsError."""
        raise RunsError(self._reason)

    def add_marks(self, run_id: str, marks: Sequence[RunMark]) -> NoReturn:  # noqa: ARG002
        """Raise RunsError."""
        raise RunsError(self._reason)

    def marks(self, run_id: str, limit: int) -> NoReturn:  # noqa: ARG002
        """Raise RunsError."""
        raise RunsError(self._reason)

    def report(self, run: Run) -> NoReturn:  # noqa: ARG002
        """Raise RunsError."""
        raise RunsError(self._reason)
