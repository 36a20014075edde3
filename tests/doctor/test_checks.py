"""The checks through the real readers, on fake drivers and a fake root directory."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

import pynvml
import pytest

from dashtop.doctor import checks
from dashtop.doctor.actions import check_actions
from dashtop.doctor.checks import CONTAINER, DRIVER, run_checks
from dashtop.doctor.report import Finding, Report, State
from dashtop.model.unavailable import UnavailableReason
from dashtop.settings import Settings, load

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fake_nvml import World
    from tests.fake_nvml.fixtures import WorldFactory

LOST, RESET_REQUIRED, NO_PERMISSION, MISMATCH, NOT_LOADED, UNKNOWN = 15, 16, 4, 18, 9, 999
CONTAINER_ID = "31cb02944da7a12196a193cf0e0f6c226d7c453a1db62e65ba98287593a2ee30"


class Machine:
    """Everything doctor reads except the driver: files under `root`, and the environment."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.environ: dict[str, str] = {}
        self._monkeypatch = monkeypatch
        self.write("proc/self/cgroup", "0::/user.slice/user-1000.slice/session-3.scope\n")
        self.write("sys/fs/cgroup/cgroup.controllers", "cpu memory\n")
        self.add_pci_device(0, vendor="0x8086", kind="0x060000")

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def add_pci_device(self, number: int, vendor: str = "0x10de", kind: str = "0x030200") -> None:
        self.write(f"sys/bus/pci/devices/0000:0{number}:00.0/vendor", vendor + "\n")
        self.write(f"sys/bus/pci/devices/0000:0{number}:00.0/class", kind + "\n")

    def in_docker(self) -> None:
        self.write("proc/self/cgroup", f"0::/system.slice/docker-{CONTAINER_ID}.scope\n")

    def run_checks(self, world: World | None = None) -> Report:
        """Run the checks with that driver; None: no driver."""
        env = world.env() if world is not None else {"LD_LIBRARY_PATH": str(self.root)}
        for name, value in env.items():
            self._monkeypatch.setenv(name, value)
        return run_checks(Settings(port=0), root=self.root, environ=self.environ)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path / "root", monkeypatch)


def problems(report: Report) -> list[Finding]:
    found = [finding for finding in report.findings if finding.state is not State.OK]
    assert all(finding.fix for finding in found)
    assert report.problems == len(found)
    return found


def test_no_problems(nvml_world: WorldFactory, machine: Machine) -> None:
    world = nvml_world("h100x8")
    report = machine.run_checks(world)

    assert problems(report) == []
    assert report.as_text().endswith("No problems found.")
    assert [gpu.device.uuid for gpu in report.gpus] == [gpu["uuid"] for gpu in world.gpus]
    text = report.as_text()
    assert world.data["driver_version"] in text
    assert str(world.library.path) in text
    missing = report.gpus[0].missing
    assert missing["gpu.fan_speed"] is UnavailableReason.NOT_SUPPORTED
    assert not set(missing.values()) & {UnavailableReason.STARTING, UnavailableReason.DRIVER_ERROR}
    assert "fan_speed" in text


def test_missing_library_without_a_gpu(machine: Machine) -> None:
    (problem,) = problems(machine.run_checks())

    assert (problem.area, problem.state, problem.fix) == (DRIVER, State.FAIL, "dashtop --no-gpu")
    assert UnavailableReason.NO_LIBRARY.text in problem.text
    assert "no NVIDIA GPU" in problem.text


@pytest.mark.parametrize(
    ("release", "fix"),
    [
        ('NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\n', "sudo ubuntu-drivers install"),
        ("ID=debian\n", "sudo apt install nvidia-driver"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "sudo dnf install nvidia-driver"),
        ("ID=fedora\n", "sudo dnf install akmod-nvidia"),
        ("ID=nixos\n", "xdg-open https://www.nvidia.com/drivers"),
    ],
)
def test_missing_library_with_a_gpu_asks_to_install_the_driver(machine: Machine, release: str, fix: str) -> None:
    machine.add_pci_device(1)
    machine.write("etc/os-release", release)

    assert problems(machine.run_checks())[0].fix == fix


@pytest.mark.parametrize(
    ("environ", "fix"),
    [
        ({}, "docker run --gpus all …"),
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, "docker run --gpus all …"),
        (
            {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute"},
            "docker run -e NVIDIA_DRIVER_CAPABILITIES=compute,utility …",
        ),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubectl set resources deployment … --limits=nvidia.com/gpu=1"),
    ],
)
def test_missing_library_in_a_container(machine: Machine, environ: dict[str, str], fix: str) -> None:
    machine.in_docker()
    machine.environ = environ
    report = machine.run_checks()

    assert problems(report)[0].fix == fix
    assert any(finding.area == CONTAINER and CONTAINER_ID[:12] in finding.text for finding in report.findings)


