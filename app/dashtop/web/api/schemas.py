"""Pydantic models of the responses; metrics come from the metric tables, processes from ProcessInfo.

Responses are not built with these: they describe the API (openapi.py), and tests validate every response against them.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from dashtop.metrics import GPU_METRICS, HOST_METRICS
from dashtop.model.action import SENT, Refusal
from dashtop.model.metric import Severity, Unit
from dashtop.model.sample import ProcessInfo
from dashtop.usage.summary import ENERGY_KINDS, GROUPINGS
from dashtop.web.api.serializers import WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dashtop.model.metric import Metric

EXAMPLES: dict[Unit, float | int] = {
    Unit.PERCENT: 78.5,
    Unit.CELSIUS: 64.0,
    Unit.WATT: 285.4,
    Unit.WATT_HOUR: 1250.0,
    Unit.MEGAHERTZ: 1800,
    Unit.GIBIBYTE: 16.2,
    Unit.MEGABIT_PER_SECOND: 8.3,
    Unit.MEGABYTE_PER_SECOND: 120.5,
    Unit.GIGABYTE_PER_SECOND: 31.5,
    Unit.COUNT: 16,
    Unit.LOAD: 1.25,
}
BEYOND_100 = frozenset({"gpu.fan_speed", "gpu.power.usage_percent"})
"""Percentages of a nominal value, which can be exceeded."""

Percent = Annotated[float | None, Field(ge=0, le=100, examples=[78.5], json_schema_extra={"x-unit": "%"})]
GIB: dict[str, Any] = {"x-unit": "GiB (2^30 bytes)"}
MIB: dict[str, Any] = {"x-unit": "MiB (2^20 bytes)"}
EPOCH_MS: dict[str, Any] = {"x-unit": "milliseconds since 1970-01-01T00:00:00Z"}
CELSIUS: dict[str, Any] = {"x-unit": "°C"}
A_UUID = "GPU-1afef6c2-6cc6-4d00-b3e7-a7fe83c57800"
IDENTITY = "Identity of the GPU; the index may change at a boot."
REASONS = "Reason of each null, by metric key; `gpu.processes`: why the processes are unknown."


class ResponseBody(BaseModel):
    """Base class of all responses: nothing is sent that is not described."""

    model_config = ConfigDict(extra="forbid")


def _field(metric: Metric[Any]) -> tuple[Any, Any]:
    extra: dict[str, Any] = {"x-metric": metric.key}
    limits: dict[str, Any] = {}
    if metric.unit is not Unit.CELSIUS:
        limits["ge"] = 0
    if metric.unit is Unit.PERCENT and metric.key not in BEYOND_100:
        limits["le"] = 100
    if metric.unit.symbol:
        extra["x-unit"] = metric.unit.symbol
    if metric.unit in EXAMPLES:
        limits["examples"] = [EXAMPLES[metric.unit]]
    number: Any = int if metric.unit in WHOLE else float
    described = Field(title=metric.title, description=metric.help, json_schema_extra=extra, **limits)
    return number | None, described


def _nested(name: str, metrics: Iterable[Metric[Any]], base: type[BaseModel], more: dict[str, Any]) -> type[BaseModel]:
    """Return a model whose nested fields follow the metrics' paths; `more`: further fields by dotted path."""
    tree: dict[str, Any] = {}
    fields = [(metric.path, _field(metric)) for metric in metrics]
    for path, field in [*fields, *more.items()]:
        *parents, leaf = path.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = field
    return _model(name, tree, base)


def _model(name: str, tree: dict[str, Any], base: type[BaseModel]) -> type[BaseModel]:
    fields: dict[str, Any] = {
        field: (_model(name + field.title().replace("_", ""), inner, ResponseBody), ...)
        if isinstance(inner, dict)
        else inner
        for field, inner in tree.items()
    }
    model: type[BaseModel] = create_model(name, __base__=base, **fields)
    return model


class ClockReason(ResponseBody):
    """One active throttle reason."""

    name: str = Field(examples=["SW Power Cap"])
    meaning: str = Field(examples=["The board has reached its power limit."])
    severity: str | None = Field(description="info, warning or critical; null: normal operation.", examples=["info"])


