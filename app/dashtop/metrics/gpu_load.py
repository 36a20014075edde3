"""GPU metrics: activity of SMs, tensor cores, memory and video engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashtop.model.metric import Aggregation, Metric, Unit

if TYPE_CHECKING:
    from dashtop.model.readers import GpuDevice

LOAD_METRICS: tuple[Metric[GpuDevice], ...] = (
    Metric(
        key="gpu.utilization.sm_occupancy",
        title="SM occupancy",
        help="Resident warps as a share of the maximum (GPM, Hopper and later).",
        unit=Unit.PERCENT,
        read=lambda gpu: gpu.sm_occupancy(),
        period_s=1.0,
        prometheus="dashtop_gpu_sm_occupancy_ratio",
    ),
    Metric(
        key="gpu.utilization.tensor",
        title="Tensor cores",
        help="Share of time in which the tensor pipes were active (GPM, Hopper and later).",
        unit=Unit.PERCENT,
        read=lambda gpu: gpu.tensor_activity(),
        period_s=1.0,
        prometheus="dashtop_gpu_tensor_activity_ratio",
    ),
    Metric(
        key="gpu.utilization.dram",
        title="Memory bandwidth",
        help="Used share of the memory bandwidth (GPM, Hopper and later).",
        unit=Unit.PERCENT,
        read=lambda gpu: gpu.dram_activity(),
        period_s=1.0,
        prometheus="dashtop_gpu_dram_activity_ratio",
    ),
    Metric(
        key="gpu.jpeg_utilization",
        title="JPEG decoder",
        help="Share of time in which the JPEG decoder was busy.",
        unit=Unit.PERCENT,
        read=lambda gpu: gpu.jpeg_utilization(),
        prometheus="dashtop_gpu_jpeg_utilization_ratio",
    ),
    Metric(
        key="gpu.ofa_utilization",
        title="Optical flow",
        help="Share of time in which the optical flow accelerator was busy.",
        unit=Unit.PERCENT,
        read=lambda gpu: gpu.ofa_utilization(),
        prometheus="dashtop_gpu_ofa_utilization_ratio",
    ),
    Metric(
        key="gpu.encoder_sessions",
        title="Encoder sessions",
        help="Open video encoding sessions.",
        unit=Unit.COUNT,
        read=lambda gpu: gpu.encoder_sessions(),
        aggregation=Aggregation.MAX,
        period_s=2.0,
        plausible=(0.0, 100_000.0),
        prometheus="dashtop_gpu_encoder_sessions",
    ),
)
