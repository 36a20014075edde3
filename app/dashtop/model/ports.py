"""The protocols between packages: readers, history, collector, clock. And the records that readers return."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from dashtop.model.action import NoActions
from dashtop.model.run import NoRuns
from dashtop.model.sample import ALL_EVENTS
from dashtop.model.usage import NO_PRICES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dashtop.model.action import ActionRecord, ActionRefusedError, ActionRequest, ActionScope, Refusal
    from dashtop.model.alert import Alert, AlertRule, ChannelStatus, ServiceMark, Silence, Watch
    from dashtop.model.fleet import FleetEngine, FleetQuery, FleetReading, FleetSeries
    from dashtop.model.run import Run, RunMark, RunStatus
    from dashtop.model.sample import (
        Event,
        EventFilter,
        GpuProcess,
        GpuReading,
        Mount,
        ProcessInfo,
        ProcessSpan,
        Sample,
        SeriesKey,
        SeriesSet,
        StoredGpu,
    )
    from dashtop.model.usage import Prices, StoredUsage


class GpuUtilization(NamedTuple):
    """Percent of the last sampling period in which the GPU (or its memory interface) was busy."""

    gpu: float
    memory: float


class MemoryUse(NamedTuple):
    """Sizes in bytes."""

    used: int
    total: int
    available: int


class ByteRates(NamedTuple):
    """Traffic in bytes per second; `sent` leaves the device or host, `received` enters it."""

    sent: float
    received: float


class PowerRange(NamedTuple):
    """Range of the power limit, in watts."""

    minimum: float
    maximum: float


class NvLinks(NamedTuple):
    """Number of NVLink links, and of those that are active."""

    total: int
    active: int


class RetiredPages(NamedTuple):
    """Retired pages of device memory (before Ampere)."""

    single_bit: int
    double_bit: int


class RemappedRows(NamedTuple):
    """Remapped rows of device memory (Ampere and later). `pending` and `failure` are 0 or 1."""

    corrected: int
    uncorrected: int
    pending: int
    failure: int


class LoadAverage(NamedTuple):
    """Mean length of the run queue over 1, 5 and 15 minutes."""

    one: float
    five: float
    fifteen: float


class GpuDevice(Protocol):
    """Reads one GPU for the rows of the GPU table. Every method raises Unavailable if there is no value."""

    def utilization(self) -> GpuUtilization:
        """Percent busy."""

    def sm_activity(self) -> float:
        """Percent of time with at least one warp on a multiprocessor, averaged over all (NVML GPM)."""

    def sm_occupancy(self) -> float:
        """Percent of the warps that could be resident (NVML GPM)."""

    def tensor_activity(self) -> float:
        """Percent of time in which the tensor cores were active (NVML GPM)."""

    def dram_activity(self) -> float:
        """Used percent of the memory bandwidth (NVML GPM)."""

    def memory(self) -> MemoryUse:
        """Framebuffer memory; memory reserved by the driver is not counted as used."""

    def reserved_memory(self) -> int:
        """Bytes reserved by the driver and its firmware."""

    def bar1(self) -> MemoryUse:
        """BAR1: the window through which the host accesses device memory."""

    def temperature(self) -> float:
        """°C of the GPU core."""

    def memory_temperature(self) -> float:
        """°C of the memory's hottest junction."""

    def memory_temperature_limit(self) -> float:
        """°C at which the memory has its highest permitted temperature."""

    def temperature_margin(self) -> float:
        """°C left until the GPU throttles."""

    def slowdown_temperature(self) -> float:
        """°C at which the GPU throttles."""

    def shutdown_temperature(self) -> float:
        """°C at which the GPU shuts down."""

    def power_usage(self) -> float:
        """Watts drawn by the whole board."""

    def power_instant(self) -> float:
        """Watts, instantaneous."""

    def power_average(self) -> float:
        """Watts, average of the last second."""

    def power_limit(self) -> float:
        """Watts of the enforced power limit."""

    def default_power_limit(self) -> float:
        """Watts of the default power limit."""

    def power_limit_range(self) -> PowerRange:
        """Range of the power limit."""

    def energy(self) -> float:
        """Joules since driver load."""

    def energy_rate(self) -> float:
        """Watts, from the energy between two readings."""

    def fan_speed(self) -> float:
        """Percent of the fan's maximum; above 100 where the vendor allows it."""

    def fan_rpm(self) -> float:
        """Revolutions per minute of the slowest fan, as measured."""

    def graphics_clock(self) -> float:
        """MHz of the graphics engine."""

    def memory_clock(self) -> float:
        """MHz of device memory."""

    def max_graphics_clock(self) -> float:
        """Maximum MHz of the graphics engine."""

    def max_memory_clock(self) -> float:
        """Maximum MHz of device memory."""

    def sm_clock(self) -> float:
        """MHz of the multiprocessors."""

    def video_clock(self) -> float:
        """MHz of encoder and decoder."""

    def performance_state(self) -> int:
        """0 (fastest) to 15."""

    def clock_event_reasons(self) -> int:
        """Active throttle reasons as bits (named in metrics.throttle_reasons)."""

    def pcie_generation(self) -> int:
        """Current generation of the link (lower when idle)."""

    def pcie_width(self) -> int:
        """Current number of lanes."""

    def pcie_max_generation(self) -> int:
        """Highest generation of GPU and slot."""

    def pcie_max_width(self) -> int:
        """Highest number of lanes of GPU and slot."""

    def pcie_rates(self) -> ByteRates:
        """PCIe traffic as seen from the GPU."""

    def pcie_replays(self) -> int:
        """Replayed packets since driver load."""

    def nvlinks(self) -> NvLinks:
        """NVLink links."""

    def nvlink_rates(self) -> ByteRates:
        """Payload over all NVLink links."""

    def encoder_utilization(self) -> float:
        """Percent busy."""

    def decoder_utilization(self) -> float:
        """Percent busy."""

    def jpeg_utilization(self) -> float:
        """Percent busy."""

    def ofa_utilization(self) -> float:
        """Percent busy (optical flow accelerator)."""

    def encoder_sessions(self) -> int:
        """Open video encoding sessions."""

    def ecc_errors(self, *, corrected: bool, lifetime: bool) -> int:
        """Memory errors, over the GPU's lifetime or since driver load."""

    def retired_pages(self) -> RetiredPages:
        """Retired pages."""

    def is_page_retirement_pending(self) -> bool:
        """Whether retirement waits for a reset of the GPU."""

    def remapped_rows(self) -> RemappedRows:
        """Remapped rows."""

    def recovery_action(self) -> int:
        """What the driver asks for: 0 nothing, others as in RECOVERY_ACTIONS of the metric tables."""

    def compute_mode(self) -> int:
        """0 default, 2 prohibited, 3 exclusive to one process."""

    def persistence_mode(self) -> int:
        """1 if the driver stays loaded without clients."""

    def mig_mode(self) -> int:
        """1 if the GPU is split into MIG instances."""


