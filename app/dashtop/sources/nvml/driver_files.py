"""The files of the driver under /proc. Reading them neither wakes a GPU nor waits for the driver."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dashtop.model.text import sanitize_text
from dashtop.sources.gpu_records import build_unreadable_device

if TYPE_CHECKING:
    from pathlib import Path

    from dashtop.model.sample import Device

MAX_TEXT_LENGTH = 96


class GpuIdentity(NamedTuple):
    """A GPU as the driver's files describe it; None: not known."""

    uuid: str | None
    name: str | None
    bus_id: str


def list_bus_ids(proc: Path) -> tuple[str, ...]:
    """Return the PCI bus ids of the GPUs that the driver has claimed; empty if it does not list them."""
    try:
        return tuple(sorted(entry.name for entry in (proc / "driver" / "nvidia" / "gpus").iterdir()))
    except OSError:
        return ()


def read_identity(proc: Path, bus_id: str) -> GpuIdentity:
    """Return what the driver's file says of the GPU at a PCI bus id."""
    facts = _read_pairs(proc / "driver" / "nvidia" / "gpus" / bus_id / "information")
    return GpuIdentity(facts.get("GPU UUID"), facts.get("Model"), bus_id)


def read_runtime_d3_status(proc: Path, bus_id: str) -> str | None:
    """Return what the driver says of runtime D3 for the GPU at a PCI bus id; None: nothing.

    "Enabled (fine-grained)", "Enabled (coarse-grained)", "Disabled by default", "Not supported" (chapter on runtime D3
    of the driver's README).
    """
    return _read_pairs(proc / "driver" / "nvidia" / "gpus" / bus_id / "power").get("Runtime D3 status")


def describe_unreadable_gpu(proc: Path, index: int, gpu_count: int) -> Device:
    """Return what is known of a GPU that NVML cannot read. Its indexes follow the order of the PCI bus."""
    bus_ids = list_bus_ids(proc)
    if len(bus_ids) != gpu_count:
        return build_unreadable_device(index)
    return build_unreadable_device(index, *read_identity(proc, bus_ids[index]))


def read_first_line(file: Path) -> str:
    """Return the first line of a file without white space at its ends; empty if it cannot be read."""
    try:
        return file.read_text(errors="replace").partition("\n")[0].strip()
    except OSError:
        return ""


def _read_pairs(file: Path) -> dict[str, str]:
    """Return the lines `key: value` of a file."""
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {
        key.strip(): sanitize_text(value.strip(), limit=MAX_TEXT_LENGTH) for key, _, value in pairs if value.strip()
    }
