"""The GPU metric table: one row says everything about a metric. Sampler, API, charts and exporter derive from it.

The rows here are the ones everybody looks at; `gpu_load`, `gpu_power` and `gpu_health` hold the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashtop.catalog.convert import GIB, MEGA, pcie_bandwidth, percent
from dashtop.catalog.gpu_health import HEALTH_METRICS
from dashtop.catalog.gpu_load import LOAD_METRICS
from dashtop.catalog.gpu_power import POWER_METRICS
from dashtop.catalog.limits import BUSY, MEMORY_FILL, POWER_FILL, TEMPERATURE, power_limits, temperature_limits
from dashtop.domain.metric import Aggregation, Metric, Unit

if TYPE_CHECKING:
    from dashtop.domain.ports import GpuDevice

ESSENTIAL_METRICS: tuple[Metric[GpuDevice], ...] = (
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
        read=lambda gpu: gpu.graphics_clock(),
        prometheus="dashtop_gpu_clock_hertz",
    ),
    Metric(
        key="gpu.clocks.gpu_max_mhz",
        title="Highest GPU clock",
        help="Highest clock the graphics engine may reach.",
        unit=Unit.MEGAHERTZ,
        read=lambda gpu: gpu.max_graphics_clock(),
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
        read=lambda gpu: gpu.memory_clock(),
        prometheus="dashtop_gpu_memory_clock_hertz",
    ),
    Metric(
        key="gpu.clocks.memory_max_mhz",
        title="Highest memory clock",
        help="Highest clock device memory may reach.",
        unit=Unit.MEGAHERTZ,
        read=lambda gpu: gpu.max_memory_clock(),
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
        read=lambda gpu: pcie_bandwidth(gpu.pcie_generation(), gpu.pcie_width()),
        aggregation=Aggregation.LAST,
        prometheus="dashtop_gpu_pcie_bandwidth_bytes_per_second",
    ),
    Metric(
        key="gpu.pcie.generation",
        title="PCIe generation",
        help="Present generation of the link; it falls when the GPU is idle.",
        unit=Unit.COUNT,
        read=lambda gpu: gpu.pcie_generation(),
        aggregation=Aggregation.LAST,
        prometheus="dashtop_gpu_pcie_generation",
    ),
    Metric(
        key="gpu.pcie.width",
        title="PCIe lanes",
        help="Present width of the link.",
        unit=Unit.COUNT,
        read=lambda gpu: gpu.pcie_width(),
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

GPU_METRICS = (*ESSENTIAL_METRICS, *LOAD_METRICS, *POWER_METRICS, *HEALTH_METRICS)
