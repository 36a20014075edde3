"""The examination: reads what `dashtop serve` would read, and judges it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dashtop.app import build_sampler
from dashtop.doctor import fixes as remedies
from dashtop.doctor.environment import look
from dashtop.doctor.report import Finding, GpuFinding, Report, State, gpu_area
from dashtop.doctor.storage import data_and_port
from dashtop.model.unavailable import UnavailableReason
from dashtop.sources.nvml import library
from dashtop.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dashtop.doctor.environment import Surroundings
    from dashtop.model.sample import Gpu, Sample
    from dashtop.settings import Settings

GPU_TIMEOUT_S = 5.0
# Rates need a second reading, and costly metrics come when they are ready.
PATIENCE_S = 4.0
BETWEEN_READINGS_S = 0.25

DRIVER = "Driver"
CONTAINER = "Container"


def examine(settings: Settings, *, root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> Report:
    """Examine this machine, under `root`. Takes about fifteen seconds at most, whatever the driver does."""
    around = look(root, environ)
    sample = _settled_sample(settings)
    found = library.find(root / "dev/nvidiactl") if settings.gpu and not settings.demo else library.Library()
    findings = [
        *_driver(settings, sample, found, around),
        *(finding for gpu in sample.gpus for finding in _gpu(gpu, sample, around)),
        *_container(sample, around),
        *data_and_port(settings),
    ]
    gpus = [GpuFinding(device=gpu.device, present=_present(gpu), missing=dict(gpu.unavailable)) for gpu in sample.gpus]
    return Report(version=__version__, findings=tuple(findings), gpus=tuple(gpus))


def _settled_sample(settings: Settings) -> Sample:
    sampler = build_sampler(settings)
    try:
        end = time.monotonic() + PATIENCE_S
        sample = sampler.sample(GPU_TIMEOUT_S)
        while _is_settling(sample) and time.monotonic() < end:
            time.sleep(BETWEEN_READINGS_S)
            sample = sampler.sample(GPU_TIMEOUT_S)
        return sample
    finally:
        sampler.close()


def _is_settling(sample: Sample) -> bool:
    reasons = {reason for gpu in sample.gpus for reason in gpu.unavailable.values()}
    return any(reason.is_pending for reason in reasons)


def _present(gpu: Gpu) -> int:
    return sum(value is not None for value in gpu.values.values())


def _driver(settings: Settings, sample: Sample, found: library.Library, around: Surroundings) -> Iterator[Finding]:
    if settings.demo:
        yield Finding(area=DRIVER, text=f"{settings.demo} simulated GPUs; the driver is not asked")
        return
    trouble = UnavailableReason.DRIVER_SILENT if sample.gpu_error is UnavailableReason.STARTING else sample.gpu_error
    if trouble is UnavailableReason.DISABLED:
        yield Finding(area=DRIVER, text="GPUs are left alone, as the settings say (--no-gpu)")
        return
    if found.path is not None:
        version = f", version {found.version}" if found.version is not None else ""
        yield Finding(area=DRIVER, text=f"library {found.path}{version}")
    if around.module_version is not None:
        yield Finding(area=DRIVER, text=f"kernel module {around.module_version}")
    if around.device_files:
        yield Finding(area=DRIVER, text=f"device files {', '.join(around.device_files)}")
    if trouble is not None:
        yield Finding(
            area=DRIVER,
            state=State.FAIL,
            text="; ".join([trouble.text, *_circumstances(trouble, found, around)]),
            mend=remedies.for_trouble(trouble, around, denied=found.denied is not None),
        )
        return
    first = sample.gpus[0].device
    instances = sum(gpu.device.mig_parent_uuid is not None for gpu in sample.gpus)
    count = len(sample.gpus) - instances
    counted = f"{count} GPU{'s' if count > 1 else ''}" + (f", {instances} MIG instances" if instances else "")
    versions = f"driver {first.driver_version or 'version not told'}, CUDA up to {first.cuda_version or '(not told)'}"
    yield Finding(area=DRIVER, text=f"{versions}; {counted}")


def _circumstances(trouble: UnavailableReason, found: library.Library, around: Surroundings) -> Iterator[str]:
    if trouble is UnavailableReason.DRIVER_SILENT:
        yield f"waited {GPU_TIMEOUT_S:g} s"
    if found.error is not None:
        yield found.error
    if found.denied is not None:
        yield f"/dev/nvidiactl cannot be opened: {found.denied}"
    if around.cards_on_bus == 0 and not around.wsl:
        yield "there is no NVIDIA card on the PCI bus"
    if around.in_container and trouble is not UnavailableReason.DRIVER_SILENT:
        yield "this container was started without GPUs, or has lost them"


def _gpu(gpu: Gpu, sample: Sample, around: Surroundings) -> Iterator[Finding]:
    area = gpu_area(gpu.device)
    mend = remedies.for_gpu(gpu.state, gpu.device, around) if gpu.state is not None else None
    if gpu.state is not None:
        yield Finding(area=area, state=State.FAIL if mend else State.OK, text=gpu.state.text, mend=mend)
        return
    yield Finding(area=area, text=f"{_present(gpu)} metrics, {len(gpu.unavailable)} not available; {gpu.device.uuid}")
    yield from (Finding(area=area, text=text) for text in _mig(gpu, sample))
    for reason in dict.fromkeys(gpu.unavailable.values()):
        if (mend := remedies.for_metrics(reason, around)) is not None:
            keys = [key.partition(".")[2] for key, why in gpu.unavailable.items() if why is reason]
            yield Finding(area=area, state=State.WARN, text=f"{reason.text}: {', '.join(keys)}", mend=mend)


def _mig(gpu: Gpu, sample: Sample) -> Iterator[str]:
    instances = [each for each in sample.gpus if each.device.mig_parent_uuid == gpu.device.uuid]
    if instances:
        profiles = ", ".join(f"GPU {each.device.index} ({each.device.mig_profile})" for each in instances)
        yield f"split into MIG instances: {profiles}"
    if gpu.device.mig_parent_uuid is not None:
        parent = next((each for each in sample.gpus if each.device.uuid == gpu.device.mig_parent_uuid), None)
        yield f"MIG instance {gpu.device.mig_profile} of GPU {parent.device.index if parent else '(not shown)'}"


def _container(sample: Sample, around: Surroundings) -> Iterator[Finding]:
    if around.in_container:
        name = f" {around.container}" if around.container else ""
        pod = ", in Kubernetes" if around.kubernetes else ""
        text = f"in a container ({around.runtime or 'engine not told'}{name}{pod})"
    else:
        text = "not in a container that can be told"
    yield Finding(area=CONTAINER, text=f"{text}; cgroup v{around.cgroup_version}")
    for name, value in (
        ("NVIDIA_VISIBLE_DEVICES", around.visible_devices),
        ("NVIDIA_DRIVER_CAPABILITIES", around.capabilities),
    ):
        if value is not None:
            yield Finding(area=CONTAINER, text=f"{name}={value}")
    if any(process.info.foreign for gpu in sample.gpus for process in gpu.processes):
        yield Finding(
            area=CONTAINER,
            state=State.WARN,
            text="the driver names processes that are not of this container's pid namespace: their owners are unknown",
            mend=remedies.for_foreign_pids(around),
        )
