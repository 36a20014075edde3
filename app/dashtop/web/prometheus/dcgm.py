"""Metric families with the names and units of NVIDIA's dcgm-exporter, for dashboards built for it.

Names and units are those of its etc/default-counters.csv and etc/dcp-metrics-included.csv; labels are its own.
GR_ENGINE_ACTIVE, a counter of DCGM's own, is NVML's utilization here: the time in which any kernel ran.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily, UnknownMetricFamily

from dashtop.metrics import METRICS
from dashtop.model.metric import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric as Family

    from dashtop.model.sample import Gpu, Sample

MIB_PER_GIB = 1024.0
BYTES_PER_MEGABYTE = 1e6
MILLIJOULES_PER_WATT_HOUR = 3_600_000.0
PERCENT_TO_RATIO = 0.01
LABELS = ("gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname", "DCGM_FI_DRIVER_VERSION")

# DCGM's name, metric key, factor from the metric's unit to DCGM's.
NAMES = (
    ("DCGM_FI_DEV_SM_CLOCK", "gpu.clocks.sm_mhz", 1.0),
    ("DCGM_FI_DEV_MEM_CLOCK", "gpu.clocks.memory_mhz", 1.0),
    ("DCGM_FI_DEV_GPU_TEMP", "gpu.temperature", 1.0),
    ("DCGM_FI_DEV_MEMORY_TEMP", "gpu.memory_temperature", 1.0),
    ("DCGM_FI_DEV_POWER_USAGE", "gpu.power.current_watts", 1.0),
    ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "gpu.energy.total_wh", MILLIJOULES_PER_WATT_HOUR),
    ("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "gpu.pcie.replays", 1.0),
    ("DCGM_FI_DEV_GPU_UTIL", "gpu.utilization.gpu", 1.0),
    ("DCGM_FI_DEV_MEM_COPY_UTIL", "gpu.utilization.memory", 1.0),
    ("DCGM_FI_DEV_ENC_UTIL", "gpu.encoder_utilization", 1.0),
    ("DCGM_FI_DEV_DEC_UTIL", "gpu.decoder_utilization", 1.0),
    ("DCGM_FI_DEV_FB_USED", "gpu.memory.used_gb", MIB_PER_GIB),
    ("DCGM_FI_DEV_FB_RESERVED", "gpu.memory.reserved_gb", MIB_PER_GIB),
    ("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", "gpu.ecc.volatile_corrected", 1.0),
    ("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "gpu.ecc.volatile_uncorrected", 1.0),
    ("DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", "gpu.ecc.aggregate_corrected", 1.0),
    ("DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", "gpu.ecc.aggregate_uncorrected", 1.0),
    ("DCGM_FI_DEV_RETIRED_SBE", "gpu.retired_pages.single_bit", 1.0),
    ("DCGM_FI_DEV_RETIRED_DBE", "gpu.retired_pages.double_bit", 1.0),
    ("DCGM_FI_DEV_RETIRED_PENDING", "gpu.retired_pages.pending", 1.0),
    ("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", "gpu.remapped_rows.corrected", 1.0),
    ("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", "gpu.remapped_rows.uncorrected", 1.0),
    ("DCGM_FI_DEV_ROW_REMAP_FAILURE", "gpu.remapped_rows.failure", 1.0),
    ("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "gpu.utilization.gpu", PERCENT_TO_RATIO),
    ("DCGM_FI_PROF_SM_ACTIVE", "gpu.utilization.compute", PERCENT_TO_RATIO),
    ("DCGM_FI_PROF_SM_OCCUPANCY", "gpu.utilization.sm_occupancy", PERCENT_TO_RATIO),
    ("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "gpu.utilization.tensor", PERCENT_TO_RATIO),
    ("DCGM_FI_PROF_DRAM_ACTIVE", "gpu.utilization.dram", PERCENT_TO_RATIO),
    ("DCGM_FI_PROF_PCIE_TX_BYTES", "gpu.pcie.tx_mbps", BYTES_PER_MEGABYTE),
    ("DCGM_FI_PROF_PCIE_RX_BYTES", "gpu.pcie.rx_mbps", BYTES_PER_MEGABYTE),
    ("DCGM_FI_PROF_NVLINK_TX_BYTES", "gpu.nvlink.tx_mbps", BYTES_PER_MEGABYTE),
    ("DCGM_FI_PROF_NVLINK_RX_BYTES", "gpu.nvlink.rx_mbps", BYTES_PER_MEGABYTE),
)


def build_families(sample: Sample | None) -> Iterator[Family]:
    """Yield the families that dcgm-exporter would serve for this sample."""
    gpus = sample.gpus if sample is not None else ()
    for name, key, factor in NAMES:
        # DCGM's counters lack the suffix _total that counters need in OpenMetrics. rate() works on untyped ones.
        kind = UnknownMetricFamily if METRICS[key].kind is Kind.COUNTER else GaugeMetricFamily
        family = kind(name, METRICS[key].help, labels=LABELS)
        for gpu in gpus:
            value = gpu.values[key]
            if value is not None:
                family.add_metric(_labels(gpu), value * factor)
        if family.samples:
            yield family
    free = GaugeMetricFamily("DCGM_FI_DEV_FB_FREE", "Device memory that is free.", labels=LABELS)
    for gpu in gpus:
        used, total = gpu.values["gpu.memory.used_gb"], gpu.values["gpu.memory.total_gb"]
        if used is not None and total is not None:
            reserved = gpu.values["gpu.memory.reserved_gb"] or 0.0
            free.add_metric(_labels(gpu), max(0.0, total - used - reserved) * MIB_PER_GIB)
    if free.samples:
        yield free


def _labels(gpu: Gpu) -> tuple[str, ...]:
    device = gpu.device
    return (
        str(device.index),
        device.uuid,
        device.pci_bus_id or "",
        f"nvidia{device.index}",
        device.name,
        platform.node(),
        device.driver_version or "",
    )
