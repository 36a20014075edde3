"""`dashtop fleet`: what it prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dashtop.fleet import serialize, views
from dashtop.model.errors import FleetUnavailableError
from dashtop.model.fleet import NodeState
from dashtop.output import format_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from dashtop.fleet.views import FreeNode
    from dashtop.model.fleet import FleetReading
    from dashtop.model.ports import Fleet

TIMEOUT_S: Final = 15.0
MAX_MISSING: Final = 5
"""Machines that do not answer which are named."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FreeRequest:
    """What is needed on one machine. `name`: type of GPU, "" for any."""

    count: int = 1
    memory_gb: float = 0.0
    name: str = ""

    def describe(self) -> str:
        """Return it in words."""
        size = f" with {self.memory_gb:g} GB" if self.memory_gb > 0 else ""
        return f"{self.count} free {self.name or 'GPU'}{'s' if self.count > 1 and not self.name else ''}{size}"


def find_free(fleet: Fleet, request: FreeRequest, now: Callable[[], float], *, as_json: bool) -> str:
    """Return the machines with free GPUs, the best first. Raises FleetUnavailableError, also if there is none."""
    reading = fleet.latest(TIMEOUT_S)
    if reading.error is not None:
        raise FleetUnavailableError(reading.error.sentence)
    found = views.find_free(
        reading.gpus,
        count=request.count,
        memory_gb=request.memory_gb,
        wanted=views.FleetFilter(name=request.name),
    )
    missing = _describe_missing(reading)
    if not any(node.state is NodeState.UP for node in reading.nodes) and missing:
        raise FleetUnavailableError(f"No machine answers. {missing}")
    if as_json:
        return format_json(serialize.describe_free(reading, fleet.engine, now(), found, request.count))
    if not found:
        summary = views.summarize(reading)
        partial = " The engine answered from a part of its data." if reading.is_partial else ""
        raise FleetUnavailableError(
            f"No machine has {request.describe()}. Of {_count(summary.gpus, 'GPU')} on"
            f" {_count(summary.nodes_up, 'machine')} {summary.free} {'is' if summary.free == 1 else 'are'} free."
            f"{partial}{' ' if missing else ''}{missing}"
        )
    lines = [_format_node(each, request.count) for each in found]
    return "\n".join([*lines, *([f"# {missing}"] if missing else [])])


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _describe_missing(reading: FleetReading) -> str:
    """Return which machines are not counted, and why; "" if none is missing."""
    down = views.list_down(reading.nodes)
    shown = [f"{node.name} is {node.state.value}{f': {node.reason}' if node.reason else ''}" for node in down]
    more = f" And {len(down) - MAX_MISSING} more." if len(down) > MAX_MISSING else ""
    return "; ".join(each.rstrip(".") for each in shown[:MAX_MISSING]) + ("." if shown else "") + more


def _format_node(found: FreeNode, count: int) -> str:
    chosen = found.gpus[:count]
    names = ", ".join(dict.fromkeys(gpu.name for gpu in found.gpus if gpu.name))
    title = f"{found.node}: {len(found.gpus)} free{f' ({names})' if names else ''}"
    devices = views.format_visible_devices(chosen)
    if devices is None:
        return f"{title}\n  the exporter reports neither UUIDs nor indices"
    order = "" if all(gpu.device_id for gpu in chosen) else "CUDA_DEVICE_ORDER=PCI_BUS_ID "
    return f"{title}\n  {order}CUDA_VISIBLE_DEVICES={devices}"
