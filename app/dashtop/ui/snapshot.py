"""The snapshot: what the page shows at one moment, as small JSON. Pure functions of a sample.

The server decides levels, warnings and reasons, and the browser only paints: thresholds are in the metric table alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dashtop.metrics import ALL_METRICS
from dashtop.model.unavailable import UnavailableReason
from dashtop.ui.parts import Table

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from dashtop.model.metric import Metric, Thresholds
    from dashtop.model.sample import Device, Gpu, Sample

# Metrics that are read this seldom are a part of their own: it is sent again only after they have been read.
_SLOW_PERIOD_S: Final = 10.0

_SHORT_UUID_LENGTH: Final = len("GPU-12345678")


def build_waiting_snapshot(interval_s: float) -> dict[str, Any]:
    """Return the snapshot before the first sample: nothing to show yet, and nothing wrong."""
    return {"sequence": None, "interval": interval_s, "error": None}


def build_snapshot(
    sample: Sample, gpu: Gpu | None, metrics: Sequence[Metric[Any]], *, age_s: float, interval_s: float, alive: bool
) -> dict[str, Any]:
    """Return what the page shows of `sample` for those who look at `gpu`, with the values of `metrics`."""
    readings = build_readings(sample, gpu, metrics)
    values = readings["values"]
    slow_keys = [metric.key for metric in metrics if metric.period_s >= _SLOW_PERIOD_S and metric.key in values]
    slow = {key: values.pop(key) for key in slow_keys}
    return {
        "sequence": sample.sequence,
        "time": sample.time_ms,
        "age": round(max(age_s, 0.0), 2),
        "interval": interval_s,
        "simulated": sample.simulated,
        "devices": build_devices(sample),
        "notice": None if gpu is not None else build_notice(sample.gpu_error),
        "error": build_error(sample, gpu, alive=alive),
        **readings,
        "values": Table(columns=list(values), rows=[list(values.values())]),
        "slow_values": slow,
    }


def build_readings(sample: Sample, gpu: Gpu | None, metrics: Iterable[Metric[Any]]) -> dict[str, Any]:
    """Return the values of `metrics` from `gpu` and the host, with reasons, levels and warnings by metric."""
    known, reasons = dict(sample.host.values), dict(sample.host.unavailable)
    if gpu is not None:
        known |= gpu.values
        reasons |= gpu.unavailable
    device = gpu.device if gpu is not None else None
    values: dict[str, float | None] = {}
    missing: dict[str, str] = {}
    levels: dict[str, str] = {}
    warnings: dict[str, dict[str, str]] = {}
    for metric in metrics:
        key = metric.key
        if key not in known:
            continue
        value = known[key]
        values[key] = None if value is None else round(value, 3)
        if key in reasons:
            missing[key] = reasons[key].text
        thresholds = metric.thresholds_for(device)
        if value is None or thresholds is None:
            continue
        if level := find_level(thresholds, value):
            levels[key] = level
        if severity := thresholds.severity(value):
            warnings[key] = {"severity": severity.value, "message": thresholds.message}
    return {
        "gpu": device.index if device is not None else None,
        "gpu_age": round(sample.gpu_age_s, 1),
        "values": values,
        "missing": missing,
        "levels": levels,
        "warnings": warnings,
    }


def build_devices(sample: Sample) -> list[dict[str, Any]]:
    """Return index, name and UUID of every GPU, and whether it shares the host's memory.

    UUIDs are cut to the short form that NVIDIA's tools accept, unless that is the same for two GPUs.
    """
    uuids = [gpu.device.uuid for gpu in sample.gpus]
    short = [uuid[:_SHORT_UUID_LENGTH] for uuid in uuids]
    shown = short if len(set(short)) == len(short) else uuids
    return [
        {
            "index": gpu.device.index,
            "name": gpu.device.name,
            "uuid": uuid,
            "shares_host_memory": gpu.device.shares_host_memory,
        }
        for gpu, uuid in zip(sample.gpus, shown, strict=True)
    ]


def build_notice(reason: UnavailableReason | None) -> dict[str, str]:
    """Return the texts that explain why no GPU is shown."""
    if reason is not None and reason.is_pending:
        title = "Looking for GPUs"
    elif reason is UnavailableReason.DISABLED:
        title = "GPU monitoring off"
    elif reason is not None and reason.is_failure:
        title = "GPUs cannot be read"
    else:
        title = "No GPU detected"
    outlook = "CPU and memory monitoring goes on"
    if reason is not UnavailableReason.DISABLED:
        outlook += ", and a GPU that appears is shown by itself"
    return {
        "title": title,
        "reason": _sentence((reason or UnavailableReason.NO_DEVICE).text),
        "outlook": f"{outlook}.",
    }


def build_error(sample: Sample, gpu: Gpu | None, *, alive: bool) -> dict[str, str] | None:
    """Return what the error banner says although the server answers; None if nothing is wrong.

    `scope` is "gpu" if only the chosen GPU has failed: pages that do not show it have no banner.
    """
    reason = sample.gpu_error if gpu is None else find_gpu_error(gpu)
    if not alive:
        return {"type": "general", "message": "Collection has stopped: the values no longer change."}
    if reason is not None and reason.is_failure:
        has_others = any(find_gpu_error(each) is None for each in sample.gpus)
        message = f"{_sentence(reason.text)} CPU and memory monitoring goes on."
        return {"type": "gpu", "scope": "gpu" if has_others else "driver", "message": message}
    return None


def select_metrics(keys: Collection[str]) -> tuple[Metric[Any], ...]:
    """Return the metrics with these keys, in the order of the table."""
    return tuple(metric for metric in ALL_METRICS if metric.key in keys)


def find_gpu(sample: Sample, name: str) -> Gpu | None:
    """Return the GPU with this index, UUID or beginning of a UUID; else the first; None if there is no GPU."""
    first = next(iter(sample.gpus), None)
    return next((gpu for gpu in sample.gpus if _has_name(gpu.device, name)), first)


def find_gpu_error(gpu: Gpu) -> UnavailableReason | None:
    """Return why a GPU has no value at all; None if it has any."""
    if any(value is not None for value in gpu.values.values()):
        return None
    return next(iter(gpu.unavailable.values()), None)


def find_level(thresholds: Thresholds | None, value: float | None) -> str:
    """Return the colour level of `value`: "elevated", "high", or "" below both."""
    if thresholds is None or value is None or value < thresholds.elevated:
        return ""
    return "high" if value >= thresholds.high else "elevated"


def _has_name(device: Device, name: str) -> bool:
    return name == str(device.index) or (len(name) >= _SHORT_UUID_LENGTH and device.uuid.startswith(name))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