class HostReader(Protocol):
    """Reads the host for the rows of the host table. Every method raises Unavailable if there is no value.

    Call `begin` once before each reading of the table: rates are over the time between two calls.
    """

    def begin(self) -> None:
        """Read the counters of this tick."""

    def cpu_percent(self) -> float:
        """Percent busy of all cores together since the last tick."""

    def iowait_percent(self) -> float:
        """Percent of time since the last tick in which cores were idle while a process waited for a disk."""

    def cpu_count(self) -> int:
        """Logical cores."""

    def cpu_frequency(self) -> float:
        """MHz, mean of the cores."""

    def load_average(self) -> LoadAverage:
        """Run queue."""

    def memory(self) -> MemoryUse:
        """RAM: `available` can be allocated without swapping; `used` is the rest."""

    def memory_pressure(self) -> float:
        """Percent of the last minute in which every process that could run waited for memory."""

    def oom_kills(self) -> int:
        """Processes that the kernel has ended for lack of memory, since boot."""

    def swap_rates(self) -> ByteRates:
        """Traffic of the swap space: `sent` = written to it, `received` = read back."""

    def zfs_arc(self) -> int:
        """Bytes in the read cache of ZFS, which are available, not used, except for its minimum size."""

    def swap(self) -> MemoryUse:
        """Swap space."""

    def cpu_limit(self) -> float:
        """Cores that the cgroup of dashtop (a container, pod or job) may use; can be a fraction."""

    def container_memory(self) -> MemoryUse:
        """Memory of that cgroup: `total` is its limit; the page cache that can be freed at once is not used."""

    def network_rates(self) -> ByteRates:
        """All interfaces except loopback and those that only forward the traffic of others."""

    def disk_rates(self) -> ByteRates:
        """Whole block devices: `sent` = written, `received` = read."""

    def per_core(self) -> tuple[float, ...]:
        """Percent busy of each core since the last tick; empty on the first."""

    def core_ids(self) -> tuple[int, ...]:
        """Number of each core in `per_core`; those of cores that are offline are missing."""

    def offline_cores(self) -> tuple[int, ...]:
        """Number of each core that is present and offline; empty if that is not known."""

    def mounts(self) -> tuple[Mount, ...]:
        """Mounted file systems that contain data."""

    def add_host_info(self, processes: Sequence[GpuProcess]) -> tuple[GpuProcess, ...]:
        """Return the processes with their ProcessInfo, CPU use and memory; a process that has ended keeps None."""

    def close(self) -> None:
        """Stop threads and close files."""


