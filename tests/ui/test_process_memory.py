"""GPU memory by process: layers that add up to the memory in use, gaps, partial buckets, hostile names."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dashtop.model.sample import ProcessInfo, ProcessSpan, SeriesSet
from dashtop.ui.charts.base_figure import ChartStyle
from dashtop.ui.charts.process_memory import (
    MAX_LAYERS,
    Layer,
    build_layers,
    build_remainder,
    choose_shades,
    describe_context,
    figure,
)
from dashtop.ui.theme import LIGHT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

GIB = 2**30
STEP = 10_000
DATA = SeriesSet(start_ms=0, step_ms=STEP, count=6, series=())
NAN = float("nan")


def span(pid: int, start_s: float, end_s: float, gib: float, **facts: Any) -> ProcessSpan:
    """A span with a sample each second, the first at `start_s` and the last a second before `end_s`."""
    return ProcessSpan(
        gpu_uuid="GPU-0",
        pid=pid,
        start_ms=round(start_s * 1000),
        end_ms=round(end_s * 1000) - 1000,
        gpu_memory_bytes=round(gib * GIB),
        peak_gpu_memory_bytes=round(gib * GIB),
        peak_sm_percent=None,
        kind="C",
        info=ProcessInfo(**({"name": f"job{pid}", "username": "ada"} | facts)),
    )


def layers_of(spans: Sequence[ProcessSpan], used: Sequence[float], running: Sequence[int] = ()) -> list[Layer]:
    return build_layers(spans, running, DATA, np.array(used), interval_ms=1000)


def test_a_layer_has_mean_minimum_and_maximum_of_each_bucket() -> None:
    (layer,) = layers_of([span(1, 0, 25, 4), span(1, 25, 40, 8)], [4, 4, 6, 8, 0, 0])
    assert layer.mean == pytest.approx([4, 4, 6, 8, 0, 0])
    assert layer.minimum == pytest.approx([4, 4, 4, 8, 0, 0])
    assert layer.maximum == pytest.approx([4, 4, 8, 8, 0, 0])
    assert layer.name == "job1 (ada)"


def test_processes_with_the_same_name_show_their_pids() -> None:
    layers = layers_of(
        [span(1, 0, 60, 4, name="python"), span(2, 0, 60, 4, name="python"), span(3, 0, 60, 4)], [12] * 6
    )
    assert [layer.name for layer in layers] == ["python 1 (ada)", "python 2 (ada)", "job3 (ada)"]


def test_minimum_is_0_in_the_bucket_in_which_a_process_starts() -> None:
    (layer,) = layers_of([span(1, 25, 60, 8)], [0, 0, 4, 8, 8, 8])
    assert layer.mean == pytest.approx([0, 0, 4, 8, 8, 8])
    assert layer.minimum == pytest.approx([0, 0, 0, 8, 8, 8])


def test_the_first_bucket_of_a_recording_counts_the_sampled_time_only() -> None:
    spans = [span(1, 25, 60, 8), span(2, 25, 60, 4)]
    first, second = layers_of(spans, [NAN, NAN, 12, 12, 12, 12])
    assert first.mean == pytest.approx([0, 0, 8, 8, 8, 8])
    assert second.minimum == pytest.approx([0, 0, 4, 4, 4, 4])
    assert build_remainder([first, second], np.array([NAN, NAN, 12, 12, 12, 12])) is None


def test_a_running_process_extends_its_last_stored_span() -> None:
    spans = [span(1, 0, 46, 8), span(2, 0, 46, 1)]
    running, ended = layers_of(spans, [9] * 6, running=[1])
    assert running.mean == pytest.approx([8] * 6, abs=0.1)
    assert ended.mean[5] == 0


def test_the_remainder_is_memory_of_no_process_and_ignores_single_buckets() -> None:
    layers = layers_of([span(1, 0, 60, 8)], [8.5, 8.5, 9.9, 8.5, 8.5, 8.5])
    rest = build_remainder(layers, np.array([8.5, 8.5, 9.9, 8.5, 8.5, 8.5]))
    assert rest is not None
    assert rest.mean == pytest.approx([0.5] * 6)
    assert build_remainder(layers, np.array([8, 8, 9.4, 8, 8, NAN])) is None
    assert build_remainder([], np.full(6, NAN)) is None


def test_smaller_processes_share_a_layer() -> None:
    spans = [span(pid, 0, 60, 0.5 if pid < 3 else pid) for pid in range(MAX_LAYERS + 3)]
    layers = layers_of(spans, [99] * 6)
    assert len(layers) == MAX_LAYERS + 1
    assert layers[-1].name == "3 smaller processes"
    assert layers[-1].mean == pytest.approx([1.5] * 6)
    assert [layer.name for layer in layers[:-1]] == [f"job{pid} (ada)" for pid in range(3, MAX_LAYERS + 3)]


def test_a_process_without_a_known_size_is_in_the_build_remainder() -> None:
    unknown = ProcessSpan(
        gpu_uuid="GPU-0", pid=7, start_ms=0, end_ms=60_000, gpu_memory_bytes=None, peak_gpu_memory_bytes=None,
        peak_sm_percent=None, kind="C", info=ProcessInfo(name="x"),
    )  # fmt: skip
    assert layers_of([unknown], [5] * 6) == []
    rest = build_remainder([], np.array([5.0] * 6))
    assert rest is not None
    assert rest.mean == pytest.approx([5] * 6)


def test_context_of_a_process() -> None:
    where = {"container": "3f2a", "container_runtime": "docker", "slurm_job": "812"}
    (layer,) = layers_of([span(1, 0, 60, 8, **where)], [8] * 6)
    assert layer.details == "pid 1, docker 3f2a, Slurm job 812"
    in_notebook = span(1, 0, 60, 8, notebook="train.ipynb", environment="llm")
    assert describe_context(in_notebook) == "notebook train.ipynb, env llm"
    assert describe_context(span(1, 0, 60, 8, foreign=True)) == "outside this container"
    (unnamed,) = layers_of([span(1, 0, 60, 8, name=None, username=None)], [8] * 6)
    assert (unnamed.name, unnamed.details) == ("pid 1", "")


def decode(array: dict[str, str]) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(array["bdata"]), dtype="<f4")


def figure_of(spans: Sequence[ProcessSpan], used: Sequence[float], width_px: int = 900) -> Any:
    layers, known = layers_of(spans, used), np.isfinite(used)
    remainder = build_remainder(layers, np.array(used))
    style = ChartStyle(theme=LIGHT, width_px=width_px, revision="1h")
    return figure(DATA, layers, remainder, known, style, total=24.0)


def test_layers_are_stacked_and_gaps_stay_gaps() -> None:
    used = [13, 13, NAN, 13, 13, 13]
    chart = figure_of([span(1, 0, 20, 8), span(2, 0, 20, 4), span(1, 30, 60, 8), span(2, 30, 60, 4)], used)
    lower, upper, rest, *edges = chart["data"]
    assert decode(lower["y"]) == pytest.approx([8, 8, 0, 8, 8, 8])
    assert decode(upper["y"]) == pytest.approx([12, 12, 0, 12, 12, 12])
    assert decode(rest["y"]) == pytest.approx([13, 13, 0, 13, 13, 13])
    assert {trace["line"]["shape"] for trace in chart["data"]} == {"hv"}, "vertical edges at gaps"
    assert [trace["meta"]["label"] for trace in edges] == ["job1 (ada)", "job2 (ada)", "driver and others"]
    for edge in edges:
        assert np.isnan(decode(edge["y"])).tolist() == [False, False, True, False, False, False]
        assert edge["connectgaps"] is False
    assert decode(edges[1]["customdata"]).reshape(-1, 3)[0] == pytest.approx([4, 4, 4])
    json.dumps(chart, allow_nan=False)


def test_names_are_data_for_the_page_and_not_texts_of_plotly() -> None:
    name = "<a href='x'>&%{y}"
    *_, edge = figure_of([span(1, 0, 60, 8, name=name)], [8] * 6)["data"]
    assert edge["meta"] == {"label": f"{name} (ada)", "details": "pid 1", "unit": "GiB", "digits": 2}
    assert name not in json.dumps({key: value for key, value in edge.items() if key != "meta"})


def test_each_user_has_a_hue_and_processes_of_one_user_are_shades_of_it() -> None:
    shades = choose_shades(["bob", "ada", "ada", None])
    hues = [hue for hue, _ in shades]
    assert hues[1] == hues[2]
    assert len(set(hues)) == 3
    assert shades[1] != shades[2]
    assert choose_shades(["ada", "bob"])[0][0] == hues[1], "a hue does not depend on the order of processes"


def test_a_gpu_without_values_has_an_empty_chart() -> None:
    assert figure_of([], [NAN] * 6)["data"] == []
