"""One second at full load in an idle day or month: it is in the chart that a browser gets."""

from __future__ import annotations

import base64
import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
from flask import Flask

from dashtop.model.ports import Services
from dashtop.model.timerange import DAY_MS, HOUR_MS
from dashtop.ui.charts.renderer import ChartRenderer
from dashtop.ui.parts import RenderCache
from dashtop.ui.request import ViewRequest
from tests.builders import NOON_MS, FixedSample, make_alerts, make_gpu, make_history, make_sample, wait_until_written
from tests.clock import FakeClock

if TYPE_CHECKING:
    from pathlib import Path

    from dashtop.model.sample import Sample

LOAD = "gpu.utilization.gpu"
NOW_MS = NOON_MS // DAY_MS * DAY_MS + 60_000
SPIKE_MS = NOW_MS - 9 * HOUR_MS - 7_000


def sample(time_ms: int, load: float = 0.0) -> Sample:
    return make_sample(time_ms=time_ms, gpus=(make_gpu(values={LOAD: load}),))


@pytest.mark.parametrize("name", ["24h", "30d"])
def test_one_second_at_full_load_is_in_the_figures_data(name: str, tmp_path: Path) -> None:
    history = make_history(tmp_path)
    # A day at a reading in ten seconds, each second around the spike; before it an hour every day of the month.
    hours = [NOW_MS - day * DAY_MS + at for day in range(30, 1, -1) for at in range(0, HOUR_MS, 60_000)]
    day = range(NOW_MS - DAY_MS, NOW_MS + 1, 10_000)
    seconds = range(SPIKE_MS - 60_000, SPIKE_MS + 60_000, 1000)
    for number, time_ms in enumerate(sorted({*hours, *day, *seconds})):
        history.append(sample(time_ms, load=100.0 if time_ms == SPIKE_MS else 0.0))
        if number % 2000 == 0:
            wait_until_written(history)
    wait_until_written(history)
    history.close()

    reopened = make_history(tmp_path)
    now = dataclasses.replace(sample(NOW_MS), sequence=2)
    services = Services(latest=FixedSample(now), history=reopened, alerts=make_alerts(), clock=FakeClock(now_ms=NOW_MS))
    request = ViewRequest.parse({"width": 900, "range": name, "visible_panels": ["panel-chart-utilization"]})
    renderer = ChartRenderer(services, RenderCache(Flask("test")))
    answer = renderer.render(now, now.gpus[0], request, now_ms=now.time_ms)
    assert answer is not None
    figure = answer["charts"]["chart-utilization"]
    reopened.close()
    low, high, mean, *_ = [trace for trace in figure["data"] if trace.get("legendgroup") == LOAD]
    step_ms = high["dx"]
    assert step_ms >= (60_000 if name == "24h" else 3_600_000 / 2)
    values = np.frombuffer(base64.b64decode(high["y"]["bdata"]), dtype="<f4")
    (place,) = np.flatnonzero(values > 0)
    assert values[place] == 100.0
    assert high["x0"] + place * step_ms <= SPIKE_MS < high["x0"] + (place + 1) * step_ms
    assert not np.frombuffer(base64.b64decode(low["y"]["bdata"]), dtype="<f4").any()
    assert np.nanmax(np.frombuffer(base64.b64decode(mean["y"]["bdata"]), dtype="<f4")) < 20