class _OfGpu(ResponseBody):
    gpu_id: int = Field(ge=0, description="Index of the GPU.", examples=[0])
    gpu_name: str = Field(examples=["NVIDIA GeForce RTX 3090"])
    gpu_uuid: str = Field(description=IDENTITY, examples=[A_UUID])
    state: str | None = Field(description="Why the GPU cannot be read; null: it can.")
    state_since: int | None = Field(
        description="Since when `state` holds, in ms since 1970; null: no state, or since before dashtop started."
    )
    occupancy: Literal["free", "idle_held", "busy", "unavailable", "split"] = Field(
        description="Whether work can start on the GPU. free: no process, next to no load and memory in use; idle_held:"
        " in use, but it does not compute at this moment; busy: it computes; unavailable: it cannot be read, it is not"
        " known, or its memory is faulty; split: only on its MIG instances, which are listed besides it.",
        examples=["busy"],
    )
    holders: list[str] = Field(
        description="Users of the compute processes on the GPU, those with most memory first.", examples=[["alice"]]
    )
    holder_memory_mb: list[float | None] = Field(
        description="What each of them holds; null: a size is not reported.",
        examples=[[8192.0]],
        json_schema_extra={"items": {"anyOf": [{"type": "number", "x-unit": "MiB"}, {"type": "null"}]}},
    )
    clock_reasons: list[ClockReason] | None = Field(
        description="Active throttle reasons, the bits of `clocks.event_reasons` in words; null: not reported."
    )


class _WithReasons(ResponseBody):
    unavailable: dict[str, str] = Field(description=REASONS)


class GpuInfo(ResponseBody):
    """Static facts of one GPU or MIG instance; null: not reported."""

    id: int = Field(ge=0, description="Index of the GPU.")
    name: str = Field(examples=["NVIDIA GeForce RTX 3090"])
    memory_total_gb: float | None = Field(ge=0, examples=[24.0], json_schema_extra=GIB)
    cuda_version: str | None = Field(description="Highest CUDA version that the driver supports.", examples=["12.2"])
    driver_version: str | None = Field(examples=["535.183.01"])
    compute_capability: str | None = Field(examples=["8.6"])
    uuid: str = Field(description=IDENTITY, examples=[A_UUID])
    pci_bus_id: str | None = Field(description="Domain, bus, device and function.", examples=["00000000:01:00.0"])
    serial: str | None = Field(description="Serial number of the board.", examples=["1650323093518"])
    vbios: str | None = Field(description="Version of the firmware.", examples=["94.02.26.48.1B"])
    architecture: str | None = Field(examples=["Ampere"])
    power_limit_watts: float | None = Field(ge=0, examples=[350.0], json_schema_extra={"x-unit": "W"})
    slowdown_celsius: float | None = Field(
        description="Temperature at which the GPU throttles its clocks.", examples=[95.0], json_schema_extra=CELSIUS
    )
    shutdown_celsius: float | None = Field(
        description="Temperature at which the GPU shuts down.", examples=[98.0], json_schema_extra=CELSIUS
    )
    mig_parent_uuid: str | None = Field(description="UUID of the GPU of this MIG instance.")
    mig_profile: str | None = Field(examples=["3g.40gb"])
    shares_host_memory: bool = Field(description="The GPU has no memory of its own.")


def _process_info() -> dict[str, Any]:
    """Return the fields of ProcessInfo, by their names in JSON."""
    types = get_type_hints(ProcessInfo)
    extra = {"started_ms": EPOCH_MS}
    return {
        each.metadata["name"]: (
            types[each.name],
            Field(description=each.metadata["help"], json_schema_extra=extra.get(each.name)),
        )
        for each in fields(ProcessInfo)
    }


class _Process(create_model("_ProcessInfo", __base__=ResponseBody, **_process_info())):  # type: ignore[misc]
    pid: int = Field(ge=0, examples=[12345])
    gpu_memory_mb: float | None = Field(ge=0, examples=[8192.0], json_schema_extra=MIB)
    type: str = Field(description="C compute, G graphics, M MPS client; joined by + where several.", examples=["C"])


class GpuProcess(_Process):
    """A process that uses GPU memory; null: not reported."""

    cpu_percent: float | None = Field(ge=0, description="100 is one core.", json_schema_extra={"x-unit": "%"})
    tree_cpu_percent: float | None = Field(
        ge=0,
        description="CPU of the process and the processes it has started, mean of 30 s; 100 is one core.",
        json_schema_extra={"x-unit": "%"},
    )
    usable_cpus: float | None = Field(
        ge=0, description="CPUs that the process may use: affinity, cpuset or quota.", examples=[16.0]
    )
    sm_percent: Percent
    memory_percent: Percent
    encoder_percent: Percent
    decoder_percent: Percent
    host_memory_mb: float | None = Field(ge=0, examples=[2048.5], json_schema_extra=MIB)
    running_seconds: float | None = Field(ge=0, examples=[3600.0], json_schema_extra={"x-unit": "s"})


