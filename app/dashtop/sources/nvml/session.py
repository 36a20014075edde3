"""All GPUs of the machine through NVML, in this very process. Runs inside the reading child (see isolated.py)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pynvml

from dashtop.metrics import GPU_METRICS
from dashtop.model.sample import PROCESSES, Device, Gpu, GpuProcess, GpuReading
from dashtop.model.unavailable import Scope, Unavailable, UnavailableReason
from dashtop.sources.host.memory import host_memory
from dashtop.sources.metric_reader import MetricReader
from dashtop.sources.nvml import device_info as facts
from dashtop.sources.nvml.background_poller import BackgroundPoller
from dashtop.sources.nvml.device import NvmlDevice
from dashtop.sources.nvml.device_info import silent, split_reason
from dashtop.sources.nvml.errors import call, call_or_none
from dashtop.sources.nvml.queries import mig_mode
from dashtop.sources.nvml.xid_events import EventWatcher

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dashtop.model.ports import GpuDevice

RETRY_S = 2.0
LOOK_AGAIN_S = 2.0
# A session in which GPUs are lost is opened anew to see whether they are back, and at most this share of the time.
MEND_EVERY_S = 5.0
MEND_SHARE = 0.1

VITAL = ("gpu.temperature", "gpu.memory.used_gb", "gpu.power.current_watts", "gpu.utilization.gpu")


class Card:
    """One GPU or MIG instance of a session: its facts, its open device and the walk over the table."""

    def __init__(
        self,
        device: Device,
        open_device: NvmlDevice | None,
        sleep: facts.SleepState,
        *,
        lost: UnavailableReason = UnavailableReason.GPU_LOST,
        split: bool = False,
    ) -> None:
        """`open_device` None: the GPU cannot be asked, for the reason `lost`. `split`: it has MIG instances."""
        self.device = device
        self._split = split
        self._open = open_device
        self._sleep = sleep
        self._lost = lost
        self._walk: MetricReader[GpuDevice] = MetricReader(GPU_METRICS)

    def read(self, now: float) -> Gpu:
        """Read what is due; a GPU that cannot be asked, or is asleep, says so for every value."""
        if self._open is None:
            return silent(self.device, self._lost)
        if self._sleep.asleep():
            return self._silenced(UnavailableReason.ASLEEP)
        self._open.begin()
        values, unavailable = self._walk.read(self._open, now)
        error = _gpu_error(values, unavailable)
        if error is not None:
            return self._silenced(error)
        if self._split:
            unavailable = {key: split_reason(key, reason) for key, reason in unavailable.items()}
        processes: tuple[GpuProcess, ...] = ()
        try:
            processes = self._open.processes()
        except Unavailable as missing:
            unavailable = {**unavailable, PROCESSES: missing.reason}
        return Gpu(device=self.device, values=values, unavailable=unavailable, processes=processes)

    def _silenced(self, reason: UnavailableReason) -> Gpu:
        """Forget what was read, so that nothing old is shown when the GPU answers again."""
        if self._open is not None:
            self._open.pause()
        self._walk = MetricReader(GPU_METRICS)
        return silent(self.device, reason)

    def close(self) -> None:
        """Give back what the driver has handed out."""
        if self._open is not None:
            self._open.close()


def _gpu_error(
    values: Mapping[str, float | None], unavailable: Mapping[str, UnavailableReason]
) -> UnavailableReason | None:
    """Return why a GPU as a whole cannot be read: one call said that it is lost, or every vital one has failed."""
    reasons = unavailable.values()
    lost = next((reason for reason in reasons if reason.is_lost), None)
    if lost is not None or any(values[key] is not None for key in VITAL):
        return lost
    return next((unavailable[key] for key in VITAL if unavailable[key].scope is not Scope.METRIC), None)


class NvmlGpus:
    """A session with the driver: opened at the first reading, and anew while there is no driver, no GPU, or a lost one.

    `proc` and `sys` are the roots of what is asked of the operating system instead of the driver.
    """

    def __init__(self, *, proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> None:
        self._proc, self._sys = proc, sys
        self._cards: list[Card] = []
        self._error: UnavailableReason | None = UnavailableReason.STARTING
        self._open_at = 0.0
        self._look_at = 0.0
        self._on_the_bus: tuple[str, ...] = ()
        self._initialised = False
        self._lane = BackgroundPoller()
        self._events: EventWatcher | None = None

    def read(self) -> GpuReading:
        """Read every GPU. Never raises; blocks for as long as the driver does."""
        now = time.monotonic()
        if self._bus_has_changed(now):
            self._open_at = now
        if self._open_at <= now:
            self._open(now)
        gpus = tuple(card.read(now) for card in self._cards)
        if self._initialised:
            self._plan_mending(gpus, now)
        events = self._events.drain() if self._events is not None else ()
        return GpuReading(gpus=gpus, error=None if gpus else self._error, events=events)

    def answered(self) -> None:
        """Go on with the costly questions, once the reading has been handed over: it must not wait for them."""
        self._lane.turn()

    def _bus_has_changed(self, now: float) -> bool:
        """Tell, every two seconds, whether GPUs came or went: NVML itself fixes their number when it is initialised."""
        if now < self._look_at:
            return False
        self._look_at = now + LOOK_AGAIN_S
        before, self._on_the_bus = self._on_the_bus, facts.gpus_on_the_bus(self._proc)
        return before != self._on_the_bus

    def _plan_mending(self, gpus: tuple[Gpu, ...], now: float) -> None:
        """Open the session anew after a while if GPUs are lost or answer nothing at all."""
        ill = any(gpu.state is not None and gpu.state is not UnavailableReason.ASLEEP for gpu in gpus)
        if not ill:
            self._open_at = float("inf")
        elif self._open_at == float("inf"):
            self._open_at = now + MEND_EVERY_S

    def _open(self, now: float) -> None:
        self._close_session()
        asleep = facts.sleeping_gpus(self._proc, self._sys)
        if asleep:
            self._cards = [_sleeper(device, self._sys) for device in asleep]
            self._open_at = now + RETRY_S
            return
        try:
            call(pynvml.nvmlInit)
            self._initialised = True
            self._cards = self._find_cards()
            self._error = UnavailableReason.NO_DEVICE
        except Unavailable as missing:
            self._error = missing.reason
        if self._cards:
            self._open_at = float("inf")
        else:
            took = time.monotonic() - now
            self._open_at = now + max(RETRY_S, took / MEND_SHARE)

    def _find_cards(self) -> list[Card]:
        installed = facts.driver()
        cards: list[Card] = []
        parents: list[tuple[Any, Device]] = []
        for index in range(call(pynvml.nvmlDeviceGetCount)):
            try:
                handle = call(pynvml.nvmlDeviceGetHandleByIndex, index)
                device = facts.static_facts(handle, index, installed)
            except Unavailable as missing:
                cards.append(
                    Card(facts.unreadable(index), None, facts.SleepState(self._sys, None), lost=missing.reason)
                )
                continue
            parents.append((handle, device))
            cards.append(self._card(handle, device))
        instances = [(each, device) for handle, device in parents for each in facts.mig_instances(handle)]
        for instance, parent in instances:
            device = facts.instance_facts(instance, len(cards), parent, installed)
            cards.append(self._card(instance, device))
        self._events = EventWatcher({device.uuid: handle for handle, device in parents})
        return cards

    def _card(self, handle: Any, device: Device) -> Card:
        open_device = NvmlDevice(
            handle,
            self._lane,
            missing=self._meaning_of_missing(device),
            host_memory=host_memory(self._proc) if device.shares_host_memory else None,
        )
        split = device.mig_parent_uuid is None and call_or_none(mig_mode, handle) == 1
        return Card(device, open_device, facts.SleepState(self._sys, device.pci_bus_id), split=split)

    def _meaning_of_missing(self, device: Device) -> UnavailableReason:
        if device.mig_parent_uuid is not None:
            return UnavailableReason.MIG_INSTANCE
        return UnavailableReason.WDDM if facts.runs_under_windows(self._proc) else UnavailableReason.NOT_SUPPORTED

    def _close_session(self) -> None:
        if self._events is not None:
            self._events.close()
            self._events = None
        self._lane.close()
        self._lane = BackgroundPoller()
        for card in self._cards:
            card.close()
        self._cards = []
        if self._initialised:
            self._initialised = False
            call_or_none(pynvml.nvmlShutdown)

    def close(self) -> None:
        """End the session with the driver."""
        self._close_session()


def _sleeper(device: Device, sys: Path) -> Card:
    return Card(device, None, facts.SleepState(sys, device.pci_bus_id), lost=UnavailableReason.ASLEEP)
