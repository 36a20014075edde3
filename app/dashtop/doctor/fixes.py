"""The command that fixes a problem, by its reason and by the machine or container dashtop runs on.

From NVIDIA's documentation: Container Toolkit (GPU enumeration, driver capabilities, troubleshooting of 'Failed to
initialize NVML: Unknown Error'), nvidia-smi(1) (--gpu-reset) and the driver's README (nvidia-modprobe, device files).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashtop.metrics.gpu_state import Condition
from dashtop.model.unavailable import Fix, UnavailableReason

if TYPE_CHECKING:
    from dashtop.doctor.environment import Environment
    from dashtop.metrics.gpu_state import Problem
    from dashtop.model.sample import Device

RELOAD = "sudo modprobe -r nvidia_uvm nvidia_drm nvidia_modeset nvidia && sudo modprobe nvidia || sudo reboot"
READ_KERNEL_LOG = "sudo dmesg | grep -E 'NVRM|Xid'"
# In WSL the driver is that of Windows (NVIDIA's "CUDA on WSL" user guide); there is no kernel module to load.
UPDATE_WSL = "wsl.exe --update && wsl.exe --shutdown  # and update the NVIDIA driver in Windows"
# A derived distribution has several names (os-release(5), ID_LIKE). The more specific one comes first here.
_INSTALL = {
    "ubuntu": "sudo ubuntu-drivers install",
    "debian": "sudo apt install nvidia-driver",
    "rhel": "sudo dnf install nvidia-driver",
    "fedora": "sudo dnf install akmod-nvidia",
    "suse": "sudo zypper install nvidia-driver",
    "arch": "sudo pacman -S nvidia-open",
}
THEN_REBOOT = "# if it fails, reboot once the other GPUs are idle"
_INSTALL_DEFAULT = "xdg-open https://www.nvidia.com/drivers"


def fix_driver(reason: UnavailableReason, environment: Environment, *, denied: bool = False) -> str | None:
    """Return the command if no GPU can be read because of `reason`; None if there is none."""
    if environment.in_container and reason is not UnavailableReason.DRIVER_SILENT:
        return _restart_container(reason, environment)
    if denied or reason is UnavailableReason.NO_PERMISSION:
        return _grant_access(environment)
    return _command(reason, environment) or (UPDATE_WSL if environment.wsl else READ_KERNEL_LOG)


def fix_gpu(reason: UnavailableReason, device: Device, environment: Environment) -> str | None:
    """Return the command for one GPU that cannot be read; None if `reason` is no failure."""
    reset = f"sudo nvidia-smi --gpu-reset -i {device.pci_bus_id or device.index}"
    if reason.is_lost:
        # Two steps: a reboot ends the work on the other GPUs.
        return f"{reset}  {THEN_REBOOT}" if reason.fix is Fix.RESET_GPU_OR_REBOOT else reset
    return _command(reason, environment) if reason.is_failure else None


def fix_problem(problem: Problem, device: Device) -> str:
    """Return the command for a GPU that can be read and has a problem."""
    gpu = device.pci_bus_id or device.index
    if problem.metric == "gpu.remapped_rows.failure":  # no reset helps: the advice is to replace the GPU
        return f"nvidia-smi -q -d ECC,ROW_REMAPPER -i {gpu}"
    if problem.condition is Condition.UNHEALTHY:
        return f"sudo nvidia-smi --gpu-reset -i {gpu}  # once no process uses it"
    return f"nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER -i {gpu}"


def _command(reason: UnavailableReason, environment: Environment) -> str | None:
    """Return the command for a fix that does not depend on the GPU; None if there is none."""
    if environment.wsl and reason.fix is not None:
        return UPDATE_WSL
    if reason.fix is Fix.INSTALL_DRIVER:
        return _install_driver(environment)
    if reason.fix is Fix.LOAD_DRIVER:
        return _load_driver(environment)
    if reason.fix is Fix.RESCAN_BUS:
        return "echo 1 | sudo tee /sys/bus/pci/rescan" if environment.gpus_on_bus else "dashtop --no-gpu"
    if reason.fix is Fix.GRANT_ACCESS:
        return _grant_access(environment)
    fixed = {Fix.RELOAD_DRIVER: RELOAD, Fix.REBOOT: "sudo reboot", Fix.READ_KERNEL_LOG: READ_KERNEL_LOG}
    return fixed.get(reason.fix) if reason.fix is not None else None


def fix_metrics(reason: UnavailableReason, environment: Environment) -> str | None:
    """Return the command for metrics missing on a working GPU; None if there is none."""
    if reason is UnavailableReason.NO_PERMISSION:
        if environment.in_container:
            return f"{_engine_name(environment)} run --cap-add SYS_ADMIN …"
        return None if environment.is_root else 'sudo -E "$(command -v dashtop)"'
    if reason is not UnavailableReason.DRIVER_ERROR:
        return None
    return UPDATE_WSL if environment.wsl else READ_KERNEL_LOG


def fix_foreign_pids(environment: Environment) -> str:
    """Return the command that starts the container in the pid namespace of the host."""
    if environment.kubernetes:
        return """kubectl patch deployment … -p '{"spec":{"template":{"spec":{"hostPID":true}}}}'"""
    return f"{_engine_name(environment)} run --pid=host …"


def _restart_container(reason: UnavailableReason, environment: Environment) -> str:
    """Return the command to run on the host of this container."""
    engine = _engine_name(environment)
    requested = environment.visible_devices not in {None, "", "void", "none"}
    lacks_utility = environment.capabilities is not None and not {"all", "utility"} & set(
        environment.capabilities.split(",")
    )
    if requested and lacks_utility and reason is UnavailableReason.NO_LIBRARY:
        return f"{engine} run -e NVIDIA_DRIVER_CAPABILITIES={environment.capabilities},utility …".replace("=,", "=")
    if reason.is_failure and "nvidiactl" in environment.device_files:
        # `systemctl daemon-reload` on the host removes the devices from the container's cgroup.
        return (
            "kubectl delete pod $HOSTNAME"
            if environment.kubernetes
            else f"{engine} restart {environment.container or '…'}"
        )
    if environment.kubernetes:
        return "kubectl set resources deployment … --limits=nvidia.com/gpu=1"
    return "podman run --device nvidia.com/gpu=all …" if engine == "podman" else f"{engine} run --gpus all …"


def _engine_name(environment: Environment) -> str:
    return environment.runtime if environment.runtime in {"docker", "podman"} else "docker"


def _grant_access(environment: Environment) -> str:
    if environment.device_group is not None:
        return f"sudo usermod -aG {environment.device_group} $USER && newgrp {environment.device_group}"
    return "sudo chmod a+rw /dev/nvidia*"


def _install_driver(environment: Environment) -> str:
    if environment.gpus_on_bus == 0:
        return "dashtop --no-gpu"
    commands = (command for name, command in _INSTALL.items() if name in environment.distribution)
    return next(commands, _INSTALL_DEFAULT)


def _load_driver(environment: Environment) -> str:
    if environment.module_version is not None:  # loaded, so only its device files are missing
        return "sudo nvidia-modprobe -c 0 -u"
    return "sudo modprobe -r nouveau; sudo modprobe nvidia" if environment.nouveau else "sudo modprobe nvidia"
