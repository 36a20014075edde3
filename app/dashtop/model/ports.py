"""The protocols between the rooms: who is asked for readings, where they are kept, what time it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dashtop.model.sample import Event, GpuProcess, GpuReading, Mount, ProcessSpan, Sample, SeriesKey, SeriesSet


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
    """Watts that the limit of the board may be set to."""

    minimum: float
    maximum: float


class NvLinks(NamedTuple):
    """NVLink links that the GPU has, and how many of them are up."""

    total: int
    active: int


class RetiredPages(NamedTuple):
    """Pages of device memory taken out of use (before Ampere); `pending`: 1 while some wait for a reset."""

    single_bit: int
    double_bit: int
    pending: int


class RemappedRows(NamedTuple):
    """Rows of device memory replaced by spares (Ampere and later); `pending` and `failure` are 0 or 1."""

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
    """What a row of the GPU table may ask of one GPU. Every method raises Unavailable where there is no answer."""

    def utilization(self) -> GpuUtilization:
        """Percent busy."""

    def sm_activity(self) -> float:
        """Percent of time with at least one warp on a multiprocessor, averaged over all (NVML GPM)."""

    def sm_occupancy(self) -> float:
        """Percent of the warps that could be resident (NVML GPM)."""

    def tensor_activity(self) -> float:
        """Percent of time in which the tensor cores worked (NVML GPM)."""

    def dram_activity(self) -> float:
        """Percent of the memory bandwidth that was used (NVML GPM)."""

    def memory(self) -> MemoryUse:
        """Framebuffer memory; what the driver reserves for itself is not counted as used."""

    def reserved_memory(self) -> int:
        """Bytes that the driver and its firmware keep for themselves."""

    def bar1(self) -> MemoryUse:
        """The window through which the host reaches device memory."""

    def temperature(self) -> float:
        """°C of the GPU core."""

    def memory_temperature(self) -> float:
        """°C of the memory's hottest junction."""

    def temperature_margin(self) -> float:
        """°C left until the GPU slows itself down."""

    def slowdown_temperature(self) -> float:
        """°C at which the GPU slows itself down."""

    def shutdown_temperature(self) -> float:
        """°C at which the GPU switches off."""

    def power_usage(self) -> float:
        """Watts drawn by the whole board."""

    def power_instant(self) -> float:
        """Watts at this moment."""

    def power_average(self) -> float:
        """Watts, mean of the last second."""

    def power_limit(self) -> float:
        """Watts the board is held to at present (enforced limit)."""

    def default_power_limit(self) -> float:
        """Watts of the limit that the board starts with."""

    def power_limit_range(self) -> PowerRange:
        """What the limit can be set to."""

    def energy(self) -> float:
        """Joules drawn since the driver was loaded."""

    def energy_rate(self) -> float:
        """Watts, from the energy drawn between two readings."""

    def fan_speed(self) -> float:
        """Percent of the fan's maximum; above 100 where the vendor allows it."""

    def graphics_clock(self) -> float:
        """MHz of the graphics engine."""

    def memory_clock(self) -> float:
        """MHz of device memory."""

    def max_graphics_clock(self) -> float:
        """MHz the graphics engine may reach."""

    def max_memory_clock(self) -> float:
        """MHz device memory may reach."""

    def sm_clock(self) -> float:
        """MHz of the multiprocessors."""

    def video_clock(self) -> float:
        """MHz of encoder and decoder."""

    def performance_state(self) -> int:
        """0 (fastest) to 15."""

    def clock_event_reasons(self) -> int:
        """Why clocks are held down, a set of bits (catalog.reasons names them)."""

    def pcie_generation(self) -> int:
        """Of the link as it is now (it falls when idle)."""

    def pcie_width(self) -> int:
        """Lanes of the link as it is now."""

    def pcie_max_generation(self) -> int:
        """The best generation that GPU and slot can agree on."""

    def pcie_max_width(self) -> int:
        """The most lanes that GPU and slot can agree on."""

    def pcie_rates(self) -> ByteRates:
        """PCIe traffic as seen from the GPU."""

    def pcie_replays(self) -> int:
        """Packets sent again since the driver was loaded."""

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
        """Video encoding sessions open."""

    def ecc_errors(self, *, corrected: bool, lifetime: bool) -> int:
        """Memory errors, over the GPU's life or since the driver was loaded."""

    def retired_pages(self) -> RetiredPages:
        """Pages out of use."""

    def remapped_rows(self) -> RemappedRows:
        """Rows replaced."""

    def compute_mode(self) -> int:
        """0 default, 2 prohibited, 3 exclusive to one process."""

    def persistence_mode(self) -> int:
        """1 where the driver stays loaded without clients."""

    def mig_mode(self) -> int:
        """1 where the GPU is split into MIG instances."""


