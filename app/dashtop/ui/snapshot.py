"""The live frame: what the page shows at this moment, as small JSON. A pure function of a sample.

The server judges (levels, warnings, reasons); the browser only paints, so thresholds live in the metric table alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dashtop.metrics import ALL_METRICS
from dashtop.model.unavailable import UnavailableReason

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from dashtop.model.metric import Metric, Thresholds
    from dashtop.model.sample import Device, Gpu, Sample

# Metrics read this seldom travel in a part of their own, which a browser that has it is not sent again.
_SELDOM_S = 10.0

# Trouble with GPUs that are there, as against a machine without any.
FAILING = frozenset(
    {
        UnavailableReason.STALE,
        UnavailableReason.DRIVER_SILENT,
        UnavailableReason.DRIVER_ERROR,
        UnavailableReason.DRIVER_MISMATCH,
        UnavailableReason.GPU_LOST,
        UnavailableReason.GPU_RESET_REQUIRED,
        UnavailableReason.NO_PERMISSION,
    }
)

_SHORT = len("GPU-12345678")


def chosen_gpu(sample: Sample, wanted: str) -> Gpu | None:
    """Return the GPU asked for by index, UUID or how that begins; else the first; None where there is none."""
    first = next(iter(sample.gpus), None)
    return next((gpu for gpu in sample.gpus if _goes_by(gpu.device, wanted)), first)


def _goes_by(device: Device, name: str) -> bool:
    return name == str(device.index) or (len(name) >= _SHORT and device.uuid.startswith(name))


def devices(sample: Sample) -> list[tuple[int, str, str, bool]]:
    """Return index, name, short UUID of every GPU, and whether it shares the host's memory.

    NVIDIA's own tools take the short form of a UUID for the whole.
    """
    uuids = [gpu.device.uuid for gpu in sample.gpus]
    short = [uuid[:_SHORT] for uuid in uuids]
    known = short if len(set(short)) == len(short) else uuids
    return [
        (gpu.device.index, gpu.device.name, name, gpu.device.shares_host_memory)
        for gpu, name in zip(sample.gpus, known, strict=True)
    ]


def waiting(interval_s: float) -> dict[str, Any]:
    """Return the frame before the first sample: nothing to show yet, and nothing wrong."""
    return {"sequence": None, "interval": interval_s}


def listed(keys: Collection[str]) -> tuple[Metric[Any], ...]:
    """Return the metrics that have these keys, in the order of the table."""
    return tuple(metric for metric in ALL_METRICS if metric.key in keys)


def build_snapshot(
    sample: Sample, gpu: Gpu | None, metrics: Sequence[Metric[Any]], *, age_s: float, interval_s: float, alive: bool
) -> dict[str, Any]:
    """Return what the page shows of `sample`, in `metrics`, to someone who looks at `gpu`."""
    told = shown(sample, gpu, metrics)
    values = told["values"]
    seldom = {each.key: values.pop(each.key) for each in metrics if each.period_s >= _SELDOM_S and each.key in values}
    return {
        "sequence": sample.sequence,
        "time": sample.time_ms,
        "age": round(max(age_s, 0.0), 2),
        "interval": interval_s,
        "simulated": sample.simulated,
        "devices": devices(sample),
        "notice": None if gpu is not None else notice(sample.gpu_error),
        "error": error(sample.gpu_error if gpu is None else silence(gpu), alive=alive),
        **told,
        "seldom": seldom,
    }


def shown(sample: Sample, gpu: Gpu | None, metrics: Iterable[Metric[Any]]) -> dict[str, Any]:
    """Return the values of these metrics, of `gpu` and the host, and what is to be said of each."""
    known, reasons = dict(sample.host.values), dict(sample.host.unavailable)
    if gpu is not None:
        known |= gpu.values
        reasons |= gpu.unavailable
    device = gpu.device if gpu is not None else None
    values: dict[str, float | None] = {}
    missing: dict[str, str] = {}
    levels: dict[str, str] = {}
    warnings: dict[str, tuple[str, str]] = {}
    for metric in metrics:
        key = metric.key
        if key not in known:
            continue
        value = known[key]
        values[key] = None if value is None else round(value, 3)
        if key in reasons:
            missing[key] = reasons[key].value
        limits = metric.thresholds_for(device)
        if value is None or limits is None:
            continue
        if reached := level(limits, value):
            levels[key] = reached
        if severity := limits.severity(value):
            warnings[key] = (severity.value, limits.message)
    return {
        "gpu": device.index if device is not None else None,
        "gpu_age": round(sample.gpu_age_s, 1),
        "values": values,
        "missing": missing,
        "levels": levels,
        "warnings": warnings,
    }


def notice(trouble: UnavailableReason | None) -> dict[str, str]:
    """Say why no GPU is shown."""
    if trouble is UnavailableReason.STARTING:
        title = "Looking for GPUs"
    elif trouble is UnavailableReason.DISABLED:
        title = "GPU monitoring off"
    elif trouble in FAILING:
        title = "GPUs cannot be read"
    else:
        title = "No GPU Detected"
    outlook = "CPU and memory monitoring goes on"
    if trouble is not UnavailableReason.DISABLED:
        outlook += ", and a GPU that appears is shown by itself"
    return {
        "title": title,
        "reason": _sentence((trouble or UnavailableReason.NO_DEVICE).value),
        "outlook": f"{outlook}.",
    }


def error(trouble: UnavailableReason | None, *, alive: bool) -> dict[str, str] | None:
    """Return what is wrong behind an answer that itself arrived well, or None."""
    if not alive:
        return {"type": "general", "message": "Collection has stopped: the values no longer change."}
    if trouble in FAILING and trouble is not None:
        return {"type": "gpu", "message": f"{_sentence(trouble.value)} CPU and memory monitoring goes on."}
    return None


def level(limits: Thresholds | None, value: float | None) -> str:
    """Return the colour level that `value` has reached: "elevated", "high", or "" below both."""
    if limits is None or value is None or value < limits.elevated:
        return ""
    return "high" if value >= limits.high else "elevated"


def silence(gpu: Gpu) -> UnavailableReason | None:
    """Return why this GPU tells nothing at all; None while it tells anything."""
    if any(value is not None for value in gpu.values.values()):
        return None
    return next(iter(gpu.unavailable.values()), None)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
