"""Who the GPUs are: static facts, MIG instances, and what the operating system knows of a GPU without waking it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pynvml

from dashtop.metrics import GPU_METRICS
from dashtop.model.sample import PROCESSES, Device, Gpu
from dashtop.model.text import sanitize_text
from dashtop.model.unavailable import UnavailableReason
from dashtop.sources.host.memory import is_shared
from dashtop.sources.nvml.errors import TEXT_LENGTH, call_or_none, text, text_or_none
from dashtop.sources.nvml.queries import MILLI, memory_v2, mig_mode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ARCHITECTURES = {
    2: "Kepler", 3: "Maxwell", 4: "Pascal", 5: "Volta", 6: "Turing", 7: "Ampere", 8: "Ada", 9: "Hopper",
    10: "Blackwell", 13: "Rubin",
}  # fmt: skip

# How busy a GPU is, a GPU that is split does not tell (NVML manual, chapter on MIG); its instances' work is their own.
_WORK = ("gpu.utilization.", "gpu.encoder_", "gpu.decoder_", "gpu.jpeg_", "gpu.ofa_")
_MIG_PROFILE = re.compile(r"MIG (\S+)")


def cuda_version(number: int) -> str:
    """Return NVML's number for a CUDA version as people write it: 12040 is 12.4."""
    return f"{number // 1000}.{number % 1000 // 10}"


def instance_of(parent: Device, index: int, uuid: str, name: str, memory_total_bytes: int | None) -> Device:
    """Return the facts of a MIG instance of `parent`; what belongs to the whole GPU is not the instance's."""
    return replace(
        parent,
        uuid=uuid,
        index=index,
        name=name,
        memory_total_bytes=memory_total_bytes,
        power_limit_watts=None,
        slowdown_celsius=None,
        shutdown_celsius=None,
        serial=None,
        vbios=None,
        mig_parent_uuid=parent.uuid,
        mig_profile=profile.group(1) if (profile := _MIG_PROFILE.search(name)) is not None else None,
    )


def split_reason(key: str, reason: UnavailableReason) -> UnavailableReason:
    """Return why a GPU with MIG instances does not tell a value, given the reason that stands for any GPU."""
    return (
        UnavailableReason.MIG_PARENT if reason is UnavailableReason.NOT_SUPPORTED and key.startswith(_WORK) else reason
    )


def silent(device: Device, reason: UnavailableReason) -> Gpu:
    """Return a GPU without any value, for one reason."""
    keys = [metric.key for metric in GPU_METRICS]
    return Gpu(
        device=device,
        values=dict.fromkeys(keys),
        unavailable=dict.fromkeys([*keys, PROCESSES], reason),
        processes=(),
        state=reason,
    )


_NVIDIA_VENDOR = "0x10de"


class Driver(NamedTuple):
    """The installed driver; `cuda` is the newest CUDA version it can run."""

    version: str | None
    cuda: str | None


def driver() -> Driver:
    """Ask for the driver's versions."""
    cuda = call_or_none(pynvml.nvmlSystemGetCudaDriverVersion)
    return Driver(
        text_or_none(pynvml.nvmlSystemGetDriverVersion),
        cuda_version(cuda) if cuda is not None else None,
    )