class ProcessOnGpu(GpuProcess):
    """A process, with the GPU it is on."""

    gpu_id: int = Field(ge=0, description="Index of the GPU.", examples=[0])
    gpu_uuid: str = Field(description=IDENTITY, examples=[A_UUID])


class Storage(ResponseBody):
    """A mounted file system; sizes are null if it does not respond."""

    mount_point: str = Field(examples=["/"])
    used_gb: float | None = Field(ge=0, examples=[450.2], json_schema_extra=GIB)
    total_gb: float | None = Field(ge=0, examples=[1000.0], json_schema_extra=GIB)
    used_percent: Percent
    filesystem: str = Field(examples=["ext4"])


CORES = {
    "cpu.per_core_percent": (
        list[float],
        Field(description="Percent busy of each core.", json_schema_extra={"x-unit": "%"}),
    ),
    "cpu.core_ids": (
        list[int],
        Field(description="Number of each core in per_core_percent; those of cores that are offline are missing."),
    ),
}

GpuMetrics = _nested("GpuMetrics", GPU_METRICS, _OfGpu, {})
GpuMetricsWithReasons = create_model("GpuMetricsWithReasons", __base__=(GpuMetrics, _WithReasons))
SystemMetrics = _nested("SystemMetrics", HOST_METRICS, ResponseBody, CORES)
SystemMetricsWithReasons = create_model("SystemMetricsWithReasons", __base__=(SystemMetrics, _WithReasons))


class MonitoringAll(_WithReasons):
    """The machine and one GPU at one moment."""

    gpu_available: bool = Field(description="Whether this machine has a GPU.")
    gpu_list: list[GpuInfo]
    gpu_metrics: GpuMetrics | None  # type: ignore[valid-type]
    system_metrics: SystemMetrics  # type: ignore[valid-type]
    gpu_processes: list[GpuProcess]
    storage: list[Storage]
    timestamp: int = Field(description="Time of the sample.", json_schema_extra=EPOCH_MS)
    simulated: bool = Field(description="The GPUs are simulated (--demo).")
    gpu_status: str | None = Field(description="Why there are no GPUs, or why none can be read; null: no problem.")


class Statistics(ResponseBody):
    """One value per bucket, null where there is no data."""

    mean: list[float | None] = Field(examples=[[42.5, None]])
    min: list[float | None] = Field(examples=[[40.0, None]])
    max: list[float | None] = Field(examples=[[98.0, None]])


class History(ResponseBody):
    """Columns: every series has as many values as there are timestamps."""

    timestamps: list[int] = Field(description="Start of each bucket.", json_schema_extra=EPOCH_MS)
    step_ms: int = Field(description="Width of a bucket in milliseconds.", examples=[12_000])
    series: dict[str, Statistics] = Field(description="By metric key, in the unit of the metric.")
    incomplete: str | None = Field(
        description="Why values that are stored can be missing: the database does not answer. null: nothing is missing."
    )


class ExportColumn(ResponseBody):
    """Content of an exported column."""

    metric: str = Field(description="Key of the metric.", examples=["gpu.temperature"])
    statistic: str = Field(examples=["mean"], json_schema_extra={"enum": ["mean", "min", "max"]})
    unit: str = Field(examples=["°C"])
    gpu: int | None = Field(ge=0, description="Index of the GPU; null: a metric of the host.", examples=[0])
    gpu_name: str | None = Field(examples=["NVIDIA H100 80GB HBM3"])
    gpu_uuid: str | None = Field(description="null: a metric of the host.")


class Export(ResponseBody):
    """Layout `wide`. Each row: start of the bucket in ms since 1970, then one value per column, null without data."""

    step_ms: int = Field(description="Width of a bucket in milliseconds.", examples=[12_000])
    columns: list[ExportColumn]
    rows: list[list[float | None]] = Field(examples=[[[1795785420000, 64.0], [1795785432000, None]]])


class LongExport(ResponseBody):
    """Layout `long`. Each row: start of the bucket in ms since 1970, and one metric of the host or of one GPU."""

    step_ms: int = Field(description="Width of a bucket in milliseconds.", examples=[12_000])
    columns: list[str] = Field(examples=[["time", "gpu", "gpu_name", "metric", "mean", "min", "max"]])
    rows: list[list[float | str | None]] = Field(
        examples=[[[1795785420000, 0, "NVIDIA H100 80GB HBM3", "gpu.temperature", 64.0, 63.0, 65.0]]]
    )


