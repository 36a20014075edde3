"""What the API answers, as plain dicts derived from the metric tables. Pure: no web framework here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from dashtop.metrics import GPU_METRICS, HOST_METRICS
from dashtop.metrics.gpu_state import find_occupancy, measure_holders
from dashtop.metrics.throttle_reasons import find_throttle_reasons
from dashtop.model.metric import GIB, MIB, Unit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dashtop.model.metric import Metric
    from dashtop.model.sample import Device, Event, Gpu, GpuProcess, Host, Mount, Sample
    from dashtop.model.unavailable import UnavailableReason

DIGITS = 4
WHOLE = frozenset({Unit.COUNT, Unit.MEGAHERTZ})
"""Units whose values are whole numbers."""

Json = dict[str, Any]


def to_json(body: object) -> bytes:
    """Return UTF-8 JSON. Raises ValueError for NaN and Infinity, which no response may contain."""
    return json.dumps(body, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()


def monitoring_all(sample: Sample, gpu: Gpu | None) -> Json:
    """Return everything about the machine and one GPU; `gpu` is None on a machine without GPUs."""
    error = sample.gpu_error or sample.driver_failure
    return {
        "gpu_available": gpu is not None,
        "gpu_list": [gpu_info(each.device) for each in sample.gpus],
        "gpu_metrics": gpu_metrics(gpu) if gpu is not None else None,
        "system_metrics": system_metrics(sample.host),
        "gpu_processes": [process(each, sample.time_ms) for each in gpu.processes] if gpu is not None else [],
        "storage": [storage(mount) for mount in sample.host.mounts],
        "timestamp": sample.time_ms,
        "simulated": sample.simulated,
        "gpu_status": error.text if error is not None else None,
        "unavailable": {**(_reasons(gpu.unavailable) if gpu is not None else {}), **_reasons(sample.host.unavailable)},
    }


def gpu_info(device: Device) -> Json:
    """Return the static facts of one GPU."""
    return {
        "id": device.index,
        "name": device.name,
        "memory_total_gb": scaled(device.memory_total_bytes, GIB),
        "cuda_version": device.cuda_version,
        "driver_version": device.driver_version,
        "compute_capability": device.compute_capability,
        "uuid": device.uuid,
        "pci_bus_id": device.pci_bus_id,
        "serial": device.serial,
        "vbios": device.vbios,
        "architecture": device.architecture,
        "power_limit_watts": device.power_limit_watts,
        "slowdown_celsius": device.slowdown_celsius,
        "shutdown_celsius": device.shutdown_celsius,
        "mig_parent_uuid": device.mig_parent_uuid,
        "mig_profile": device.mig_profile,
        "shares_host_memory": device.shares_host_memory,
    }


def gpu_metrics(gpu: Gpu) -> Json:
    """Return every metric of one GPU."""
    held = measure_holders(gpu)
    return {
        "gpu_id": gpu.device.index,
        "gpu_name": gpu.device.name,
        "gpu_uuid": gpu.device.uuid,
        "state": gpu.state.text if gpu.state is not None else None,
        "state_since": gpu.state_since_ms,
        "occupancy": find_occupancy(gpu).value,
        "holders": list(held),
        "holder_memory_mb": [scaled(size, MIB) for size in held.values()],
        "clock_reasons": _clock_reasons(gpu),
        **nested(GPU_METRICS, gpu.values),
    }


def _clock_reasons(gpu: Gpu) -> list[Json] | None:
    """Return the active throttle reasons; None if the GPU does not report them."""
    flags = gpu.values.get("gpu.clocks.event_reasons")
    if flags is None:
        return None
    return [
        {"name": each.name, "meaning": each.meaning, "severity": each.severity.value if each.severity else None}
        for each in find_throttle_reasons(flags)
    ]


def gpu_metrics_with_reasons(gpu: Gpu) -> Json:
    """Return every metric of one GPU, with the reason of each null."""
    return {**gpu_metrics(gpu), "unavailable": _reasons(gpu.unavailable)}


def system_metrics(host: Host) -> Json:
    """Return every metric of the machine."""
    body = nested(HOST_METRICS, host.values)
    body["cpu"]["per_core_percent"] = [round(core, DIGITS) for core in host.per_core]
    body["cpu"]["core_ids"] = list(host.core_ids)
    return body


def system_metrics_with_reasons(host: Host) -> Json:
    """Return every metric of the machine, with the reason of each null."""
    return {**system_metrics(host), "unavailable": _reasons(host.unavailable)}


def process(of: GpuProcess, now_ms: int) -> Json:
    """Return one process that uses GPU memory; `now_ms` is the time of the sample, epoch milliseconds."""
    started_ms = of.info.started_ms
    return {
        "pid": of.pid,
        **of.info.to_json(),
        "gpu_memory_mb": scaled(of.gpu_memory_bytes, MIB),
        "cpu_percent": _rounded(of.cpu_percent),
        "tree_cpu_percent": _rounded(of.tree_cpu_percent),
        "usable_cpus": _rounded(of.usable_cpus),
        "type": of.kind,
        "sm_percent": _rounded(of.sm_percent),
        "memory_percent": _rounded(of.memory_percent),
        "encoder_percent": _rounded(of.encoder_percent),
        "decoder_percent": _rounded(of.decoder_percent),
        "host_memory_mb": scaled(of.host_memory_bytes, MIB),
        "running_seconds": max(0.0, (now_ms - started_ms) / 1000) if started_ms is not None else None,
    }


def processes(sample: Sample) -> list[Json]:
    """Return the processes of every GPU, each with the GPU it is on."""
    return [
        {"gpu_id": gpu.device.index, "gpu_uuid": gpu.device.uuid, **process(each, sample.time_ms)}
        for gpu in sample.gpus
        for each in gpu.processes
    ]


def storage(mount: Mount) -> Json:
    """Return one mounted file system."""
    return {
        "mount_point": mount.mount_point,
        "used_gb": scaled(mount.used_bytes, GIB),
        "total_gb": scaled(mount.total_bytes, GIB),
        "used_percent": _rounded(mount.used_percent),
        "filesystem": mount.filesystem,
    }


def nested(metrics: Iterable[Metric[Any]], values: Mapping[str, float | None]) -> Json:
    """Return the values as the nested objects that the metrics' paths spell."""
    body: Json = {}
    for metric in metrics:
        *parents, leaf = metric.path.split(".")
        place = body
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = _number(values[metric.key], metric.unit)
    return body


def _reasons(unavailable: Mapping[str, UnavailableReason]) -> dict[str, str]:
    return {key: reason.text for key, reason in unavailable.items()}


def _number(value: float | None, unit: Unit) -> float | int | None:
    if value is None:
        return None
    return round(value) if unit in WHOLE else round(value, DIGITS)


def _rounded(value: float | None) -> float | None:
    return round(value, DIGITS) if value is not None else None


def scaled(size: int | None, unit: float) -> float | None:
    """Return a size in bytes in another unit, None if it is unknown."""
    return round(size / unit, DIGITS) if size is not None else None


def event(event: Event, indices: Mapping[str, int]) -> dict[str, Any]:
    """Return the JSON of an event. `indices`: those of the present GPUs, by UUID."""
    return {
        "timestamp": event.time_ms,
        "kind": event.kind,
        "severity": event.severity.value,
        "text": event.text,
        "advice": event.advice,
        "gpu_uuid": event.gpu_uuid,
        "gpu_id": indices.get(event.gpu_uuid or ""),
        "code": event.code,
    }
