"""Metric families with the names and units of NVIDIA's dcgm-exporter, for dashboards built for it.

Names and units up to 4.8 are those of its etc/default-counters.csv and etc/dcp-metrics-included.csv; so are the labels.
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
BYTES_PER_GIB = 2.0**30
BYTES_PER_MEGABYTE = 1e6
HERTZ_PER_MEGAHERTZ = 1e6
JOULES_PER_WATT_HOUR = 3600.0
MILLIJOULES_PER_WATT_HOUR = 3_600_000.0
PERCENT_TO_RATIO = 0.01
_COMMON_LABELS = ("gpu", "UUID", "pci_bus_id", "device", "modelName")
LABELS = (*_COMMON_LABELS, "Hostname", "DCGM_FI_DRIVER_VERSION")
RENAMED_LABELS = (*_COMMON_LABELS, "hostname", "DCGM_FI_SYSTEM_DRIVER_VERSION")

# DCGM's name up to dcgm-exporter 4.8, metric key, factor from the metric's unit to DCGM's.
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
# Name since dcgm-exporter 4.9, and the factor to its unit: bytes, hertz, joules and ratios instead of MiB, MHz, mJ and
# percent. The names are those of the fields of DCGM 4.7; the other rows have kept theirs.
RENAMED = {
    "DCGM_FI_DEV_SM_CLOCK": ("DCGM_FI_DEV_SM_CLOCK_HERTZ", HERTZ_PER_MEGAHERTZ),
    "DCGM_FI_DEV_MEM_CLOCK": ("DCGM_FI_DEV_MEMORY_CLOCK_HERTZ", HERTZ_PER_MEGAHERTZ),
    "DCGM_FI_DEV_GPU_TEMP": ("DCGM_FI_DEV_GPU_TEMP_CELSIUS", 1.0),
    "DCGM_FI_DEV_MEMORY_TEMP": ("DCGM_FI_DEV_MEMORY_TEMP_CELSIUS", 1.0),
    "DCGM_FI_DEV_POWER_USAGE": ("DCGM_FI_DEV_BOARD_POWER_WATTS", 1.0),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": ("DCGM_FI_DEV_GPU_ENERGY_JOULES_TOTAL", JOULES_PER_WATT_HOUR),
    "DCGM_FI_DEV_PCIE_REPLAY_COUNTER": ("DCGM_FI_DEV_PCIE_REPLAY_TOTAL", 1.0),
    "DCGM_FI_DEV_GPU_UTIL": ("DCGM_FI_DEV_GPU_UTIL_RATIO", PERCENT_TO_RATIO),
    "DCGM_FI_DEV_MEM_COPY_UTIL": ("DCGM_FI_DEV_MEMORY_UTIL_RATIO", PERCENT_TO_RATIO),
    "DCGM_FI_DEV_ENC_UTIL": ("DCGM_FI_DEV_ENC_UTIL_RATIO", PERCENT_TO_RATIO),
    "DCGM_FI_DEV_DEC_UTIL": ("DCGM_FI_DEV_DEC_UTIL_RATIO", PERCENT_TO_RATIO),
    "DCGM_FI_DEV_FB_USED": ("DCGM_FI_DEV_FB_USED_BYTES", BYTES_PER_GIB),
    "DCGM_FI_DEV_FB_RESERVED": ("DCGM_FI_DEV_FB_RESERVED_BYTES", BYTES_PER_GIB),
    "DCGM_FI_DEV_RETIRED_SBE": ("DCGM_FI_DEV_PAGE_RETIRED_SBE_TOTAL", 1.0),
    "DCGM_FI_DEV_RETIRED_DBE": ("DCGM_FI_DEV_PAGE_RETIRED_DBE_TOTAL", 1.0),
    "DCGM_FI_DEV_RETIRED_PENDING": ("DCGM_FI_DEV_PAGE_RETIRED_PENDING", 1.0),
    "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS": ("DCGM_FI_DEV_ROW_REMAP_CORRECTABLE_TOTAL", 1.0),
    "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS": ("DCGM_FI_DEV_ROW_REMAP_UNCORRECTABLE_TOTAL", 1.0),
    "DCGM_FI_DEV_ROW_REMAP_FAILURE": ("DCGM_FI_DEV_ROW_REMAP_FAILED", 1.0),
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": ("DCGM_FI_PROF_GR_ENGINE_UTIL_RATIO", PERCENT_TO_RATIO),
    "DCGM_FI_PROF_SM_ACTIVE": ("DCGM_FI_PROF_SM_UTIL_RATIO", PERCENT_TO_RATIO),
    "DCGM_FI_PROF_SM_OCCUPANCY": ("DCGM_FI_PROF_SM_OCCUPANCY_RATIO", PERCENT_TO_RATIO),
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": ("DCGM_FI_PROF_TENSOR_UTIL_RATIO", PERCENT_TO_RATIO),
    "DCGM_FI_PROF_DRAM_ACTIVE": ("DCGM_FI_PROF_DRAM_UTIL_RATIO", PERCENT_TO_RATIO),
}
# What is calculated: free memory, and the total, which only 4.9 has.
FREE, RENAMED_FREE, RENAMED_TOTAL = "DCGM_FI_DEV_FB_FREE", "DCGM_FI_DEV_FB_FREE_BYTES", "DCGM_FI_DEV_FB_CAPACITY_BYTES"


def build_families(sample: Sample | None, *, is_renamed: bool = False) -> Iterator[Family]:
    """Yield the families that dcgm-exporter would serve for this sample. `is_renamed`: with the names of its 4.9."""
    gpus = sample.gpus if sample is not None else ()
    names = RENAMED_LABELS if is_renamed else LABELS
    rows = [
        (*RENAMED.get(name, (name, factor)), key) if is_renamed else (name, factor, key) for name, key, factor in NAMES
    ]
    if is_renamed:
        rows.append((RENAMED_TOTAL, BYTES_PER_GIB, "gpu.memory.total_gb"))
    for name, factor, key in rows:
        # DCGM's counters lack the suffix _total that counters need in OpenMetrics. rate() works on untyped ones.
        kind = UnknownMetricFamily if METRICS[key].kind is Kind.COUNTER else GaugeMetricFamily
        family = kind(name, METRICS[key].help, labels=names)
        for gpu in gpus:
            value = gpu.values[key]
            if value is not None:
                family.add_metric(_labels(gpu), value * factor)
        if family.samples:
            yield family
    free = GaugeMetricFamily(RENAMED_FREE if is_renamed else FREE, "Device memory that is free.", labels=names)
    factor = BYTES_PER_GIB if is_renamed else MIB_PER_GIB
    for gpu in gpus:
        used, total = gpu.values["gpu.memory.used_gb"], gpu.values["gpu.memory.total_gb"]
        if used is not None and total is not None:
            reserved = gpu.values["gpu.memory.reserved_gb"] or 0.0
            free.add_metric(_labels(gpu), max(0.0, total - used - reserved) * factor)
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