class Event(ResponseBody):
    """Something that happened."""

    timestamp: int = Field(description="When it happened.", json_schema_extra=EPOCH_MS)
    kind: str = Field(examples=["throttle_begin"])
    severity: str = Field(examples=[Severity.INFO.value], json_schema_extra={"enum": [each.value for each in Severity]})
    text: str = Field(examples=["dashtop started."])
    advice: str = Field(description="What to do; may be empty.")
    gpu_uuid: str | None = Field(description="null: an event of the host, the driver or dashtop.")
    gpu_id: int | None = Field(description="Present index of the GPU; null if it is absent.")
    code: int | None = Field(description="XID number, pid, or a number of the alert, the same at its end.")


class Alert(ResponseBody):
    """A condition that a person should know of."""

    id: str = Field(description="The same for the same rule, GPU and subject.", examples=["9f86d081884c7d65"])
    rule: str = Field(examples=["remap_pending"])
    severity: str = Field(
        examples=[Severity.WARNING.value], json_schema_extra={"enum": [each.value for each in Severity]}
    )
    state: str = Field(examples=["firing"], json_schema_extra={"enum": ["pending", "firing", "recovering"]})
    gpu_uuid: str | None = Field(description="null: it is about the host.")
    gpu_id: int | None = Field(description="Index of the GPU.")
    subject: str = Field(description="Mount point, or pid and start time of a process; else empty.")
    user: str | None = Field(description="Owner of the process that it is about.")
    text: str = Field(examples=["GPU 4 (Tesla V100-SXM2-32GB): page retirement pending."])
    advice: str = Field(description="What to do; may be empty.")
    value: float | None = Field(description="The value that was judged.")
    threshold: float | None = Field(description="The limit that it was compared with.")
    pending: int = Field(description="When the condition began.", json_schema_extra=EPOCH_MS)
    since: int | None = Field(description="When it fired; null while it is pending.", json_schema_extra=EPOCH_MS)
    acked: int | None = Field(description="When somebody marked it as seen.", json_schema_extra=EPOCH_MS)
    acked_by: str | None = Field(description="Who marked it as seen.", examples=["ada"])
    silenced_by: str | None = Field(description="Id of the silence that suppresses its notices.")
    inhibited_by: str | None = Field(description="Id of the alert that explains it, so that it sends no notice.")


class AlertRule(ResponseBody):
    """A rule that alerts follow."""

    id: str = Field(examples=["remap_pending"])
    title: str = Field(examples=["Row remap pending"])
    severity: str = Field(
        examples=[Severity.WARNING.value], json_schema_extra={"enum": [each.value for each in Severity]}
    )
    enabled: bool = Field(description="Whether it is evaluated.")
    for_s: float = Field(description="Time that the condition must hold before the alert fires, in seconds.")
    clear_s: float | None = Field(
        description="Time without it before the alert ends, in seconds; null: when it is acknowledged."
    )
    limits: dict[str, float] = Field(
        description="Limits that `[alerts.<rule>]` in the settings file can change.", examples=[{"margin": 3.0}]
    )


class ChannelTest(ResponseBody):
    """The result of a test notice."""

    ok: bool = Field(description="Whether the channel has taken it.")
    error: str | None = Field(description="Why not.", examples=["It answered with status 404."])


class Silence(ResponseBody):
    """Suppresses the notices of matching alerts."""

    id: str = Field(examples=["5f3a9c01b2d4"])
    rule: str = Field(description="Rule, or a pattern of rules.", examples=["gpu_*"])
    gpu_uuid: str | None = Field(description="Only of this GPU; null: of any.")
    user: str | None = Field(description="Only of processes of this user; null: of any.")
    from_: int = Field(alias="from", description="When it began.", json_schema_extra=EPOCH_MS)
    until: int = Field(description="When it ends.", json_schema_extra=EPOCH_MS)
    reason: str = Field(examples=["known; new card ordered"])
    by: str = Field(description="Who has silenced it.", examples=["ada"])


class Service(ResponseBody):
    """Processes that may hold GPU memory without computing."""

    id: str = Field(examples=["5f3a9c01b2d4"])
    username: str | None = Field(description="Their owner.", examples=["ada"])
    process_name: str | None = Field(examples=["vllm"])
    container: str | None = Field(description="Short id of their container.")
    since: int = Field(description="When they were marked.", json_schema_extra=EPOCH_MS)
    by: str = Field(description="Who has marked them.", examples=["ada"])