def test_driver_that_is_not_loaded(nvml_world: WorldFactory, machine: Machine) -> None:
    machine.add_pci_device(1)
    world = nvml_world("rtx3090").set_return("nvmlInit_v2", NOT_LOADED)

    (problem,) = problems(machine.run_checks(world))
    assert problem.text.startswith(UnavailableReason.NO_DRIVER.text)
    assert problem.fix == "sudo modprobe nvidia"


def test_loaded_driver_without_device_files(nvml_world: WorldFactory, machine: Machine) -> None:
    machine.write("sys/module/nvidia/version", "535.183.01\n")
    world = nvml_world("rtx3090").set_return("nvmlInit_v2", NOT_LOADED)

    assert problems(machine.run_checks(world))[0].fix == "sudo nvidia-modprobe -c 0 -u"


@pytest.mark.parametrize("code", [NOT_LOADED, pynvml.NVML_ERROR_OPERATING_SYSTEM])
def test_advice_in_wsl_is_about_windows(nvml_world: WorldFactory, machine: Machine, code: int) -> None:
    machine.write("proc/version", "Linux version 5.15.153.1-microsoft-standard-WSL2 (root@x) #1 SMP\n")
    world = nvml_world("wsl").set_return("nvmlInit_v2", code)

    (problem,) = problems(machine.run_checks(world))
    assert problem.fix is not None
    assert problem.fix.startswith("wsl.exe --update")
    assert "driver in Windows" in problem.fix


def test_upgraded_driver_with_the_old_kernel_module(nvml_world: WorldFactory, machine: Machine) -> None:
    machine.write(
        "proc/driver/nvidia/version",
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n",
    )
    world = nvml_world("rtx3090").set_return("nvmlInit_v2", MISMATCH)
    report = machine.run_checks(world)

    (problem,) = problems(report)
    assert problem.text.startswith(UnavailableReason.DRIVER_MISMATCH.text)
    assert problem.fix is not None
    assert "modprobe -r nvidia_uvm nvidia_drm nvidia_modeset nvidia" in problem.fix
    assert "kernel module 535.104.05" in report.as_text()


def test_container_without_access_to_its_devices(nvml_world: WorldFactory, machine: Machine) -> None:
    machine.in_docker()
    (machine.root / "dev/nvidiactl").mkdir(parents=True)  # what exists and cannot be opened for writing
    machine.write("dev/nvidia0", "")
    world = nvml_world("rtx3090").set_return("nvmlInit_v2", UNKNOWN)

    (problem,) = problems(machine.run_checks(world))
    assert "/dev/nvidiactl cannot be opened: Is a directory" in problem.text
    assert problem.fix == f"docker restart {CONTAINER_ID[:12]}"


def test_no_permission_for_the_driver(nvml_world: WorldFactory, machine: Machine) -> None:
    machine.add_pci_device(1)
    world = nvml_world("rtx3090").set_return("nvmlInit_v2", NO_PERMISSION)

    (problem,) = problems(machine.run_checks(world))
    assert problem.text.startswith(UnavailableReason.NO_PERMISSION.text)
    assert problem.fix == "sudo chmod a+rw /dev/nvidia*"


