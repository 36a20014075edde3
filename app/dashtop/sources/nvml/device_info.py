"""Static facts of GPUs and MIG instances, through NVML; and what Linux reports: power state, PCI bus, WSL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pynvml

from dashtop.model.sample import Device
from dashtop.model.text import sanitize_text
from dashtop.sources.gpu_records import ARCHITECTURES, build_instance, format_cuda_version, shares_host_memory
from dashtop.sources.nvml.bindings import MAX_TEXT_LENGTH, call_or_none, read_text, read_text_or_none
from dashtop.sources.nvml.queries import MILLI, memory_v2, mig_mode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_NVIDIA_VENDOR = "0x10de"
_DISPLAY_CLASS = "0x03"


class Driver(NamedTuple):
    """Versions of the installed driver. `cuda_version`: the newest CUDA version that it can run."""

    version: str | None
    cuda_version: str | None


def read_driver() -> Driver:
    """Read the versions of the driver."""
    cuda = call_or_none(pynvml.nvmlSystemGetCudaDriverVersion)
    return Driver(
        read_text_or_none(pynvml.nvmlSystemGetDriverVersion),
        format_cuda_version(cuda) if cuda is not None else None,
    )


def read_device(handle: Any, index: int, driver: Driver) -> Device:
    """Read the static facts of a GPU. Raise Unavailable if its UUID cannot be read."""
    uuid = read_text(pynvml.nvmlDeviceGetUUID, handle)
    name = read_text_or_none(pynvml.nvmlDeviceGetName, handle) or "NVIDIA GPU"
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
        driver_version=driver.version,
        cuda_version=driver.cuda_version,
        compute_capability=f"{capability[0]}.{capability[1]}" if capability is not None else None,
        pci_bus_id=read_text_or_none(_read_bus_id, handle),
        power_limit_watts=power * MILLI if power is not None else None,
        slowdown_celsius=slowdown or None,
        shutdown_celsius=shutdown or None,
        serial=read_text_or_none(pynvml.nvmlDeviceGetSerial, handle),
        vbios=read_text_or_none(pynvml.nvmlDeviceGetVbiosVersion, handle),
        architecture=ARCHITECTURES.get(call_or_none(pynvml.nvmlDeviceGetArchitecture, handle) or 0),
        shares_host_memory=shares_host_memory(name, total),
    )


def _read_bus_id(handle: Any) -> str:
    return str(pynvml.nvmlDeviceGetPciInfo(handle).busId)


def read_instance(handle: Any, index: int, parent: Device, driver: Driver) -> Device:
    """Read the static facts of a MIG instance of `parent`."""
    device = read_device(handle, index, driver)
    return build_instance(parent, index, device.uuid, device.name, device.memory_total_bytes)


def find_mig_instances(handle: Any) -> Iterator[Any]:
    """Yield the handles of the MIG instances of a GPU."""
    if call_or_none(mig_mode, handle) != 1:
        return
    for position in range(call_or_none(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        instance = call_or_none(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, position)
        if instance is not None:
            yield instance


class SuspendedGpu(NamedTuple):
    """A GPU that is suspended; None: not known."""

    uuid: str | None
    name: str | None
    bus_id: str


class PowerState:
    """Reads whether a GPU is suspended. Reading it does not wake the GPU.

    The kernel reports it in `power/runtime_status` of the PCI device (Documentation/power/runtime_pm.rst).
    A device whose `power/control` is not "auto" is never suspended, and its status is not read again.
    """

    def __init__(self, sys_root: Path, bus_id: str | None) -> None:
        self._status: Path | None = None
        if bus_id is not None:
            power = sys_root / "bus" / "pci" / "devices" / to_sysfs_name(bus_id) / "power"
            if _read_first_line(power / "control") == "auto":
                self._status = power / "runtime_status"

    def is_suspended(self) -> bool:
        """Return whether the GPU is suspended now."""
        return self._status is not None and _read_first_line(self._status) == "suspended"


def find_suspended_gpus(proc: Path, sys_root: Path) -> list[SuspendedGpu]:
    """Return the GPUs on the PCI bus if all of them are suspended, else an empty list.

    nvmlInit would wake them. Their names are in files of the driver, which can be read without waking them.
    """
    found: list[SuspendedGpu] = []
    for device in sorted((sys_root / "bus" / "pci" / "devices").glob("*")):
        is_display = _read_first_line(device / "class").startswith(_DISPLAY_CLASS)
        if not is_display or _read_first_line(device / "vendor") != _NVIDIA_VENDOR:
            continue
        if not PowerState(sys_root, device.name).is_suspended():
            return []
        facts = _read_driver_file(proc / "driver" / "nvidia" / "gpus" / device.name / "information")
        found.append(SuspendedGpu(facts.get("GPU UUID"), facts.get("Model"), device.name))
    return found


def list_bus_ids(proc: Path) -> tuple[str, ...]:
    """Return the PCI bus ids of the GPUs that the driver has claimed; empty if it does not list them."""
    try:
        return tuple(sorted(entry.name for entry in (proc / "driver" / "nvidia" / "gpus").iterdir()))
    except OSError:
        return ()


def is_wsl(proc: Path) -> bool:
    """Return whether this is WSL, where the driver is that of Windows (its kernel says so in /proc/version)."""
    return "microsoft" in _read_first_line(proc / "version").lower()


def to_sysfs_name(bus_id: str) -> str:
    """Return a PCI bus id as sysfs spells it: NVML's domain has eight digits and capitals, that of the kernel four."""
    domain, _, rest = bus_id.lower().partition(":")
    return f"{domain[-4:]}:{rest}"


def _read_first_line(file: Path) -> str:
    try:
        return file.read_text(errors="replace").partition("\n")[0].strip()
    except OSError:
        return ""


def _read_driver_file(file: Path) -> dict[str, str]:
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {
        key.strip(): sanitize_text(value.strip(), limit=MAX_TEXT_LENGTH) for key, _, value in pairs if value.strip()
    }