class GpuReader(Protocol):
    """All GPUs of the machine. `read` never raises and does not block much longer than `timeout_s`."""

    simulated: bool

    def read(self, timeout_s: float) -> GpuReading:
        """Return the GPUs as they are now, or the last reading with its age, or the reason why there are none."""

    def failures(self) -> int:
        """Return the number of failed readings since the start."""

    def close(self) -> None:
        """End the worker processes and release resources."""


class ReadStatus(NamedTuple):
    """Whether the database of the history answers. `error`: a sentence that says why it does not, or None.

    `version` changes whenever it answers again after it did not: results that were kept since then may lack what only
    the database has.
    """

    version: int
    error: str | None


class History(Protocol):
    """The stored samples. Thread-safe. Of several processes that share a database, one writes and the others read."""

    def append(self, sample: Sample) -> None:
        """Store a sample."""

    def query(
        self, keys: Sequence[SeriesKey], start_ms: int, end_ms: int, step_ms: int, *, wait: bool = False
    ) -> SeriesSet:
        """Return each series in buckets of `step_ms` aligned to the epoch that cover [start_ms, end_ms).

        If the database does not answer within about a second, the result is what is in memory, as it is for the other
        methods, and `read_status` says so. `wait`: wait for it as long as it takes.

        An unknown key gives a series of gaps. Raises QueryError for a range that is empty or too long.
        """

    def series(self) -> tuple[SeriesKey, ...]:
        """Return the keys of all stored series, those of the host first."""

    def gpus(self) -> tuple[StoredGpu, ...]:
        """Return the GPUs that were ever stored, by index; those without an index last."""

    def events(self, start_ms: int, end_ms: int, wanted: EventFilter = ALL_EVENTS) -> tuple[Event, ...]:
        """Return the wanted events in [start_ms, end_ms), by time.

        These are the newest of its limit; without one the newest 10 000, and in any case the newest 1 000 of each kind
        and severity.
        """

    def processes(self, gpu_uuid: str | tuple[str, ...], start_ms: int, end_ms: int) -> tuple[ProcessSpan, ...]:
        """Return the process spans of one GPU, or of several, in [start_ms, end_ms), by start."""

    def usage(self, start_ms: int, end_ms: int) -> StoredUsage:
        """Return the sums of the usage ledger over the ten-minute buckets that overlap [start_ms, end_ms).

        The range begins earlier, with a whole day, where only days are kept.
        """

    def status_message(self) -> str | None:
        """Return a sentence that says why this process does not write or cannot read the history; None if all is well.

        Never waits for the database.
        """

    def read_status(self) -> ReadStatus:
        """Return whether the last read of the database was answered."""

    def close(self) -> None:
        """Write pending samples, for at most one second, and release resources."""


