"""What the page of runs is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Flask

from dashtop.model.ports import Services
from dashtop.model.run import NoRuns, RunStatus
from dashtop.ui.panels.base import PanelContext
from dashtop.ui.panels.runs import runs_parts
from dashtop.ui.parts import RenderCache
from dashtop.ui.request import ViewRequest
from tests.builders import NOON_MS, make_alerts, make_gpu, make_history, make_sample
from tests.runs.builders import STARTED_MS, make_process, make_run, make_world

if TYPE_CHECKING:
    from dashtop.model.ports import Runs
    from tests.runs.builders import World


def read(world: World, runs: Runs) -> tuple[str, list[dict[str, Any]]]:
    sample = world.latest.sample
    assert sample is not None
    services = Services(latest=world.latest, history=make_history(), alerts=make_alerts(), clock=world.clock, runs=runs)
    context = PanelContext(
        services=services, cache=RenderCache(Flask("test")), sample=sample, gpu=None, request=ViewRequest()
    )
    (part,) = runs_parts(context)
    return part.version, part.build()


def test_rows_of_runs() -> None:
    world = make_world()
    world.tree.started = {100: STARTED_MS}
    world.latest.sample = make_sample(gpus=(make_gpu(3, processes=(make_process(100),)),))
    world.service.add(make_run(1, pid=100, started_ms=STARTED_MS, tags={"lr": "1"}))
    world.service.add(make_run(2, begin_ms=NOON_MS + 1, status=RunStatus.LOST, end_ms=NOON_MS + 2))
    world.service.follow()
    version, (newest, run) = read(world, world.service)
    assert (newest["id"], newest["state"], newest["gpus"]) == ("00000002", "lost", None)
    assert (run["name"], run["user"], run["gpus"], run["tags"]) == ("run 1", "ada", ["GPU 3"], {"lr": "1"})
    assert (run["energy"], run["peak_gib"]) == (None, None)
    assert read(world, world.service)[0] == version, "sent once"
    world.service.update("00000001", RunStatus.FINISHED, None)
    assert read(world, world.service)[0] != version


def test_nothing_where_runs_cannot_be_stored() -> None:
    assert read(make_world(), NoRuns())[1] == []
