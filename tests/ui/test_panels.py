"""Panels: what each adds to the live snapshot, and what it takes to add a panel."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
from typing import TYPE_CHECKING, Any

import pytest
from dash import html
from flask import Flask

from dashtop.metrics.gpu_state import classify_gpus
from dashtop.model.sample import PROCESSES, Device, Gpu, GpuProcess, Mount, ProcessInfo
from dashtop.model.unavailable import UnavailableReason
from dashtop.ui import callbacks, ids, layout, pages, panels
from dashtop.ui.callbacks import PageUpdater
from dashtop.ui.components import card, fact
from dashtop.ui.embed import find_panels
from dashtop.ui.panels import PANELS, Panel, Section, alerts, charts, gpu_status, hardware, host, processes
from dashtop.ui.panels.chart_topics import TOPICS
from dashtop.ui.panels.gauges import SPARKLINE_METRICS
from dashtop.ui.request import ViewRequest
from tests.builders import make_device, make_gpu, make_sample
from tests.ui.worlds import gpu, make_context, world

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dashtop.ui.parts import Table

GIB = 2**30
ROOT = ProcessInfo(username="root", container_runtime="docker", container="3fa9c1d2e4b5", slurm_job="4711")


def update(request: dict[str, Any], *gpus: Gpu) -> dict[str, Any]:
    services, _, _ = world(gpus=gpus or (gpu(),))
    live, _ = PageUpdater(services, (), Flask("test")).update(ViewRequest.parse(request))
    return live


def objects(table: Table) -> list[dict[str, Any]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


# --- all panels -----------------------------------------------------------------------------------------------------


def panels_of_modules() -> Iterator[Panel]:
    for module in pkgutil.iter_modules(panels.__path__):
        values = vars(importlib.import_module(f"{panels.__name__}.{module.name}")).values()
        for value in values:
            yield from value if isinstance(value, tuple) else (value,)


def test_every_panel_of_the_package_is_listed() -> None:
    found = [each for each in panels_of_modules() if isinstance(each, Panel)]
    assert len(found) == len(PANELS)
    assert all(any(each is listed for listed in PANELS) for each in found)


def test_a_panel_is_one_definition_and_one_entry_in_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    example = Panel(
        section=Section.CURRENT,
        id="panel-example",
        layout=lambda _services: card("Example", [html.Dl(fact("gpu.encoder_sessions"))], id="panel-example"),
        live_data=lambda _context: {"example": [1, 2]},
    )
    for module in (pages, callbacks):
        monkeypatch.setattr(module, "PANELS", (*PANELS, example))
    services, _, _ = world(gpus=(gpu(),))
    page = layout.build_layout(services, 1.0)
    assert "panel-example" in find_panels(page), "it can be embedded"
    assert '["panel-example", "Example"]' in str(page).replace("\\", ""), "it can be hidden and moved"
    assert update({})["example"] == [1, 2]
    assert "example" not in update({"visible_panels": []})


def test_panels_that_are_not_visible_add_nothing() -> None:
    parts = {"processes", "process_loads", "process_totals", "facts", "throttle_reasons", "mounts", "cores"}
    assert parts <= set(update({}))
    assert parts & set(update({"visible_panels": []})) == set()
    assert parts & set(update({"visible_panels": [ids.PANEL_INFORMATION]})) == {"facts"}
    assert parts <= set(update({"visible_panels": "nonsense"}))


def test_sparklines_are_sent_once_for_each_gpu() -> None:
    pair = (gpu(0), gpu(1))
    first = update({}, *pair)
    sparklines = first["sparklines"]
    assert set(sparklines["maximum"]) == set(SPARKLINE_METRICS)
    series = sparklines["maximum"]["gpu.temperature"]
    assert len(series) * sparklines["step_ms"] == sparklines["span_ms"]
    # The recorded values count seconds modulo 90, and the maximum is 3 above them.
    assert all(0 <= value <= 92 for value in series)
    assert len(set(series)) == 3, "90 s in steps of 30 s"
    assert "sparklines" not in update({"versions": first["versions"]}, *pair)
    assert "sparklines" in update({"versions": first["versions"], "gpu": 1}, *pair)


# --- processes ------------------------------------------------------------------------------------------------------


def processes_data(*running: GpuProcess, used_gib: float = 10.0) -> dict[str, Any]:
    return processes.live_data(make_context(make_gpu(values={"gpu.memory.used_gb": used_gib}, processes=running)))


def test_processes_and_their_totals() -> None:
    first = GpuProcess(
        pid=41, kind="C", gpu_memory_bytes=6 * GIB, sm_percent=71.0, cpu_percent=103.46, host_memory_bytes=3 * GIB,
        info=dataclasses.replace(ROOT, name="<b>x", started_ms=5),
    )  # fmt: skip
    other = GpuProcess(pid=7, kind="C+G", gpu_memory_bytes=None, info=ProcessInfo(foreign=True))
    data = processes_data(first, other)
    assert data["processes"] == [
        {
            "user": None, "name": None, "type": "C+G", "context": "outside this container", "pid": 7,
            "started_ms": None, "foreign": True, "unnamed": processes._FOREIGN, "service": None,
            "paused": None,
        },
        {
            "user": "root", "name": "<b>x", "type": "C", "context": "docker 3fa9c1d2e4b5, Slurm job 4711", "pid": 41,
            "started_ms": 5, "foreign": False, "unnamed": "", "service": None,
            "paused": None,
        },
    ]  # fmt: skip
    unknown, known = objects(data["process_loads"])
    assert set(unknown.values()) == {None}
    assert known == {
        "gpu_memory_mib": 6144, "sm_percent": 71, "cpu_percent": 103.5, "host_memory_mib": 3072, "idle_minutes": None
    }  # fmt: skip
    assert objects(data["process_totals"]) == [
        {"count": 2, "unknown_count": 1, "gpu_memory_gib": 6.0, "used_gib": 10.0}
    ]
    json.dumps(data["processes"], allow_nan=False)


def test_the_largest_processes_are_listed_and_all_are_counted() -> None:
    crowd = [GpuProcess(pid=pid, kind="C", gpu_memory_bytes=pid * 2**20) for pid in range(1, 513)]
    data = processes_data(*crowd)
    pids = [process["pid"] for process in data["processes"]]
    assert pids == list(range(512 - processes.MAX_ROWS + 1, 513))
    (totals,) = objects(data["process_totals"])
    assert totals["count"] == 512
    assert totals["gpu_memory_gib"] == pytest.approx(sum(range(1, 513)) / 1024, abs=0.01)


def test_an_empty_table_tells_no_processes_from_unknown_processes() -> None:
    def text(of: Gpu) -> str:
        return str(processes.live_data(make_context(of))["texts"]["processes.empty"])

    assert text(make_gpu()) == "No processes on this GPU."
    unknown = dataclasses.replace(make_gpu(), unavailable={PROCESSES: UnavailableReason.NO_PERMISSION})
    assert text(unknown) == "Processes not available: no permission."


# --- hardware, information, state -----------------------------------------------------------------------------------


def test_throttle_reasons() -> None:
    def reasons(flags: float | None) -> Any:
        values = {} if flags is None else {"gpu.clocks.event_reasons": flags}
        return hardware.hardware_data(make_context(make_gpu(values=values)))["throttle_reasons"]

    assert reasons(None) is None
    assert reasons(0.0) == []
    active = reasons(float(0x004 | 0x080))
    assert [reason["severity"] for reason in active] == ["info", "critical"]
    assert all(reason["name"] and reason["meaning"].endswith(".") for reason in active)


def test_modes_have_the_names_of_nvidia_smi() -> None:
    values = {"gpu.compute_mode": 3.0, "gpu.persistence_mode": 0.0}
    assert hardware.hardware_data(make_context(make_gpu(values=values)))["texts"] == {
        "gpu.compute_mode": "Exclusive Process",
        "gpu.persistence_mode": "Disabled",
        "gpu.mig_mode": "N/A",
    }


def facts_of(device: Device | None) -> dict[str, str | None]:
    shown = make_gpu(device=device) if device is not None else None
    return dict(hardware.information_data(make_context(shown))["facts"])


def test_information_of_the_gpu_and_the_host() -> None:
    facts = facts_of(make_device(serial="1320922000123", vbios=None))
    assert facts["UUID"] == make_device().uuid
    assert facts["VBIOS"] is None
    assert facts["Serial number"] == "•••0123"
    without_gpu = facts_of(None)
    assert without_gpu.keys() < facts.keys()
    assert {"Host", "Kernel", "Python", "dashtop"} == without_gpu.keys()


def test_states_of_a_gpu() -> None:
    def describe(shown: Gpu) -> str:
        sample = make_sample(gpus=(shown,))
        return gpu_status.describe_state(shown, classify_gpus(sample)[shown.device.uuid])

    working = gpu()
    assert describe(working) == ""
    lost = dataclasses.replace(working, state=UnavailableReason.GPU_LOST)
    parent = dataclasses.replace(working, unavailable={"gpu.utilization.gpu": UnavailableReason.MIG_PARENT})
    for each, reason in ((lost, UnavailableReason.GPU_LOST), (parent, UnavailableReason.MIG_PARENT)):
        state = describe(each)
        assert state.lower().startswith(f"{reason.text}.".lower())
        assert state[0].isupper()
    hung = dataclasses.replace(working, state=UnavailableReason.NOT_RESPONDING, state_since_ms=1_700_000_000_000)
    assert describe(hung).startswith("The GPU does not respond. Reset the GPU")
    shown = gpu_status.heading_data(make_context(hung, sample=make_sample(gpus=(hung,))))
    assert shown["gpu_head"]["since"] == 1_700_000_000_000


def test_alerts_are_counted_for_the_present_only() -> None:
    context = make_context(gpu())
    assert alerts.bell_data(context)["alert_count"] == {"count": 0, "worst": ""}
    assert alerts.bell_data(dataclasses.replace(context, is_past=True)) == {"alert_count": None}


def test_a_lost_gpu_without_history_says_once_why_it_has_no_charts() -> None:
    lost = dataclasses.replace(gpu(), state=UnavailableReason.GPU_LOST, values={}, unavailable={})
    of_gpu = [f"panel-{topic.id}" for topic in TOPICS if topic.is_of_gpu]
    recorded, _, history = world(gpus=(lost,))
    shown = charts.live_data(make_context(lost, services=recorded))
    assert shown == {"left_out": [], "texts": {"charts.left_out": ""}}
    history.first_ms = history.last_ms + 1
    shown = charts.live_data(make_context(lost, services=recorded))
    assert shown["left_out"] == of_gpu
    text = shown["texts"]["charts.left_out"]
    assert text.startswith("Not shown: Utilization, ")
    assert text.count(UnavailableReason.GPU_LOST.text) == 1


def test_a_mig_instance_names_its_parent() -> None:
    parent = gpu(0)
    device = make_device(1, mig_parent_uuid=parent.device.uuid, mig_profile="3g.40gb")
    instance = dataclasses.replace(gpu(1), device=device)
    describe = gpu_status.describe_mig_instance
    assert describe(make_sample(gpus=(parent, instance)), instance) == "MIG instance 3g.40gb of GPU 0"
    assert describe(make_sample(gpus=(instance,)), instance) == f"MIG instance 3g.40gb of {parent.device.uuid}"
    assert describe(make_sample(gpus=(parent,)), parent) == ""


# --- host -----------------------------------------------------------------------------------------------------------


def test_mounts_and_cores() -> None:
    mounts = (
        Mount(mount_point="/", filesystem="ext4", used_bytes=2**30, total_bytes=2**33, used_percent=96.04),
        Mount(mount_point="/dead", filesystem="nfs4", used_bytes=None, total_bytes=None, used_percent=None),
    )
    sample = make_sample(mounts=mounts)
    assert host.storage_data(make_context(sample=sample))["mounts"] == [
        {
            "mount_point": "/", "filesystem": "ext4", "used_gib": 1.0, "total_gib": 8.0, "used_percent": 96.0,
            "level": "high",
        },
        {
            "mount_point": "/dead", "filesystem": "nfs4", "used_gib": None, "total_gib": None, "used_percent": None,
            "level": "",
        },
    ]  # fmt: skip
    assert host.system_data(make_context(sample=sample)) == {"cores": [10, 20]}
    offline = dataclasses.replace(sample, host=dataclasses.replace(sample.host, core_ids=(0, 4)))
    assert host.system_data(make_context(sample=offline)) == {
        "cores": [10, 20],
        "core_ids": (0, 4),
        "offline_cores": (),
    }
