"""The fleet that the recorded expositions describe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from dashtop.model.fleet import HolderKind, NodeState
from dashtop.model.sample import Occupancy

if TYPE_CHECKING:
    from dashtop.model.fleet import FleetGpu, FleetReading

KEYS = (
    "gpu.utilization.gpu",
    "gpu.memory.used_gb",
    "gpu.memory.total_gb",
    "gpu.temperature",
    "gpu.power.current_watts",
)
# Node, index, MIG instance: utilization, memory in use and in all (GiB), temperature, power, occupancy, holders.
GPUS: dict[tuple[str, int | None, str], tuple[Any, ...]] = {
    ("gpu-a", 0, ""): (97, 60, 80, 61, 612.5, "busy", ("speech", "vision")),
    ("gpu-a", 1, ""): (0, 0, 80, 28, None, "free", ()),
    ("gpu-a", 2, "13"): (75, 5, 9.75, None, None, "busy", ()),
    ("gpu-a", 2, "2"): (0, 0, 39.25, None, None, "free", ()),
    ("gpu-a", 3, ""): (42, 20, 79, 44, 301, "busy", ("4711",)),
    ("gpu-b", 0, ""): (86, 96, 180, 58, 850, "busy", ()),
    ("gpu-b", 1, ""): (1, 1, 180, 31, 140, "free", ()),
    ("gpu-c", 0, ""): (86, 96, 180, 58, 850, "busy", ()),
    ("gpu-c", 1, ""): (1, 1, 180, 31, 140, "free", ()),
    # dashtop's values come first; temperature and power are those of nvidia_gpu_exporter.
    ("gpu-d", 0, ""): (0, 0.25, 8, 34, 30.14, "unavailable", ()),
    ("gpu-d", 1, ""): (None, None, None, None, None, "unavailable", ()),
    ("gpu-d", 2, ""): (2, 40, 80, 41, 88, "idle_held", ("ada", "grace")),
    ("gpu-d", 3, ""): (0, 0, 80, None, None, "free", ()),
    ("gpu-d", 4, ""): (None, None, None, None, None, "split", ()),
    ("gpu-d", 5, ""): (None, 0, 40, None, None, "free", ()),
    ("gpu-e", 0, ""): (100, 30, 40, 66, 390.5, "busy", ("ada", "grace")),
    ("gpu-e", 1, ""): (0, 0.5, 40, 32, 52.1, "idle_held", ("linus",)),
    ("worker-1", 0, ""): (33, 7.5, 15, 51, 40.25, "busy", ("training",)),
}


def check_gpus(gpus: tuple[FleetGpu, ...]) -> None:
    """Compare every value with the expositions."""
    found = {(gpu.node, gpu.index, gpu.mig_instance): gpu for gpu in gpus}
    assert set(found) == set(GPUS)
    assert len(gpus) == len(GPUS), "a GPU is listed twice"
    for key, (*values, occupancy, holders) in GPUS.items():
        gpu = found[key]
        expected = {name: value for name, value in zip(KEYS, values, strict=True) if value is not None}
        assert gpu.values == pytest.approx(expected), key
        assert set(gpu.unavailable) == set(KEYS) - set(expected), key
        assert (gpu.occupancy, tuple(holder.name for holder in gpu.holders)) == (Occupancy(occupancy), holders), key


def check_facts(gpus: tuple[FleetGpu, ...]) -> None:
    """Compare names, UUIDs and holders' memory."""
    found = {(gpu.node, gpu.index, gpu.mig_instance): gpu for gpu in gpus}
    merged = found["gpu-d", 0, ""]
    assert (merged.uuid, merged.device_id, merged.name) == (
        "df6e7a7c-7314-46f8-abc4-b88b36dcf3aa",
        "GPU-df6e7a7c-7314-46f8-abc4-b88b36dcf3aa",
        "NVIDIA GeForce RTX 2080 SUPER",
    )
    instance = found["gpu-a", 2, "13"]
    assert (instance.uuid, instance.device_id) == ("f814846a-9bbe-469e-97c3-d037d67c3c32", "")
    assert instance.name == "NVIDIA H100 80GB HBM3 MIG 1g.10gb"
    assert found["gpu-d", 5, ""].device_id == "MIG-0d000000-0000-4000-8000-0000000000d5"
    assert found["gpu-d", 1, ""].unavailable["gpu.temperature"] == "the GPU cannot be read"
    assert found["gpu-a", 1, ""].unavailable["gpu.power.current_watts"] == "not reported by dcgm-exporter"
    assert [tuple(holder) for holder in found["gpu-d", 2, ""].holders] == [
        ("ada", HolderKind.USER, 30.0),
        ("grace", HolderKind.USER, 10.0),
    ]
    assert [tuple(holder) for holder in found["gpu-e", 0, ""].holders] == [
        ("ada", HolderKind.USER, 28.0),
        ("grace", HolderKind.USER, 2.0),
    ]
    assert [tuple(holder) for holder in found["gpu-a", 3, ""].holders] == [("4711", HolderKind.JOB, None)]
    assert found["worker-1", 0, ""].holders[0].kind is HolderKind.NAMESPACE


def check_nodes(reading: FleetReading) -> None:
    """Compare the nodes."""
    nodes = {node.name: node for node in reading.nodes}
    assert list(nodes) == ["gpu-a", "gpu-b", "gpu-c", "gpu-d", "gpu-e", "gpu-z", "worker-1"]
    down = nodes.pop("gpu-z")
    assert (down.state, down.reason) == (NodeState.DOWN, "the engine cannot scrape it")
    assert {node.state for node in nodes.values()} == {NodeState.UP}
    assert nodes["gpu-d"].exporter == "dashtop, nvidia_gpu_exporter"
    assert nodes["gpu-d"].url == "http://gpu-d:8050/"
    assert nodes["gpu-d"].values == pytest.approx(
        {"system.cpu.load_1m": 2.5, "system.cpu.usage_percent": 25, "system.memory.used_percent": 50}
    )
    assert nodes["gpu-b"].values == pytest.approx({"system.cpu.load_1m": 12.5, "system.memory.used_percent": 75})
    assert (nodes["gpu-a"].url, nodes["gpu-a"].exporter) == (None, "dcgm-exporter")
    assert nodes["gpu-b"].exporter == "dcgm-exporter 4.9"
    assert reading.exporters == (
        *("dashtop", "dcgm-exporter 4.9", "dcgm-exporter", "nvidia_gpu_exporter", "nvitop-exporter"),
    )