class HostReader(Protocol):
    """What a row of the host table may ask of the machine. Every method raises Unavailable where it is not told.

    `begin()` is called once before each walk of the table: rates are over the time between two calls.
    """

    def begin(self) -> None:
        """Take the counters of this tick."""

    def cpu_percent(self) -> float:
        """Percent busy of all cores together since the last tick."""

    def cpu_count(self) -> int:
        """Logical cores."""

    def cpu_frequency(self) -> float:
        """MHz, mean of the cores."""

    def load_average(self) -> LoadAverage:
        """Run queue."""

    def memory(self) -> MemoryUse:
        """RAM: available is what programs can still get without swapping; used is the rest."""

    def swap(self) -> MemoryUse:
        """Swap space."""

    def network_rates(self) -> ByteRates:
        """All physical and virtual interfaces but loopback and those that only relay others' traffic."""

    def disk_rates(self) -> ByteRates:
        """Whole block devices: `sent` = written, `received` = read."""

    def per_core(self) -> tuple[float, ...]:
        """Percent busy of each core since the last tick; empty on the first."""

    def mounts(self) -> tuple[Mount, ...]:
        """Mounted file systems that hold data."""

    def add_host_info(self, processes: Sequence[GpuProcess]) -> tuple[GpuProcess, ...]:
        """Return the processes with their ProcessInfo, CPU use and memory; a process that has ended keeps None."""

    def close(self) -> None:
        """Let go of threads and files."""


class GpuReader(Protocol):
    """All GPUs of the machine. `read` never raises and never blocks much past `timeout_s`."""

    simulated: bool

    def read(self, timeout_s: float) -> GpuReading:
        """Return the GPUs as they are now, or the last reading with its age, or why there are none."""

    def failures(self) -> int:
        """Count the readings that went wrong since the start."""

    def close(self) -> None:
        """End children and let go."""


class History(Protocol):
    """Where samples are kept. Thread-safe. Of several processes that share a database one writes, the others read."""

    def append(self, sample: Sample) -> None:
        """Keep a sample."""

    def query(self, keys: Sequence[SeriesKey], start_ms: int, end_ms: int, step_ms: int) -> SeriesSet:
        """Return each series in buckets of `step_ms` aligned to the epoch that cover [start_ms, end_ms).

        A key that was never seen is a series of gaps. Raises QueryError for an empty or immense range.
        """

    def series(self) -> tuple[SeriesKey, ...]:
        """Return every series that something was ever kept of, those of the host first."""

    def events(self, start_ms: int, end_ms: int) -> tuple[Event, ...]:
        """Return the newest 10 000 events in [start_ms, end_ms), in the order of time."""

    def processes(self, gpu_uuid: str, start_ms: int, end_ms: int) -> tuple[ProcessSpan, ...]:
        """Return what processes held on one GPU in [start_ms, end_ms), in the order of their start."""

    def status_message(self) -> str | None:
        """Return a sentence that says why this process does not write the history, or None if it does."""

    def close(self) -> None:
        """Write what is still waiting, for a second at most, and let go."""


class Latest(Protocol):
    """The collector as pages and API see it."""

    @property
    def interval_s(self) -> float:
        """Seconds between two collections while no viewer requests a shorter interval."""

    def request_interval(self, interval_s: float) -> float:
        """Collect at least this often for the next ten seconds. Returns the interval that now applies, in seconds."""

    def latest(self) -> Sample | None:
        """Return the newest sample; None before the first."""

    def alive(self) -> bool:
        """Tell whether collection is going on."""

    def wait(self, after_sequence: int, timeout_s: float) -> Sample | None:
        """Return the newest sample once it is another than that; None when the time is over.

        Raises CollectionEndedError when collection has been ended: there will be no other.
        """


class Clock(Protocol):
    """Time as a parameter."""

    def now_ms(self) -> int:
        """Wall clock, epoch milliseconds."""

    def monotonic(self) -> float:
        """Seconds that never jump."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """The collector, the history and the clock of one running dashtop."""

    latest: Latest
    history: History
    clock: Clock