def test_no_permission_for_a_metric(
    nvml_world: WorldFactory, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    world = nvml_world("rtx3090").set_return("nvmlDeviceGetPowerUsage", NO_PERMISSION, gpu=0)
    report = machine.run_checks(world)

    (problem,) = problems(report)
    assert problem.state is State.WARN
    assert "power.current_watts" in problem.text
    assert problem.fix == 'sudo -E "$(command -v dashtop)"'
    assert report.gpus[0].missing["gpu.power.current_watts"] is UnavailableReason.NO_PERMISSION


@pytest.mark.parametrize(
    ("code", "reason", "words"),
    [
        (LOST, UnavailableReason.GPU_LOST, "# if it fails, reboot"),
        (RESET_REQUIRED, UnavailableReason.GPU_RESET_REQUIRED, "--gpu-reset"),
    ],
)
def test_lost_gpu_is_one_problem(
    nvml_world: WorldFactory, machine: Machine, code: int, reason: UnavailableReason, words: str
) -> None:
    world = nvml_world("h100x8").set_return("*", code, gpu=3)
    report = machine.run_checks(world)

    (problem,) = problems(report)
    assert problem.area.startswith("GPU 3")
    assert problem.text == reason.text
    assert problem.fix is not None
    assert problem.fix.startswith("sudo nvidia-smi --gpu-reset -i ")
    assert words in problem.fix
    assert "temperature_slowdown" not in report.as_text().partition("GPU 3")[2].partition("GPU 4")[0]
    assert [gpu.present > 10 for gpu in report.gpus] == [True] * 3 + [False] + [True] * 4


def test_sick_gpus_that_can_be_read_are_problems_as_on_the_page(nvml_world: WorldFactory, machine: Machine) -> None:
    world = nvml_world("h100x8")
    world.set(2, "ecc.uncorrected_volatile", 2).set(2, "remapped_rows.pending", 1)
    world.set(5, "clocks_event_reasons", 0x40)
    world.set(7, "remapped_rows.failure", 1)
    report = machine.run_checks(world)
    found = [(problem.area[:5], problem.state) for problem in problems(report)]
    assert found == [
        ("GPU 2", State.FAIL),
        ("GPU 2", State.WARN),
        ("GPU 5", State.FAIL),
        ("GPU 7", State.FAIL),
    ]
    texts = [problem.text for problem in problems(report)]
    assert texts[0].startswith("ECC uncorrected (since reload): 2. ")
    assert "HW Thermal Slowdown" in texts[2]
    fixes = [problem.fix or "" for problem in problems(report)]
    assert "--gpu-reset" in fixes[0]
    assert fixes[2].startswith("nvidia-smi -q -d ")
    assert "--gpu-reset" not in fixes[3], "it has to be replaced"


def test_mig_gpu_lists_its_instances(nvml_world: WorldFactory, machine: Machine) -> None:
    world = nvml_world("a100_mig")
    report = machine.run_checks(world)

    assert not [finding for finding in problems(report) if finding.state is State.FAIL]
    text = report.as_text()
    assert "split into MIG instances: GPU" in text
    assert "of GPU 0" in text
    assert "1 GPU, 2 MIG instances" in text
    assert UnavailableReason.MIG_PARENT.text in text


def test_hung_driver_does_not_block_doctor(
    nvml_world: WorldFactory, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "GPU_TIMEOUT_S", 1.0)
    monkeypatch.setattr(checks, "INIT_TIMEOUT_S", 1.0)
    world = nvml_world("rtx3090").set_hang("nvmlInit_v2")
    started = time.monotonic()
    try:
        (problem,) = problems(machine.run_checks(world))
    finally:
        with contextlib.suppress(OSError):
            world.clear_faults().save()
    assert time.monotonic() - started < 8
    assert problem.text == f"{UnavailableReason.DRIVER_SILENT.text}; waited 1 s; no NVIDIA GPU is on the PCI bus"
    assert problem.fix == "sudo reboot"


@pytest.mark.long
def test_slow_initialization_of_the_driver_is_waited_for(nvml_world: WorldFactory, machine: Machine) -> None:
    world = nvml_world("rtx3090").set_latency("nvmlInit_v2", 12_000_000)
    assert problems(machine.run_checks(world)) == []


def test_hanging_gpu_is_named_and_the_others_are_checked(nvml_world: WorldFactory, machine: Machine) -> None:
    world = nvml_world("h100x8").set_hang("nvmlDeviceGetTemperature", gpu=2)
    try:
        report = machine.run_checks(world)
    finally:
        with contextlib.suppress(OSError):
            world.clear_faults().save()
    (problem,) = problems(report)
    assert problem.text == UnavailableReason.NOT_RESPONDING.text
    assert problem.fix == "sudo nvidia-smi --gpu-reset -i 2  # if it fails, reboot once the other GPUs are idle"
    assert [gpu.present > 0 for gpu in report.gpus] == [index != 2 for index in range(8)]


def test_pids_of_another_namespace(nvml_world: WorldFactory, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashtop.sources.host.processes.is_nested", lambda proc: True)
    machine.in_docker()
    world = nvml_world("rtx3090")
    world.gpu(0)["processes"] = [{"pid": 4_190_000, "used_memory": 1, "type": "C"}]

    (problem,) = problems(machine.run_checks(world))
    assert problem.state is State.WARN
    assert problem.fix == "docker run --pid=host …"


def test_disabled_gpu_monitoring_is_no_problem(machine: Machine) -> None:
    assert problems(run_checks(Settings(port=0, gpu=False), root=machine.root, environ={})) == []


def test_process_actions_are_reported_if_they_are_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(check_actions(load())) == []
    given: dict[str, object] = {"action_token": "some-action-token", "data_dir": str(tmp_path)}
    own = load(allow_actions="own", **given)
    (finding,) = check_actions(own)
    assert (finding.state, str(tmp_path / "actions.log") in finding.text) == (State.OK, True)
    assert list(tmp_path.iterdir()) == [], "the doctor writes nothing"
    monkeypatch.delattr(os, "pidfd_open")
    (finding,) = check_actions(own)
    assert (finding.state, "pidfd" in finding.text) == (State.FAIL, True)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (finding,) = check_actions(load(allow_actions="all", **given))
    assert (finding.state, finding.text) == (State.FAIL, "--allow-actions all needs root")
