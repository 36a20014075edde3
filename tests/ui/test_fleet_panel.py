"""The page of the fleet: what is sent of nodes and GPUs, filters, and charts of the engine's history."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from flask import Flask

from dashtop.model.fleet import (
    FleetError,
    FleetFailure,
    FleetHolder,
    FleetNode,
    FleetReading,
    FleetSeries,
    HolderKind,
    NodeState,
)
from dashtop.model.ports import Services
from dashtop.model.unavailable import UnavailableReason
from dashtop.ui import callbacks
from dashtop.ui.fleet_data import UNKNOWN, build_fleet_parts
from dashtop.ui.pages import find_landing, list_pages
from dashtop.ui.panels import PANELS, fleet
from dashtop.ui.request import ViewRequest
from tests.builders import FixedSample, make_alerts, make_gpu, make_history, make_sample
from tests.clock import FakeClock
from tests.fleet.builders import FixedFleet, make_reading
from tests.ui.worlds import make_context

if TYPE_CHECKING:
    from dashtop.model.ports import Fleet
    from dashtop.ui.panels import PanelContext
    from dashtop.ui.parts import Part

HOSTILE = "<img src=x onerror=alert(1)>"


def make_services(shown: Fleet | None, *, has_gpu: bool = False) -> Services:
    sample = make_sample(gpus=(make_gpu(0),) if has_gpu else (), error=None if has_gpu else UnavailableReason.NO_DEVICE)
    return Services(
        latest=FixedSample(sample), history=make_history(), alerts=make_alerts(), clock=FakeClock(), fleet=shown
    )


def make(shown: Fleet | None, **options: str) -> PanelContext:
    services = make_services(shown)
    sample = services.latest.latest()
    assert sample is not None
    return make_context(sample=sample, services=services, options=options)


def build(context: PanelContext) -> dict[str, Any]:
    return {part.name: part.build() for part in build_fleet_parts(context)}


def versions(context: PanelContext) -> dict[str, str]:
    return {part.name: part.version for part in build_fleet_parts(context)}


def test_grid_has_four_bytes_a_gpu_in_the_order_of_the_nodes() -> None:
    parts = build(make(FixedFleet()))
    assert parts["fleet_grid"] == [["gpu0001", 0, 8], ["gpu0002", 0, 8], ["gpu0003", 0, 8], ["gpu-down", 1, 0]]
    cells = np.frombuffer(base64.b64decode(parts["fleet_cells"]), np.uint8).reshape(-1, 4)
    assert cells[:8, 0].tolist() == [0, 1, 2, 2, 2, 2, 2, 3]
    assert cells[2].tolist() == [2, 92, 75, 52]
    assert cells[7].tolist() == [3, UNKNOWN, UNKNOWN, UNKNOWN]


def test_machine_without_a_gpu_has_no_place_in_the_grid() -> None:
    shown = make_reading()
    login = FleetNode(name="gpu0000", instance="gpu0000:9100", state=NodeState.UP)
    parts = build(make(FixedFleet(replace(shown, nodes=(login, *shown.nodes)))))
    assert [name for name, _, _ in parts["fleet_grid"]] == ["gpu0001", "gpu0002", "gpu0003", "gpu-down"]
    assert "gpu0000" in [row[0] for row in parts["fleet_nodes"]["rows"]]


def test_filter_leaves_the_grid_in_its_place() -> None:
    everything, ada = build(make(FixedFleet())), build(make(FixedFleet(), fleet_user="ada"))
    assert everything["fleet_grid"] == ada["fleet_grid"]
    assert versions(make(FixedFleet()))["fleet_grid"] == versions(make(FixedFleet(), fleet_user="ada"))["fleet_grid"]
    cells = np.frombuffer(base64.b64decode(ada["fleet_cells"]), np.uint8).reshape(-1, 4)
    assert (cells[:, 0] != UNKNOWN).sum() == ada["fleet"]["summary"]["gpus"] == 6
    assert {name for name, *_ in ada["fleet_nodes"]["rows"]} == {"gpu0001", "gpu0002", "gpu0003"}, "none that is down"
    assert build(make(FixedFleet(), fleet_user="nobody"))["fleet_nodes"]["rows"] == []


def test_free_nodes_are_those_that_a_job_fits_on() -> None:
    free = build(make(FixedFleet()))["fleet"]["free"]
    assert [(row[0], row[1]) for row in free] == [("gpu0003", ["0"]), ("gpu0002", ["0"]), ("gpu0001", ["0"])]
    assert free[0][4].startswith("GPU-")
    large = build(make(FixedFleet(), fleet_memory="80"))["fleet"]
    assert [row[0] for row in large["free"]] == ["gpu0001"]
    assert build(make(FixedFleet(), fleet_count="2"))["fleet"]["free"] == []


def test_card_of_80_gb_is_one_although_the_driver_reports_less() -> None:
    reading = make_reading(1)
    gpu = replace(reading.gpus[0], values={**reading.gpus[0].values, "gpu.memory.total_gb": 79.6})
    shown = FixedFleet(reading=replace(reading, gpus=(gpu,)))
    assert len(build(make(shown, fleet_memory="80"))["fleet"]["free"]) == 1
    assert build(make(shown, fleet_memory="140"))["fleet"]["free"] == []


@pytest.mark.parametrize("page", ["0", "19", "99", "-1", "x", "٣", "9" * 30])
def test_nodes_come_by_fifty(page: str) -> None:
    nodes = build(make(FixedFleet(reading=make_reading(949)), fleet_page=page))["fleet_nodes"]
    assert (nodes["count"], nodes["pages"]) == (950, 19)
    assert nodes["page"] == {"19": 18, "99": 18}.get(page, 0)
    assert len(nodes["rows"]) == 50
    assert nodes["rows"][0][0] == ("gpu0001" if nodes["page"] == 0 else "gpu0901")


def test_chosen_node_has_its_gpus_and_their_history() -> None:
    context = make(FixedFleet(), fleet_node="gpu0002")
    node = build(context)["fleet_node"]
    assert [row[1] for row in node["gpus"]] == [str(index) for index in range(8)]
    assert node["row"][4] == "http://gpu0002:8050/"
    (part,) = fleet.build_node_chart(context)
    assert len([trace for trace in part.build()["data"] if trace.get("meta", {}).get("label")]) == 8
    assert build(make(FixedFleet(), fleet_node="other"))["fleet_node"] is None
    assert fleet.build_node_chart(make(FixedFleet())) == []


def test_hours_and_the_last_day_come_from_the_engine() -> None:
    parts = build(make(FixedFleet()))
    assert parts["fleet_hours"]["rows"] == [["ada", 100.0], ["grace", 50.0], ["linus", 33.3]]
    strip = base64.b64decode(parts["fleet_strips"]["rows"]["gpu0001"])
    assert (strip[0], strip[-1]) == (0, 100)
    (trend,) = fleet.build_trend(make(FixedFleet()))
    assert trend.build()["layout"]["yaxis"]["range"] == [0, 103]


class SlowHistory(FixedFleet):
    """An engine whose history is not known yet."""

    def peek_history(self, query: object) -> FleetSeries | None:
        del query
        return None


def test_history_that_is_not_known_yet_or_fails_is_said() -> None:
    parts = build(make(SlowHistory()))
    assert parts["fleet_hours"] is None
    assert parts["fleet_strips"] is None
    (trend,) = fleet.build_trend(make(SlowHistory()))
    assert "Reading the history" in str(trend.build())
    error = FleetError(FleetFailure.TIMEOUT, "No answer within 30 s.")

    class Failing(FixedFleet):
        def peek_history(self, query: object) -> FleetSeries | None:
            del query
            return FleetSeries(times_ms=np.empty(0, np.int64), error=error)

    (failed,) = fleet.build_trend(make(Failing()))
    assert failed.version != trend.version
    assert "No answer within 30 s." in str(failed.build())
    assert build(make(Failing()))["fleet_hours"]["error"] == error.sentence


def test_error_keeps_the_last_values() -> None:
    error = FleetError(FleetFailure.UNREACHABLE, "http://prometheus.example:9090 cannot be reached.")
    shown = build(make(FixedFleet(reading=replace(make_reading(), error=error))))["fleet"]
    assert (shown["error"], shown["is_starting"], shown["summary"]["gpus"]) == (error.sentence, False, 24)
    starting = build(make(FixedFleet(reading=FleetReading(error=error))))["fleet"]
    assert starting["is_starting"]


def test_new_reading_has_new_versions_and_the_same_none() -> None:
    first, again = versions(make(FixedFleet())), versions(make(FixedFleet()))
    assert first == again
    later = versions(make(FixedFleet(reading=replace(make_reading(), as_of_ms=1))))
    assert {name for name in first if first[name] != later[name]} == {
        "fleet", "fleet_cells", "fleet_nodes", "fleet_node",
    }  # fmt: skip


def test_names_are_sent_as_they_are_and_are_text_in_the_browser() -> None:
    reading = make_reading(1)
    gpu = replace(reading.gpus[1], node=HOSTILE, holders=(FleetHolder(HOSTILE, HolderKind.USER, 1.0),))
    parts = build(make(FixedFleet(reading=replace(reading, gpus=(gpu,)))))
    assert parts["fleet"]["holders"][0][0] == HOSTILE


def test_fleet_is_a_page_only_where_one_is_configured_and_the_first_one_without_a_gpu() -> None:
    with_fleet, without = make_services(FixedFleet()), make_services(None)
    assert "fleet" in {page.name for page in list_pages(with_fleet)}
    assert "fleet" not in {page.name for page in list_pages(without)}
    assert (find_landing(with_fleet), find_landing(without)) == ("fleet", "gpus")
    assert find_landing(make_services(FixedFleet(), has_gpu=True)) == "gpus"
    assert build_fleet_parts(make(None)) == []
    for panel in PANELS:
        if panel.figures is not None:
            assert list(panel.figures(make(None, fleet_node="x"))) == []


def test_panels_that_share_a_function_have_it_called_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[PanelContext] = []

    def count(context: PanelContext) -> list[Part]:
        calls.append(context)
        return build_fleet_parts(context)

    shared = [replace(panel, parts=count) if panel.parts is build_fleet_parts else panel for panel in PANELS]
    monkeypatch.setattr(callbacks, "PANELS", shared)
    updater = callbacks.PageUpdater(make_services(FixedFleet()), (), Flask("test"))
    shown = [panel.id for panel in fleet.PANELS]
    live, _ = updater.update(ViewRequest.parse({"visible_panels": shown}))
    assert live["fleet"]["summary"]["gpus"] == 24
    assert len(calls) == 1
