"""The GPU metric table: one row says everything about a metric. Sampler, API, charts and exporter derive from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashtop.domain.errors import Reason, Unavailable
from dashtop.domain.metric import Aggregation, Metric, Thresholds, Unit

if TYPE_CHECKING:
    from dashtop.domain.ports import GpuDevice, PcieLink
    from dashtop.domain.sample import Device

GIB = 2.0**30
MEGA = 1e6

# GB/s of one lane and direction after line coding: PCI-SIG's transfer rates (2.5, 5 GT/s with 8b/10b; 8, 16, 32 GT/s
# with 128b/130b; 64 GT/s in 242 of 256 byte flits).
_PCIE_LANE_GBPS = {
    1: 0.25,
    2: 0.5,
    3: 8 / 8 * 128 / 130,
    4: 16 / 8 * 128 / 130,
    5: 32 / 8 * 128 / 130,
    6: 8 * 242 / 256,
}

BUSY = Thresholds(elevated=70, high=85, info=95, message="Nearly always busy")
MEMORY_FILL = Thresholds(elevated=70, high=90, warning=95, message="Memory is nearly full")
TEMPERATURE = Thresholds(elevated=75, high=85, warning=85, critical=95, message="Running hot")
POWER_FILL = Thresholds(elevated=80, high=95, info=99.5, message="At its power limit")


def percent(part: float, whole: float) -> float:
    """Return `part` of `whole` in percent; Unavailable where there is no whole."""
    if whole <= 0:
        raise Unavailable(Reason.ABSENT)
    return 100.0 * part / whole


def pcie_bandwidth(link: PcieLink) -> float:
    """Return the link's ceiling in GB/s in one direction (generation 4 x16: 31.5)."""
    lane = _PCIE_LANE_GBPS.get(link.generation)
    if lane is None or link.width <= 0:
        raise Unavailable(Reason.NOT_SUPPORTED)
    return lane * link.width


def temperature_limits(device: Device) -> Thresholds | None:
    """Return thresholds from the temperature at which this GPU itself begins to slow down."""
    slowdown = device.slowdown_celsius
    if slowdown is None:
        return None
    return Thresholds(
        elevated=slowdown - 15,
        high=slowdown - 5,
        warning=slowdown - 5,
        critical=slowdown,
        message=TEMPERATURE.message,
    )


def power_limits(device: Device) -> Thresholds | None:
    """Return POWER_FILL in watts of this GPU's enforced limit."""
    limit = device.power_limit_watts
    if limit is None:
        return None
    return Thresholds(
        elevated=POWER_FILL.elevated / 100 * limit,
        high=POWER_FILL.high / 100 * limit,
        info=0.995 * limit,
        message=POWER_FILL.message,
    )


