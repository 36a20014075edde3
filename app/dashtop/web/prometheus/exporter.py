"""GET /metrics: one metric family for each metric, in base units. A missing value is absent, never 0."""

from __future__ import annotations

import platform
from collections import Counter
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, request
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from werkzeug.exceptions import UnprocessableEntity

from dashtop.metrics import GPU_METRICS, HOST_METRICS
from dashtop.metrics.gpu_state import find_occupancy
from dashtop.model.metric import Kind
from dashtop.model.sample import Occupancy, is_holding
from dashtop.model.unavailable import UnavailableReason
from dashtop.usage.holders import find_label, name_owner
from dashtop.version import __version__
from dashtop.web.prometheus import dcgm

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from flask import Flask
    from prometheus_client.core import Metric as Family

    from dashtop.model.alert import Alert
    from dashtop.model.metric import Metric
    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, Sample

GPU_LABELS = ("gpu", "uuid", "name")
NAMING_SCHEMES = ("dashtop", "dcgm", "dcgm49")


def register(server: Flask, services: Services, *, url_prefix: str = "/") -> None:
    """Add /metrics in Prometheus text format or OpenMetrics; `?names=dcgm` adds the names of dcgm-exporter.

    `?names=dcgm49` adds those of its version 4.9, which has renamed most of them.
    """
    routes = Blueprint("prometheus", __name__, url_prefix=url_prefix)
    registries = {}
    for scheme in NAMING_SCHEMES:
        registries[scheme] = CollectorRegistry(auto_describe=False)
        registries[scheme].register(_SampleCollector(services, scheme))

    @routes.get("/metrics")
    def _metrics() -> Response:
        scheme = request.args.get("names", "dashtop")
        if scheme not in registries:
            raise UnprocessableEntity(f"names: must be one of {', '.join(NAMING_SCHEMES)}, not {scheme[:80]!r}.")
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(encode(registries[scheme]), content_type=content_type, headers={"Cache-Control": "no-store"})

    server.register_blueprint(routes)


class _SampleCollector(Collector):
    """Build the metric families from the latest sample at each scrape."""

    def __init__(self, services: Services, scheme: str) -> None:
        self._services = services
        self._scheme = scheme

    def collect(self) -> Iterator[Family]:
        sample = self._services.latest.latest()
        yield from build_families(sample, self._services.clock.now_ms())
        yield from _build_alert_families(self._services.alerts.current())
        if self._scheme != "dashtop":
            yield from dcgm.build_families(sample, is_renamed=self._scheme == "dcgm49")

    def describe(self) -> list[Family]:
        """Return nothing, so that registering does not collect."""
        return []


def build_families(sample: Sample | None, now_ms: int) -> Iterator[Family]:
    """Yield every family; before the first sample only the build information."""
    build = {"version": __version__, "pythonversion": platform.python_version()}
    yield InfoMetricFamily("dashtop_build", "Version of dashtop and of the Python it runs on.", value=build)
    if sample is None:
        return
    yield from _build_collector_families(sample, now_ms)
    for metric in HOST_METRICS:
        yield from _build_metric_family(metric, (), [((), sample.host.values[metric.key])])
    yield from _build_filesystem_families(sample)
    yield from _build_gpu_families(sample.gpus)
    yield from _build_xid_families(sample)
    yield from _build_user_families(sample)
    for row in GPU_METRICS:
        yield from _build_metric_family(
            row, GPU_LABELS, [(get_labels(gpu), gpu.values[row.key]) for gpu in sample.gpus]
        )


def _build_alert_families(alerts: Sequence[Alert]) -> Iterator[Family]:
    """Yield the alerts that fire. `gpu` is empty for those of the host."""
    firing = GaugeMetricFamily(
        "dashtop_alert_firing", "Number of alerts that are firing.", labels=("rule", "severity", "gpu")
    )
    counts = Counter(
        (alert.rule, alert.severity.value, "" if alert.gpu_id is None else str(alert.gpu_id))
        for alert in alerts
        if alert.state.is_active and alert.inhibited_by is None
    )
    for labels, count in sorted(counts.items()):
        firing.add_metric(labels, count)
    if counts:
        yield firing


def get_labels(gpu: Gpu) -> tuple[str, str, str]:
    """Return the values of GPU_LABELS."""
    return str(gpu.device.index), gpu.device.uuid, gpu.device.name


def _build_metric_family(
    metric: Metric[Any], names: Sequence[str], values: Iterable[tuple[Sequence[str], float | None]]
) -> Iterator[Family]:
    kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
    family: Family = kind(metric.prometheus, metric.help, labels=names)
    for label_values, value in values:
        if value is not None:
            family.add_metric(label_values, value * metric.unit.factor)  # type: ignore[attr-defined]
    if family.samples:
        yield family