class Watch(ResponseBody):
    """Somebody waits for a GPU or for the end of a process."""

    id: str = Field(examples=["5f3a9c01b2d4"])
    kind: str = Field(examples=["gpu_free"], json_schema_extra={"enum": ["gpu_free", "process_end"]})
    subject: str = Field(examples=["GPU 3 (NVIDIA H100 80GB HBM3)"])
    gpu_uuid: str | None = Field(description="The GPU, or one that the process uses.")
    pid: int | None = Field(description="The process.")
    channel: str | None = Field(description="Channel that is notified; null: only browsers.")
    from_: int = Field(alias="from", description="When it began.", json_schema_extra=EPOCH_MS)
    until: int = Field(description="When it ends without having been met.", json_schema_extra=EPOCH_MS)
    by: str = Field(description="Who waits.", examples=["ada"])
    met: int | None = Field(description="When it was met; null: not yet.", json_schema_extra=EPOCH_MS)
    text: str | None = Field(description="What has happened.", examples=["GPU 3 (H100) has been free for a minute."])


class SentSignal(ResponseBody):
    """A signal that was sent. Whether the process ends is seen in /processes."""

    pid: int = Field(examples=[4711])
    signal: str = Field(examples=["TERM"])


class ActionRecord(ResponseBody):
    """A record of the audit log."""

    time_ms: int = Field(description="When it was requested.", json_schema_extra=EPOCH_MS)
    client: str = Field(description="Address of the client.", examples=["10.0.0.5"])
    viewer: str | None = Field(description="User that a trusted proxy has named.", examples=["ada"])
    pid: int = Field(examples=[4711])
    started_ms: int = Field(description="Start of the process in the request.", json_schema_extra=EPOCH_MS)
    owner: str | None = Field(description="Owner of the process; null: not known.", examples=["ada"])
    name: str | None = Field(description="Name of the process; null: not known.", examples=["python"])
    signal: str = Field(examples=["TERM"])
    outcome: str = Field(
        description="`sent`, or why it was refused.",
        examples=[SENT],
        json_schema_extra={"enum": [SENT, *(each.outcome for each in Refusal)]},
    )


class ProcessSpan(_Process):
    """A period in which one process used about the same memory (within 5 %)."""

    start: int = Field(description="Start of the period.", json_schema_extra=EPOCH_MS)
    end: int = Field(description="End; up to 15 s old while the process runs.", json_schema_extra=EPOCH_MS)
    peak_gpu_memory_mb: float | None = Field(ge=0, examples=[8192.0], json_schema_extra=MIB)
    peak_sm_percent: Percent


HOURS: dict[str, Any] = {"x-unit": "h"}
KWH: dict[str, Any] = {"x-unit": "kWh"}
Hours = Annotated[float | None, Field(ge=0, examples=[12.5], json_schema_extra=HOURS)]
Kwh = Annotated[float | None, Field(ge=0, examples=[3.2], json_schema_extra=KWH)]
Share = Annotated[float, Field(ge=0, le=1, examples=[0.97])]


