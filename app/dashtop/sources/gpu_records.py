"""Records of GPUs and MIG instances, and the memory of the host that some share: for real and simulated readers."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from dashtop.metrics import GPU_METRICS
from dashtop.model.readers import MemoryUse
from dashtop.model.sample import PROCESSES, UNREADABLE_PREFIX, Device, Gpu
from dashtop.model.unavailable import Unavailable, UnavailableReason

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ARCHITECTURES = {
    2: "Kepler", 3: "Maxwell", 4: "Pascal", 5: "Volta", 6: "Turing", 7: "Ampere", 8: "Ada", 9: "Hopper",
    10: "Blackwell", 13: "Rubin",
}  # fmt: skip

# A GPU with MIG instances does not report its utilization (NVML manual, chapter on MIG).
_UTILIZATION_KEYS = ("gpu.utilization.", "gpu.encoder_", "gpu.decoder_", "gpu.jpeg_", "gpu.ofa_")
_MIG_PROFILE = re.compile(r"MIG (\S+)")
_PAGE_BYTES = 65536
# Parts that use the memory of the host (NVIDIA's DGX Spark and Jetson documentation).
_INTEGRATED_PARTS = re.compile(r"\b(GB10|N1X|Thor|Orin|Xavier|Tegra)\b", re.IGNORECASE)


def format_cuda_version(number: int) -> str:
    """Return NVML's number of a CUDA version as text: 12040 is 12.4."""
    return f"{number // 1000}.{number % 1000 // 10}"


def shares_host_memory(name: str, memory_total_bytes: int | None, *, host_memory_bytes: int | None = None) -> bool:
    """Return whether a GPU uses the memory of the host. `memory_total_bytes`: as NVML reports it.

    For such a part NVML reports no memory, 0, or MemTotal of the host to the page. A GPU that reports no memory can
    also be one of Windows, so there the name decides.
    """
    if memory_total_bytes is None:
        return _INTEGRATED_PARTS.search(name) is not None
    is_host_memory = host_memory_bytes is not None and abs(memory_total_bytes - host_memory_bytes) <= _PAGE_BYTES
    return memory_total_bytes == 0 or is_host_memory


def read_host_memory_bytes(proc: Path) -> int | None:
    """Return MemTotal of the host; None if it cannot be read."""
    try:
        return _read_meminfo(proc, "MemTotal")[0]
    except (OSError, KeyError, ValueError):
        return None


def _read_meminfo(proc: Path, *keys: str) -> list[int]:
    """Return bytes. Raise OSError, KeyError or ValueError."""
    lines = dict(line.split(":", 1) for line in (proc / "meminfo").read_text().splitlines())
    return [int(lines[key].split()[0]) * 1024 for key in keys]


def build_host_memory_reader(proc: Path) -> Callable[[], MemoryUse]:
    """Return a function that reads the memory of the host, for a GPU that shares it. It can raise Unavailable."""

    def read() -> MemoryUse:
        try:
            total, available = _read_meminfo(proc, "MemTotal", "MemAvailable")
        except (OSError, KeyError, ValueError):
            raise Unavailable(UnavailableReason.UNIFIED_MEMORY) from None
        return MemoryUse(total - available, total, available)

    return read


def build_instance(parent: Device, index: int, uuid: str, name: str, memory_total_bytes: int | None) -> Device:
    """Return the facts of a MIG instance of `parent`, without those that belong to the whole GPU."""
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


def get_mig_parent_reason(key: str, reason: UnavailableReason) -> UnavailableReason:
    """Return why a GPU with MIG instances does not report a value. `reason`: that of any other GPU."""
    is_utilization = reason is UnavailableReason.NOT_SUPPORTED and key.startswith(_UTILIZATION_KEYS)
    return UnavailableReason.MIG_PARENT if is_utilization else reason


def build_unreadable_device(
    index: int, uuid: str | None = None, name: str | None = None, bus_id: str | None = None
) -> Device:
    """Return what is known of a GPU that NVML cannot read."""
    return Device(
        uuid=uuid or f"{UNREADABLE_PREFIX}{index}",
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


def mark_unavailable(device: Device, reason: UnavailableReason) -> Gpu:
    """Return a GPU without values, all of them missing for one reason."""
    keys = [metric.key for metric in GPU_METRICS]
    return Gpu(
        device=device,
        values=dict.fromkeys(keys),
        unavailable=dict.fromkeys([*keys, PROCESSES], reason),
        processes=(),
        state=reason,
    )
