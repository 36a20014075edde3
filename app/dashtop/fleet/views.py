"""What the views of a fleet show, from the rows of one reading. Pure: it asks no engine."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from dashtop.metrics import METRICS
from dashtop.metrics.gpu_state import MAX_FREE_MEMORY_PERCENT, MAX_IDLE_LOAD_PERCENT, UTILIZATION
from dashtop.model.fleet import FleetGpu, FleetNode, NodeState
from dashtop.model.metric import GIB
from dashtop.model.sample import Occupancy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from dashtop.model.fleet import FleetReading, HolderKind

MEMORY_USED_GB: Final = "gpu.memory.used_gb"
MEMORY_TOTAL_GB: Final = "gpu.memory.total_gb"
TEMPERATURE: Final = "gpu.temperature"
POWER: Final = "gpu.power.current_watts"
MAX_INDEX: Final = 1_000_000
"""GPUs whose index is not known come last."""
COUNTED: Final = frozenset({Occupancy.FREE, Occupancy.IDLE_HELD, Occupancy.BUSY, Occupancy.UNAVAILABLE})


class FleetSummary(NamedTuple):
    """Numbers of a fleet. A GPU with MIG instances is not counted itself. `power_watts` None: not reported.

    `is_partial`: the engine answered from a part of its data, so that every number is 'at least'.
    """

    gpus: int
    free: int
    idle_held: int
    busy: int
    unavailable: int
    nodes: int
    nodes_up: int
    nodes_down: int
    power_watts: float | None
    is_partial: bool


class HolderTotal(NamedTuple):
    """What one user, job or namespace holds."""

    name: str
    kind: HolderKind
    gpus: int
    idle_held: int
    nodes: int
    memory_gb: float | None


class FreeNode(NamedTuple):
    """A node with free GPUs, by index."""

    node: str
    gpus: tuple[FleetGpu, ...]

    @property
    def memory_gb(self) -> float | None:
        """Memory of the smallest of the GPUs; None: not reported."""
        sizes = [gpu.values[MEMORY_TOTAL_GB] for gpu in self.gpus if MEMORY_TOTAL_GB in gpu.values]
        return min(sizes) if len(sizes) == len(self.gpus) else None


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetFilter:
    """Selects GPUs. Empty: any. `name`: a GPU type, as in FleetGpu.name. `user`: name of a holder."""

    name: str = ""
    node: str = ""
    user: str = ""

    def matches(self, gpu: FleetGpu) -> bool:
        """Return whether a GPU is selected."""
        return (
            self.name in {"", gpu.name}
            and self.node in {"", gpu.node}
            and (not self.user or any(holder.name == self.user for holder in gpu.holders))
        )


EVERYTHING: Final = FleetFilter()


def filter_gpus(gpus: Iterable[FleetGpu], wanted: FleetFilter) -> list[FleetGpu]:
    """Return the selected GPUs."""
    return [gpu for gpu in gpus if wanted.matches(gpu)]


def list_names(gpus: Iterable[FleetGpu]) -> list[str]:
    """Return the types of GPU that a fleet has, the most frequent first."""
    return [name for name, _ in Counter(gpu.name for gpu in gpus if gpu.name).most_common()]


def summarize(reading: FleetReading, wanted: FleetFilter = EVERYTHING) -> FleetSummary:
    """Count the selected GPUs, and the nodes."""
    gpus = filter_gpus(reading.gpus, wanted)
    nodes = [node for node in reading.nodes if wanted.node in {"", node.name}]
    counts = Counter(gpu.occupancy for gpu in gpus)
    watts = [gpu.values[POWER] for gpu in gpus if POWER in gpu.values]
    up = sum(node.state is NodeState.UP for node in nodes)
    return FleetSummary(
        gpus=sum(counts[each] for each in COUNTED),
        free=counts[Occupancy.FREE],
        idle_held=counts[Occupancy.IDLE_HELD],
        busy=counts[Occupancy.BUSY],
        unavailable=counts[Occupancy.UNAVAILABLE],
        nodes=len(nodes),
        nodes_up=up,
        nodes_down=len(nodes) - up,
        power_watts=sum(watts) if watts else None,
        is_partial=reading.is_partial,
    )


def find_free(
    gpus: Iterable[FleetGpu], *, count: int = 1, memory_gb: float = 0.0, wanted: FleetFilter = EVERYTHING
) -> list[FreeNode]:
    """Return the nodes that have at least `count` free GPUs of at least `memory_gb` each, in 10^9 bytes.

    That is the size in a product's name: of the 80 GB of an H100, drivers report 79.6 GiB, which are 85.5 GB.

    Those come first that have the fewest GPUs left over, then those with the smallest memory: large nodes stay free for
    large jobs. A GPU whose memory is not reported is not offered if a size is requested.
    """
    by_node: dict[str, list[FleetGpu]] = defaultdict(list)
    for gpu in gpus:
        is_wanted = gpu.occupancy is Occupancy.FREE and wanted.matches(gpu)
        if is_wanted and (memory_gb <= 0 or _read_total_gb(gpu) >= memory_gb):
            by_node[gpu.node].append(gpu)
    found = [
        FreeNode(node, tuple(sorted(free, key=sort_key)))
        for node, free in by_node.items()
        if len(free) >= max(count, 1)
    ]
    return sorted(found, key=lambda each: (len(each.gpus), each.memory_gb or 0.0, each.node))


def _read_total_gb(gpu: FleetGpu) -> float:
    return gpu.values.get(MEMORY_TOTAL_GB, 0.0) * GIB / 1e9


def sort_key(gpu: FleetGpu) -> tuple[str, int, str, str]:
    """Return the place of a GPU in lists: by node, then index."""
    return gpu.node, gpu.index if gpu.index is not None else MAX_INDEX, gpu.uuid, gpu.mig_instance


def sort_naturally(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a key that sorts gpu2 before gpu10."""
    parts = re.split(r"(\d+)", name)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)


