"""The view of one GPU: its sparklines, what its visible panels add, and the words for unusual states."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from typing import Any

import pytest

from dashtop.model.sample import PROCESSES, Device, Gpu, GpuProcess, ProcessInfo
from dashtop.model.unavailable import UnavailableReason
from dashtop.ui import ids
from dashtop.ui.callbacks import PageUpdater
from dashtop.ui.panels import gpu_state, hardware, information, processes
from dashtop.ui.request import ViewRequest
from dashtop.ui.sparklines import SPARKLINE_METRICS
from tests.builders import make_device, make_gpu, make_sample
from tests.ui.worlds import gpu, world

GIB = 2**30
ROOT = ProcessInfo(username="root", container_runtime="docker", container="3fa9c1d2e4b5", slurm_job="4711")


def update(request: dict[str, Any], *gpus: Gpu) -> dict[str, Any]:
    services, _, _ = world(gpus=gpus or (gpu(),))
    live, _ = PageUpdater(services, ()).update(ViewRequest.parse(request))
    return live


def test_sparklines_are_sent_once_for_each_gpu() -> None:
    pair = (gpu(0), gpu(1))
    first = update({}, *pair)
    sparklines = first["sparklines"]
    assert set(sparklines["maximum"]) == set(SPARKLINE_METRICS)
    series = sparklines["maximum"]["gpu.temperature"]
    assert len(series) * sparklines["step_ms"] == sparklines["span_ms"]
    # The recorded world counts seconds, and its highest reading is 3 above: the last bucket holds the newest of it.
    assert all(0 <= value <= 92 for value in series)
    assert len(set(series)) > 20
    assert "sparklines" not in update({"versions": first["versions"]}, *pair)
    assert "sparklines" in update({"versions": first["versions"], "gpu": 1}, *pair)


def test_panels_that_are_not_visible_add_nothing() -> None:
    parts = {"processes", "loads", "totals", "facts", "limits", "mounts", "cores"}
    assert parts <= set(update({}))
    assert parts & set(update({"visible_panels": []})) == set()
    assert parts & set(update({"visible_panels": [ids.PANEL_INFORMATION]})) == {"facts"}
    assert parts <= set(update({"visible_panels": "nonsense"}))


def holding(*held: GpuProcess, used_gib: float = 10.0) -> dict[str, Any]:
    return processes.live_data(make_sample(), make_gpu(values={"gpu.memory.used_gb": used_gib}, processes=held))


def test_processes_and_their_totals() -> None:
    first = GpuProcess(
        pid=41,
        kind="C",
        gpu_memory_bytes=6 * GIB,
        sm_percent=71.0,
        cpu_percent=103.46,
        host_memory_bytes=3 * GIB,
        info=replace(ROOT, name="<b>x", started_ms=5),
    )
    other = GpuProcess(pid=7, kind="C+G", gpu_memory_bytes=None, info=ProcessInfo(foreign=True))
    frame = holding(first, other)
    assert frame["processes"] == [
        [7, "C+G", None, None, "outside this container", None, True],
        [41, "C", "<b>x", "root", "docker 3fa9c1d2e4b5, Slurm job 4711", 5, False],
    ]
    assert frame["loads"] == [[None, None, None, None], [6144, 71, 103.5, 3072]]
    assert frame["totals"] == [6.0, 1, 10.0, 2]
    json.dumps(frame, allow_nan=False)


def test_of_very_many_processes_the_largest_are_listed_and_all_are_counted() -> None:
    crowd = [GpuProcess(pid=pid, kind="C", gpu_memory_bytes=pid * 2**20) for pid in range(1, 513)]
    frame = holding(*crowd)
    pids = [row[0] for row in frame["processes"]]
    assert pids == list(range(512 - processes.MAX_ROWS + 1, 513))
    assert frame["totals"][3] == 512
    assert frame["totals"][0] == pytest.approx(sum(range(1, 513)) / 1024, abs=0.01)


def test_what_holds_the_clocks_down_is_told_in_words() -> None:
    def limits(flags: float | None) -> Any:
        values = {} if flags is None else {"gpu.clocks.event_reasons": flags}
        return hardware.live_data(make_sample(), make_gpu(values=values))["limits"]

    assert limits(None) is None
    assert limits(0.0) == []
    found = limits(float(0x004 | 0x080))
    assert [(name, severity) for name, _, severity in found] == [("Power cap", "info"), ("Power brake", "critical")]
    assert all(meaning.endswith(".") for _, meaning, _ in found)


def test_modes_have_names() -> None:
    values = {"gpu.compute_mode": 3.0, "gpu.persistence_mode": 0.0}
    assert hardware.live_data(make_sample(), make_gpu(values=values))["words"] == {
        "gpu.compute_mode": "Exclusive Process",
        "gpu.persistence_mode": "Disabled",
        "gpu.mig_mode": "N/A",
    }


def facts(device: Device | None) -> dict[str, str | None]:
    shown = make_gpu(device=device) if device is not None else None
    return dict(information.live_data(make_sample(), shown)["facts"])


def test_information_of_the_gpu_and_of_the_machine() -> None:
    known = facts(make_device(serial="1320922000123", vbios=None))
    assert known["UUID"] == make_device().uuid
    assert known["VBIOS"] is None
    assert known["Serial number"] == "•••0123"
    alone = facts(None)
    assert alone.keys() < known.keys()
    assert {"Host", "Kernel", "Python", "dashtop"} == alone.keys()


def test_states_are_told_in_words() -> None:
    well = gpu()
    assert gpu_state.describe_state(well) == ""
    assert (
        gpu_state.describe_state(dataclasses.replace(well, state=UnavailableReason.GPU_LOST))
        == "The GPU has fallen off the bus."
    )
    split = dataclasses.replace(well, unavailable={"gpu.utilization.gpu": UnavailableReason.MIG_PARENT})
    assert gpu_state.describe_state(split) == "Split into MIG instances, which report it."


def test_an_instance_names_the_gpu_it_is_a_part_of() -> None:
    parent = gpu(0)
    device = make_device(1, mig_parent_uuid=parent.device.uuid, mig_profile="3g.40gb")
    instance = dataclasses.replace(gpu(1), device=device)
    assert (
        gpu_state.describe_mig_instance(make_sample(gpus=(parent, instance)), instance)
        == "MIG instance 3g.40gb of GPU 0"
    )
    assert (
        gpu_state.describe_mig_instance(make_sample(gpus=(instance,)), instance)
        == f"MIG instance 3g.40gb of {parent.device.uuid}"
    )
    assert gpu_state.describe_mig_instance(make_sample(gpus=(parent,)), parent) == ""


def test_processes_that_nobody_tells_are_not_said_to_be_none() -> None:
    def words(of: Gpu) -> str:
        return str(processes.live_data(make_sample(gpus=(of,)), of)["words"]["processes.none"])

    assert words(make_gpu()) == "No processes on this GPU."
    untold = dataclasses.replace(make_gpu(), unavailable={PROCESSES: UnavailableReason.NO_PERMISSION})
    assert words(untold) == "Processes not available: no permission."
