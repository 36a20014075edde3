"""The records of one collection, and of the history. All are frozen: threads share a sample without a lock."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from dashtop.model.usage import NO_USAGE

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from dashtop.model.metric import Severity
    from dashtop.model.unavailable import UnavailableReason
    from dashtop.model.usage import UsageRecords


PCI_PREFIX, UNREADABLE_PREFIX = "PCI-", "unreadable-"
"""Beginnings of an identity in place of a UUID that cannot be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """Static facts of one GPU or MIG instance; None: not reported. `uuid` identifies it; `index` may change at a boot.

    A MIG instance has the UUID of its GPU (`mig_parent_uuid`) and a profile (`mig_profile`: "3g.40gb").
    `shares_host_memory`: the GPU has no memory of its own and uses the host's (GB10 and other integrated parts).
    """

    uuid: str
    index: int
    name: str
    memory_total_bytes: int | None
    driver_version: str | None
    cuda_version: str | None
    compute_capability: str | None
    pci_bus_id: str | None
    power_limit_watts: float | None
    slowdown_celsius: float | None
    shutdown_celsius: float | None
    serial: str | None = None
    vbios: str | None = None
    architecture: str | None = None
    mig_parent_uuid: str | None = None
    mig_profile: str | None = None
    shares_host_memory: bool = False

    @property
    def is_identified(self) -> bool:
        """Whether the UUID is known."""
        return is_uuid(self.uuid)


def is_uuid(identity: str) -> bool:
    """Return whether an identity is a UUID, and not what stands in its place."""
    return not identity.startswith((PCI_PREFIX, UNREADABLE_PREFIX))


def _info(name: str, help_text: str, default: Any = None) -> Any:
    """Return a field of ProcessInfo: its name in JSON, and its description for the API."""
    return field(default=default, metadata={"name": name, "help": help_text})


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessInfo:
    """Static facts about a process, as the operating system reports them; None: not reported, or not applicable.

    The only list of these facts: API, its schema, history and page take them from here. `started_ms` is the epoch time.
    `foreign`: the driver reports a pid of another pid namespace (in a container), so nothing else is known.
    """

    name: str | None = _info("process_name", "Name of the executable, without its path.")
    username: str | None = _info("username", "User the process runs as.")
    container: str | None = _info("container", "Short id of the container.")
    container_runtime: str | None = _info(
        "container_runtime", "What runs the container: docker, containerd, podman, crio, lxc, systemd-nspawn."
    )
    slurm_job: str | None = _info("slurm_job", "Id of the Slurm job.")
    kubernetes_pod: str | None = _info("kubernetes_pod", "UID of the Kubernetes pod.")
    environment: str | None = _info("environment", "Name of the conda or venv environment.")
    notebook: str | None = _info(
        "notebook", "Name of the notebook whose kernel the process is, or is started by (--notebook-names)."
    )
    started_ms: int | None = _info("started", "When the process started, in ms since 1970.")
    foreign: bool = _info("foreign", "The pid belongs to another pid namespace: nothing is known of it.", default=False)

    def to_json(self) -> dict[str, Any]:
        """Return the facts by their names in JSON."""
        return {each.metadata["name"]: getattr(self, each.name) for each in fields(self)}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> ProcessInfo:
        """Return the facts of `to_json`. Unknown names are ignored, missing ones have their default."""
        names = {each.metadata["name"]: each.name for each in fields(cls)}
        return cls(**{names[name]: value for name, value in facts.items() if name in names})


_HOLDING_KINDS: Final = frozenset({"C", "M"})