GPU_METRICS: tuple[Metric[GpuDevice], ...] = (
    Metric(
        key="gpu.utilization.gpu",
        title="GPU utilization",
        help="Time in which at least one kernel was running.",
        unit=Unit.PERCENT,
        read=lambda gpu: gpu.utilization().gpu,
        thresholds=BUSY,
        colour="#8b5cf6",
        prometheus="dashtop_gpu_utilization_ratio",
    ),
    Metric(
        key="gpu.utilization.memory",
        title="Memory controller",
        help="Time in which device memory was being read or written.",
        unit=Unit.PERCENT,
        read=lambda gpu: gpu.utilization().memory,
        thresholds=BUSY,
        prometheus="dashtop_gpu_memory_controller_utilization_ratio",
    ),
    Metric(
        key="gpu.utilization.compute",
        title="SM activity",
        help="Time in which the multiprocessors had work, averaged over all of them (GPM, Hopper and later).",
        unit=Unit.PERCENT,
        read=lambda gpu: gpu.sm_activity(),
        thresholds=BUSY,
        period_s=1.0,
        prometheus="dashtop_gpu_sm_activity_ratio",
    ),
    Metric(
        key="gpu.memory.used_gb",
        title="VRAM used",
        help="Device memory that is allocated, without what the driver reserves for itself.",
        unit=Unit.GIBIBYTE,
        read=lambda gpu: gpu.memory().used / GIB,
        colour="#8b5cf6",
        prometheus="dashtop_gpu_memory_used_bytes",
    ),
    Metric(
        key="gpu.memory.total_gb",
        title="VRAM",
        help="Device memory of the GPU.",
        unit=Unit.GIBIBYTE,
        read=lambda gpu: gpu.memory().total / GIB,
        aggregation=Aggregation.LAST,
        constant=True,
        prometheus="dashtop_gpu_memory_total_bytes",
    ),
    Metric(
        key="gpu.memory.used_percent",
        title="VRAM used",
        help="Share of device memory that is allocated.",
        unit=Unit.PERCENT,
        read=lambda gpu: percent(gpu.memory().used, gpu.memory().total),
        thresholds=MEMORY_FILL,
        prometheus="dashtop_gpu_memory_used_ratio",
    ),
    Metric(
        key="gpu.temperature",
        title="GPU temperature",
        help="Temperature of the GPU core.",
        unit=Unit.CELSIUS,
        read=lambda gpu: gpu.temperature(),
        thresholds=TEMPERATURE,
        limits=temperature_limits,
        colour="#e8590c",
        prometheus="dashtop_gpu_temperature_celsius",
    ),
    Metric(
        key="gpu.power.current_watts",
        title="Power",
        help="Draw of the whole board.",
        unit=Unit.WATT,
        read=lambda gpu: gpu.power_usage(),
        limits=power_limits,
        prometheus="dashtop_gpu_power_watts",
    ),
    Metric(
        key="gpu.power.max_watts",
        title="Power limit",
        help="Power the board is held to at present.",
        unit=Unit.WATT,
        read=lambda gpu: gpu.power_limit(),
        aggregation=Aggregation.LAST,
        period_s=10.0,
        prometheus="dashtop_gpu_power_limit_watts",
    ),
    Metric(
        key="gpu.power.usage_percent",
        title="Power used",
        help="Share of the power limit that is drawn.",
        unit=Unit.PERCENT,
        read=lambda gpu: percent(gpu.power_usage(), gpu.power_limit()),
        thresholds=POWER_FILL,
        prometheus="dashtop_gpu_power_used_ratio",
    ),
    Metric(
        key="gpu.fan_speed",
        title="Fan",
        help="Intended speed of the fan; cards cooled by their chassis have none.",
        unit=Unit.PERCENT,
        read=lambda gpu: gpu.fan_speed(),
        period_s=1.0,
        prometheus="dashtop_gpu_fan_speed_ratio",
    ),
    Metric(
        key="gpu.clocks.gpu_mhz",
        title="GPU clock",
        help="Clock of the graphics engine.",
        unit=Unit.MEGAHERTZ,
        read=lambda gpu: gpu.clocks().gpu,
        prometheus="dashtop_gpu_clock_hertz",
    ),
    Metric(
        key="gpu.clocks.gpu_max_mhz",
        title="Highest GPU clock",
        help="Highest clock the graphics engine may reach.",
        unit=Unit.MEGAHERTZ,
        read=lambda gpu: gpu.max_clocks().gpu,
        aggregation=Aggregation.LAST,
        period_s=60.0,
        constant=True,
        prometheus="dashtop_gpu_clock_max_hertz",
    ),
    Metric(
        key="gpu.clocks.memory_mhz",
        title="Memory clock",
        help="Clock of device memory.",
        unit=Unit.MEGAHERTZ,
        read=lambda gpu: gpu.clocks().memory,
        prometheus="dashtop_gpu_memory_clock_hertz",
    ),
    Metric(
        key="gpu.clocks.memory_max_mhz",
        title="Highest memory clock",
        help="Highest clock device memory may reach.",
        unit=Unit.MEGAHERTZ,
        read=lambda gpu: gpu.max_clocks().memory,
        aggregation=Aggregation.LAST,
        period_s=60.0,
        constant=True,
        prometheus="dashtop_gpu_memory_clock_max_hertz",
    ),
    Metric(
        key="gpu.pcie.bandwidth_gbps",
        title="PCIe link ceiling",
        help="What the link can carry in one direction at its present generation and width.",
        unit=Unit.GIGABYTE_PER_SECOND,
        read=lambda gpu: pcie_bandwidth(gpu.pcie_link()),
        aggregation=Aggregation.LAST,
        prometheus="dashtop_gpu_pcie_bandwidth_bytes_per_second",
    ),
    Metric(
        key="gpu.pcie.generation",
        title="PCIe generation",
        help="Present generation of the link; it falls when the GPU is idle.",
        unit=Unit.COUNT,
        read=lambda gpu: gpu.pcie_link().generation,
        aggregation=Aggregation.LAST,
        prometheus="dashtop_gpu_pcie_generation",
    ),
    Metric(
        key="gpu.pcie.width",
        title="PCIe lanes",
        help="Present width of the link.",
        unit=Unit.COUNT,
        read=lambda gpu: gpu.pcie_link().width,
        aggregation=Aggregation.LAST,
        prometheus="dashtop_gpu_pcie_lanes",
    ),
    Metric(
        key="gpu.pcie.tx_mbps",
        title="PCIe sent",
        help="Bytes that left the GPU over PCIe, per second.",
        unit=Unit.MEGABYTE_PER_SECOND,
        read=lambda gpu: gpu.pcie_rates().sent / MEGA,
        period_s=1.0,
        prometheus="dashtop_gpu_pcie_transmit_bytes_per_second",
    ),
    Metric(
        key="gpu.pcie.rx_mbps",
        title="PCIe received",
        help="Bytes that entered the GPU over PCIe, per second.",
        unit=Unit.MEGABYTE_PER_SECOND,
        read=lambda gpu: gpu.pcie_rates().received / MEGA,
        period_s=1.0,
        prometheus="dashtop_gpu_pcie_receive_bytes_per_second",
    ),
    Metric(
        key="gpu.encoder_utilization",
        title="Video encoder",
        help="Time in which the video encoder was busy.",
        unit=Unit.PERCENT,
        read=lambda gpu: gpu.encoder_utilization(),
        thresholds=BUSY,
        prometheus="dashtop_gpu_encoder_utilization_ratio",
    ),
    Metric(
        key="gpu.decoder_utilization",
        title="Video decoder",
        help="Time in which the video decoder was busy.",
        unit=Unit.PERCENT,
        read=lambda gpu: gpu.decoder_utilization(),
        thresholds=BUSY,
        prometheus="dashtop_gpu_decoder_utilization_ratio",
    ),
)
