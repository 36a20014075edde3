"""The tick: one small answer, and charts only when a bucket is complete or the view has changed."""

from __future__ import annotations

import dataclasses
import json
import math
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from dash import _utils
from flask import Flask

from dashtop.ui import callbacks as tick
from dashtop.ui import ids
from dashtop.ui.charts.renderer import ChartRenderer
from dashtop.ui.delta import Held
from dashtop.ui.gpu_grid import GpuGrid
from dashtop.ui.panels import CHARTS
from dashtop.ui.render_cache import RenderCache
from dashtop.ui.request import ViewRequest
from dashtop.ui.snapshot import listed
from tests.builders import make_device, make_sample
from tests.ui.worlds import HOST_VALUES, Pinned, gpu, world

if TYPE_CHECKING:
    from dashtop.model.ports import Services

to_json: Any = _utils.to_json

KEYS = frozenset({"gpu.temperature", "system.cpu.usage_percent"})
ALL = {chart.id for chart in CHARTS}


def answer(services: Services, keys: frozenset[str], request: ViewRequest) -> dict[str, Any]:
    """What one server answers: everything asked of the same machine shares what is made once for all."""
    history: Any = services.history
    if not hasattr(history, "shared"):
        history.shared = RenderCache(Flask("test"))
    trends, fleet = ChartRenderer(services, history.shared), GpuGrid(services, history.shared)
    return tick.answer(services, trends, fleet, Held(), metrics=listed(keys), request=request)


def ask(services: Services, frame: dict[str, Any] | None = None, **changes: Any) -> tuple[dict[str, Any], set[str]]:
    """Ask as a browser does that has `frame` on screen; return the new frame and the charts drawn."""
    has = {"drawn": frame["drawn"] if frame else None, "trail": make_device(changes.get("gpu", 0)).uuid}
    request = ViewRequest.parse({"width": 400, **has, **changes})
    live = answer(services, KEYS, request)
    return live, set(live.get("figures", ()))


def go_on(latest: Pinned, seconds: int) -> None:
    assert latest.sample is not None
    now = latest.sample
    latest.sample = dataclasses.replace(
        now,
        sequence=now.sequence + seconds,
        time_ms=now.time_ms + 1000 * seconds,
        monotonic_s=now.monotonic_s + seconds,
    )


def test_charts_are_drawn_when_a_bucket_is_complete_and_not_before() -> None:
    services, latest, history = world(gpus=(gpu(),))
    frame, drawn = ask(services)
    assert drawn == ALL
    history.queries = 0
    redraws = []
    for _ in range(60):
        go_on(latest, 1)
        history.last_ms += 1000
        frame, drawn = ask(services, frame)
        assert drawn in (set(), ALL)
        redraws.append(bool(drawn))
    assert sum(redraws) == 4  # a bucket of an hour on 400 px is 15 s
    assert history.queries == 4


def test_every_tick_has_numbers() -> None:
    services, latest, _ = world(gpus=(gpu(),))
    first, _ = ask(services)
    go_on(latest, 1)
    second, drawn = ask(services, first, held=first["tags"])
    assert drawn == set()
    assert (first["sequence"], second["sequence"]) == (7200, 7201)
    assert dict(zip(first["names"], second["values"], strict=True)) == {
        "gpu.temperature": 91.0,
        "system.cpu.usage_percent": 12.346,
    }
    assert first["age"] == 0.25
    assert second["drawn"] == first["drawn"]
    assert len(json.dumps(second)) < 500


def test_a_changed_view_draws_at_once() -> None:
    services, _, _ = world(gpus=(gpu(0), gpu(1)))
    frame, _ = ask(services)
    for change in ({"range": "5m"}, {"gpu": 1}, {"theme": "dark"}, {"width": 800}):
        assert ask(services, frame, **change)[1] == ALL
    assert ask(services, frame)[1] == set()


def test_an_answer_that_was_lost_is_drawn_again() -> None:
    services, latest, _ = world(gpus=(gpu(),))
    before, _ = ask(services)
    go_on(latest, 20)
    assert ask(services, before)[1] == ALL
    assert ask(services, before)[1] == ALL


