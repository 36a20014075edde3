"""A fleet as plain dicts, for the API and the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dashtop.fleet import views

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dashtop.fleet.views import FleetFilter, FreeNode
    from dashtop.model.fleet import FleetEngine, FleetGpu, FleetNode, FleetReading

DIGITS = 4
Json = dict[str, Any]


def describe_reading(reading: FleetReading, engine: FleetEngine, now_s: float) -> Json:
    """Return what a reading is worth. `now_s`: the present on the clock of `received_s`."""
    error = reading.error
    return {
        "engine": engine.title,
        "as_of": reading.as_of_ms,
        "age_seconds": round(max(0.0, now_s - reading.received_s), 1) if reading.received_s is not None else None,
        "exporters": list(reading.exporters),
        "partial": reading.is_partial,
        "warnings": list(reading.warnings),
        "notes": list(reading.notes),
        "error": error.sentence if error is not None else None,
    }


def describe_fleet(reading: FleetReading, engine: FleetEngine, now_s: float, wanted: FleetFilter) -> Json:
    """Return the selected GPUs and all nodes, with their numbers."""
    summary = views.summarize(reading, wanted)
    gpus = views.filter_gpus(reading.gpus, wanted)
    return {
        **describe_reading(reading, engine, now_s),
        "summary": {
            "gpus": summary.gpus,
            "free": summary.free,
            "idle_held": summary.idle_held,
            "busy": summary.busy,
            "unavailable": summary.unavailable,
            "nodes": summary.nodes,
            "nodes_up": summary.nodes_up,
            "nodes_down": summary.nodes_down,
            "power_watts": _round(summary.power_watts),
        },
        "nodes": [describe_node(node) for node in reading.nodes if wanted.node in {"", node.name}],
        "gpus": [describe_gpu(gpu) for gpu in gpus],
    }


def describe_free(
    reading: FleetReading, engine: FleetEngine, now_s: float, found: Sequence[FreeNode], count: int
) -> Json:
    """Return the nodes with free GPUs, and CUDA_VISIBLE_DEVICES for `count` of them."""
    return {
        **describe_reading(reading, engine, now_s),
        "nodes": [
            {
                "node": each.node,
                "cuda_visible_devices": views.format_visible_devices(each.gpus[:count]),
                "gpus": [describe_gpu(gpu) for gpu in each.gpus],
            }
            for each in found
        ],
        "down": [
            {"node": node.name, "state": node.state.value, "reason": node.reason or None}
            for node in views.list_down(reading.nodes)
        ],
    }


def describe_gpu(gpu: FleetGpu) -> Json:
    """Return one GPU; `values` by metric key in the metric's unit."""
    return {
        "node": gpu.node,
        "gpu_id": gpu.index,
        "gpu_uuid": gpu.device_id or gpu.uuid or None,
        "mig_instance": gpu.mig_instance or None,
        "gpu_name": gpu.name,
        "occupancy": gpu.occupancy.value,
        "holders": [
            {"name": holder.name, "kind": holder.kind.value, "memory_gb": _round(holder.memory_gb)}
            for holder in gpu.holders
        ],
        "values": _round_all(gpu.values),
        "unavailable": dict(gpu.unavailable),
        "age_seconds": round(gpu.age_s, 1),
    }


def describe_node(node: FleetNode) -> Json:
    """Return one node."""
    return {
        "node": node.name,
        "instance": node.instance,
        "state": node.state.value,
        "reason": node.reason or None,
        "exporter": node.exporter or None,
        "url": node.url,
        "age_seconds": round(node.age_s, 1) if node.age_s is not None else None,
        "values": _round_all(node.values),
    }


def _round(value: float | None) -> float | None:
    return round(value, DIGITS) if value is not None else None


def _round_all(values: Mapping[str, float]) -> dict[str, float]:
    return {key: round(value, DIGITS) for key, value in values.items()}
