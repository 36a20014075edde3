"""Idle GPUs that can suspend are left alone, so that they do; all others are read in every tick."""

from __future__ import annotations

import ctypes
import shutil
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pynvml
import pytest

from dashtop.model.unavailable import UnavailableReason
from dashtop.sources.nvml import power, session, worker_process, xid_events
from dashtop.sources.nvml.power import MAX_IDLE_S, MIN_IDLE_S, PAUSE_S, IdlePause
from dashtop.sources.nvml.session import NvmlSession
from tests.processes import eventually
from tests.sources.nvml_fixtures import is_healthy, open_reader, read_until

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from dashtop.model.sample import Gpu
    from tests.fake_nvml import World
    from tests.fake_nvml.fixtures import WorldFactory

SHORT_IDLE_S, SHORT_PAUSE_S = 0.25, 1.0
XORG = {"pid": 4_000_001, "used_memory": 4 * 2**20, "type": "G"}
IDLE = UnavailableReason.IDLE


def test_pause_begins_when_a_gpu_has_been_idle_for_a_while() -> None:
    pause = IdlePause()
    assert find_pauses(pause, lambda _: True, 4 * MIN_IDLE_S)[0] == (MIN_IDLE_S, MIN_IDLE_S + PAUSE_S)


def test_gpu_that_does_not_suspend_is_paused_more_and_more_rarely() -> None:
    pauses = find_pauses(IdlePause(), lambda _: True, 20 * MAX_IDLE_S)
    between = [second[0] - first[1] for first, second in pairwise(pauses)]
    assert between[:3] == pytest.approx([2 * MIN_IDLE_S, 4 * MIN_IDLE_S, 8 * MIN_IDLE_S], abs=2)
    assert between[-1] == pytest.approx(MAX_IDLE_S, abs=2)
    assert {round(end - begin) for begin, end in pauses} == {PAUSE_S}


def test_use_delays_the_next_pause() -> None:
    pauses = find_pauses(IdlePause(), lambda now: now < 100 or now > 200, 300.0)
    assert [begin for begin, _ in pauses] == pytest.approx([30, 231], abs=2)


def test_unknown_use_is_not_idle() -> None:
    assert find_pauses(IdlePause(), lambda now: None if int(now) % 20 == 0 else True, 300.0) == []


def find_pauses(pause: IdlePause, is_idle: Callable[[float], bool | None], seconds: float) -> list[tuple[float, float]]:
    """Read once a second. Return when each pause begins and ends."""
    pauses: list[tuple[float, float]] = []
    for second in range(int(seconds)):
        now = float(second)
        if pause.is_active(now):
            continue
        pause.update(now, is_idle=is_idle(now))
        if pause.is_active(now):
            pauses.append((now, pause.until))
    return pauses


@pytest.fixture
def laptop(nvml_world: WorldFactory, tmp_path: Path) -> World:
    """Return a laptop whose GPU is awake and idle."""
    world = nvml_world("rtx4090_laptop_awake").count_calls()
    world.set(0, "processes", []).set(0, "utilization", {"gpu": 0, "memory": 0})
    for engine in ("encoder", "decoder"):
        world.set(0, engine, {"utilization": 0, "sampling_period_us": 167_000})
    world.write_sysfs(tmp_path)
    return world


@pytest.fixture
def _short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(power, "MIN_IDLE_S", SHORT_IDLE_S)
    monkeypatch.setattr(power, "PAUSE_S", SHORT_PAUSE_S)
    monkeypatch.setattr(power, "CONTROL_INTERVAL_S", 0.1)
    monkeypatch.setattr(session, "MIG_CHECK_INTERVAL_S", 0.1)
    monkeypatch.setattr(xid_events, "WAIT_TIMEOUT_MS", 5)


class Reader:
    """A session in this process that is read as the worker reads it, with the calls that each reading makes."""

    def __init__(self, world: World, root: Path) -> None:
        self.world = world
        self.session = NvmlSession(proc=root, sys_root=root)

    def read(self) -> tuple[Gpu, ...]:
        gpus = self.session.read().gpus
        self.session.run_due_queries()
        self.session.release_idle_gpus()
        return gpus

    def read_until_idle(self) -> Counter[tuple[str, str]]:
        """Read until every GPU is left alone. Return the calls made by then."""
        eventually(lambda: {gpu.state for gpu in self.read()} == {IDLE}, every_s=0.02)
        return self.world.calls()


