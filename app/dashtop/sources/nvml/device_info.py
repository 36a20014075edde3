"""Static facts of GPUs and MIG instances, through NVML; and whether this is WSL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pynvml

from dashtop.model.sample import PCI_PREFIX, Device
from dashtop.model.unavailable import Unavailable
from dashtop.sources.gpu_records import (
    ARCHITECTURES,
    build_instance,
    format_cuda_version,
    shares_host_memory,
)
from dashtop.sources.nvml.bindings import call, call_or_none, read_text, read_text_or_none
from dashtop.sources.nvml.driver_files import read_first_line
from dashtop.sources.nvml.queries import MILLI, memory_v1, memory_v2, mig_mode

if TYPE_CHECKING:
    from pathlib import Path


class Driver(NamedTuple):
    """Versions of the installed driver, and the memory of the host that it runs on.

    `cuda_version`: the newest CUDA version that it can run.
    """

    version: str | None
    cuda_version: str | None
    host_memory_bytes: int | None = None


def read_driver(host_memory_bytes: int | None) -> Driver:
    """Read the versions of the driver."""
    cuda = call_or_none(pynvml.nvmlSystemGetCudaDriverVersion)
    return Driver(
        read_text_or_none(pynvml.nvmlSystemGetDriverVersion),
        format_cuda_version(cuda) if cuda is not None else None,
        host_memory_bytes,
    )


def read_device(handle: Any, index: int, driver: Driver, *, uuid: str) -> Device:
    """Read the static facts of a GPU."""
    name = read_text_or_none(pynvml.nvmlDeviceGetName, handle) or "NVIDIA GPU"
    capability = call_or_none(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    reserved = call_or_none(memory_v2, handle)
    memory = reserved.use if reserved is not None else call_or_none(memory_v1, handle)
    total = memory.total if memory is not None else None
    is_shared = shares_host_memory(name, total, host_memory_bytes=driver.host_memory_bytes)
    power = call_or_none(pynvml.nvmlDeviceGetEnforcedPowerLimit, handle)
    slowdown, shutdown = (
        call_or_none(pynvml.nvmlDeviceGetTemperatureThreshold, handle, kind)
        for kind in (pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN, pynvml.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN)
    )
    return Device(
        uuid=uuid,
        index=index,
        name=name,
        memory_total_bytes=None if is_shared else total,
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
        shares_host_memory=is_shared,
    )


def _read_bus_id(handle: Any) -> str:
    return str(pynvml.nvmlDeviceGetPciInfo(handle).busId)


def read_uuid(handle: Any, *, known: str | None) -> str:
    """Return the UUID of a GPU; if NVML does not report it, the `known` one, or its PCI address.

    Raise Unavailable if the GPU is lost or neither can be read.
    """
    try:
        return read_text(pynvml.nvmlDeviceGetUUID, handle)
    except Unavailable as missing:
        bus_id = None if missing.reason.is_lost else read_text_or_none(_read_bus_id, handle)
        if bus_id is None:
            raise
    return known or f"{PCI_PREFIX}{bus_id}"


def read_instance(handle: Any, index: int, parent: Device, driver: Driver, *, uuid: str) -> Device:
    """Read the static facts of a MIG instance of `parent`."""
    device = read_device(handle, index, driver, uuid=uuid)
    return build_instance(parent, index, device.uuid, device.name, device.memory_total_bytes)


def find_mig_instances(handle: Any) -> dict[str, Any]:
    """Return the handles of the MIG instances of a GPU by UUID. Raise Unavailable if they cannot be listed."""
    try:
        if call(mig_mode, handle) != 1:
            return {}
    except Unavailable as missing:
        if missing.reason.is_unsupported:
            return {}
        raise
    found = {}
    for position in range(call(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle)):
        try:
            instance = call(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, position)
            found[read_text(pynvml.nvmlDeviceGetUUID, instance)] = instance
        except Unavailable as missing:
            if not missing.reason.is_unsupported:  # NOT_FOUND is: there is none at this position
                raise
    return found


def is_wsl(proc: Path) -> bool:
    """Return whether this is WSL, where the driver is that of Windows (its kernel says so in /proc/version)."""
    return "microsoft" in read_first_line(proc / "version").lower()
