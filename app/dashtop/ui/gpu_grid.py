"""What the compare view shows: a row of numbers for each GPU, and the use of the last hour and minutes as bytes."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dashtop.metrics import METRICS
from dashtop.model.sample import PROCESSES, SeriesKey
from dashtop.model.timerange import MINUTE_MS, SECOND_MS
from dashtop.model.unavailable import UnavailableReason
from dashtop.ui.snapshot import level

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dashtop.model.ports import Services
    from dashtop.model.sample import Gpu, GpuProcess, Sample
    from dashtop.ui.render_cache import RenderCache
    from dashtop.ui.request import ViewRequest

_BUSY: Final = "gpu.utilization.gpu"
_FILL: Final = "gpu.memory.used_percent"

# In the order of a row; assets/panels-compare.js knows it too.
SHOWN: Final = (
    _BUSY,
    "gpu.memory.used_gb",
    "gpu.memory.total_gb",
    _FILL,
    "gpu.temperature",
    "gpu.power.current_watts",
    "gpu.power.max_watts",
    "gpu.fan_speed",
)
_LEVELS: Final = {"": 0, "elevated": 1, "high": 2}
_PENDING: Final = ("gpu.remapped_rows.pending", "gpu.retired_pages.pending")

_FREE_FILL_PERCENT: Final = 5.0
_FREE_LOAD_PERCENT: Final = 1.0

GAP: Final = 255
"""The byte of a bucket without a reading."""


@dataclass(frozen=True, slots=True)
class Strip:
    """So many buckets of `step_ms` of each GPU's use."""

    name: str
    step_ms: int
    count: int


STRIPS: Final = Strip("strips", MINUTE_MS, 60)
SPARKS: Final = Strip("sparks", 5 * SECOND_MS, 60)


def rows(sample: Sample) -> list[list[Any]]:
    """Return index, the values of SHOWN, levels, state, top process, number of processes, free or not.

    In the place of a value, or of the process, stands why it is not known.
    """
    return [_row(gpu) for gpu in sample.gpus]


def state(gpu: Gpu) -> str:
    """Say in words what is special about a GPU; "" for one that simply works."""
    if gpu.state is not None:
        return gpu.state.value
    if gpu.unavailable.get(_BUSY) is UnavailableReason.MIG_PARENT:
        return UnavailableReason.MIG_PARENT.value
    if any(gpu.values.get(key) for key in _PENDING):
        return "needs a reset when its work is done"
    if gpu.device.mig_profile is not None:
        return f"MIG instance {gpu.device.mig_profile}"
    return ""


def is_free(gpu: Gpu) -> bool:
    """Tell whether somebody could take this GPU: known to have no process, next to no load and no memory in use.

    A MIG instance's load is not told by the driver; its memory and processes are. Shared memory is in use by the host.
    """
    busy, filled = gpu.values.get(_BUSY), gpu.values.get(_FILL)
    if gpu.state is not None or gpu.processes or PROCESSES in gpu.unavailable:
        return False
    if not gpu.device.shares_host_memory and (filled is None or filled > _FREE_FILL_PERCENT):
        return False
    if busy is None:
        return gpu.device.mig_profile is not None
    return busy <= _FREE_LOAD_PERCENT


class GpuGrid:
    """All GPUs beside each other, for everybody who compares them. Thread-safe."""

    def __init__(self, services: Services, shared: RenderCache) -> None:
        self._services = services
        self._shared = shared

    def frame(self, sample: Sample, request: ViewRequest) -> dict[str, Any]:
        """Return the cards' numbers, and those strips that the browser does not have yet."""
        found: dict[str, Any] = {"rows": self._shared.once(f"rows|{sample.sequence}", lambda: rows(sample))}
        for strip, held in ((STRIPS, request.strips), (SPARKS, request.sparks)):
            end_ms = sample.time_ms // strip.step_ms * strip.step_ms
            name = f"{strip.name}|{end_ms}|{hash(tuple(gpu.device.uuid for gpu in sample.gpus))}"
            if name != held:
                drawn = self._shared.once(name, lambda strip=strip, end_ms=end_ms: self._use(sample, strip, end_ms))  # type: ignore[misc]
                found[strip.name] = {"name": name, "use": drawn}
        return {"compare": found}

    def _use(self, sample: Sample, strip: Strip, end_ms: int) -> list[str]:
        """Return a byte a bucket, as base64, for each GPU: how busy it was in percent, and GAP where nobody knows.

        MIG instances do not tell their load: the share of memory in use stands in its place.
        """
        keys = [SeriesKey(_FILL if gpu.device.mig_profile else _BUSY, gpu.device.uuid) for gpu in sample.gpus]
        if not keys:
            return []
        span_ms = strip.count * strip.step_ms
        data = self._services.history.query(keys, end_ms - span_ms, end_ms, strip.step_ms)
        return [_bytes(series.mean) for series in data.series]


def _bytes(values: NDArray[np.float32]) -> str:
    known = np.isfinite(values)
    whole = np.where(known, np.clip(np.round(np.where(known, values, 0)), 0, 100), GAP)
    return base64.b64encode(whole.astype(np.uint8).tobytes()).decode()


def _row(gpu: Gpu) -> list[Any]:
    levels = "".join(str(_LEVELS[level(METRICS[key].thresholds_for(gpu.device), gpu.values.get(key))]) for key in SHOWN)
    top = max(gpu.processes, key=lambda process: process.gpu_memory_bytes or 0, default=None)
    shown = [_shown(gpu, key) for key in SHOWN]
    unknown = gpu.unavailable.get(PROCESSES)
    told = _process(top) if unknown is None else unknown.value
    return [gpu.device.index, *shown, levels, state(gpu), told, len(gpu.processes), int(is_free(gpu))]


def _shown(gpu: Gpu, key: str) -> float | str:
    value = gpu.values.get(key)
    if value is None:
        return gpu.unavailable.get(key, UnavailableReason.NOT_SUPPORTED).value
    digits = METRICS[key].unit.digits
    return round(value, digits) if digits else round(value)


def _process(process: GpuProcess | None) -> list[Any] | None:
    """Return name (else pid), user and MiB of GPU memory of a process; None for each that is not told."""
    if process is None:
        return None
    user = process.owner.user if process.owner is not None else None
    held = process.gpu_memory_bytes
    return [process.name or f"pid {process.pid}", user, None if held is None else round(held / 2**20)]
