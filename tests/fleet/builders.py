"""A small synthetic fleet for tests: nodes of eight GPUs with every occupancy, and one node that is down."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from dashtop.model.fleet import (
    FleetEngine,
    FleetGpu,
    FleetHolder,
    FleetNode,
    FleetQuery,
    FleetReading,
    FleetRow,
    FleetSeries,
    HolderKind,
    NodeState,
    SeriesKind,
)
from dashtop.model.sample import Occupancy
from tests.builders import NOON_MS

USERS = ("ada", "grace", "linus")
TYPES = (("NVIDIA H100 80GB HBM3", 80.0), ("NVIDIA A100-SXM4-40GB", 40.0), ("NVIDIA GeForce RTX 4090", 24.0))
GPUS_PER_NODE = 8
ENGINE = FleetEngine(title="http://prometheus.example:9090", has_history=True, interval_s=15.0)


def make_gpu(number: int, node: str = "gpu1", *, size: tuple[str, float] = TYPES[0]) -> FleetGpu:
    """Return a GPU; its number decides what it does: 0 free, 1 idle but held, 7 unavailable, others busy."""
    name, total = size
    index = number % GPUS_PER_NODE
    occupancy = {0: Occupancy.FREE, 1: Occupancy.IDLE_HELD, 7: Occupancy.UNAVAILABLE}.get(index, Occupancy.BUSY)
    uuid = f"{number:08x}-0000-4000-8000-{number:012x}"
    is_held = occupancy in {Occupancy.BUSY, Occupancy.IDLE_HELD}
    load = 90.0 + index if occupancy is Occupancy.BUSY else 0.0
    values = {
        "gpu.utilization.gpu": load,
        "gpu.memory.used_gb": total * 0.75 if is_held else 0.0,
        "gpu.memory.total_gb": total,
        "gpu.temperature": 40.0 + 6 * index,
        "gpu.power.current_watts": 70.0 + 5 * load,
    }
    is_lost = occupancy is Occupancy.UNAVAILABLE
    return FleetGpu(
        node=node,
        index=index,
        uuid=uuid,
        device_id=f"GPU-{uuid}",
        name=name,
        values={} if is_lost else values,
        unavailable=dict.fromkeys(values, "the GPU cannot be read") if is_lost else {},
        peak_percent=None if is_lost else load,
        occupancy=occupancy,
        holders=(FleetHolder(USERS[number % len(USERS)], HolderKind.USER, total * 0.75),) if is_held else (),
    )


def make_reading(nodes: int = 3) -> FleetReading:
    """Return a reading of `nodes` nodes with eight GPUs each, and of gpu-down, which does not answer."""
    gpus, listed = [], []
    for number in range(nodes):
        name = f"gpu{number + 1:04}"
        gpus += [
            make_gpu(number * GPUS_PER_NODE + index, name, size=TYPES[number % len(TYPES)])
            for index in range(GPUS_PER_NODE)
        ]
        listed.append(
            FleetNode(
                name=name,
                instance=f"{name}:8050",
                state=NodeState.UP,
                exporter="dashtop",
                url=f"http://{name}:8050/",
                age_s=4.0,
                values={"system.cpu.usage_percent": 12.5, "system.cpu.load_1m": 3.25},
            )
        )
    down = FleetNode(
        name="gpu-down", instance="gpu-down:8050", state=NodeState.DOWN, reason="the engine cannot scrape it"
    )
    return FleetReading(
        as_of_ms=NOON_MS, received_s=0.0, gpus=tuple(gpus), nodes=(down, *listed), exporters=("dashtop",)
    )


def make_series(query: FleetQuery, nodes: int = 3) -> FleetSeries:
    """Return series that rise from 0 to 100."""
    if query.kind is SeriesKind.USERS:
        rows = tuple(FleetRow(user, np.array([100.0 / (rank + 1)])) for rank, user in enumerate(USERS))
        return FleetSeries(times_ms=np.array([NOON_MS]), rows=rows, step_s=query.span_s, unit="h")
    if query.kind is SeriesKind.LAST_SEEN:
        return FleetSeries(times_ms=np.array([NOON_MS]), rows=(FleetRow(query.node, np.array([120.0])),), unit="s")
    step_s = max(60, query.span_s // query.points)
    count = query.span_s // step_s + 1
    times = NOON_MS + (np.arange(count, dtype=np.int64) - count + 1) * step_s * 1000
    names = {
        SeriesKind.NODES: [f"gpu{number + 1:04}" for number in range(nodes)],
        SeriesKind.METRIC: [f"GPU {index}" for index in range(GPUS_PER_NODE)],
    }.get(query.kind, [query.kind.value])
    rows = tuple(FleetRow(name, np.linspace(0.0, 100.0, count)) for name in names)
    return FleetSeries(times_ms=times, rows=rows, step_s=step_s, unit="%")


@dataclass
class FixedFleet:
    """A Fleet that shows one reading."""

    reading: FleetReading = field(default_factory=make_reading)
    engine: FleetEngine = ENGINE
    is_closed: bool = False

    def latest(self, wait_s: float = 0.0) -> FleetReading:
        return self.reading

    def history(self, query: FleetQuery) -> FleetSeries:
        return make_series(query)

    def peek_history(self, query: FleetQuery) -> FleetSeries | None:
        return make_series(query)

    def close(self) -> None:
        self.is_closed = True

    def fail(self, reading: FleetReading) -> None:
        """Keep the GPUs, and show the error of a reading."""
        self.reading = replace(self.reading, error=reading.error)