def test_a_young_history_is_shown_in_a_window_that_grows() -> None:
    services, latest, history = world(gpus=(gpu(),), recorded_s=20)
    frame, drawn = ask(services)
    assert drawn == ALL
    assert frame["since"] is not None
    spans, steps = set(), 0
    for _ in range(400):
        go_on(latest, 10)
        history.last_ms += 10_000
        request = ViewRequest.parse({"width": 400, "drawn": frame["drawn"]})
        frame = answer(services, KEYS, request)
        figure = frame["figures"].get(ids.CHART_UTILIZATION)
        if figure is not None:
            left, right = figure["layout"]["xaxis"]["range"]
            spans.add(math.ceil((right - left) / 60_000))
            steps += 1
    assert spans == {1, 2, 3, 5, 10, 15, 20, 30, 45, 60}
    assert frame["since"] is None
    assert steps > 200


def test_without_a_gpu_the_temperature_is_left_alone() -> None:
    services, _, _ = world()
    frame, drawn = ask(services)
    assert drawn == {ids.CHART_UTILIZATION, ids.CHART_MEMORY}
    assert frame["gpu"] is None


def test_a_gpu_that_appears_is_drawn() -> None:
    services, latest, _ = world()
    frame, _ = ask(services)
    assert latest.sample is not None
    latest.sample = dataclasses.replace(latest.sample, gpus=(gpu(),))
    assert ask(services, frame)[1] == ALL


def test_before_the_first_sample_there_is_nothing_to_show() -> None:
    services, latest, _ = world()
    latest.sample = None
    assert ask(services) == ({"sequence": None, "interval": 1.0}, set())


def test_the_first_reading_alone_is_drawn_as_a_dot() -> None:
    services, latest, history = world(recorded_s=0)
    latest.sample = make_sample(7201, host=HOST_VALUES)
    history.first_ms = history.last_ms = latest.sample.time_ms - 1500
    figure = answer(services, KEYS, ViewRequest(width_px=400))["figures"][ids.CHART_UTILIZATION]
    assert figure["data"][-1]["mode"] == "lines+markers"


def test_all_who_look_at_the_same_are_drawn_for_once() -> None:
    services, _, history = world(gpus=(gpu(0), gpu(1)))
    frames = [ask(services)[0] for _ in range(20)]
    assert all(frame["figures"] == frames[0]["figures"] for frame in frames)
    assert history.queries == 2  # where the history begins, and what the charts show
    ask(services, gpu=1)
    assert history.queries == 4


def test_ten_viewers_at_the_same_moment_cost_one_rendering() -> None:
    services, latest, history = world(gpus=(gpu(),))
    frame, _ = ask(services)
    before = history.queries
    go_on(latest, 60)
    together = threading.Barrier(10)

    def viewer() -> dict[str, Any]:
        together.wait()
        return ask(services, frame)[0]

    with ThreadPoolExecutor(10) as viewers:
        answers = [each.result() for each in [viewers.submit(viewer) for _ in range(10)]]
    assert all(set(each["figures"]) == ALL and each["figures"] == answers[0]["figures"] for each in answers)
    assert history.queries == before + 1


def test_a_zoom_is_answered_with_finer_buckets_and_left_alone_while_time_goes_on() -> None:
    services, latest, history = world(gpus=(gpu(),))
    whole, _ = ask(services)
    now = history.last_ms
    zoom = [now - 600_000, now - 300_000]
    zoomed, drawn = ask(services, whole, zoom=zoom)
    assert drawn == ALL
    wide, fine = (frame["figures"][ids.CHART_POWER]["data"][-1]["dx"] for frame in (whole, zoomed))
    assert fine <= 2000 < wide
    assert zoomed["figures"][ids.CHART_POWER]["layout"]["xaxis"]["range"] == zoom
    go_on(latest, 60)
    assert ask(services, zoomed, zoom=zoom)[1] == set()
    assert ask(services, zoomed)[1] == ALL


def test_an_answer_is_encoded_by_orjson_as_browsers_read_it() -> None:
    told = {
        "numbers": np.array([0.5, np.nan], dtype=np.float32),
        "none": float("nan"),
        "whole": 2.0,
        "text": "é</script>\u2028",
    }
    assert to_json(told) == (
        '{"numbers":[0.5,null],"none":null,"whole":2.0,"text":"é\\u003c\\u002fscript\\u003e\\u2028"}'
    )


def test_trouble_may_name_a_path_of_any_bytes() -> None:
    services, _, history = world(gpus=(gpu(),))
    history.status_message = lambda: "Nothing can be written to /data/\udcff."  # type: ignore[method-assign]
    frame = answer(services, KEYS, ViewRequest())
    assert "/data/\ufffd." in json.loads(to_json(frame))["words"]["trouble"]
