"""What an alert rule is: its scope, its mode, and what its functions get and return."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dashtop.model.metric import Severity
    from dashtop.model.sample import Gpu, GpuProcess

MINUTE: Final = 60.0
HOUR: Final = 60 * MINUTE
DAY: Final = 24 * HOUR


class Scope(Enum):
    """What a rule is about; the type of what its functions get."""

    GPU = "gpu"
    KNOWN_GPU = "known_gpu"
    PROCESS = "process"
    MOUNT = "mount"
    HOST = "host"


class Mode(Enum):
    """When a rule fires.

    HOLD: its score has been above 0 for `for_s`. MEAN: the mean of its score over the last `for_s` is at least
    `threshold`, and at least 80 % of that time was judged.
    """

    HOLD = "hold"
    MEAN = "mean"


class HeldProcess(NamedTuple):
    """A process, and the GPU whose memory it holds."""

    process: GpuProcess
    gpu: Gpu


class KnownGpu(NamedTuple):
    """A GPU that this run of dashtop or the one before it has seen. `label`: "GPU 3 (H100)"."""

    uuid: str
    gpu_id: int | None
    label: str
    is_present: bool


class Measured(NamedTuple):
    """What a message names: the value that is judged, the limit it is compared with, and what else is `detail`."""

    value: float | None = None
    limit: float | None = None
    detail: str = ""


class Steady(NamedTuple):
    """A value, and by how much it may differ from the first one of the window."""

    value: float
    tolerance: float


class Detector(Protocol):
    """What judges one subject of a rule that needs to remember earlier values. Times in monotonic seconds."""

    def score(self, target: Any, now_s: float) -> float | None:
        """Return a number above 0 where the condition holds, None where it cannot be judged. Called every sample."""

    def is_clear(self, target: Any) -> bool | None:
        """Return whether the condition is clearly over."""

    def measure(self, target: Any) -> Measured:
        """Return what the message names."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a rule that can be set, by name, and what builds the functions of the rule from them."""

    values: Mapping[str, float]
    build: Callable[..., Mapping[str, Any]]


def adjustable(build: Callable[..., Mapping[str, Any]], **limits: float) -> dict[str, Any]:
    """Return the fields of a rule that `build` makes from its limits, and the limits themselves."""
    return {**build(**limits), "limits": Limits(limits, build)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """One alert rule. Its functions get a Gpu, a KnownGpu, a HeldProcess, a Mount or a Sample, by `scope`.

    `score` is above 0 where the condition holds, None where it cannot be judged. `is_clear` must hold for `clear_s`
    before the alert ends; by default that is a score of 0 or less. `escalate_after_s`: the alert is a warning after
    this time. `steady`: values that stay within their tolerance while the condition lasts; one that leaves it begins
    the window anew. `detector` makes what judges one subject, instead of `score`, `is_clear` and `measure`.
    `clears_by_mean`: it is clear, too, once the mean is below `threshold` again. `ends_when_acknowledged`: people may
    say that it is so on purpose. `message` is formatted with `gpu` ("GPU 3 (H100)"), `process`, `mount`, `value`,
    `limit` and `detail`.
    """

    id: str
    title: str
    scope: Scope
    severity: Severity
    message: str
    score: Callable[[Any], float | None] = lambda _target: None
    detector: Callable[[], Detector] | None = None
    advice: str = ""
    measure: Callable[[Any], Measured] = lambda _subject: Measured()
    is_clear: Callable[[Any], bool | None] | None = None
    mode: Mode = Mode.HOLD
    for_s: float = 0.0
    threshold: float = 0.0
    clear_s: float = 0.0
    escalate_after_s: float | None = None
    steady: Callable[[Any], tuple[Steady, ...]] | None = None
    ends_when_acknowledged: bool = False
    clears_by_mean: bool = False
    limits: Limits | None = None
    enabled: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class EventRule:
    """An alert that fires at once with an event.

    It ends `clear_s` after the last such event; None: when it is acknowledged, or the GPU or driver has come back.
    """

    id: str
    title: str
    severity: Severity
    clear_s: float | None
    enabled: bool = True
