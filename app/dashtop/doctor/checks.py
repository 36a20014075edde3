"""Checks of driver, GPUs, container and channels. They read through the same readers as `dashtop serve`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dashtop.app import build_sampler
from dashtop.doctor import fixes
from dashtop.doctor.actions import check_actions
from dashtop.doctor.channels import check_channels
from dashtop.doctor.environment import check_storage_and_port, read_environment
from dashtop.doctor.report import Finding, GpuFinding, Report, State, gpu_area
from dashtop.metrics.gpu_state import find_problems
from dashtop.model.metric import Severity
from dashtop.model.unavailable import UnavailableReason
from dashtop.settings import describe_demo
from dashtop.sources.nvml import library
from dashtop.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dashtop.doctor.environment import Environment
    from dashtop.model.sample import Gpu, Sample
    from dashtop.settings import Settings

# Enough to find a GPU that hangs (4 s), and to read the others without it.
GPU_TIMEOUT_S = 10.0
INIT_TIMEOUT_S = 62.0
POLL_TIMEOUT_S = 1.0
# Rates need a second sample; slow metrics arrive later.
SETTLE_TIMEOUT_S = 4.0
SAMPLE_INTERVAL_S = 0.25

DRIVER = "Driver"
CONTAINER = "Container"


def run_checks(settings: Settings, *, root: Path = Path("/"), environ: Mapping[str, str] = os.environ) -> Report:
    """Check this machine; `root` is its root directory. Takes at most 20 s, even if the driver hangs;
    a minute longer if it hangs while it initializes, and up to 15 s for each channel that does not answer.
    """
    environment = read_environment(root, environ)
    sample = _read_settled_sample(settings)
    nvml = library.find(root / "dev/nvidiactl") if settings.gpu and not settings.demo else library.Library()
    findings = [
        *_check_driver(settings, sample, nvml, environment),
        *(finding for gpu in sample.gpus for finding in _check_gpu(gpu, sample, environment)),
        *_check_container(sample, environment),
        *check_storage_and_port(settings),
        *check_channels(settings.notify),
        *check_actions(settings),
    ]
    gpus = [
        GpuFinding(device=gpu.device, present=_count_present(gpu), missing=dict(gpu.unavailable)) for gpu in sample.gpus
    ]
    return Report(version=__version__, findings=tuple(findings), gpus=tuple(gpus))


def _read_settled_sample(settings: Settings) -> Sample:
    sampler = build_sampler(settings)
    try:
        started = time.monotonic()
        sample = sampler.sample(POLL_TIMEOUT_S)
        while _is_waiting(sample, time.monotonic() - started):
            sample = sampler.sample(POLL_TIMEOUT_S)
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while _is_settling(sample) and time.monotonic() < deadline:
            time.sleep(SAMPLE_INTERVAL_S)
            sample = sampler.sample(POLL_TIMEOUT_S)
        return sample
    finally:
        sampler.close()


def _is_waiting(sample: Sample, waited_s: float) -> bool:
    """Return whether to wait longer for the driver, which may initialize or be about to be read without a GPU."""
    is_late = sample.gpu_age_s > 0 or sample.gpu_error in {UnavailableReason.STARTING, UnavailableReason.DRIVER_SILENT}
    is_initializing = sample.gpu_error is UnavailableReason.INITIALIZING
    return (is_late and waited_s < GPU_TIMEOUT_S) or (is_initializing and waited_s < INIT_TIMEOUT_S)


def _is_settling(sample: Sample) -> bool:
    reasons = {reason for gpu in sample.gpus for reason in gpu.unavailable.values()}
    return any(reason.is_pending for reason in reasons)


def _count_present(gpu: Gpu) -> int:
    return sum(value is not None for value in gpu.values.values())


def _check_driver(
    settings: Settings, sample: Sample, nvml: library.Library, environment: Environment
) -> Iterator[Finding]:
    if settings.demo:
        yield Finding(area=DRIVER, text=f"{describe_demo(settings.demo)}; the driver is not read")
        return
    reason = sample.gpu_error
    if reason is not None and reason.is_pending:
        reason = UnavailableReason.DRIVER_SILENT
    if reason is UnavailableReason.DISABLED:
        yield Finding(area=DRIVER, text="GPU monitoring is disabled (--no-gpu)")
        return
    if nvml.path is not None:
        version = f", version {nvml.version}" if nvml.version is not None else ""
        yield Finding(area=DRIVER, text=f"library {nvml.path}{version}")
    if environment.module_version is not None:
        yield Finding(area=DRIVER, text=f"kernel module {environment.module_version}")
    if environment.device_files:
        yield Finding(area=DRIVER, text=f"device files {', '.join(environment.device_files)}")
    if reason is not None:
        yield Finding(
            area=DRIVER,
            state=State.FAIL,
            text="; ".join([reason.text, *_driver_details(reason, sample.gpu_error, nvml, environment)]),
            fix=fixes.fix_driver(reason, environment, denied=nvml.denied is not None),
        )
        return
    first = sample.gpus[0].device
    instances = sum(gpu.device.mig_parent_uuid is not None for gpu in sample.gpus)
    count = len(sample.gpus) - instances
    gpu_count = f"{count} GPU{'s' if count > 1 else ''}" + (f", {instances} MIG instances" if instances else "")
    versions = f"driver {first.driver_version or 'version unknown'}, CUDA up to {first.cuda_version or '(unknown)'}"
    yield Finding(area=DRIVER, text=f"{versions}; {gpu_count}")


def _driver_details(
    reason: UnavailableReason, sample_error: UnavailableReason | None, nvml: library.Library, environment: Environment
) -> Iterator[str]:
    if reason is UnavailableReason.DRIVER_SILENT:
        waited_s = INIT_TIMEOUT_S if sample_error is UnavailableReason.INITIALIZING else GPU_TIMEOUT_S
        yield f"waited {waited_s:g} s"
    if nvml.error is not None:
        yield nvml.error
    if nvml.denied is not None:
        yield f"/dev/nvidiactl cannot be opened: {nvml.denied}"
    if environment.gpus_on_bus == 0 and not environment.wsl:
        yield "no NVIDIA GPU is on the PCI bus"
    if environment.in_container and reason is not UnavailableReason.DRIVER_SILENT:
        yield "this container was started without GPUs, or has lost them"


def _check_gpu(gpu: Gpu, sample: Sample, environment: Environment) -> Iterator[Finding]:
    area = gpu_area(gpu.device)
    fix = fixes.fix_gpu(gpu.state, gpu.device, environment) if gpu.state is not None else None
    if gpu.state is not None:
        yield Finding(area=area, state=State.FAIL if fix else State.OK, text=gpu.state.text, fix=fix)
        return
    yield Finding(
        area=area, text=f"{_count_present(gpu)} metrics, {len(gpu.unavailable)} not available; {gpu.device.uuid}"
    )
    yield from (Finding(area=area, text=text) for text in _describe_mig(gpu, sample))
    for problem in find_problems(gpu):
        yield Finding(
            area=area,
            state=State.FAIL if problem.severity is Severity.CRITICAL else State.WARN,
            text=f"{problem.text}. {problem.advice}".rstrip(),
            fix=fixes.fix_problem(problem, gpu.device),
        )
    for reason in dict.fromkeys(gpu.unavailable.values()):
        if (fix := fixes.fix_metrics(reason, environment)) is not None:
            keys = [key.partition(".")[2] for key, other in gpu.unavailable.items() if other is reason]
            yield Finding(area=area, state=State.WARN, text=f"{reason.text}: {', '.join(keys)}", fix=fix)


def _describe_mig(gpu: Gpu, sample: Sample) -> Iterator[str]:
    instances = [each for each in sample.gpus if each.device.mig_parent_uuid == gpu.device.uuid]
    if instances:
        profiles = ", ".join(f"GPU {each.device.index} ({each.device.mig_profile})" for each in instances)
        yield f"split into MIG instances: {profiles}"
    if gpu.device.mig_parent_uuid is not None:
        parent = next((each for each in sample.gpus if each.device.uuid == gpu.device.mig_parent_uuid), None)
        yield f"MIG instance {gpu.device.mig_profile} of GPU {parent.device.index if parent else '(not shown)'}"


def _check_container(sample: Sample, environment: Environment) -> Iterator[Finding]:
    if environment.in_container:
        name = f" {environment.container}" if environment.container else ""
        pod = ", in Kubernetes" if environment.kubernetes else ""
        text = f"in a container ({environment.runtime or 'engine unknown'}{name}{pod})"
    else:
        text = "no container detected"
    yield Finding(area=CONTAINER, text=f"{text}; cgroup v{environment.cgroup_version}")
    for name, value in (
        ("NVIDIA_VISIBLE_DEVICES", environment.visible_devices),
        ("NVIDIA_DRIVER_CAPABILITIES", environment.capabilities),
    ):
        if value is not None:
            yield Finding(area=CONTAINER, text=f"{name}={value}")
    if any(process.info.foreign for gpu in sample.gpus for process in gpu.processes):
        yield Finding(
            area=CONTAINER,
            state=State.WARN,
            text="the driver reports pids of another pid namespace: the owners of these processes are unknown",
            fix=fixes.fix_foreign_pids(environment),
        )
