"""The protocols of what reads GPUs and the host, and the records that they return."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dashtop.model.sample import GpuProcess, GpuReading, Mount


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