class Latest(Protocol):
    """The collector's interface for the page and the API."""

    @property
    def interval_s(self) -> float:
        """Seconds between two collections while no viewer requests a shorter interval."""

    def request_interval(self, interval_s: float) -> float:
        """Collect at least this often for the next ten seconds. Returns the interval that now applies, in seconds."""

    def latest(self) -> Sample | None:
        """Return the newest sample; None before the first."""

    def alive(self) -> bool:
        """Return whether the collector is running."""

    def wait(self, after_sequence: int, timeout_s: float) -> Sample | None:
        """Return the newest sample once its sequence differs from `after_sequence`; None after `timeout_s`.

        Raises CollectionEndedError if collection has stopped.
        """


class Alerts(Protocol):
    """The alerts of this machine."""

    def current(self) -> tuple[Alert, ...]:
        """Return the alerts that are pending, firing or recovering."""

    def rules(self) -> tuple[AlertRule, ...]:
        """Return the rules as they apply, in the order of the table."""

    def acknowledge(self, alert_id: str, by: str) -> Alert | None:
        """Mark an active alert as seen and return it; None if there is none with this id."""

    def silences(self) -> tuple[Silence, ...]:
        """Return the silences that have not ended."""

    def add_silence(self, silence: Silence) -> Silence | None:
        """Store a silence and return it with its id; None if there are too many."""

    def remove_silence(self, silence_id: str) -> bool:
        """End a silence; return whether there was one with this id."""

    def services(self) -> tuple[ServiceMark, ...]:
        """Return the processes that may hold GPU memory without computing."""

    def add_service(self, process: ProcessInfo, author: str) -> ServiceMark | None:
        """Mark processes with owner, name and container of this one as a service; None if there are too many."""

    def remove_service(self, service_id: str) -> bool:
        """Forget a service; return whether there was one with this id."""

    def find_service(self, process: ProcessInfo) -> ServiceMark | None:
        """Return the service that a process is; None if it is none."""

    def watches(self) -> tuple[Watch, ...]:
        """Return the watches that are open, or were met in the last hour."""

    def add_watch(self, watch: Watch) -> Watch | None:
        """Store a watch and return it with its id; None if there are too many."""

    def remove_watch(self, watch_id: str) -> bool:
        """Remove a watch; return whether there was one with this id."""

    def channels(self) -> tuple[ChannelStatus, ...]:
        """Return the channels of the settings file."""

    def test_channel(self, name: str) -> str | None:
        """Send a test notice to a channel. Return why that failed; None if it was sent. Raises KeyError."""


class FleetSource(Protocol):
    """Reads several machines, from an engine or from other dashtops. No method raises."""

    engine: FleetEngine

    def current(self, timeout_s: float) -> FleetReading:
        """Return the fleet as it is now. With an `error` the reading is empty."""

    def history(self, query: FleetQuery) -> FleetSeries:
        """Return series of the past."""

    def close(self) -> None:
        """Stop threads and close connections."""


class Fleet(Protocol):
    """A fleet for its viewers. Thread-safe. The engine is queried only while somebody looks, once for all of them."""

    engine: FleetEngine

    def latest(self, wait_s: float = 0.0) -> FleetReading:
        """Return the last reading, and keep reading for the next minute.

        After an error it is the last good reading, with the error. `wait_s`: how long to wait for one that is not older
        than a minute.
        """

    def history(self, query: FleetQuery) -> FleetSeries:
        """Return series of the past; the same for all viewers until the next step begins."""

    def peek_history(self, query: FleetQuery) -> FleetSeries | None:
        """Return series of the past as they were read last, and have them read if they are due. Never waits.

        None: they are being read for the first time.
        """

    def close(self) -> None:
        """Stop reading."""