@cache
def is_holding(kind: str) -> bool:
    """Return whether a process of this kind holds the GPU: compute processes and clients of MPS, but no desktop."""
    return not _HOLDING_KINDS.isdisjoint(kind.split("+"))


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuProcess:
    """A process that uses GPU memory. `kind`: C (compute), G (graphics), M (MPS client), joined by + where several.

    The driver reports the first fields and the utilizations (percent of the GPU over the last sampling period). The
    others have their defaults until the host is read. `cpu_percent`: 100 is one core. `tree_cpu_percent`: likewise, of
    it and its descendants, `usable_cpus`: how many CPUs it may use. `idle_since_ms`: since when `sm_percent` is 0; None
    if it is not 0, or not known. `is_service`: it may be idle; only the alert rules get it. `start_ticks`: its start in
    clock ticks since boot, which identifies it together with the pid. `is_paused`: a signal (SIGSTOP) has stopped it.
    """

    pid: int
    kind: str
    gpu_memory_bytes: int | None
    sm_percent: float | None = None
    memory_percent: float | None = None
    encoder_percent: float | None = None
    decoder_percent: float | None = None
    cpu_percent: float | None = None
    host_memory_bytes: int | None = None
    tree_cpu_percent: float | None = None
    usable_cpus: float | None = None
    idle_since_ms: int | None = None
    is_service: bool = False
    start_ticks: int | None = None
    is_paused: bool | None = None
    info: ProcessInfo = ProcessInfo()


