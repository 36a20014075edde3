"""`dashtop doctor --verify`, with a fake nvidia-smi beside the fake library, and parsing of nvidia-smi's output."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dashtop.doctor import nvidia_smi, verify
from dashtop.doctor.nvidia_smi import NvidiaSmiError, parse_number, parse_pmon, parse_query
from dashtop.doctor.verify import PROC, State, Tolerance, compare_numbers
from dashtop.metrics import METRICS
from dashtop.settings import Settings
from tests.fake_nvml import nvidia_smi as fake_smi
from tests.processes import DASHTOP

if TYPE_CHECKING:
    from tests.fake_nvml import World
    from tests.fake_nvml.fixtures import WorldFactory


def run_verify(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [DASHTOP, "doctor", "--verify", *arguments],
        capture_output=True, text=True, timeout=110, check=False, env=env,
    )  # fmt: skip


@pytest.fixture
def smi_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    fake_smi.install(folder)
    return folder


def build_env(world: World, smi_folder: Path, shown: World | None = None) -> dict[str, str]:
    """Return the environment of a machine; `shown`: what nvidia-smi shows, if it is not the library's world."""
    env = {**world.env(), "PATH": f"{smi_folder}{os.pathsep}{os.environ['PATH']}"}
    return env if shown is None else {**env, fake_smi.WORLD_VARIABLE: str(shown.save().file)}


# Each takes four seconds: one of each generation of the driver and kind of GPU.
@pytest.mark.parametrize("name", ["a100_mig", "driver_r470", "h100x8", "rtx3090", "wsl"])
def test_every_recorded_gpu_agrees(nvml_world: WorldFactory, smi_folder: Path, name: str) -> None:
    done = run_verify(build_env(nvml_world(name), smi_folder), "--json")
    body = json.loads(done.stdout)

    assert [each for each in body["comparisons"] if each["state"] == "differs"] == []
    assert (done.returncode, body["ok"], body["error"], done.stderr) == (0, True, None, "")
    states = [each["state"] for each in body["comparisons"] if each["gpu"] is not None]
    assert states.count("ok") > 10


CHANGES = [
    ("temperature", 45, "gpu.temperature"),
    ("memory.used", 22923968512, "gpu.memory.used_gb"),  # the reserved memory counted as used
    ("power.enforced_limit", 349000, "gpu.power.max_watts"),
    ("clocks.memory", 405, "gpu.clocks.memory_mhz"),
    ("clocks_event_reasons", 0x40, "gpu.clocks.event_reasons"),
    ("pcie.width", 8, "gpu.pcie.width"),
    ("pcie.tx_kb_per_s", 5_000_000, "gpu.pcie.tx_mbps"),
    ("compute_mode", 3, "gpu.compute_mode"),
    ("vbios", "94.02.26.48.00", "gpu.vbios"),
    ("processes.0.used_memory", 11003318784, "process 18231 gpu_memory_mib"),
    ("processes.0.type", "C+G", "process 18231 type"),
    ("processes.0.sm_util", 40, "process 18231 sm_percent"),
]


def test_differences_are_reported(nvml_world: WorldFactory, smi_folder: Path) -> None:
    """All of the changes at once: each is in a metric of its own."""
    shown = nvml_world("rtx3090")
    for path, value, _ in CHANGES:
        shown.set(0, path, value)
    env = build_env(nvml_world("rtx3090"), smi_folder, shown)

    done = run_verify(env, "--json")
    body = json.loads(done.stdout)
    differing = {each["metric"] for each in body["comparisons"] if each["state"] == "differs"}
    assert done.returncode == 1
    assert not body["ok"]
    assert body["rounds"] == verify.MAX_ROUNDS
    # Memory in percent and the bandwidth follow from two others.
    derived = {"gpu.memory.used_percent", "gpu.pcie.bandwidth_gbps"}
    assert differing == {metric for _, _, metric in CHANGES} | derived


