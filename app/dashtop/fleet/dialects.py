"""The exporters that dashtop understands: their names, units, labels and traps. A new one is one row of DIALECTS.

Names are those of dashtop's /metrics, of dcgm-exporter's default-counters.csv (from version 4.9 in base units), and of
the source of nvidia_gpu_exporter and nvitop-exporter.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

from dashtop.metrics.gpu_state import UTILIZATION
from dashtop.model.fleet import HolderKind

if TYPE_CHECKING:
    from collections.abc import Mapping

MEMORY_USED: Final = "gpu.memory.used_gb"
MEMORY_TOTAL: Final = "gpu.memory.total_gb"
TEMPERATURE: Final = "gpu.temperature"
POWER: Final = "gpu.power.current_watts"
ENERGY: Final = "gpu.energy.total_wh"
SM_CLOCK: Final = "gpu.clocks.sm_mhz"
TENSOR: Final = "gpu.utilization.tensor"

LIVE_KEYS: Final = (UTILIZATION, MEMORY_USED, TEMPERATURE, POWER)
"""Read at every refresh. The memory's size is read with the static facts, the others only for the history of a node."""

_BYTES: Final = 2.0**-30
_MIB: Final = 2.0**-10
_HERTZ: Final = 1e-6
_RATIO: Final = 100.0
_JOULES: Final = 1 / 3600.0
_MILLIJOULES: Final = 1 / 3_600_000.0


class Source(NamedTuple):
    """Where a value comes from: a metric's name, and the factor from its unit to that of dashtop's metric.

    `plus`: further metrics to add, of which those beyond the first may be missing. `matcher`: restricts the series.
    `may_be_percent`: some versions send 0 to 100 under a name that says ratio.
    """

    metric: str
    factor: float = 1.0
    plus: tuple[str, ...] = ()
    matcher: str = ""
    may_be_percent: bool = False


class Holders(NamedTuple):
    """How to find who holds a GPU: a metric with labels, of which the first that is not empty names the holder.

    `function`: combines the series of one holder. `factor`: from its unit to GiB; None: the value is no memory.
    `pod_labels`: a namespace is the holder's only where the label of its pod is set as well.
    """

    metric: str
    labels: tuple[tuple[str, HolderKind], ...]
    function: str = "max"
    factor: float | None = None
    pod_labels: Mapping[str, str] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Dialect:
    """The metrics of one exporter. `identity`: the labels that, with `instance`, identify a GPU or MIG instance.

    `probe`: exists where the exporter runs. `facts`: has the labels of each GPU. `heartbeat`: one series of each
    machine. "" in both: the probe. Labels are tried in order. `free`: the metric that says whether work can start on a
    GPU. `taken`, `lost`, `split`: conditions that select the GPUs that are idle and not free, that cannot be read, and
    that have MIG instances in their place. `has_rules`: docs/fleet has recording rules for these names. `has_page`: it
    is a dashtop, so that `instance` is the address of a page. `host`: values of the machine.
    """

    name: str
    title: str
    probe: str
    sources: Mapping[str, tuple[Source, ...]]
    identity: tuple[str, ...] = ("gpu",)
    index_labels: tuple[str, ...] = ("gpu",)
    uuid_labels: tuple[str, ...] = ("uuid",)
    name_labels: tuple[str, ...] = ("name",)
    mig_label: str = ""
    facts: str = ""
    heartbeat: str = ""
    free: str = ""
    taken: str = ""
    lost: str = ""
    split: str = ""
    has_rules: bool = False
    has_page: bool = False
    holders: Holders | None = None
    host: Mapping[str, Source] = field(default_factory=dict)


_DCGM_HOLDERS: Final = (
    ("hpc_job", HolderKind.JOB),
    ("exported_namespace", HolderKind.NAMESPACE),
    ("namespace", HolderKind.NAMESPACE),
)
_DCGM_PODS: Final = {"exported_namespace": "exported_pod", "namespace": "pod"}
_DCGM_MIG: Final = 'GPU_I_ID!=""'