ALERT_KINDS: Final = ("alert_firing", "alert_resolved")
EVENT_KINDS: Final = (
    *("xid", "ecc", "reset_pending", "remap_failed", "gpu_lost", "gpu_back", "gpu_added", "gpu_removed"),
    *("driver_changed", "driver_silent", "driver_back", "throttle_begin", "throttle_end"),
    *("process_start", "process_end", "restart", "history_replaced", "history_damaged"),
    *(*ALERT_KINDS, "oom_kill"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """An event with its text. `gpu_uuid` None: it concerns the host or dashtop itself.

    `kind`: one of EVENT_KINDS. `advice`: what to do; may be empty. `code`: the XID number, the pid, or a number
    of the alert, which is the same at its end.
    """

    time_ms: int
    kind: str
    severity: Severity
    text: str
    gpu_uuid: str | None = None
    advice: str = ""
    code: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EventFilter:
    """Selects events. Empty or None: any. `limit`: only so many of the newest."""

    kinds: tuple[str, ...] = ()
    severities: tuple[Severity, ...] = ()
    gpu_uuid: str | None = None
    limit: int | None = None

    def matches(self, event: Event) -> bool:
        """Return whether an event is selected."""
        return (
            (not self.kinds or event.kind in self.kinds)
            and (not self.severities or event.severity in self.severities)
            and self.gpu_uuid in {None, event.gpu_uuid}
        )


ALL_EVENTS: Final = EventFilter()


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessSpan:
    """A time span [start_ms, end_ms] in which a process used about the same memory (within 5 %) on one GPU.

    `gpu_memory_bytes` is its memory at the start of the span. `end_ms` of a running process lags by up to 15 s.
    """

    gpu_uuid: str
    pid: int
    start_ms: int
    end_ms: int
    gpu_memory_bytes: int | None
    peak_gpu_memory_bytes: int | None
    peak_sm_percent: float | None
    kind: str
    info: ProcessInfo


PROCESSES: Final = "gpu.processes"


class Occupancy(Enum):
    """Whether work can start on a GPU. SPLIT: only on its MIG instances, which count instead of it."""

    FREE = "free"
    IDLE_HELD = "idle_held"
    BUSY = "busy"
    UNAVAILABLE = "unavailable"
    SPLIT = "split"


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """One GPU at one moment. `values` has every key of the GPU table; `unavailable` has the reason of each None.

    If the processes cannot be listed, `processes` is empty and `unavailable` has the reason under PROCESSES. `state` is
    set if the whole GPU cannot be read at present: lost, reset required, asleep, or no response from the driver.
    `state_since_ms` is when it began; None: before dashtop started.
    """

    device: Device
    values: Mapping[str, float | None]
    unavailable: Mapping[str, UnavailableReason]
    processes: tuple[GpuProcess, ...]
    state: UnavailableReason | None = None
    state_since_ms: int | None = None

    @property
    def label(self) -> str:
        """Index and model: "GPU 3 (NVIDIA H100 80GB HBM3)"."""
        return f"GPU {self.device.index} ({self.device.name})"

    @property
    def state_text(self) -> str:
        """Why the GPU cannot be read; empty if it can. The page adds since when, in the time zone of its reader."""
        return self.state.text if self.state is not None else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuReading:
    """The result of GpuReader.read: the GPUs, or in `error` the reason why there are none.

    `age_s` is the age of the values: 0 for a new reading, more while the driver has not responded yet. `events` are
    those that the driver has reported since the last reading, `implausible_count` the values that were discarded.
    """

    gpus: tuple[Gpu, ...] = ()
    error: UnavailableReason | None = None
    age_s: float = 0.0
    events: tuple[Event, ...] = ()
    implausible_count: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Mount:
    """A mounted file system that contains data. Sizes in bytes; `used_bytes` counts allocated blocks, as `df` does.

    `used_percent` is that of df: the share of the space available to ordinary users. All None if the mount does not
    respond.
    """

    mount_point: str
    filesystem: str
    used_bytes: int | None
    total_bytes: int | None
    used_percent: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """The machine at one moment. `values` has every key of the host table.

    `per_core` is the use of each core in percent, `core_ids` its number: those of cores that are offline are missing,
    and are in `offline_cores` as far as the kernel says so.
    """

    values: Mapping[str, float | None]
    unavailable: Mapping[str, UnavailableReason]
    per_core: tuple[float, ...]
    core_ids: tuple[int, ...]
    mounts: tuple[Mount, ...]
    offline_cores: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectorRun:
    """The duration of a collector's last run in seconds of wall time, and what failed so far.

    `failures`: runs. `implausible_count`: values that were discarded because they cannot be true.
    """

    name: str
    duration_s: float
    failures: int
    implausible_count: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One collection of everything. `time_ms`: wall clock, epoch milliseconds; `monotonic_s` for intervals.

    `gpu_age_s` is the age of the GPU values: 0 unless the driver is late. `events` are those since the last sample.
    `xid_counts`: XIDs since dashtop started, by GPU's UUID and number. `usage`: records of the time until then, to be
    stored; `user_totals`: GPU-seconds that each user has held and computed since dashtop started, shared ones in parts.
    """

    sequence: int
    time_ms: int
    monotonic_s: float
    host: Host
    gpus: tuple[Gpu, ...]
    gpu_error: UnavailableReason | None
    gpu_age_s: float
    simulated: bool
    events: tuple[Event, ...] = ()
    collectors: tuple[CollectorRun, ...] = ()
    skipped_ticks: int = 0
    xid_counts: Mapping[tuple[str, int], int] = field(default_factory=dict)
    usage: UsageRecords = NO_USAGE
    user_totals: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def gpu(self, index: int) -> Gpu | None:
        """Return the GPU with that index, or None."""
        return next((gpu for gpu in self.gpus if gpu.device.index == index), None)

    @property
    def common_error(self) -> UnavailableReason | None:
        """Why no GPU can be read: the state that all share, or `gpu_error`, without any.

        GPUs that were read before a driver fell silent stay listed, each with that state.
        """
        if self.gpu_error is not None:
            return self.gpu_error
        states = {gpu.state for gpu in self.gpus}
        return states.pop() if len(states) == 1 else None

    @property
    def driver_failure(self) -> UnavailableReason | None:
        """Why a driver with GPUs no longer reports any of them; None if it does."""
        reason = self.common_error
        return reason if reason is not None and reason.silences_driver else None


@dataclass(frozen=True, slots=True)
class StoredGpu:
    """A GPU in a history. None: not known; `index` also if another GPU has had that index since."""

    uuid: str
    index: int | None
    name: str | None


@dataclass(frozen=True, slots=True)
class SeriesKey:
    """Identifies one series: a metric's key and the GPU's UUID (None: the host)."""

    metric: str
    gpu_uuid: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One metric over equal buckets, in the metric's unit; NaN where a bucket contains no reading (a gap)."""

    key: SeriesKey
    mean: NDArray[np.float32]
    minimum: NDArray[np.float32]
    maximum: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SeriesSet:
    """Several series over the same buckets: bucket i covers [start_ms + i * step_ms, start_ms + (i + 1) * step_ms)."""

    start_ms: int
    step_ms: int
    count: int
    series: tuple[Series, ...] = field(default=())