def test_text_shows_both_values(nvml_world: WorldFactory, smi_folder: Path) -> None:
    shown = nvml_world("rtx3090").set(0, "temperature", 45).remove(0, "fan_speed")
    done = run_verify(build_env(nvml_world("rtx3090"), smi_folder, shown))

    assert done.returncode == 1
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith(("gpu.", "system.")))
    assert rows["gpu.temperature"].strip() == "differs"
    assert rows["gpu.fan_speed"].strip() == "dashtop"
    assert rows["gpu.clocks.gpu_mhz"].strip() == "ok"
    assert rows["system.memory.total_gb"].strip() == "ok"
    assert "differs: GPU 0, gpu.temperature\n  dashtop 77, nvidia-smi -q -x 45 (tolerance 3)" in done.stdout
    assert "1 differs, " in done.stdout


def test_a_process_that_only_nvidia_smi_knows(nvml_world: WorldFactory, smi_folder: Path) -> None:
    shown = nvml_world("rtx3090")
    shown.gpu(0)["processes"].append({"pid": 99, "name": "late", "type": "C", "used_memory": 2**20})
    body = json.loads(run_verify(build_env(nvml_world("rtx3090"), smi_folder, shown), "--json").stdout)
    states = {each["metric"]: each["state"] for each in body["comparisons"] if each["gpu"] == 0}

    assert states["process 99 gpu_memory_mib"] == "only reference"
    assert states["gpu.process_count"] == "differs"


def test_a_gpu_that_only_nvidia_smi_knows(nvml_world: WorldFactory, smi_folder: Path) -> None:
    world = nvml_world("h100x8")
    del world.gpus[5]
    body = json.loads(run_verify(build_env(world, smi_folder, nvml_world("h100x8")), "--json").stdout)

    (missing,) = [each for each in body["comparisons"] if each["state"] == "differs"]
    assert (missing["gpu"], missing["metric"], missing["dashtop"]) == (5, "gpu.uuid", None)


def test_a_passing_difference_is_compared_again(nvml_world: WorldFactory, smi_folder: Path, tmp_path: Path) -> None:
    """The first nvidia-smi shows a hot GPU, the others do not."""
    shown = nvml_world("rtx3090").set(0, "temperature", 45).save()
    (smi_folder / "nvidia-smi").rename(smi_folder / "other-smi")
    mark = tmp_path / "second"
    program = smi_folder / "nvidia-smi"
    program.write_text(
        f"#!/bin/sh\nif [ ! -e {mark} ] && [ $1 = -q ]; then touch {mark};"
        f" {fake_smi.WORLD_VARIABLE}={shown.file} exec {smi_folder}/other-smi $@; fi\nexec {smi_folder}/other-smi $@\n"
    )
    program.chmod(0o755)
    done = run_verify(build_env(nvml_world("rtx3090"), smi_folder), "--json")
    body = json.loads(done.stdout)

    assert (done.returncode, body["ok"], body["rounds"]) == (0, True, 2)


