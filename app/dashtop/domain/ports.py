"""The protocols between the rooms: who is asked for readings, where they are kept, what time it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dashtop.domain.sample import GpuProcess, GpuReading, Mount, Sample, SeriesKey, SeriesSet


class GpuUtilization(NamedTuple):
    """Percent of the last sampling period in which the GPU (or its memory interface) was busy."""

    gpu: float
    memory: float


class MemoryUse(NamedTuple):
    """Sizes in bytes."""

    used: int
    total: int
    available: int


class Clocks(NamedTuple):
    """Frequencies in MHz."""

    gpu: float
    memory: float


class PcieLink(NamedTuple):
    """The link as it is now (it narrows when idle)."""

    generation: int
    width: int


class ByteRates(NamedTuple):
    """Traffic in bytes per second; `sent` leaves the device or host, `received` enters it."""

    sent: float
    received: float


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

    def memory(self) -> MemoryUse:
        """Framebuffer memory; what the driver reserves for itself is not counted as used."""

    def temperature(self) -> float:
        """°C of the GPU core."""

    def power_usage(self) -> float:
        """Watts drawn by the whole board."""

    def power_limit(self) -> float:
        """Watts the board is held to at present (enforced limit)."""

    def fan_speed(self) -> float:
        """Percent of the fan's maximum; above 100 where the vendor allows it."""

    def clocks(self) -> Clocks:
        """Clocks now."""

    def max_clocks(self) -> Clocks:
        """Clocks at most."""

    def pcie_link(self) -> PcieLink:
        """The current link."""

    def pcie_rates(self) -> ByteRates:
        """PCIe traffic as seen from the GPU."""

    def encoder_utilization(self) -> float:
        """Percent busy."""

    def decoder_utilization(self) -> float:
        """Percent busy."""


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

    def describe(self, processes: Sequence[GpuProcess]) -> tuple[GpuProcess, ...]:
        """Fill in each process's executable name and CPU use; a process that is gone keeps None."""

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
    """Where samples are kept. Thread-safe."""

    def append(self, sample: Sample) -> None:
        """Keep a sample."""

    def query(self, keys: Sequence[SeriesKey], start_ms: int, end_ms: int, step_ms: int) -> SeriesSet:
        """Return each series in buckets of `step_ms` aligned to the epoch that cover [start_ms, end_ms).

        A key that was never seen is a series of gaps. Raises QueryError for an empty or immense range.
        """


class Latest(Protocol):
    """The collector as pages and API see it."""

    @property
    def interval_s(self) -> float:
        """Seconds between two collections."""

    def latest(self) -> Sample | None:
        """Return the newest sample; None before the first."""

    def alive(self) -> bool:
        """Tell whether collection is going on."""


class Clock(Protocol):
    """Time as a parameter."""

    def now_ms(self) -> int:
        """Wall clock, epoch milliseconds."""

    def monotonic(self) -> float:
        """Seconds that never jump."""
