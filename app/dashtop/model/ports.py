"""The protocols between packages: history, collector, alerts, fleet, runs, actions, clock."""

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
        ProcessInfo,
        ProcessSpan,
        Sample,
        SeriesKey,
        SeriesSet,
        StoredGpu,
    )
    from dashtop.model.usage import Prices, StoredUsage


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