def list_holders(gpus: Iterable[FleetGpu]) -> list[HolderTotal]:
    """Return what each holder has, those with most GPUs first."""
    held: dict[tuple[str, HolderKind], list[FleetGpu]] = defaultdict(list)
    sizes: dict[tuple[str, HolderKind], list[float]] = defaultdict(list)
    for gpu in gpus:
        for holder in gpu.holders:
            held[holder.name, holder.kind].append(gpu)
            if holder.memory_gb is not None:
                sizes[holder.name, holder.kind].append(holder.memory_gb)
    totals = [
        HolderTotal(
            name=name,
            kind=kind,
            gpus=len(theirs),
            idle_held=sum(gpu.occupancy is Occupancy.IDLE_HELD for gpu in theirs),
            nodes=len({gpu.node for gpu in theirs}),
            memory_gb=sum(sizes[name, kind]) if sizes[name, kind] else None,
        )
        for (name, kind), theirs in held.items()
    ]
    return sorted(totals, key=lambda each: (-each.gpus, -(each.memory_gb or 0.0), each.name))


def list_idle_held(gpus: Iterable[FleetGpu]) -> list[FleetGpu]:
    """Return the GPUs that are held and do not compute, those with most memory in use first."""
    idle = [gpu for gpu in gpus if gpu.occupancy is Occupancy.IDLE_HELD]
    return sorted(idle, key=lambda gpu: (-gpu.values.get(MEMORY_USED_GB, 0.0), sort_key(gpu)))


def list_down(nodes: Iterable[FleetNode]) -> list[FleetNode]:
    """Return the nodes that are down, stale or vanished, in this order."""
    order = (NodeState.DOWN, NodeState.STALE, NodeState.VANISHED)
    return sorted(
        (node for node in nodes if node.state in order), key=lambda node: (order.index(node.state), node.name)
    )


def list_hot(gpus: Iterable[FleetGpu], limit: int = 20) -> list[FleetGpu]:
    """Return the GPUs whose temperature has reached a threshold, the hottest first."""
    thresholds = METRICS[TEMPERATURE].thresholds
    if thresholds is None:
        return []
    least = min((each for each in (thresholds.warning, thresholds.critical) if each is not None), default=None)
    if least is None:
        return []
    hot = [gpu for gpu in gpus if gpu.values.get(TEMPERATURE, 0.0) >= least]
    return sorted(hot, key=lambda gpu: (-gpu.values[TEMPERATURE], sort_key(gpu)))[:limit]


def group_by_node(gpus: Iterable[FleetGpu]) -> dict[str, list[FleetGpu]]:
    """Return the GPUs of each node, nodes by name and GPUs by index."""
    by_node: dict[str, list[FleetGpu]] = {}
    for gpu in sorted(gpus, key=sort_key):
        by_node.setdefault(gpu.node, []).append(gpu)
    return by_node


def find_memory_percent(values: Mapping[str, float]) -> float | None:
    """Return the memory in use in percent; None if it is not known."""
    used, total = values.get(MEMORY_USED_GB), values.get(MEMORY_TOTAL_GB)
    return 100.0 * used / total if used is not None and total else None


def classify(
    values: Mapping[str, float], *, peak_percent: float | None, is_held: bool, is_idle: bool, is_mig: bool = False
) -> Occupancy:
    """Return whether work can start on a GPU, by the limits that apply to the GPUs of this machine.

    `peak_percent`: highest utilization of the last two minutes. `is_held`: somebody is known to hold it. `is_idle`: it
    has not computed for an hour. The load of a MIG instance is not known to every exporter: its memory decides then.
    """
    load, memory = peak_percent if peak_percent is not None else values.get(UTILIZATION), find_memory_percent(values)
    uses_memory = memory is not None and memory > MAX_FREE_MEMORY_PERCENT
    if is_held or uses_memory:
        return Occupancy.IDLE_HELD if is_idle else Occupancy.BUSY
    if load is not None and load > MAX_IDLE_LOAD_PERCENT:
        return Occupancy.BUSY
    if memory is None or (load is None and not is_mig):
        return Occupancy.UNAVAILABLE
    return Occupancy.FREE


def format_visible_devices(gpus: Sequence[FleetGpu]) -> str | None:
    """Return the value of CUDA_VISIBLE_DEVICES for GPUs of one node; None if neither UUIDs nor indices are known.

    UUIDs, where they are known: an index means the same GPU to CUDA only with CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    if all(gpu.device_id for gpu in gpus):
        return ",".join(gpu.device_id for gpu in gpus)
    if any(gpu.index is None or gpu.mig_instance for gpu in gpus):
        return None
    return ",".join(str(gpu.index) for gpu in gpus)