@pytest.fixture
def reader(laptop: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _short_times: None) -> Iterator[Reader]:
    for name, value in laptop.env().items():
        monkeypatch.setenv(name, value)
    library = shutil.copy(laptop.library.path, tmp_path)  # another copy: a loaded one keeps its file of calls
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(library)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    reader = Reader(laptop, tmp_path)
    yield reader
    reader.session.close()


def test_idle_gpu_is_not_called_until_it_is_suspended(
    laptop: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Through the worker process, whose session is closed meanwhile: an open one keeps the GPU awake."""
    start = f"from dashtop.sources.nvml import power; power.MIN_IDLE_S = {SHORT_IDLE_S}; {worker_process._START}"
    monkeypatch.setattr(worker_process, "_START", start)
    with open_reader(laptop, monkeypatch, proc=tmp_path, sys_root=tmp_path) as gpus:
        device = read_until(gpus, is_healthy).gpus[0].device
        (idle,) = read_until(gpus, lambda found: found.gpus[0].state is IDLE).gpus
        assert set(idle.unavailable.values()) == {IDLE}
        assert set(idle.values.values()) == {None}
        eventually(lambda: laptop.calls()["nvmlShutdown", ""] == 1)
        calls = laptop.calls()
        laptop.gpu(0)["runtime_status"] = "suspended"
        laptop.write_sysfs(tmp_path)
        read_until(gpus, lambda found: found.gpus[0].state is UnavailableReason.ASLEEP)
        end = time.monotonic() + session.REOPEN_DELAY_S + 0.5
        while time.monotonic() < end:
            (asleep,) = gpus.read(20).gpus
            assert (asleep.state, asleep.device) == (UnavailableReason.ASLEEP, device)
            time.sleep(0.05)
        assert laptop.calls() == calls
        laptop.gpu(0)["runtime_status"] = "active"
        laptop.write_sysfs(tmp_path)
        assert read_until(gpus, is_healthy).gpus[0].device == device
        assert gpus.failures() == 0


def test_gpu_that_stays_awake_is_read_again(reader: Reader) -> None:
    calls = reader.read_until_idle()
    began = time.monotonic()
    eventually(lambda: reader.read()[0].state is None, every_s=0.02)
    assert time.monotonic() - began > SHORT_PAUSE_S / 2
    assert reader.world.calls() != calls
    again = time.monotonic()
    reader.read_until_idle()
    assert time.monotonic() - again > 2 * SHORT_IDLE_S


def test_gpu_that_is_used_after_a_pause_is_read_in_every_tick(reader: Reader) -> None:
    reader.read_until_idle()
    reader.world.set(0, "utilization", {"gpu": 50, "memory": 10}).save()
    eventually(lambda: reader.read()[0].values["gpu.utilization.gpu"] == 50, every_s=0.02)
    check_every_tick_is_read(reader)


def check_every_tick_is_read(reader: Reader, index: int = 0) -> None:
    """Check that a GPU is read in every tick of a time in which it would be left alone if it was idle."""
    uuid = reader.world.gpu(index)["uuid"]
    key = ("nvmlDeviceGetTemperature", uuid)
    end = time.monotonic() + 3 * SHORT_IDLE_S
    while time.monotonic() < end:
        before = reader.world.calls()[key]
        assert reader.read()[index].values["gpu.temperature"] is not None
        assert reader.world.calls()[key] == before + 1
        time.sleep(0.02)


def write_d3_status(root: Path, status: str) -> None:
    folder = root / "driver" / "nvidia" / "gpus" / "0000:01:00.0"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "power").write_text(f"Runtime D3 status:          {status}\nVideo Memory:               Active\n")


def write_power(root: Path, name: str, value: str) -> None:
    (root / "bus" / "pci" / "devices" / "0000:01:00.0" / "power" / name).write_text(f"{value}\n")


USES: dict[str, Callable[[World, Path], object]] = {
    "utilization": lambda world, _: world.set(0, "utilization.gpu", 1),
    "encoder": lambda world, _: world.set(0, "encoder.utilization", 5),
    "process": lambda world, _: world.set(0, "processes", [{"pid": 4_000_000, "used_memory": 2**20, "type": "C"}]),
    "display": lambda world, _: world.set(0, "display_active", 1),
    "display of a server": lambda world, _: world.set(0, "display_active", 1).set(0, "processes", [XORG]),
    "no display state": lambda world, _: world.remove(0, "display_active").set(0, "processes", [XORG]),
    "unknown processes": lambda world, _: [
        world.set_return(f"nvmlDeviceGet{kind}RunningProcesses_v3", pynvml.NVML_ERROR_UNKNOWN)
        for kind in ("Compute", "Graphics", "MPSCompute")
    ],
    "unknown utilization": lambda world, _: world.remove(0, "utilization"),
    "control is on": lambda _, root: write_power(root, "control", "on"),
    "resuming": lambda _, root: write_power(root, "runtime_status", "resuming"),
    "no runtime power management": lambda _, root: write_power(root, "runtime_status", "unsupported"),
    "driver does not suspend it": lambda _, root: write_d3_status(root, "Not supported"),
    "driver must not suspend it": lambda _, root: write_d3_status(root, "Disabled by default"),
}


@pytest.mark.parametrize("use", USES)
def test_gpu_in_use_or_without_runtime_d3_is_read_in_every_tick(reader: Reader, tmp_path: Path, use: str) -> None:
    USES[use](reader.world, tmp_path)
    reader.world.save()
    reader.read()
    check_every_tick_is_read(reader)


def test_gpu_is_not_called_while_it_is_being_suspended(reader: Reader, tmp_path: Path) -> None:
    reader.read()
    write_power(tmp_path, "runtime_status", "suspending")
    assert reader.read()[0].state is UnavailableReason.ASLEEP


@pytest.mark.parametrize("d3_status", ["Enabled (fine-grained)", "Enabled (coarse-grained)"])
def test_waiting_display_server_does_not_use_the_gpu(reader: Reader, tmp_path: Path, d3_status: str) -> None:
    """Xorg opens every GPU of a laptop, also one without a display."""
    write_d3_status(tmp_path, d3_status)
    reader.world.set(0, "processes", [XORG]).save()
    reader.read_until_idle()


def test_control_is_read_again_and_again(reader: Reader, tmp_path: Path) -> None:
    write_power(tmp_path, "control", "on")
    reader.read()
    check_every_tick_is_read(reader)
    write_power(tmp_path, "control", "auto")
    reader.read_until_idle()
    write_power(tmp_path, "control", "on")
    began = time.monotonic()
    eventually(lambda: reader.read()[0].state is None, every_s=0.02)
    assert time.monotonic() - began < SHORT_PAUSE_S, "not after the pause only"


def test_idle_gpu_is_not_called_while_another_is_in_use(reader: Reader, tmp_path: Path) -> None:
    world = reader.world
    used = {**world.gpu(0), "uuid": "GPU-11111111-1111-4222-8333-444455556666", "utilization": {"gpu": 9, "memory": 1}}
    used["pci"] = {**used["pci"], "bus_id": "00000000:02:00.0"}
    world.gpus.append(used)
    world.save().write_sysfs(tmp_path)
    eventually(lambda: [gpu.state for gpu in reader.read()] == [IDLE, None], every_s=0.02)
    time.sleep(0.1)  # a call in the background can still be running
    before = world.calls()
    end = time.monotonic() + SHORT_PAUSE_S / 2
    while time.monotonic() < end:
        idle, busy = reader.read()
        assert (idle.state, busy.values["gpu.utilization.gpu"]) == (IDLE, 9)
        time.sleep(0.02)
    made = world.calls() - before
    assert {uuid for _, uuid in made if uuid} == {used["uuid"]}
    assert made["nvmlDeviceGetMigMode", used["uuid"]] > 2