class UsageRow(ResponseBody):
    """What one user, container, Slurm job, process or GPU has used; null: not known, or not applicable."""

    key: str = Field(
        description="User, container, job, process with its PID, or UUID of the GPU. In parentheses: (unknown), (none),"
        " (outside this container), and (shared): energy that cannot be split.",
        examples=["ada"],
    )
    held_h: Hours = Field(description="A compute process held a GPU; null of a GPU whose processes are not known.")
    shared_h: Hours = Field(
        description="Held time divided by the owners at the time: the sum is the time in which GPUs were held."
    )
    busy_h: Hours = Field(description="Time × load: SM utilization, or that of the GPU for its only owner.")
    idle_h: Hours = Field(description="Held at a load of at most 1 %.")
    active_kwh: Kwh = Field(description="Board energy as the driver reports it, beyond the base power.")
    base_kwh: Kwh = Field(description="Part of the energy that GPUs take without a process; null: not known yet.")
    cost: float | None = Field(ge=0, description="With --price-kwh or --price-gpu-hour.", examples=[4.2])
    energy_kind: str | None = Field(
        description="counter: the driver's counter; integrated: power × time; mixed: both; estimated_share: several"
        " owners held a GPU, and its energy is split by their load.",
        json_schema_extra={"enum": [*ENERGY_KINDS, None]},
    )
    is_shared: bool = Field(description="Other owners held a GPU at the same time.")
    known: Share = Field(description="Share of the held time whose load is known; of a GPU: of the measured time.")
    gpus: list[str] = Field(description="UUIDs of its GPUs.", examples=[[A_UUID]])
    processes: int = Field(ge=0, description="Compute processes.", examples=[3])
    mean_memory_gb: float | None = Field(ge=0, description="Device memory, mean.", json_schema_extra=GIB)
    pid: int | None = Field(description="Of a process.", examples=[4711])
    started: int | None = Field(description="When a process started.", json_schema_extra=EPOCH_MS)
    user: str | None = Field(description="User of a process.", examples=["ada"])
    gpu_id: int | None = Field(description="Index of a GPU.", examples=[0])
    gpu_name: str | None = Field(description="Model of a GPU.", examples=["NVIDIA H100 80GB HBM3"])
    coverage: Share | None = Field(description="Share of the window in which a GPU was read.")
    free_h: Hours = Field(description="A GPU without a compute process.")
    energy_kwh: Kwh = Field(description="All energy of a GPU.")
    thermal_h: Hours = Field(description="A GPU throttled by temperature.")
    hw_h: Hours = Field(description="A GPU throttled by the hardware: slowdown or power brake.")
    power_cap_h: Hours = Field(description="A GPU at its power limit.")


class Usage(ResponseBody):
    """Usage of the GPUs of this machine in whole buckets of ten minutes, or of days where only these are kept."""

    by: str = Field(description="What the rows are.", json_schema_extra={"enum": [*GROUPINGS]})
    start: int = Field(description="Start of the first bucket.", json_schema_extra=EPOCH_MS)
    end: int = Field(description="End of the last bucket, or now.", json_schema_extra=EPOCH_MS)
    began: int | None = Field(description="Since when usage is recorded.", json_schema_extra=EPOCH_MS)
    coverage: Share = Field(description="Share of the window in which GPUs were read.")
    rows: list[UsageRow] = Field(description="By held time, the longest first; GPUs by index.")
    energy_kwh: Kwh = Field(description="Board energy of all GPUs as the driver reports it.")
    unattributed_kwh: Kwh = Field(description="The part of it while no process held a GPU.")
    is_cut: bool = Field(description="There are more processes than were read.")
    incomplete: str | None = Field(description="Why the history could not be read; null: it is complete.")


class Run(ResponseBody):
    """A run."""

    id: str = Field(examples=["5f3a9c01b2d4e6f8"])
    name: str = Field(examples=["resnet-a"])
    tags: dict[str, str] = Field(examples=[{"lr": "3e-4"}])
    user: str | None = Field(description="Owner of the process, or what the client says.", examples=["ada"])
    pid: int | None = Field(description="Its process: its pid on this machine, if it is known here.", examples=[4711])
    started_ms: int | None = Field(description="When that process started.", json_schema_extra=EPOCH_MS)
    begin: int = Field(description="When it began.", json_schema_extra=EPOCH_MS)
    end: int | None = Field(description="null: it is running.", json_schema_extra=EPOCH_MS)
    status: str = Field(
        description="lost: the process has ended, or was silent for 90 s, without saying so.",
        json_schema_extra={"enum": ["running", "finished", "failed", "lost"]},
    )
    gpu_uuids: list[str] | None = Field(description="GPUs that it has held; null: its process is not known here.")
    marks: int = Field(ge=0, description="Number of its marks.")
    energy_wh: float | None = Field(
        description="Of all its GPUs, until now while it runs.", json_schema_extra={"x-unit": "Wh"}
    )
    energy_kind: str | None = Field(
        description="Where it comes from; see the report.",
        json_schema_extra={"enum": ["counter", "integrated", "estimated_share", None]},
    )
    peak_gpu_memory_mb: float | None = Field(
        description="Of its report: the most memory that its processes held on one GPU.", json_schema_extra=MIB
    )
    simulated: bool = Field(description="It is invented (--demo).")


class RunStarted(ResponseBody):
    """A run that has begun."""

    id: str = Field(examples=["5f3a9c01b2d4e6f8"])
    url: str = Field(description="Its page, relative to that of dashtop.", examples=["?page=runs&run=5f3a9c01b2d4e6f8"])


class RunMark(ResponseBody):
    """Something that happened in a run."""

    time: int = Field(description="When it happened.", json_schema_extra=EPOCH_MS)
    text: str = Field(examples=["epoch 3"])