class TestWithoutNvidiaSmi:
    def test_missing(self, nvml_world: WorldFactory, tmp_path: Path) -> None:
        env = {**nvml_world("rtx3090").env(), "PATH": str(tmp_path)}
        done = run_verify(env)

        assert (done.returncode, done.stderr) == (1, "")
        assert "nvidia-smi was not found on the PATH" in done.stdout
        assert "system.memory.total_gb" in done.stdout

    @pytest.mark.parametrize(
        ("script", "words"),
        [
            ("echo 'NVIDIA-SMI has failed'; exit 9", "failed with exit status 9: NVIDIA-SMI has failed"),
            ("echo 'No devices were found'", "did not print XML"),
            ("exec sleep 100", "did not end within 0.2 s"),
        ],
    )
    def test_failing(self, smi_folder: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str) -> None:
        (smi_folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        monkeypatch.setattr(nvidia_smi, "TIMEOUT_S", 0.2 if "sleep" in script else 30.0)
        monkeypatch.setenv("PATH", str(smi_folder), prepend=os.pathsep)
        with pytest.raises(NvidiaSmiError, match=words):
            nvidia_smi.query()

    def test_demo_is_refused(self) -> None:
        done = run_verify({**os.environ}, "--demo=2")
        assert done.returncode == 2
        assert "--verify" in done.stderr


def test_host_is_compared_with_proc(tmp_path: Path) -> None:
    """A copy of /proc in which half of the memory is gone and the load is 40 higher."""
    proc = tmp_path / "proc"
    (proc / "net").mkdir(parents=True)
    for name in ("stat", "meminfo", "loadavg", "cpuinfo", "diskstats", "net/dev"):
        shutil.copyfile(f"/proc/{name}", proc / name)
    meminfo = Path("/proc/meminfo").read_text().splitlines()
    size = int(meminfo[0].split()[1])
    (proc / "meminfo").write_text("\n".join([f"MemTotal: {size // 2} kB", *meminfo[1:]]))
    one, rest = Path("/proc/loadavg").read_text().split(maxsplit=1)
    (proc / "loadavg").write_text(f"{float(one) + 40} {rest}")
    found = verify.verify(Settings(gpu=False), proc=proc)

    assert found.error is None
    assert {each.source for each in found.comparisons} == {PROC}
    differing = {each.metric for each in found.differences}
    assert {"system.memory.total_gb", "system.cpu.load_1m"} <= differing
    assert "system.cpu.core_count" not in differing
    assert "system.swap.total_gb" not in differing


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("45 C", 45.0), ("-5 C", -5.0), ("312.50 W", 312.5), ("24576 MiB", 24576.0), ("488 KB/s", 488.0), ("16x", 16.0),
        ("P8", 8.0), ("98 %", 98.0), ("9751 MHz", 9751.0), ("0", 0.0), ("Enabled", 1.0), ("No", 0.0),
        ("Exclusive_Process", 3.0), ("N/A", None), ("[N/A]", None), ("", None), ("None", None), (None, None),
        ("Requested functionality has been deprecated", None), ("Unknown Error", None), ("GPU is lost", None),
        ("[Insufficient Permissions]", None), ("Not Active", None), ("12 furlongs", None),
    ],
)  # fmt: skip
def test_numbers(text: str | None, number: float | None) -> None:
    assert parse_number(text) == number


def parse_gpu(content: str) -> dict[str, float]:
    (gpu,) = parse_query(
        '<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n'
        f"<nvidia_smi_log><gpu id='0'><uuid>GPU-1</uuid>{content}</gpu></nvidia_smi_log>"
    )
    return dict(gpu.values)


