"""The GPU metric table: one row describes a metric completely. Sampler, API, charts and exporter derive from it.

The most used metrics are here; `gpu_load`, `gpu_power` and `gpu_health` contain the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashtop.metrics.convert import MEGA, pcie_bandwidth, percent
from dashtop.metrics.gpu_health import HEALTH_METRICS
from dashtop.metrics.gpu_load import LOAD_METRICS
from dashtop.metrics.gpu_power import POWER_METRICS
from dashtop.metrics.thresholds import (
    MEMORY_USAGE,
    POWER_USAGE,
    TEMPERATURE,
    power_thresholds,
    temperature_thresholds,
)
from dashtop.model.metric import GIB, Aggregation, Metric, Unit

if TYPE_CHECKING:
    from dashtop.model.ports import GpuDevice

ESSENTIAL_METRICS: tuple[Metric[GpuDevice], ...] = (
    Metric(
        key="gpu.utilization.gpu",
        title="GPU utilization",
        help="Share of time with at least one kernel running.",
        unit=Unit.PERCENT,
        read=lambda gpu: gpu.utilization().gpu,
        prometheus="dashtop_gpu_utilization_ratio",
    ),
    Metric(
        key="gpu.utilization.memory",
        title="Memory utilization (R/W time)",
        help="Share of time in which device memory was read or written.",
        unit=Unit.PERCENT,
        read=lambda gpu: gpu.utilization().memory,
        prometheus="dashtop_gpu_memory_controller_utilization_ratio",
    ),
    Metric(
        key="gpu.utilization.compute",
        title="SM activity",
        help="Share of time with at least one warp on an SM, averaged over all SMs (GPM, Hopper and later).",
        unit=Unit.PERCENT,
        read=lambda gpu: gpu.sm_activity(),
        period_s=1.0,
        prometheus="dashtop_gpu_sm_activity_ratio",
    ),
    Metric(
        key="gpu.memory.used_gb",
        title="VRAM used",
        help="Allocated device memory, without the memory reserved by the driver.",
        unit=Unit.GIBIBYTE,
        read=lambda gpu: gpu.memory().used / GIB,
        prometheus="dashtop_gpu_memory_used_bytes",
    ),
    Metric(
        key="gpu.memory.total_gb",
        title="VRAM",
        help="Total device memory.",
        unit=Unit.GIBIBYTE,
        read=lambda gpu: gpu.memory().total / GIB,
        aggregation=Aggregation.LAST,
        constant=True,
        prometheus="dashtop_gpu_memory_total_bytes",
    ),
    Metric(
        key="gpu.memory.used_percent",
        title="VRAM used",
        help="Allocated share of device memory.",
        unit=Unit.PERCENT,
        read=lambda gpu: percent(gpu.memory().used, gpu.memory().total),
        thresholds=MEMORY_USAGE,
        prometheus="dashtop_gpu_memory_used_ratio",
    ),
    Metric(
        key="gpu.temperature",
        title="GPU temperature",
        help="Temperature of the GPU core.",
        unit=Unit.CELSIUS,
        read=lambda gpu: gpu.temperature(),
        thresholds=TEMPERATURE,
        device_thresholds=temperature_thresholds,
        prometheus="dashtop_gpu_temperature_celsius",
    ),
    Metric(
        key="gpu.power.current_watts",
        title="Power",
        help="Power draw of the whole board.",
        unit=Unit.WATT,
        read=lambda gpu: gpu.power_usage(),
        device_thresholds=power_thresholds,
        prometheus="dashtop_gpu_power_watts",
    ),
    Metric(
        key="gpu.power.max_watts",
        title="Power limit",
        help="Enforced power limit.",
        unit=Unit.WATT,
        read=lambda gpu: gpu.power_limit(),
        aggregation=Aggregation.LAST,
        period_s=10.0,
        prometheus="dashtop_gpu_power_limit_watts",
    ),
    Metric(
        key="gpu.power.usage_percent",
        title="Power used",
        help="Power draw as a share of the power limit.",
        unit=Unit.PERCENT,
        read=lambda gpu: percent(gpu.power_usage(), gpu.power_limit()),
        thresholds=POWER_USAGE,
        prometheus="dashtop_gpu_power_used_ratio",
    ),
    Metric(
        key="gpu.fan_speed",
        title="Fan",
        help="Target fan speed; passively cooled cards have no fan.",
        unit=Unit.PERCENT,
        read=lambda gpu: gpu.fan_speed(),
        period_s=1.0,
        prometheus="dashtop_gpu_fan_speed_ratio",
    ),
    Metric(
        key="gpu.clocks.gpu_mhz",
        title="GPU clock",
        help="Graphics clock.",
        unit=Unit.MEGAHERTZ,
        read=lambda gpu: gpu.graphics_clock(),
        prometheus="dashtop_gpu_clock_hertz",
    ),
    Metric(
        key="gpu.clocks.gpu_max_mhz",
        title="GPU clock (max)",
        help="Maximum graphics clock.",
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
        help="Memory clock.",
        unit=Unit.MEGAHERTZ,
        read=lambda gpu: gpu.memory_clock(),
        prometheus="dashtop_gpu_memory_clock_hertz",
    ),
    Metric(
        key="gpu.clocks.memory_max_mhz",
        title="Memory clock (max)",
        help="Maximum memory clock.",
        unit=Unit.MEGAHERTZ,
        read=lambda gpu: gpu.max_memory_clock(),
        aggregation=Aggregation.LAST,
        period_s=60.0,
        constant=True,
        prometheus="dashtop_gpu_memory_clock_max_hertz",
    ),
    Metric(
        key="gpu.pcie.bandwidth_gbps",
        title="PCIe link bandwidth (max)",
        help="Bandwidth of the link in one direction at its current generation and width.",
        unit=Unit.GIGABYTE_PER_SECOND,
        read=lambda gpu: pcie_bandwidth(gpu.pcie_generation(), gpu.pcie_width()),
        aggregation=Aggregation.LAST,
        period_s=2.0,
        prometheus="dashtop_gpu_pcie_bandwidth_bytes_per_second",
    ),
    Metric(
        key="gpu.pcie.generation",
        title="PCIe generation",
        help="Current link generation; lower while the GPU is idle.",
        unit=Unit.COUNT,
        read=lambda gpu: gpu.pcie_generation(),
        aggregation=Aggregation.LAST,
        period_s=2.0,
        prometheus="dashtop_gpu_pcie_generation",
    ),
    Metric(
        key="gpu.pcie.width",
        title="PCIe lanes",
        help="Current link width.",
        unit=Unit.COUNT,
        read=lambda gpu: gpu.pcie_width(),
        aggregation=Aggregation.LAST,
        period_s=2.0,
        prometheus="dashtop_gpu_pcie_lanes",
    ),
    Metric(
        key="gpu.pcie.tx_mbps",
        title="PCIe TX",
        help="Bytes sent by the GPU over PCIe, per second.",
        unit=Unit.MEGABYTE_PER_SECOND,
        read=lambda gpu: gpu.pcie_rates().sent / MEGA,
        period_s=1.0,
        prometheus="dashtop_gpu_pcie_transmit_bytes_per_second",
    ),
    Metric(
        key="gpu.pcie.rx_mbps",
        title="PCIe RX",
        help="Bytes received by the GPU over PCIe, per second.",
        unit=Unit.MEGABYTE_PER_SECOND,
        read=lambda gpu: gpu.pcie_rates().received / MEGA,
        period_s=1.0,
        prometheus="dashtop_gpu_pcie_receive_bytes_per_second",
    ),
    Metric(
        key="gpu.encoder_utilization",
        title="Video encoder",
        help="Share of time in which the video encoder was busy.",
        unit=Unit.PERCENT,
        read=lambda gpu: gpu.encoder_utilization(),
        prometheus="dashtop_gpu_encoder_utilization_ratio",
    ),
    Metric(
        key="gpu.decoder_utilization",
        title="Video decoder",
        help="Share of time in which the video decoder was busy.",
        unit=Unit.PERCENT,
        read=lambda gpu: gpu.decoder_utilization(),
        prometheus="dashtop_gpu_decoder_utilization_ratio",
    ),
)

GPU_METRICS = (*ESSENTIAL_METRICS, *LOAD_METRICS, *POWER_METRICS, *HEALTH_METRICS)