class XidCount(ResponseBody):
    """How often an XID occurred."""

    code: int = Field(description="Number of the XID.", examples=[31])
    count: int = Field(description="How often.", ge=1)


class RunAlert(ResponseBody):
    """An alert that fired during a run."""

    time: int = Field(description="When it fired.", json_schema_extra=EPOCH_MS)
    severity: str = Field(examples=["warning"])
    text: str = Field(examples=["GPU 3 (NVIDIA H100 80GB HBM3): HW thermal slowdown. Check fans and airflow."])


class RunDiagnosis(ResponseBody):
    """What limited a run on a GPU."""

    name: str = Field(examples=["compute_bound"])
    verdict: str = Field(examples=["compute-bound"])
    evidence: list[str] = Field(examples=[["97 % utilization", "71 % SM activity"]])
    note: str = Field(description="What is not known; may be empty.")


SECONDS: dict[str, Any] = {"x-unit": "s"}


class GpuOfRun(ResponseBody):
    """What a run used of one GPU, while its processes held it."""

    gpu_id: int | None = Field(ge=0, description="Index of the GPU.")
    gpu_uuid: str = Field(examples=[A_UUID])
    gpu_name: str | None = Field(examples=["NVIDIA H100 80GB HBM3"])
    held_s: float = Field(ge=0, description="How long its processes held the GPU.", json_schema_extra=SECONDS)
    peak_gpu_memory_mb: float | None = Field(
        ge=0, description="Most memory of all its processes together.", json_schema_extra=MIB
    )
    mean_utilization: Percent
    p95_utilization: Percent
    mean_sm: Percent
    mean_tensor: Percent
    max_temperature: float | None = Field(description="Highest while held.", json_schema_extra=CELSIUS)
    idle_s: float | None = Field(ge=0, description="Held at a utilization of at most 1 %.", json_schema_extra=SECONDS)
    thermal_s: float | None = Field(ge=0, description="Slowed down by heat.", json_schema_extra=SECONDS)
    power_cap_s: float | None = Field(ge=0, description="At the power limit.", json_schema_extra=SECONDS)
    energy_wh: float | None = Field(ge=0, description="Board energy.", json_schema_extra={"x-unit": "Wh"})
    energy_kind: str | None = Field(
        description="counter: the driver's energy counter; integrated: power × time; estimated_share: others held the"
        " GPU at the same time, and each counts equally.",
        json_schema_extra={"enum": ["counter", "integrated", "estimated_share", None]},
    )
    xids: list[XidCount] = Field(description="XIDs of this GPU during the run.")
    alerts: list[RunAlert] = Field(description="Alerts about this GPU that fired during the run.")
    diagnosis: RunDiagnosis | None = Field(description="null: held for less than a minute, or nothing is known.")
    unavailable: dict[str, str] = Field(description="Reason of each null.")


class HostOfRun(ResponseBody):
    """The whole machine during a run."""

    peak_memory_gb: float | None = Field(ge=0, description="Most memory in use.", json_schema_extra=GIB)
    mean_cpu_percent: Percent


class RunReport(ResponseBody):
    """What a run used, and what limited it."""

    duration_s: float = Field(ge=0, description="From its begin to its end, or until now.", json_schema_extra=SECONDS)
    coverage: float = Field(ge=0, le=1, description="Share of the time with readings.", examples=[0.97])
    gpus: list[GpuOfRun] | None = Field(description="null: its process is not known on this machine.")
    host: HostOfRun
    is_final: bool = Field(description="False: until now, or the end is not recorded completely yet.")
    unavailable: dict[str, str] = Field(description="Reason of each null; `gpus` also if the list is empty.")


class RunWithReport(ResponseBody):
    """A run, its newest marks and its report."""

    run: Run
    marks: list[RunMark] = Field(description="The newest 1 000.")
    report: RunReport


class Error(ResponseBody):
    """Body of every error."""

    detail: str = Field(examples=["Invalid GPU ID"])


class FleetHolder(ResponseBody):
    """What holds memory of a GPU."""

    name: str = Field(examples=["ada"])
    kind: Literal["user", "job", "namespace"] = Field(description="User, Slurm job, or Kubernetes namespace.")
    memory_gb: float | None = Field(description="null: not reported.", json_schema_extra=GIB)


