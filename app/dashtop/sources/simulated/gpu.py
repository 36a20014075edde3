"""A simulated GPU: a recorded one whose load follows a workload. What its recording lacks is unavailable here, too."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dashtop.metrics import GPU_METRICS
from dashtop.metrics.xid import xid_event
from dashtop.model.metric import GIB
from dashtop.model.sample import Gpu, GpuProcess, ProcessInfo
from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.gpu_records import get_mig_parent_reason, mark_unavailable
from dashtop.sources.simulated.curves import IDLE, LOADING_S, OUTAGE_S, Board, Moment
from dashtop.sources.simulated.energy import EnergyCounter
from dashtop.sources.simulated.metric_curves import CURVES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from dashtop.model.readers import MemoryUse
    from dashtop.model.sample import Device, Event
    from dashtop.sources.simulated.curves import Noise, Number, Workload
    from dashtop.sources.simulated.metric_curves import Curve

_XID_SLOT_S = 2.5 * 86_400
_XIDS = (31, 13, 43, 45)
_FALLEN_OFF_THE_BUS = 79
_MONTH_S = 30.0 * 86_400
_DEFAULT_LIMIT_CELSIUS = 90.0
# Channels of the noise beside those of the curves.
_CPU, _RAM, _OWNER, _XID = range(20, 24)
_DESKTOP_USER = ProcessInfo(username="edsger")


@dataclass(frozen=True, slots=True)
class Role:
    """Which recorded GPU a simulated one is, its workload, and the invented owners of its jobs."""

    world: str
    position: int
    workload: Workload
    owners: tuple[ProcessInfo, ...]


def find_fact(facts: Mapping[str, Any], path: str) -> Any:
    """Return what is recorded under these keys, joined by dots, or None."""
    found: Any = facts
    for key in path.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


class SimulatedGpu:
    """A simulated GPU or MIG instance. Its values depend only on the GPU, the noise and the time."""

    def __init__(
        self,
        device: Device,
        facts: Mapping[str, Any],
        role: Role,
        noise: Noise,
        *,
        first_pid: int,
        driver_loaded_s: float,
        read_host_memory: Callable[[], MemoryUse],
    ) -> None:
        """`facts`: what is recorded. `driver_loaded_s`: since when energy is counted, in epoch seconds."""
        self.device = device
        self._role, self._noise, self._first_pid = role, noise, first_pid
        self._processes: list[dict[str, Any]] = facts["processes"]
        self.state: UnavailableReason | None = None
        if facts.get("runtime_status") == "suspended":
            self.state = UnavailableReason.ASLEEP
        elif "*" in facts.get("returns", ()):
            self.state = UnavailableReason.GPU_LOST
        has_memory = not device.shares_host_memory or _is_readable(read_host_memory)
        self._read_host_memory = read_host_memory if device.shares_host_memory and has_memory else None
        self._board = Board(
            (find_fact(facts, "power.enforced_limit") or find_fact(facts, "power.usage") or 0.0) / 1000,
            float(device.slowdown_celsius or _DEFAULT_LIMIT_CELSIUS),
            device.memory_total_bytes or 0,
            tuple((each["used_memory"] or 0, each["type"] == "G") for each in self._processes),
        )
        facts = {**facts, **_derive_facts(facts)}
        if "energy_mj" in facts:
            facts["energy_counter"] = EnergyCounter(driver_loaded_s, self._read_watts)
        if self._read_host_memory is not None:
            facts["memory"] = {"total": 0}
        self._curves: dict[str, tuple[Any, Curve]] = {}
        self._constants: dict[str, float] = {}
        self.unavailable: dict[str, UnavailableReason] = {}
        curves = self.find_curves(shares_host_memory=self._read_host_memory is not None)
        for key in (metric.key for metric in GPU_METRICS):
            path, curve = curves.get(key, ("", None))
            fact = find_fact(facts, path)
            # NVML reports 0 for the temperature of the memory if there is no sensor.
            if curve is None or fact is None or (fact == 0 and path == "memory_temperature"):
                self.unavailable[key] = self._get_reason(key, path, is_split=bool(find_fact(facts, "mig.instances")))
            elif callable(curve):
                self._curves[key] = (fact, curve)
            else:
                self._constants[key] = fact * curve
        self._values: dict[str, float | None] = dict.fromkeys(metric.key for metric in GPU_METRICS) | self._constants

    @staticmethod
    def find_curves(*, shares_host_memory: bool) -> Mapping[str, tuple[str, Curve | float]]:  # noqa: ARG004
        """Return how each metric follows from the recorded facts and the load."""
        return CURVES

    def _get_reason(self, key: str, path: str, *, is_split: bool) -> UnavailableReason:
        if self.device.mig_parent_uuid is not None:
            return UnavailableReason.MIG_INSTANCE
        if self.device.shares_host_memory and path.startswith("memory."):
            return UnavailableReason.UNIFIED_MEMORY
        reason = UnavailableReason.NOT_SUPPORTED
        return get_mig_parent_reason(key, reason) if is_split else reason

    def _read_watts(self, t: NDArray[np.float64]) -> NDArray[np.float64]:
        watts: NDArray[np.float64] = Moment(self._role.workload, self._noise, self._board, t).watts
        return watts

    def _get_moment(self, t: Number) -> Moment:
        moment = Moment(self._role.workload, self._noise, self._board, t)
        if self._read_host_memory is not None:
            memory = self._read_host_memory()
            moment.used_bytes, moment.total_bytes = memory.used, memory.total
        return moment

    def read(self, time_ms: int) -> Gpu:
        """Return the GPU at one time."""
        moment = self._get_moment(time_ms / 1000)
        state = UnavailableReason.GPU_LOST if moment.is_lost else self.state
        if state is not None:
            return mark_unavailable(self.device, state)
        values = self._values.copy()
        for key, (fact, curve) in self._curves.items():
            values[key] = float(curve(fact, moment))
        processes = self._list_processes(moment)
        return Gpu(device=self.device, values=values, unavailable=self.unavailable, processes=processes)

    def _list_processes(self, m: Moment) -> tuple[GpuProcess, ...]:
        return tuple(self._build_process(position, int(size), m) for position, size in enumerate(m.sizes) if size)

    def read_many(self, times_ms: NDArray[np.int64], keys: Sequence[str]) -> NDArray[np.float32]:
        """Return a row for each of `keys`, which the GPU supports; NaN while the GPU is lost."""
        moment = self._get_moment(times_ms / 1000)
        values = np.empty((len(keys), len(times_ms)), np.float32)
        for row, key in enumerate(keys):
            if key in self._constants:
                values[row] = self._constants[key]
            else:
                fact, curve = self._curves[key]
                values[row] = curve(fact, moment)
        values[:, moment.is_lost] = np.nan
        return values

    def _build_process(self, position: int, size_bytes: int, m: Moment) -> GpuProcess:
        """Return a process: names and proportions are recorded, owner and age invented."""
        recorded, noise = self._processes[position], self._noise
        is_graphics = recorded["type"] == "G"
        job = int(m.t // _MONTH_S if is_graphics else m.job)
        started_s = job * _MONTH_S if is_graphics else m.begin_s
        owners = (_DESKTOP_USER,) if is_graphics else self._role.owners
        cpu_percent = 160.0 * noise.get(_CPU, position) * (0.1 + 0.9 * m.busy / 100.0) * (1.0 + 0.1 * m.jitter)
        memory_gb = (0.3 + 2.5 * noise.get(_RAM, position)) * (0.1 if is_graphics else 1.0)
        percents = (
            float(round(recorded[name] * m.busy / 100.0)) if name in recorded else None
            for name in ("sm_util", "mem_util", "enc_util", "dec_util")
        )
        sm, memory, encoder, decoder = percents
        return GpuProcess(
            pid=self._first_pid + recorded["pid"] % 5_000 + job * 37 % 30_000,
            kind=recorded["type"],
            gpu_memory_bytes=size_bytes,
            sm_percent=sm,
            memory_percent=memory,
            encoder_percent=encoder,
            decoder_percent=decoder,
            cpu_percent=round(cpu_percent, 1),
            host_memory_bytes=int(memory_gb * GIB),
            info=replace(
                owners[int(noise.get(_OWNER, job) * len(owners))],
                name=recorded["name"].rpartition("/")[2],
                started_ms=round(1000 * started_s),
            ),
        )

    def changes(self, start_ms: int, end_ms: int) -> list[int]:
        """Return the times (epoch ms) in (start_ms, end_ms] at which processes change, or clocks, or the GPU is lost.

        Times are whole seconds; the change has happened by then.
        """
        if self.state is not None:
            return []
        workload, found = self._role.workload, set[float]()
        t = start_ms / 1000
        while t < end_ms / 1000 + workload.slot_s:
            slot = Moment(workload, self._noise, self._board, t)
            found |= {slot.slot_start_s, slot.begin_s, slot.begin_s + LOADING_S}
            if workload.slows_down:
                found.add(slot.begin_s + 0.5 * slot.length_s)
            if workload.is_lost_weekly:
                found.add(slot.slot_start_s + OUTAGE_S)
            t += workload.slot_s
        times_ms = sorted({1000 * math.ceil(time_s) for time_s in found})
        return [time_ms for time_ms in times_ms if start_ms < time_ms <= end_ms]

    def xids(self, start_ms: int, end_ms: int) -> Iterator[Event]:
        """Yield the driver's errors in (start_ms, end_ms]: one now and then, and one when the GPU is lost."""
        if self.state is not None or self.device.mig_parent_uuid is not None:
            return
        for time_ms, code in sorted([*self._find_job_xids(start_ms, end_ms), *self._find_bus_xids(start_ms, end_ms)]):
            if start_ms < time_ms <= end_ms:
                yield xid_event(code, time_ms=time_ms, gpu_uuid=self.device.uuid)

    def _find_job_xids(self, start_ms: int, end_ms: int) -> Iterator[tuple[int, int]]:
        for slot in range(int(start_ms / 1000 // _XID_SLOT_S), int(end_ms / 1000 // _XID_SLOT_S) + 1):
            kind, part = (self._noise.get(_XID, 2 * slot + which) for which in (0, 1))
            if kind < len(_XIDS) / 10 and self._role.workload is not IDLE:
                yield round(1000 * _XID_SLOT_S * (slot + part)), _XIDS[int(10 * kind)]

    def _find_bus_xids(self, start_ms: int, end_ms: int) -> Iterator[tuple[int, int]]:
        if self._role.workload.is_lost_weekly:
            for time_ms in self.changes(start_ms, end_ms):
                if self.is_lost(time_ms) and not self.is_lost(time_ms - 1000):
                    yield time_ms, _FALLEN_OFF_THE_BUS

    def is_lost(self, time_ms: int) -> bool:
        """Return whether the GPU has fallen off the bus."""
        return bool(self._get_moment(time_ms / 1000).is_lost)


def _is_readable(read_host_memory: Callable[[], MemoryUse]) -> bool:
    try:
        read_host_memory()
    except Unavailable:
        return False
    return True


def _derive_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that follow from several recorded ones."""
    derived: dict[str, Any] = {}
    if (margin := facts.get("temperature_margin")) is not None and "temperature" in facts:
        derived["hottest"] = margin + facts["temperature"]
    fans = facts.get("fans") or []
    if fans and all("rpm" in fan and fan["speed"] for fan in fans):
        derived["fan_rpm_at_full_speed"] = min(fan["rpm"] * 100.0 / fan["speed"] for fan in fans)
    for way in ("tx", "rx"):
        per_second = find_fact(facts, f"nvlink.link.{way}_bytes.per_second")
        if per_second is not None:
            derived[f"nvlink_{way}"] = per_second * facts["nvlink"]["link_count"] * facts["nvlink"]["link"]["active"]
    return derived
