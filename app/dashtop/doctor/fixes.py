"""The command that mends a trouble, by its reason and by where dashtop runs.

From NVIDIA's documentation: Container Toolkit (GPU enumeration, driver capabilities, troubleshooting of 'Failed to
initialize NVML: Unknown Error'), nvidia-smi(1) (--gpu-reset) and the driver's README (nvidia-modprobe, device files).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashtop.model.unavailable import Fix, UnavailableReason

if TYPE_CHECKING:
    from dashtop.doctor.environment import Surroundings
    from dashtop.model.sample import Device

RELOAD = "sudo modprobe -r nvidia_uvm nvidia_drm nvidia_modeset nvidia && sudo modprobe nvidia || sudo reboot"
LOOK_INTO_LOG = "sudo dmesg | grep -E 'NVRM|Xid'"
# Derived distributions name several (os-release(5), ID_LIKE): the nearest stands before what it came from.
_INSTALL = {
    "ubuntu": "sudo ubuntu-drivers install",
    "debian": "sudo apt install nvidia-driver",
    "rhel": "sudo dnf install nvidia-driver",
    "fedora": "sudo dnf install akmod-nvidia",
    "suse": "sudo zypper install nvidia-driver",
    "arch": "sudo pacman -S nvidia-open",
}
_INSTALL_ELSEWHERE = "xdg-open https://www.nvidia.com/drivers"


def for_trouble(reason: UnavailableReason, around: Surroundings, *, denied: bool = False) -> str | None:
    """Return the command for a machine that shows no GPU at all for `reason`; None where there is none."""
    if around.in_container and reason is not UnavailableReason.DRIVER_SILENT:
        return _from_outside(reason, around)
    if denied or reason is UnavailableReason.NO_PERMISSION:
        return _permission(around)
    return _command(reason, around) or LOOK_INTO_LOG


def for_gpu(reason: UnavailableReason, device: Device, around: Surroundings) -> str | None:
    """Return the command for one GPU that cannot be read; None where `reason` is no trouble."""
    reset = f"sudo nvidia-smi --gpu-reset -i {device.pci_bus_id or device.index}"
    if reason.is_lost:
        return f"{reset} || sudo reboot" if reason.fix is Fix.RESET_GPU_OR_REBOOT else reset
    return _command(reason, around) if reason.is_failure else None


def _command(reason: UnavailableReason, around: Surroundings) -> str | None:
    """Return the command for a fix that does not depend on the GPU; None where there is none."""
    if reason.fix is Fix.INSTALL_DRIVER:
        return _install(around)
    if reason.fix is Fix.LOAD_DRIVER:
        return _load(around)
    if reason.fix is Fix.RESCAN_BUS:
        return "echo 1 | sudo tee /sys/bus/pci/rescan" if around.cards_on_bus else "dashtop --no-gpu"
    if reason.fix is Fix.GRANT_ACCESS:
        return _permission(around)
    fixed = {Fix.RELOAD_DRIVER: RELOAD, Fix.REBOOT: "sudo reboot", Fix.READ_KERNEL_LOG: LOOK_INTO_LOG}
    return fixed.get(reason.fix) if reason.fix is not None else None


def for_metrics(reason: UnavailableReason, around: Surroundings) -> str | None:
    """Return the command for metrics that a working GPU keeps back; None where nothing can be done."""
    if reason is UnavailableReason.NO_PERMISSION:
        if around.in_container:
            return f"{_engine(around)} run --cap-add SYS_ADMIN …"
        return None if around.as_root else 'sudo -E "$(command -v dashtop)"'
    return LOOK_INTO_LOG if reason is UnavailableReason.DRIVER_ERROR else None


def for_foreign_pids(around: Surroundings) -> str:
    """Return how to start the container so that pids are those of the machine."""
    if around.kubernetes:
        return """kubectl patch deployment … -p '{"spec":{"template":{"spec":{"hostPID":true}}}}'"""
    return f"{_engine(around)} run --pid=host …"


def _from_outside(reason: UnavailableReason, around: Surroundings) -> str:
    """Return the command to give outside of the container, where it is started."""
    engine = _engine(around)
    shown = around.visible_devices not in {None, "", "void", "none"}
    blind = around.capabilities is not None and not {"all", "utility"} & set(around.capabilities.split(","))
    if shown and blind and reason is UnavailableReason.NO_LIBRARY:
        return f"{engine} run -e NVIDIA_DRIVER_CAPABILITIES={around.capabilities},utility …".replace("=,", "=")
    if reason.is_failure and "nvidiactl" in around.device_files:
        # After `systemctl daemon-reload` on the machine, systemd has taken the devices away from the cgroup.
        return "kubectl delete pod $HOSTNAME" if around.kubernetes else f"{engine} restart {around.container or '…'}"
    if around.kubernetes:
        return "kubectl set resources deployment … --limits=nvidia.com/gpu=1"
    return "podman run --device nvidia.com/gpu=all …" if engine == "podman" else f"{engine} run --gpus all …"


def _engine(around: Surroundings) -> str:
    return around.runtime if around.runtime in {"docker", "podman"} else "docker"


def _permission(around: Surroundings) -> str:
    if around.device_group is not None:
        return f"sudo usermod -aG {around.device_group} $USER && newgrp {around.device_group}"
    return "sudo chmod a+rw /dev/nvidia*"


def _install(around: Surroundings) -> str:
    if around.wsl:
        return "wsl.exe --update"
    if around.cards_on_bus == 0:
        return "dashtop --no-gpu"
    named = (command for word, command in _INSTALL.items() if word in around.distribution)
    return next(named, _INSTALL_ELSEWHERE)


def _load(around: Surroundings) -> str:
    if around.module_version is not None:  # loaded, so its device files are missing
        return "sudo nvidia-modprobe -c 0 -u"
    return "sudo modprobe -r nouveau; sudo modprobe nvidia" if around.nouveau else "sudo modprobe nvidia"