def _build_collector_families(sample: Sample, now_ms: int) -> Iterator[Family]:
    age = max(0.0, (now_ms - sample.time_ms) / 1000)
    yield GaugeMetricFamily("dashtop_sample_age_seconds", "Time since the latest collection began.", value=age)
    yield GaugeMetricFamily(
        "dashtop_gpu_reading_age_seconds", "Age of the GPUs' values; 0 unless the driver is late.", sample.gpu_age_s
    )
    yield GaugeMetricFamily("dashtop_simulated", "1 where the GPUs are simulated (--demo).", float(sample.simulated))
    yield CounterMetricFamily(
        "dashtop_skipped_ticks_total", "Collections that were due while another was under way.", sample.skipped_ticks
    )
    duration = GaugeMetricFamily(
        "dashtop_collector_duration_seconds", "How long the collector took the last time.", labels=("collector",)
    )
    failures = CounterMetricFamily(
        "dashtop_collector_failures_total", "Readings of the collector that went wrong.", labels=("collector",)
    )
    implausible = CounterMetricFamily(
        "dashtop_implausible_readings_total", "Values discarded because they cannot be true.", labels=("collector",)
    )
    for run in sample.collectors:
        duration.add_metric((run.name,), run.duration_s)
        failures.add_metric((run.name,), run.failures)
        implausible.add_metric((run.name,), run.implausible_count)
    success = GaugeMetricFamily(
        "dashtop_collector_success", "1 where the newest reading of the collector is complete.", labels=("collector",)
    )
    is_disabled = sample.gpu_error is UnavailableReason.DISABLED
    for run in sample.collectors:
        if run.name != "gpu" or not is_disabled:
            is_read = run.name != "gpu" or not (sample.gpu_error or sample.gpu_age_s or sample.driver_failure)
            success.add_metric((run.name,), float(is_read))
    yield from (duration, failures, implausible, success)
    if not is_disabled:
        yield GaugeMetricFamily("dashtop_gpus", "GPUs and MIG instances that are present.", value=len(sample.gpus))


def _build_filesystem_families(sample: Sample) -> Iterator[Family]:
    names = ("mountpoint", "fstype")
    size = GaugeMetricFamily("dashtop_filesystem_size_bytes", "Size of the file system.", labels=names)
    used = GaugeMetricFamily("dashtop_filesystem_used_bytes", "Blocks taken, as df counts them.", labels=names)
    for mount in sample.host.mounts:
        for family, value in ((size, mount.total_bytes), (used, mount.used_bytes)):
            if value is not None:
                family.add_metric((mount.mount_point, mount.filesystem), value)
    yield from (family for family in (size, used) if family.samples)


def _build_xid_families(sample: Sample) -> Iterator[Family]:
    errors = CounterMetricFamily(
        "dashtop_gpu_xid_errors_total", "XID errors since dashtop started.", labels=(*GPU_LABELS, "xid")
    )
    labels = {gpu.device.uuid: get_labels(gpu) for gpu in sample.gpus}
    for (uuid, code), count in sorted(sample.xid_counts.items()):
        if uuid in labels:
            errors.add_metric((*labels[uuid], str(code)), count)
    if errors.samples:
        yield errors


def _build_user_families(sample: Sample) -> Iterator[Family]:
    """Yield what each user holds and has used: at most MAX_USERS names, so that the number of series is limited."""
    memory = GaugeMetricFamily(
        "dashtop_gpu_user_memory_bytes",
        "Device memory of the user's compute processes.",
        labels=(*GPU_LABELS, "user"),
    )
    for gpu in sample.gpus:
        sizes: Counter[str] = Counter()
        for process in gpu.processes:
            if process.gpu_memory_bytes is not None and is_holding(process.kind):
                sizes[find_label(name_owner(process.info), sample.user_totals)] += process.gpu_memory_bytes
        for user, size in sorted(sizes.items()):
            memory.add_metric((*get_labels(gpu), user), size)
    held = CounterMetricFamily(
        "dashtop_user_gpu_seconds_total",
        "Time in which the user's compute processes held GPUs, which several users share in equal parts.",
        labels=("user",),
    )
    busy = CounterMetricFamily(
        "dashtop_user_gpu_busy_seconds_total", "Time × load of the user's compute processes.", labels=("user",)
    )
    for user, (held_s, busy_s) in sorted(sample.user_totals.items()):
        held.add_metric((user,), held_s)
        busy.add_metric((user,), busy_s)
    yield from (family for family in (memory, held, busy) if family.samples)


def _build_gpu_families(gpus: Sequence[Gpu]) -> Iterator[Family]:
    if not gpus:
        return
    info = InfoMetricFamily("dashtop_gpu", "Static facts of the GPU.", labels=GPU_LABELS)
    up = GaugeMetricFamily("dashtop_gpu_up", "1 where the GPU can be read at present.", labels=GPU_LABELS)
    free = GaugeMetricFamily("dashtop_gpu_free", "1 where work can start on the GPU.", labels=GPU_LABELS)
    processes = GaugeMetricFamily("dashtop_gpu_processes", "Processes that hold memory on the GPU.", labels=GPU_LABELS)
    for gpu in gpus:
        device = gpu.device
        facts = {
            "driver_version": device.driver_version,
            "cuda_version": device.cuda_version,
            "compute_capability": device.compute_capability,
            "pci_bus_id": device.pci_bus_id,
        }
        info.add_metric(get_labels(gpu), {name: value for name, value in facts.items() if value is not None})
        up.add_metric(get_labels(gpu), float(gpu.state is None))
        occupancy = find_occupancy(gpu)
        if occupancy is not Occupancy.SPLIT:  # its MIG instances have their own
            free.add_metric(get_labels(gpu), float(occupancy is Occupancy.FREE))
        if gpu.state is None:
            processes.add_metric(get_labels(gpu), len(gpu.processes))
    yield from (family for family in (info, up, free, processes) if family.samples)