class TestVersions:
    """The same value in the XML of different drivers."""

    @pytest.mark.parametrize(
        "content",
        [
            (
                "<power_readings><power_draw>26.78 W</power_draw><enforced_power_limit>70.00 W</enforced_power_limit>"
                "</power_readings>"
            ),
            (
                "<gpu_power_readings><power_draw>26.78 W</power_draw><current_power_limit>70.00 W</current_power_limit>"
                "</gpu_power_readings>"
            ),
            (
                "<gpu_power_readings><average_power_draw>26.78 W</average_power_draw><instant_power_draw>30 W"
                "</instant_power_draw><current_power_limit>70.00 W</current_power_limit></gpu_power_readings>"
                "<module_power_readings><average_power_draw>N/A</average_power_draw></module_power_readings>"
            ),
        ],
    )
    def test_power(self, content: str) -> None:
        values = parse_gpu(content)
        assert (values["gpu.power.current_watts"], values["gpu.power.max_watts"]) == (26.78, 70.0)

    @pytest.mark.parametrize(
        "content",
        [
            "<single_bit><total>7</total></single_bit><double_bit><total>3</total></double_bit>",
            (
                "<sram_correctable>2</sram_correctable><sram_uncorrectable>1</sram_uncorrectable>"
                "<dram_correctable>5</dram_correctable><dram_uncorrectable>2</dram_uncorrectable>"
            ),
            (
                "<sram_correctable>2</sram_correctable><sram_uncorrectable_parity>1</sram_uncorrectable_parity>"
                "<sram_uncorrectable_secded>0</sram_uncorrectable_secded>"
                "<dram_correctable>5</dram_correctable><dram_uncorrectable>2</dram_uncorrectable>"
            ),
        ],
    )
    def test_ecc(self, content: str) -> None:
        values = parse_gpu(f"<ecc_errors><volatile>{content}</volatile></ecc_errors>")
        assert (values["gpu.ecc.volatile_corrected"], values["gpu.ecc.volatile_uncorrected"]) == (7.0, 3.0)

    @pytest.mark.parametrize("term", ["event", "throttle"])
    def test_reasons(self, term: str) -> None:
        prefix = f"clocks_{term}_reason"
        values = parse_gpu(
            f"<{prefix}s><{prefix}_gpu_idle>Not Active</{prefix}_gpu_idle>"
            f"<{prefix}_sw_power_cap>Active</{prefix}_sw_power_cap></{prefix}s>"
        )
        assert values["gpu.clocks.event_reasons"] == 0x4

    def test_values_that_are_not_there(self) -> None:
        assert parse_gpu("<fan_speed>N/A</fan_speed><remapped_rows>N/A</remapped_rows>") == {}

    def test_name_that_is_no_xml(self) -> None:
        process = "<pid>7</pid><type>C</type><process_name>a\x01b</process_name><used_memory>5 MiB</used_memory>"
        (gpu,) = parse_query(
            f"<nvidia_smi_log><gpu><processes><process_info>{process}</process_info></processes></gpu></nvidia_smi_log>"
        )
        assert [(each.pid, each.memory_mib) for each in gpu.processes] == [(7, 5.0)]


def test_pmon_of_new_and_old_drivers() -> None:
    new = """# gpu         pid   type     sm    mem    enc    dec    jpg    ofa    command
# Idx           #    C/G      %      %      %      %      %      %    name
    0       1234     C     98      7      -      -      -      -    python3 train.py
    1          -     -      -      -      -      -      -      -    -
"""
    old = """# gpu        pid  type    sm   mem   enc   dec   command
# Idx          #   C/G     %     %     %     %   name
    0       1234     C    98     7     -     -   python3
    1          -     -     -     -     -     -   -
"""
    for text, name in ((new, "python3 train.py"), (old, "python3")):
        found = parse_pmon(text)
        assert found[1] == ()
        (process,) = found[0]
        assert (process.pid, process.kind, process.name) == (1234, "C", name)
        assert (process.sm, process.memory, process.encoder) == (98.0, 7.0, None)
    with pytest.raises(NvidiaSmiError, match="header"):
        parse_pmon("No devices were found\n")


@pytest.mark.parametrize(
    ("values", "reference", "expected"),
    [
        ([10.0, 20.0], 16.0, (State.OK, 20.0)),
        ([10.0], 12.0, (State.OK, 10.0)),
        ([10.0], 12.5, (State.DIFFERS, 10.0)),
        ([None, 10.0], 8.0, (State.OK, 10.0)),
        ([None], 8.0, (State.ONLY_REFERENCE, None)),
        ([10.0], None, (State.ONLY_DASHTOP, 10.0)),
        ([None], None, None),
    ],
)
def test_comparison(values: list[float | None], reference: float | None, expected: Any) -> None:
    assert compare_numbers(values, reference, Tolerance(2.0)) == expected


def test_every_metric_has_a_tolerance() -> None:
    for metric in METRICS:
        assert verify.get_tolerance(metric).absolute >= 0
    assert set(nvidia_smi._FIELDS) <= set(METRICS)