def static_facts(handle: Any, index: int, installed: Driver) -> Device:
    """Ask everything about a GPU that does not change while it runs. Raises Unavailable without a UUID."""
    uuid = text(pynvml.nvmlDeviceGetUUID, handle)
    name = text_or_none(pynvml.nvmlDeviceGetName, handle) or "NVIDIA GPU"
    capability = call_or_none(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    memory = call_or_none(memory_v2, handle) or call_or_none(pynvml.nvmlDeviceGetMemoryInfo, handle)
    total = memory.total if memory is not None else None
    power = call_or_none(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    slowdown, shutdown = (
        call_or_none(pynvml.nvmlDeviceGetTemperatureThreshold, handle, kind)
        for kind in (pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN, pynvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN)
    )
    return Device(
        uuid=uuid,
        index=index,
        name=name,
        memory_total_bytes=total,
        driver_version=installed.version,
        cuda_version=installed.cuda,
        compute_capability=f"{capability[0]}.{capability[1]}" if capability is not None else None,
        pci_bus_id=text_or_none(_bus_id, handle),
        power_limit_watts=power * MILLI if power is not None else None,
        slowdown_celsius=slowdown or None,
        shutdown_celsius=shutdown or None,
        serial=text_or_none(pynvml.nvmlDeviceGetSerial, handle),
        vbios=text_or_none(pynvml.nvmlDeviceGetVbiosVersion, handle),
        architecture=ARCHITECTURES.get(call_or_none(pynvml.nvmlDeviceGetArchitecture, handle) or 0),
        shares_host_memory=is_shared(name, total),
    )


def _bus_id(handle: Any) -> str:
    return str(pynvml.nvmlDeviceGetPciInfo(handle).busId)


def instance_facts(handle: Any, index: int, parent: Device, installed: Driver) -> Device:
    """Ask for the facts of a MIG instance of `parent`."""
    own = static_facts(handle, index, installed)
    return instance_of(parent, index, own.uuid, own.name, own.memory_total_bytes)


def mig_instances(handle: Any) -> Iterator[Any]:
    """Yield the handles of a GPU's MIG instances; none where it is not split."""
    if call_or_none(mig_mode, handle) != 1:
        return
    for position in range(call_or_none(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        instance = call_or_none(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, position)
        if instance is not None:
            yield instance


def unreadable(index: int, uuid: str | None = None, name: str | None = None, bus_id: str | None = None) -> Device:
    """Return what is known of a GPU that cannot be asked."""
    return Device(
        uuid=uuid or f"unreadable-{index}",
        index=index,
        name=name or "NVIDIA GPU",
        memory_total_bytes=None,
        driver_version=None,
        cuda_version=None,
        compute_capability=None,
        pci_bus_id=bus_id,
        power_limit_watts=None,
        slowdown_celsius=None,
        shutdown_celsius=None,
    )


class SleepState:
    """Whether a GPU is asleep, read where looking does not wake it.

    The kernel tells it in `power/runtime_status` of the PCI device (Documentation/power/runtime_pm.rst); a device whose
    `power/control` is not "auto" never sleeps and is not looked at again.
    """

    def __init__(self, sys: Path, bus_id: str | None) -> None:
        self._status: Path | None = None
        if bus_id is not None:
            power = sys / "bus" / "pci" / "devices" / sysfs_name(bus_id) / "power"
            if _first_line(power / "control") == "auto":
                self._status = power / "runtime_status"

    def asleep(self) -> bool:
        """Tell whether the GPU is suspended now."""
        return self._status is not None and _first_line(self._status) == "suspended"


def sleeping_gpus(proc: Path, sys: Path) -> list[Device]:
    """Return the GPUs on the PCI bus if every one of them is asleep; else, or where there is none, an empty list.

    Opening NVML would wake them; their names stand in the driver's own files, which do not.
    """
    found: list[Device] = []
    for device in sorted((sys / "bus" / "pci" / "devices").glob("*")):
        if _first_line(device / "vendor") != _NVIDIA_VENDOR or not _first_line(device / "class").startswith("0x03"):
            continue
        if not SleepState(sys, device.name).asleep():
            return []
        told = _driver_file(proc / "driver" / "nvidia" / "gpus" / device.name / "information")
        found.append(unreadable(len(found), told.get("GPU UUID"), told.get("Model"), device.name))
    return found


def gpus_on_the_bus(proc: Path) -> tuple[str, ...]:
    """Return the bus ids of the GPUs that the driver has taken; empty where it does not list them."""
    try:
        return tuple(sorted(entry.name for entry in (proc / "driver" / "nvidia" / "gpus").iterdir()))
    except OSError:
        return ()


def runs_under_windows(proc: Path) -> bool:
    """Tell whether this is WSL, where the driver is Windows' (its kernel says so in /proc/version)."""
    return "microsoft" in _first_line(proc / "version").lower()


def sysfs_name(bus_id: str) -> str:
    """Return a bus id as sysfs spells it: NVML's domain has eight digits and capitals, the kernel's four."""
    domain, _, rest = bus_id.lower().partition(":")
    return f"{domain[-4:]}:{rest}"


def _first_line(file: Path) -> str:
    try:
        return file.read_text(errors="replace").partition("\n")[0].strip()
    except OSError:
        return ""


def _driver_file(file: Path) -> dict[str, str]:
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): sanitize_text(value.strip(), limit=TEXT_LENGTH) for key, _, value in pairs if value.strip()}