class FleetGpu(ResponseBody):
    """A GPU, or MIG instance, of the fleet."""

    node: str = Field(examples=["gpu1"])
    gpu_id: int | None = Field(ge=0, description="Index of the GPU on its node; null: not reported.")
    gpu_uuid: str | None = Field(description="As the exporter reports it; null: it does not.", examples=[A_UUID])
    mig_instance: str | None = Field(description="Number of the MIG instance; null: a whole GPU.")
    gpu_name: str = Field(description="May be empty.", examples=["NVIDIA H100 80GB HBM3"])
    occupancy: Literal["free", "idle_held", "busy", "unavailable", "split"] = Field(
        description="As in /gpu-metrics/all, by the last two minutes; idle_held: in use, and idle for an hour."
    )
    holders: list[FleetHolder]
    values: dict[str, float] = Field(
        description="By metric key, in the metric's unit.", examples=[{"gpu.utilization.gpu": 97.0}]
    )
    unavailable: dict[str, str] = Field(description="Why a metric is not in `values`.")
    age_seconds: float = Field(description="Age of the values when they were read.", json_schema_extra={"x-unit": "s"})


class FleetNode(ResponseBody):
    """A machine of the fleet."""

    node: str = Field(examples=["gpu1"])
    instance: str = Field(description="Its name at the engine, or the address of the peer.", examples=["gpu1:8050"])
    state: Literal["up", "down", "stale", "vanished"] = Field(
        description="stale: no new values; vanished: it was there in the last day, and is not scraped any more."
    )
    reason: str | None = Field(description="Why it is not up, or what else is wrong.")
    exporter: str | None = Field(examples=["dashtop"])
    url: str | None = Field(description="Address of its dashtop; null: not known.")
    age_seconds: float | None = Field(description="Age of its values; null: there are none.")
    values: dict[str, float] = Field(description="Of the machine, by metric key, in the metric's unit.")


class _FleetReading(ResponseBody):
    engine: str = Field(description="Address of the engine, or the number of peers.", examples=["3 dashtops"])
    as_of: int | None = Field(description="Time of the values by the engine's clock.", json_schema_extra=EPOCH_MS)
    age_seconds: float | None = Field(description="Time since they were read.", json_schema_extra={"x-unit": "s"})
    exporters: list[str] = Field(examples=[["dashtop", "dcgm-exporter"]])
    partial: bool = Field(description="The engine answered from a part of its data: numbers are 'at least'.")
    warnings: list[str] = Field(description="What the engine says about that.")
    notes: list[str] = Field(description="What limits the reading otherwise.")
    error: str | None = Field(description="Why there are no newer values; null: these are new.")


class FleetSummary(ResponseBody):
    """Numbers of the selected GPUs, and of nodes. A GPU with MIG instances is not counted itself."""

    gpus: int = Field(ge=0, description="Those that are counted: free, idle_held, busy and unavailable.")
    free: int = Field(ge=0, description="Work can start on them.")
    idle_held: int = Field(ge=0, description="In use, and idle for an hour.")
    busy: int = Field(ge=0, description="They compute, or are in use.")
    unavailable: int = Field(ge=0, description="They cannot be read, are faulty, or it is not known.")
    nodes: int = Field(ge=0, description="Machines.")
    nodes_up: int = Field(ge=0, description="Those that answer.")
    nodes_down: int = Field(ge=0, description="Down, stale or vanished.")
    power_watts: float | None = Field(description="null: not reported.", json_schema_extra={"x-unit": "W"})


class Fleet(_FleetReading):
    """The fleet at one moment."""

    summary: FleetSummary
    nodes: list[FleetNode]
    gpus: list[FleetGpu]


class FleetFreeNode(ResponseBody):
    """A node with enough free GPUs."""

    node: str = Field(examples=["gpu1"])
    cuda_visible_devices: str | None = Field(
        description="Value of CUDA_VISIBLE_DEVICES for `count` of them: UUIDs, else indices, which are CUDA's with"
        " CUDA_DEVICE_ORDER=PCI_BUS_ID; null: neither is reported."
    )
    gpus: list[FleetGpu]


class FleetMissingNode(ResponseBody):
    """A node that does not answer, so that it is not known what is free on it."""

    node: str = Field(examples=["gpu2"])
    state: Literal["down", "stale", "vanished"] = Field(description="As in `nodes` of the fleet.")
    reason: str | None = Field(description="Why it does not answer; null: not known.")


class FleetFree(_FleetReading):
    """Where work can start."""

    nodes: list[FleetFreeNode]
    down: list[FleetMissingNode]
