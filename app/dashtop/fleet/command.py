"""`dashtop fleet`: what it prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from dashtop.fleet import serialize, views
from dashtop.model.errors import FleetUnavailableError
from dashtop.output import format_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from dashtop.fleet.views import FreeNode
    from dashtop.model.ports import Fleet

TIMEOUT_S: Final = 15.0


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
    if as_json:
        return format_json(serialize.describe_free(reading, fleet.engine, now(), found, request.count))
    if not found:
        summary = views.summarize(reading)
        partial = " The engine answered from a part of its data." if reading.is_partial else ""
        raise FleetUnavailableError(
            f"No machine has {request.describe()}. Of {summary.gpus} GPUs on {summary.nodes_up} machines"
            f" {summary.free} are free.{partial}"
        )
    return "\n".join(_format_node(each, request.count) for each in found)


def _format_node(found: FreeNode, count: int) -> str:
    chosen = found.gpus[:count]
    names = ", ".join(dict.fromkeys(gpu.name for gpu in found.gpus if gpu.name))
    title = f"{found.node}: {len(found.gpus)} free{f' ({names})' if names else ''}"
    devices = views.format_visible_devices(chosen)
    if devices is None:
        return f"{title}\n  the exporter reports neither UUIDs nor indices"
    order = "" if all(gpu.device_id for gpu in chosen) else "CUDA_DEVICE_ORDER=PCI_BUS_ID "
    return f"{title}\n  {order}CUDA_VISIBLE_DEVICES={devices}"
