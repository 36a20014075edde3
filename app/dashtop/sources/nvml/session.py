"""The NVML session of the worker: finds the GPUs, reads them, and opens those again that are lost or change."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pynvml

from dashtop.metrics import GPU_METRICS
from dashtop.model.sample import PROCESSES, Device, Gpu, GpuProcess, GpuReading
from dashtop.model.unavailable import Scope, Unavailable, UnavailableReason
from dashtop.sources.gpu_records import (
    build_host_memory_reader,
    build_unreadable_device,
    get_mig_parent_reason,
    mark_unavailable,
    read_host_memory_bytes,
)
from dashtop.sources.metric_reader import MetricReader
from dashtop.sources.nvml import device_info
from dashtop.sources.nvml.background_poller import BackgroundPoller
from dashtop.sources.nvml.bindings import call, call_or_none
from dashtop.sources.nvml.call_marker import NO_GPU, OPEN_DRIVER, OPEN_GPU, CallMarker, open_memory
from dashtop.sources.nvml.device import NvmlDevice
from dashtop.sources.nvml.driver_files import describe_unreadable_gpu, list_bus_ids
from dashtop.sources.nvml.power import ACTIVE, SUSPENDED, IdlePause, PowerState, find_suspended_gpus, to_sysfs_name
from dashtop.sources.nvml.queries import mig_mode
from dashtop.sources.nvml.selection import Selection
from dashtop.sources.nvml.xid_events import XidEventWatcher

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterator, Mapping

    from dashtop.model.readers import GpuDevice

REOPEN_DELAY_S = 2.0
BUS_CHECK_INTERVAL_S = 2.0
# A lost GPU is opened again this often; if every GPU is lost, the session is. Opening may take this share of the time.
RECOVERY_INTERVAL_S = 5.0
MAX_OPENING_SHARE = 0.1
MIG_CHECK_INTERVAL_S = 5.0

# A GPU in such a state is not called.
RESTING = frozenset({UnavailableReason.ASLEEP, UnavailableReason.IDLE})
# If one of these is above 0 the GPU is in use.
LOAD_KEYS = ("gpu.utilization.gpu", "gpu.encoder_utilization", "gpu.decoder_utilization")
# A GPU of which none of these can be read is unavailable as a whole.
ESSENTIAL_KEYS = ("gpu.temperature", "gpu.memory.used_gb", "gpu.power.current_watts", "gpu.utilization.gpu")


class GpuSession:
    """One open GPU or MIG instance: its static facts, its device, and the state of reading its metrics."""

    def __init__(
        self,
        device: Device,
        nvml_device: NvmlDevice | None,
        power_state: PowerState,
        pause: IdlePause,
        *,
        error: UnavailableReason = UnavailableReason.GPU_LOST,
        has_instances: bool = False,
    ) -> None:
        """`nvml_device` is None if NVML cannot read the GPU, for the reason `error`."""
        self.device = device
        self.has_instances = has_instances
        self._nvml_device = nvml_device
        self._power_state = power_state
        self._pause = pause
        self._error = error
        self._lost_until = 0.0  # monotonic seconds
        self.state: UnavailableReason | None = None
        """That of the last reading."""
        self._reader: MetricReader[GpuDevice] = MetricReader(GPU_METRICS)

    def read(self, now: float) -> Gpu:
        """Read the metrics that are due. If the GPU is suspended, left alone or unreadable, all values are missing.

        A lost GPU stays lost for RECOVERY_INTERVAL_S: if only slow calls report it, a reading right after it has values
        again, and the GPU would be lost and found in turns.
        """
        gpu = self._read_unless_resting(now)
        self.state = gpu.state
        return gpu

    def _read_unless_resting(self, now: float) -> Gpu:
        is_unreadable = self._nvml_device is None and self._error.is_failure
        if is_unreadable or now < self._lost_until:
            return mark_unavailable(self.device, self._error)
        status = self._power_state.read(now)
        if status in SUSPENDED:
            self._pause.reset()
            return self._mark_unavailable(UnavailableReason.ASLEEP)
        can_suspend = status == ACTIVE and self._power_state.has_runtime_d3()
        if can_suspend and self._pause.is_active(now):
            return self._mark_unavailable(UnavailableReason.IDLE)
        if self._nvml_device is None:
            return mark_unavailable(self.device, self._error)
        gpu = self._read(self._nvml_device, now)
        self._pause.update(now, is_idle=can_suspend and self._is_idle(gpu, self._nvml_device))
        return gpu

    def _read(self, nvml_device: NvmlDevice, now: float) -> Gpu:
        nvml_device.start_tick()
        values, unavailable = self._reader.read(nvml_device, now)
        error = _find_gpu_error(values, unavailable)
        if error is not None:
            if error.is_lost:
                self._error, self._lost_until = error, now + RECOVERY_INTERVAL_S
            return self._mark_unavailable(error)
        if self.has_instances:
            unavailable = {key: get_mig_parent_reason(key, reason) for key, reason in unavailable.items()}
        processes: tuple[GpuProcess, ...] = ()
        try:
            processes = nvml_device.processes()
        except Unavailable as missing:
            unavailable = {**unavailable, PROCESSES: missing.reason}
        return Gpu(device=self.device, values=values, unavailable=unavailable, processes=processes)

    def _is_idle(self, gpu: Gpu, nvml_device: NvmlDevice) -> bool | None:
        """Return whether nothing uses a GPU that was read; None: not known.

        A display server that only waits to render for other GPUs' displays is listed as a graphics process.
        """
        is_split = self.has_instances or self.device.mig_parent_uuid is not None
        has_clients = any(process.kind != "G" for process in gpu.processes)
        if is_split or has_clients or any(gpu.values[key] for key in LOAD_KEYS):
            return False
        if gpu.state is not None or PROCESSES in gpu.unavailable or gpu.values["gpu.utilization.gpu"] is None:
            return None
        try:
            return not nvml_device.is_display_active()
        except Unavailable as missing:
            return True if missing.reason.is_unsupported and not gpu.processes else None

    def _mark_unavailable(self, reason: UnavailableReason) -> Gpu:
        """Discard what was read, so that no old value is shown when the GPU answers again."""
        if self._nvml_device is not None:
            self._nvml_device.stop_polling()
        self._reader = MetricReader(GPU_METRICS)
        return mark_unavailable(self.device, reason)

    def take_implausible_count(self) -> int:
        """Return the number of implausible readings since the last call."""
        count, self._reader.implausible_count = self._reader.implausible_count, 0
        return count

    def discard(self) -> None:
        """Stop the background calls. What the driver has allocated stays: a call that is running may use it."""
        if self._nvml_device is not None:
            self._nvml_device.stop_polling()

    def close(self) -> None:
        """Free what the driver has allocated for this GPU."""
        if self._nvml_device is not None:
            self._nvml_device.close()


def _find_gpu_error(
    values: Mapping[str, float | None], unavailable: Mapping[str, UnavailableReason]
) -> UnavailableReason | None:
    """Return why a GPU as a whole cannot be read: a call reports it lost, or every essential call fails. Else None."""
    reasons = unavailable.values()
    lost = next((reason for reason in reasons if reason.is_lost), None)
    if lost is not None or any(values[key] is not None for key in ESSENTIAL_KEYS):
        return lost
    return next((unavailable[key] for key in ESSENTIAL_KEYS if unavailable[key].scope is not Scope.METRIC), None)


def _is_failed_instance(gpu: Gpu) -> bool:
    return gpu.state is not None and gpu.state.is_failure and gpu.device.mig_parent_uuid is not None


@dataclass
class GpuGroup:
    """A physical GPU and its MIG instances. `retry_at`: when to open it again (monotonic seconds), if it is lost.

    `handle` is None if NVML cannot read the GPU.
    """

    gpu: GpuSession
    handle: Any = None
    instances: list[GpuSession] = field(default_factory=list)
    retry_at: float = math.inf

    def discard(self) -> None:
        """Stop reading the GPU and its instances while the session goes on."""
        for each in (self.gpu, *self.instances):
            each.discard()

    def close(self) -> None:
        """Close the GPU and its instances, after the background calls have ended."""
        for each in (self.gpu, *self.instances):
            each.close()


class NvmlSession:
    """All GPUs of the machine. Opened at the first reading, and reopened while the driver or every GPU is missing.

    One GPU that is lost is opened again by itself, which leaves the others alone. `proc` and `sys_root` are where /proc
    and /sys are mounted. `memory` is shared with the parent process, which sees the running calls in it.
    """

    def __init__(
        self, *, proc: Path = Path("/proc"), sys_root: Path = Path("/sys"), memory: mmap.mmap | None = None
    ) -> None:
        self._proc, self._sys_root = proc, sys_root
        memory = memory if memory is not None else open_memory(None)
        self._marker, self._background_marker = CallMarker(memory, "sample"), CallMarker(memory, "background")
        self._selection = Selection()
        self._groups: dict[int, GpuGroup] = {}
        self._gpus: list[GpuSession] = []
        self._gpu_count = 0
        self._known: dict[int, Device] = {}
        self._pauses: dict[int, IdlePause] = {}
        self._is_left_alone = False
        self._driver = device_info.Driver(None, None)
        self._error: UnavailableReason | None = UnavailableReason.STARTING
        self._open_at = 0.0
        self._check_bus_at = 0.0
        self._check_instances_at = 0.0
        self._bus_ids: tuple[str, ...] = ()
        self._is_initialized = False
        self._poller = BackgroundPoller(self._background_marker)
        self._events: XidEventWatcher | None = None

    def select(self, selection: Selection) -> None:
        """Read these GPUs from now on. The others keep their state."""
        if selection == self._selection:
            return
        self._selection = selection
        if not self._is_initialized:
            return
        for index in [index for index in self._groups if not selection.has(index)]:
            self._groups.pop(index).discard()
        for index in self._list_selected():
            if index not in self._groups:
                self._groups[index] = self._open_group(index)
        self._list_gpus()
        self._marker.end()

    def read(self) -> GpuReading:
        """Read every GPU. Never raises; blocks for as long as the driver does."""
        now = time.monotonic()
        if self._has_bus_changed(now):
            self._open_at = now
            self._known.clear()
            self._pauses.clear()
        if self._is_left_alone and self._has_pause_ended():
            self._open_at = now
        if self._open_at <= now:
            self._open(now)
        self._check_instances(now)
        gpus = tuple(gpu.read(now) for gpu in self._gpus)
        if any(_is_failed_instance(gpu) for gpu in gpus):  # removed rather than lost?
            self._check_instances_at = now
            if self._check_instances(now):
                gpus = tuple(gpu.read(now) for gpu in self._gpus)
        implausible = sum(gpu.take_implausible_count() for gpu in self._gpus)
        if self._is_initialized:
            self._schedule_recovery(gpus, now)
        self._marker.end()
        events = self._events.drain() if self._events is not None else ()
        return GpuReading(gpus=gpus, error=None if gpus else self._error, events=events, implausible_count=implausible)

    def run_due_queries(self) -> None:
        """Run slow queries in the background. Call it after a reading is sent, so that it does not wait."""
        self._poller.run_due()

    def release_idle_gpus(self) -> None:
        """Close the session while every GPU is left alone: they do not suspend while it is open.

        Call it after a reading is sent, since it can take half a second.
        """
        if not self._is_initialized or {gpu.state for gpu in self._gpus} != {UnavailableReason.IDLE}:
            return
        sessions = [
            self._build_unreadable(gpu.device, index, UnavailableReason.INITIALIZING)
            for index, gpu in enumerate(self._gpus)
        ]
        for each in sessions:
            each.state = UnavailableReason.IDLE
        self._close_session()
        self._gpus, self._is_left_alone = sessions, True
        self._open_at = max(self._pauses[index].until for index in range(len(sessions)))

    def _has_pause_ended(self) -> bool:
        """Return whether a GPU that was left alone is in use again or cannot suspend, or all of them are suspended."""
        states = {gpu.state for gpu in self._gpus}
        return not states <= RESTING or states == {UnavailableReason.ASLEEP}

    def _has_bus_changed(self, now: float) -> bool:
        """Return whether GPUs were added or removed; nvmlInit fixes their number. Checked every two seconds."""
        if now < self._check_bus_at:
            return False
        self._check_bus_at = now + BUS_CHECK_INTERVAL_S
        before, self._bus_ids = self._bus_ids, list_bus_ids(self._proc)
        return before != self._bus_ids

    def _schedule_recovery(self, gpus: tuple[Gpu, ...], now: float) -> None:
        """Open a GPU again RECOVERY_INTERVAL_S after it is lost or does not answer; if all are, the whole session.

        Only then: a new session would take rates, energy and processes from the healthy GPUs for some seconds.
        """
        lost = {gpu.device.index for gpu in gpus if gpu.state is not None and gpu.state not in RESTING}
        if len(lost) == len(gpus):
            self._open_at = min(self._open_at, now + RECOVERY_INTERVAL_S)
            return
        self._open_at = math.inf
        for index, group in list(self._groups.items()):
            if index not in lost:
                group.retry_at = math.inf
            elif group.retry_at == math.inf:
                group.retry_at = now + RECOVERY_INTERVAL_S
            elif group.retry_at <= now:
                group.discard()
                self._groups[index] = self._open_group(index)
                self._list_gpus()

    def _open(self, now: float) -> None:
        self._close_session()
        suspended = find_suspended_gpus(self._proc, self._sys_root)
        if suspended:
            known = {to_sysfs_name(each.pci_bus_id): each for each in self._known.values() if each.pci_bus_id}
            self._gpus = [
                self._build_unreadable(
                    known.get(gpu.bus_id) or build_unreadable_device(index, *gpu), index, UnavailableReason.ASLEEP
                )
                for index, gpu in enumerate(suspended)
            ]
            self._open_at = now + REOPEN_DELAY_S
            return
        self._marker.begin(NO_GPU, OPEN_DRIVER)
        try:
            call(pynvml.nvmlInit)
            self._is_initialized = True
            self._gpu_count = call(pynvml.nvmlDeviceGetCount)
            self._marker.set_gpu_count(self._gpu_count)
            self._driver = device_info.read_driver(read_host_memory_bytes(self._proc))
            self._events = XidEventWatcher()
            for index in self._list_selected():
                self._groups[index] = self._open_group(index)
            self._list_gpus()
            self._error = UnavailableReason.NO_DEVICE
        except Unavailable as missing:
            self._error = missing.reason
        if self._gpus:
            self._open_at = math.inf
        else:
            opening_s = time.monotonic() - now
            self._open_at = now + max(REOPEN_DELAY_S, opening_s / MAX_OPENING_SHARE)

    def _list_selected(self) -> Iterator[int]:
        return (index for index in range(self._gpu_count) if self._selection.has(index))

    def _open_group(self, index: int) -> GpuGroup:
        """Open a GPU and its MIG instances."""
        self._marker.begin(index, OPEN_GPU)
        known = self._known.get(index) or describe_unreadable_gpu(self._proc, index, self._gpu_count)
        try:
            handle = call(pynvml.nvmlDeviceGetHandleByIndex, index)
            uuid = device_info.read_uuid(handle, known=known.uuid if known.is_identified else None)
            device = device_info.read_device(handle, index, self._driver, uuid=uuid)
        except Unavailable as missing:
            return GpuGroup(self._build_unreadable(known, index, missing.reason))
        self._known[index] = device
        group = GpuGroup(self._open_gpu(handle, device, index), handle)
        self._update_instances(group, index)
        if self._events is not None:
            self._events.add(device.uuid, handle)
        return group

    def _check_instances(self, now: float) -> bool:
        """Find MIG instances that were made or removed since the last check. Return whether there are any."""
        if now < self._check_instances_at:
            return False
        self._check_instances_at = now + MIG_CHECK_INTERVAL_S
        awake = {index: group for index, group in self._groups.items() if group.gpu.state not in RESTING}
        changed = [self._update_instances(group, index) for index, group in awake.items()]
        if any(changed):
            self._list_gpus()
        return any(changed)

    def _update_instances(self, group: GpuGroup, index: int) -> bool:
        """Open new MIG instances of a GPU and discard removed ones. Return whether there are any."""
        if group.handle is None:
            return False
        self._marker.begin(index, "nvmlDeviceGetMigDeviceHandleByIndex")
        try:
            found = device_info.find_mig_instances(group.handle)
        except Unavailable:
            return False  # not known at present
        before = {instance.device.uuid: instance for instance in group.instances}
        if found.keys() == before.keys():
            return False
        instances = []
        for uuid, handle in found.items():
            if uuid in before:
                instances.append(before[uuid])
                continue
            part = device_info.read_instance(handle, index, group.gpu.device, self._driver, uuid=uuid)
            instances.append(self._open_gpu(handle, part, index))
        for uuid in before.keys() - found.keys():
            before[uuid].discard()
        group.instances = instances
        group.gpu.has_instances = bool(instances) or call_or_none(mig_mode, group.handle) == 1
        return True

    def _list_gpus(self) -> None:
        """List the GPUs in the order of their indexes; those of MIG instances come after those of all GPUs."""
        groups = [self._groups[index] for index in sorted(self._groups)]
        instances = [instance for group in groups for instance in group.instances]
        for index, instance in enumerate(instances, start=self._gpu_count):
            instance.device = replace(instance.device, index=index)
        self._gpus = [*(group.gpu for group in groups), *instances]

    def _open_gpu(self, handle: Any, device: Device, gpu_index: int) -> GpuSession:
        nvml_device = NvmlDevice(
            handle,
            self._poller,
            marker=self._marker,
            gpu_index=gpu_index,
            not_supported_reason=self._get_not_supported_reason(device),
            read_host_memory=build_host_memory_reader(self._proc) if device.shares_host_memory else None,
        )
        has_instances = device.mig_parent_uuid is None and call_or_none(mig_mode, handle) == 1
        power_state = PowerState(self._proc, self._sys_root, device.pci_bus_id)
        pause = self._pauses.setdefault(gpu_index, IdlePause())
        return GpuSession(device, nvml_device, power_state, pause, has_instances=has_instances)

    def _build_unreadable(self, device: Device, gpu_index: int, error: UnavailableReason) -> GpuSession:
        power_state = PowerState(self._proc, self._sys_root, device.pci_bus_id)
        pause = self._pauses.setdefault(gpu_index, IdlePause())
        return GpuSession(device, None, power_state, pause, error=error)

    def _get_not_supported_reason(self, device: Device) -> UnavailableReason:
        if device.mig_parent_uuid is not None:
            return UnavailableReason.MIG_INSTANCE
        return UnavailableReason.WDDM if device_info.is_wsl(self._proc) else UnavailableReason.NOT_SUPPORTED

    def _close_session(self) -> None:
        self._marker.begin(NO_GPU, "nvmlShutdown")
        if self._events is not None:
            self._events.close()
            self._events = None
        self._poller.close()
        self._poller = BackgroundPoller(self._background_marker)
        for group in self._groups.values():
            group.close()
        self._groups, self._gpus, self._is_left_alone = {}, [], False
        if self._is_initialized:
            self._is_initialized = False
            call_or_none(pynvml.nvmlShutdown)
        self._marker.end()

    def close(self) -> None:
        """Close the session with the driver."""
        self._close_session()