class Runs(Protocol):
    """The runs of this machine. All processes of a data folder share them.

    Every method but `recent` raises RunsError if the disk does not answer.
    """

    def recent(self) -> tuple[Run, ...]:
        """Return the newest runs, the newest first. Never waits for the disk; up to two seconds old."""

    def find(self, run_id: str) -> Run | None:
        """Return the run with this id; None if there is none."""

    def add(self, run: Run, boot_id: str | None = None) -> Run | None:
        """Store a run and return it with what is known of its process; None if too many are running.

        The run that has this id already is returned as it is. `boot_id`: that of the machine that its client is on.
        """

    def update(self, run_id: str, status: RunStatus | None, end_ms: int | None) -> Run | None:
        """Note that a run was heard of, and that it has ended if `status` says so. Return it; None: no such run."""

    def add_marks(self, run_id: str, marks: Sequence[RunMark]) -> Run | None:
        """Store marks and return the run, which keeps a limited number of them; None: no such run."""

    def marks(self, run_id: str, limit: int) -> tuple[RunMark, ...]:
        """Return the newest marks of a run, by time."""

    def report(self, run: Run) -> Mapping[str, Any]:
        """Return the report of a run: the stored one, or what the history has until now."""


class ProcessTree(Protocol):
    """The processes of this machine and their parents."""

    def find(self, pid: int, started_ms: int, boot_id: str | None) -> int | None:
        """Return the pid here of a process of this machine, also of one in a container; None if it is not known.

        `boot_id`: that of the machine which the process is on. Without it containers are not searched.
        """

    def has_ended(self, pid: int, boot_id: str | None) -> bool:
        """Return whether a process that `find` does not know is known to have ended, on this machine."""

    def start_ms(self, pid: int) -> int | None:
        """Return when a process started, epoch milliseconds; None if there is none with this pid."""

    def user(self, pid: int) -> str | None:
        """Return the name of the owner of a process."""

    def ancestors(self, pid: int) -> tuple[int, ...]:
        """Return the pids of the parents of a process, the nearest first."""


class Actions(Protocol):
    """Signals to processes on GPUs. Each request is recorded, with what came of it."""

    scope: ActionScope

    @property
    def user(self) -> str:
        """The user dashtop runs as."""

    def send(self, request: ActionRequest) -> None:
        """Send a signal. Raise ActionRefusedError."""

    def refuse(self, request: ActionRequest, refusal: Refusal, left_s: int = 0) -> ActionRefusedError:
        """Record that the web server refuses a request, and return the error to raise."""

    def records(self) -> Sequence[ActionRecord]:
        """Return the newest records, the newest first. Raise OSError if they cannot be read."""


class Clock(Protocol):
    """A source of time, so that tests can set it."""

    def now_ms(self) -> int:
        """Wall clock, epoch milliseconds."""

    def monotonic(self) -> float:
        """Seconds of a clock that is never set."""


class SystemClock:
    """The machine's clocks: wall time for timestamps, CLOCK_MONOTONIC (which stops during suspend) for intervals."""

    def now_ms(self) -> int:
        """Return epoch milliseconds."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Return seconds of a clock that is never set."""
        return time.monotonic()


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """Collector, history, alerts, runs, actions, clock and prices of one dashtop. `fleet` None: it shows no fleet."""

    latest: Latest
    history: History
    alerts: Alerts
    clock: Clock
    fleet: Fleet | None = None
    runs: Runs = field(default_factory=NoRuns)
    actions: Actions = field(default_factory=NoActions)
    prices: Prices = NO_PRICES
