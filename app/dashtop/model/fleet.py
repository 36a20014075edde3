"""The records of a fleet: GPUs and nodes of several machines at one moment, and series of their past.

None is changed: viewers share a reading without a lock. Values have dashtop's metric keys and units, whatever exporter
they come from. Nothing of a fleet is stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from dashtop.model.sample import Occupancy

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

MAX_FLEET_GPUS: Final = 20_000
"""Beyond this only nodes are read: the answers of an engine and the page's rows would be too large."""


class HolderKind(Enum):
    """What a holder of a GPU is: users come from dashtop and nvitop-exporter, jobs and namespaces from DCGM."""

    USER = "user"
    JOB = "job"
    NAMESPACE = "namespace"


class FleetHolder(NamedTuple):
    """What holds memory of a GPU. `memory_gb` None: the exporter does not say how much."""

    name: str
    kind: HolderKind
    memory_gb: float | None = None


@dataclass(kw_only=True, slots=True)
class FleetGpu:
    """One GPU, or MIG instance, of one node. Not frozen, which takes four times as long, but never changed.

    `uuid`: in lower case and without its prefix, since some exporters drop it; "" if the exporter has none.
    `device_id`: the UUID as CUDA takes it (GPU-… or MIG-…), "" if it is not known.
    `mig_instance`: number of the GPU instance, "" for a whole GPU. `values`: by metric key, in the metric's unit; what
    is missing is in `unavailable` with its reason. `peak_percent`: the utilization; of a GPU that is idle now, the
    highest of the last two minutes. `age_s`: age of the values when they were read.
    """

    node: str
    index: int | None
    uuid: str
    device_id: str = ""
    mig_instance: str = ""
    name: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    unavailable: Mapping[str, str] = field(default_factory=dict)
    peak_percent: float | None = None
    occupancy: Occupancy = Occupancy.UNAVAILABLE
    holders: tuple[FleetHolder, ...] = ()
    age_s: float = 0.0

    @property
    def key(self) -> str:
        """An identity that stays the same from reading to reading."""
        return f"{self.node}/{self.uuid or self.index}/{self.mig_instance}"


class NodeState(Enum):
    """Whether a node answers. VANISHED: it was there in the last day, and is no longer asked."""

    UP = "up"
    DOWN = "down"
    STALE = "stale"
    VANISHED = "vanished"


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetNode:
    """One machine. `reason`: why it is not up, in words. `url`: its dashtop, if it runs one.

    `instance`: its name at the engine, or the configured address of a peer. `exporter`: what its values come from.
    `age_s`: since its values were read; None: not known.
    """

    name: str
    instance: str
    state: NodeState
    reason: str = ""
    exporter: str = ""
    url: str | None = None
    age_s: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Failure:
    """One row of the failures. `is_busy`: the engine works, and has too much to do. `is_ours`: a fault of dashtop."""

    text: str
    is_busy: bool = False
    is_ours: bool = False


class FleetFailure(Enum):
    """Why an engine or a peer gives no answer."""

    text: str
    is_busy: bool
    is_ours: bool

    UNREACHABLE = _Failure("not reachable")
    TIMEOUT = _Failure("no answer in time")
    TOKEN_REQUIRED = _Failure("a token is required")
    WRONG_ADDRESS = _Failure("not a Prometheus API")
    BAD_QUERY = _Failure("the engine refused a query", is_ours=True)
    TOO_MANY_SAMPLES = _Failure("too many samples")
    OVERLOADED = _Failure("the engine is overloaded", is_busy=True)
    RATE_LIMITED = _Failure("too many queries", is_busy=True)
    TOO_LARGE = _Failure("the answer is too large")
    BAD_ANSWER = _Failure("the answer cannot be read")
    ENGINE_ERROR = _Failure("the engine has failed")
    NO_EXPORTER = _Failure("no known exporter")
    NO_HISTORY = _Failure("no history")
    TOO_OLD = _Failure("this dashtop is too old")
    STARTING = _Failure("waiting for the first answer")

    def __new__(cls, failure: _Failure) -> FleetFailure:
        """Return the member for a row, with its columns as attributes."""
        member = object.__new__(cls)
        member._value_ = failure.text
        member.text, member.is_busy, member.is_ours = failure.text, failure.is_busy, failure.is_ours
        return member


class FleetError(NamedTuple):
    """A failure with a sentence that says what happened and what to do; it contains no password."""

    failure: FleetFailure
    sentence: str
    retry_after_s: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetReading:
    """A fleet at one moment. With an `error` GPUs and nodes are those of the last answer, as of `as_of_ms`.

    `as_of_ms`: the engine's clock, epoch milliseconds; None: there was no answer yet. `received_s`: when dashtop got
    it, on its monotonic clock. `warnings`: not empty if the engine answered from a part of its data only: counts are
    'at least'. `notes`: what limits the reading otherwise, in sentences.
    """

    as_of_ms: int | None = None
    received_s: float | None = None
    gpus: tuple[FleetGpu, ...] = ()
    nodes: tuple[FleetNode, ...] = ()
    exporters: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: FleetError | None = None

    @property
    def is_partial(self) -> bool:
        """Whether counts are 'at least'."""
        return bool(self.warnings)


class SeriesKind(Enum):
    """What `history` can return."""

    TREND = "trend"
    """Mean utilization of all GPUs, in percent: one row."""
    HELD = "held"
    """Number of GPUs whose memory is in use: one row."""
    POWER = "power"
    """Watts of all GPUs: one row."""
    NODES = "nodes"
    """Mean utilization of each node, in percent: a row for each."""
    USERS = "users"
    """GPU-hours of each user in the time range: a row with one value for each."""
    METRIC = "metric"
    """One metric of the GPUs of one node: a row for each GPU."""
    LAST_SEEN = "last_seen"
    """Seconds since one node was up, to the minute: a row with one value; none if that was more than a day ago."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetQuery:
    """What to read of the past. `span_s` ends now. `node` is for METRIC and LAST_SEEN, `metric` for METRIC."""

    kind: SeriesKind
    span_s: int
    node: str = ""
    metric: str = "gpu.utilization.gpu"
    points: int = 300


class FleetRow(NamedTuple):
    """One series: its name (a node, user or GPU), and a value for each time, NaN where there is none."""

    name: str
    values: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetSeries:
    """Series on one time axis. `times_ms`: epoch milliseconds by the engine's clock. `unit`: of the values.

    `notes`: what was changed of the query (a wider step, a shorter time range), in sentences. With an `error` there are
    no rows.
    """

    times_ms: NDArray[np.int64]
    rows: tuple[FleetRow, ...] = ()
    step_s: int = 0
    unit: str = ""
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: FleetError | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetEngine:
    """Where a fleet's values come from. `title`: for people, such as 'Prometheus at http://…'; without a password."""

    title: str
    has_history: bool
    interval_s: float
    is_unencrypted: bool = False
    """A token is sent over plain HTTP."""
