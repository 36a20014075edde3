"""How GPUs are described, real and simulated ones alike."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from dashtop.catalog import GPU_METRICS
from dashtop.domain.errors import Reason
from dashtop.domain.sample import PROCESSES, Gpu

if TYPE_CHECKING:
    from dashtop.domain.sample import Device

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


def split_reason(key: str, reason: Reason) -> Reason:
    """Return why a GPU with MIG instances does not tell a value, given the reason that stands for any GPU."""
    return Reason.MIG_PARENT if reason is Reason.NOT_SUPPORTED and key.startswith(_WORK) else reason


def silent(device: Device, reason: Reason) -> Gpu:
    """Return a GPU without any value, for one reason."""
    keys = [metric.key for metric in GPU_METRICS]
    return Gpu(
        device=device,
        values=dict.fromkeys(keys),
        unavailable=dict.fromkeys([*keys, PROCESSES], reason),
        processes=(),
        state=reason,
    )