DASHTOP: Final = Dialect(
    name="dashtop",
    title="dashtop",
    probe="dashtop_gpu_up",
    heartbeat="dashtop_sample_age_seconds",
    sources={
        UTILIZATION: (Source("dashtop_gpu_utilization_ratio", _RATIO),),
        MEMORY_USED: (Source("dashtop_gpu_memory_used_bytes", _BYTES),),
        MEMORY_TOTAL: (Source("dashtop_gpu_memory_total_bytes", _BYTES),),
        TEMPERATURE: (Source("dashtop_gpu_temperature_celsius"),),
        POWER: (Source("dashtop_gpu_power_watts"),),
        ENERGY: (Source("dashtop_gpu_energy_joules_total", _JOULES),),
        SM_CLOCK: (Source("dashtop_gpu_sm_clock_hertz", _HERTZ),),
        TENSOR: (Source("dashtop_gpu_tensor_activity_ratio", _RATIO),),
    },
    free="dashtop_gpu_free",
    taken="dashtop_gpu_free@ == 0 unless dashtop_gpu_utilization_ratio@ > 0.01",
    lost="dashtop_gpu_up@ == 0",
    split="dashtop_gpu_mig_mode@ == 1",
    has_rules=True,
    holders=Holders("dashtop_gpu_user_memory_bytes", (("user", HolderKind.USER),), factor=_BYTES),
    has_page=True,
    host={
        "system.cpu.usage_percent": Source("dashtop_cpu_utilization_ratio", _RATIO),
        "system.cpu.load_1m": Source("dashtop_load1"),
        "system.memory.used_percent": Source("dashtop_memory_used_ratio", _RATIO),
    },
)
DCGM_49: Final = Dialect(
    name="dcgm49",
    title="dcgm-exporter 4.9",
    probe="DCGM_FI_DEV_FB_USED_BYTES",
    sources={
        UTILIZATION: (
            Source("DCGM_FI_DEV_GPU_UTIL_RATIO", _RATIO, may_be_percent=True),
            Source("DCGM_FI_PROF_GR_ENGINE_UTIL_RATIO", _RATIO, matcher=_DCGM_MIG, may_be_percent=True),
            Source("DCGM_FI_PROF_GR_ENGINE_ACTIVE", _RATIO, matcher=_DCGM_MIG, may_be_percent=True),
        ),
        MEMORY_USED: (Source("DCGM_FI_DEV_FB_USED_BYTES", _BYTES),),
        MEMORY_TOTAL: (Source("DCGM_FI_DEV_FB_CAPACITY_BYTES", _BYTES),),
        TEMPERATURE: (Source("DCGM_FI_DEV_GPU_TEMP_CELSIUS"),),
        POWER: (Source("DCGM_FI_DEV_BOARD_POWER_WATTS"),),
        ENERGY: (Source("DCGM_FI_DEV_GPU_ENERGY_JOULES_TOTAL", _JOULES),),
        SM_CLOCK: (Source("DCGM_FI_DEV_SM_CLOCK_HERTZ", _HERTZ),),
        TENSOR: (Source("DCGM_FI_PROF_TENSOR_UTIL_RATIO", _RATIO, may_be_percent=True),),
    },
    identity=("gpu", "GPU_I_ID"),
    uuid_labels=("UUID", "gpu_uuid", "uuid"),
    name_labels=("modelName", "model_name"),
    mig_label="GPU_I_ID",
    has_rules=True,
    holders=Holders("DCGM_FI_DEV_FB_USED_BYTES", _DCGM_HOLDERS, pod_labels=_DCGM_PODS),
)
DCGM: Final = Dialect(
    name="dcgm",
    title="dcgm-exporter",
    probe="DCGM_FI_DEV_FB_USED",
    sources={
        UTILIZATION: (
            Source("DCGM_FI_DEV_GPU_UTIL"),
            Source("DCGM_FI_PROF_GR_ENGINE_ACTIVE", _RATIO, matcher=_DCGM_MIG, may_be_percent=True),
        ),
        MEMORY_USED: (Source("DCGM_FI_DEV_FB_USED", _MIB),),
        MEMORY_TOTAL: (Source("DCGM_FI_DEV_FB_USED", _MIB, plus=("DCGM_FI_DEV_FB_FREE", "DCGM_FI_DEV_FB_RESERVED")),),
        TEMPERATURE: (Source("DCGM_FI_DEV_GPU_TEMP"),),
        POWER: (Source("DCGM_FI_DEV_POWER_USAGE"),),
        ENERGY: (Source("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", _MILLIJOULES),),
        SM_CLOCK: (Source("DCGM_FI_DEV_SM_CLOCK"),),
        TENSOR: (Source("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", _RATIO, may_be_percent=True),),
    },
    identity=("gpu", "GPU_I_ID"),
    uuid_labels=("UUID", "gpu_uuid", "uuid"),
    name_labels=("modelName", "model_name"),
    mig_label="GPU_I_ID",
    has_rules=True,
    holders=Holders("DCGM_FI_DEV_FB_USED", _DCGM_HOLDERS, pod_labels=_DCGM_PODS),
)
NVIDIA_SMI: Final = Dialect(
    name="nvidia_smi",
    title="nvidia_gpu_exporter",
    probe="nvidia_smi_utilization_gpu_ratio",
    facts="nvidia_smi_gpu_info",
    sources={
        UTILIZATION: (Source("nvidia_smi_utilization_gpu_ratio", _RATIO),),
        MEMORY_USED: (Source("nvidia_smi_memory_used_bytes", _BYTES),),
        MEMORY_TOTAL: (Source("nvidia_smi_memory_total_bytes", _BYTES),),
        TEMPERATURE: (Source("nvidia_smi_temperature_gpu"),),
        POWER: (Source("nvidia_smi_power_draw_watts"),),
        ENERGY: (Source("nvidia_smi_energy_joules_total", _JOULES),),
        SM_CLOCK: (Source("nvidia_smi_clocks_current_sm_clock_hz", _HERTZ),),
    },
    identity=("uuid",),
    index_labels=("index",),
)
NVITOP: Final = Dialect(
    name="nvitop",
    title="nvitop-exporter",
    probe="gpu_utilization_Percentage",
    sources={
        UTILIZATION: (Source("gpu_utilization_Percentage"),),
        MEMORY_USED: (Source("gpu_memory_used_MiB", _MIB),),
        MEMORY_TOTAL: (Source("gpu_memory_total_MiB", _MIB),),
        TEMPERATURE: (Source("gpu_temperature_C"),),
        POWER: (Source("gpu_power_usage_W"),),
        SM_CLOCK: (Source("gpu_clock_sm_MHz"),),
    },
    identity=("index",),
    index_labels=("index",),
    name_labels=("devicename",),
    # Never process_info_info: it has the full command lines.
    holders=Holders("process_gpu_memory_MiB", (("username", HolderKind.USER),), function="sum", factor=_MIB),
)

DIALECTS: Final = (DASHTOP, DCGM_49, DCGM, NVIDIA_SMI, NVITOP)
"""By priority: a value that several exporters have is that of the first."""

NODE_LABELS: Final = ("node", "nodename", "kubernetes_node", "Hostname", "hostname")
"""Labels that name the machine, tried in order."""

NODE_EXPORTER_HOST: Final = {
    "system.cpu.load_1m": "node_load1@",
    "system.cpu.usage_percent": "100 * (1 - sum by (instance) (rate(node_cpu_seconds_total@idle[5m]))"
    " / sum by (instance) (rate(node_cpu_seconds_total@[5m])))",
    "system.memory.used_percent": "100 * (1 - node_memory_MemAvailable_bytes@ / node_memory_MemTotal_bytes@)",
}
"""Values of the host where no dashtop runs. `@` stands for matchers, here and in conditions of a dialect."""
NODE_EXPORTER_PROBE: Final = "node_load1"
