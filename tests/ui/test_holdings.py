"""Who held a GPU's memory: layers that add up to what is in use, gaps, edges of buckets, names from outside."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dashtop.model.sample import Owner, ProcessSpan, SeriesSet
from dashtop.ui.charts.base_figure import Canvas
from dashtop.ui.charts.process_memory import MOST_LAYERS, Layer, layers, remainder, where
from dashtop.ui.charts.stacked_area import memory_by_process
from dashtop.ui.theme import LIGHT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

GIB = 2**30
STEP = 10_000
DATA = SeriesSet(start_ms=0, step_ms=STEP, count=6, series=())
NAN = float("nan")


def span(pid: int, start_s: float, end_s: float, gib: float, **facts: Any) -> ProcessSpan:
    """Readings each second, the first at `start_s` and the last a second before `end_s`."""
    known: dict[str, Any] = {"name": f"job{pid}", "owner": Owner(user="ada"), "foreign": False, **facts}
    return ProcessSpan(
        gpu_uuid="GPU-0",
        pid=pid,
        start_ms=round(start_s * 1000),
        end_ms=round(end_s * 1000) - 1000,
        gpu_memory_bytes=round(gib * GIB),
        peak_gpu_memory_bytes=round(gib * GIB),
        peak_sm_percent=None,
        kind="C",
        started_ms=None,
        **known,
    )


def found(spans: Sequence[ProcessSpan], used: Sequence[float], running: Sequence[int] = ()) -> list[Layer]:
    return layers(spans, running, DATA, np.array(used), interval_ms=1000)


def test_a_layer_is_the_mean_of_a_bucket_with_its_least_and_its_most() -> None:
    (layer,) = found([span(1, 0, 25, 4), span(1, 25, 40, 8)], [4, 4, 6, 8, 0, 0])
    assert layer.held == pytest.approx([4, 4, 6, 8, 0, 0])
    assert layer.least == pytest.approx([4, 4, 4, 8, 0, 0])
    assert layer.most == pytest.approx([4, 4, 8, 8, 0, 0])
    assert layer.name == "job1 (ada)"


def test_processes_that_are_called_the_same_are_told_apart_by_their_pids() -> None:
    same = found([span(1, 0, 60, 4, name="python"), span(2, 0, 60, 4, name="python"), span(3, 0, 60, 4)], [12] * 6)
    assert [layer.name for layer in same] == ["python 1 (ada)", "python 2 (ada)", "job3 (ada)"]


def test_a_process_that_begins_within_a_bucket_held_nothing_before() -> None:
    (layer,) = found([span(1, 25, 60, 8)], [0, 0, 4, 8, 8, 8])
    assert layer.held == pytest.approx([0, 0, 4, 8, 8, 8])
    assert layer.least == pytest.approx([0, 0, 0, 8, 8, 8])


def test_a_bucket_in_which_watching_began_is_only_as_long_as_that() -> None:
    spans = [span(1, 25, 60, 8), span(2, 25, 60, 4)]
    first, second = found(spans, [NAN, NAN, 12, 12, 12, 12])
    assert first.held == pytest.approx([0, 0, 8, 8, 8, 8])
    assert second.least == pytest.approx([0, 0, 4, 4, 4, 4])
    assert remainder([first, second], np.array([NAN, NAN, 12, 12, 12, 12])) is None


def test_what_runs_still_holds_what_was_last_written_down() -> None:
    spans = [span(1, 0, 46, 8), span(2, 0, 46, 1)]
    running, ended = found(spans, [9] * 6, running=[1])
    assert running.held == pytest.approx([8] * 6, abs=0.1)
    assert ended.held[5] == 0


def test_what_no_process_holds_is_the_drivers_unless_it_is_an_edge() -> None:
    told = found([span(1, 0, 60, 8)], [8.5, 8.5, 9.9, 8.5, 8.5, 8.5])
    rest = remainder(told, np.array([8.5, 8.5, 9.9, 8.5, 8.5, 8.5]))
    assert rest is not None
    assert rest.held == pytest.approx([0.5] * 6)
    assert remainder(told, np.array([8, 8, 9.4, 8, 8, NAN])) is None
    assert remainder([], np.full(6, NAN)) is None


def test_the_smaller_ones_of_many_share_a_layer() -> None:
    spans = [span(pid, 0, 60, 0.5 if pid < 3 else pid) for pid in range(MOST_LAYERS + 3)]
    many = found(spans, [99] * 6)
    assert len(many) == MOST_LAYERS + 1
    assert many[-1].name == "3 smaller ones"
    assert many[-1].held == pytest.approx([1.5] * 6)
    assert [layer.name for layer in many[:-1]] == [f"job{pid} (ada)" for pid in range(3, MOST_LAYERS + 3)]


def test_a_process_without_a_known_size_is_in_the_remainder() -> None:
    silent = ProcessSpan(
        gpu_uuid="GPU-0", pid=7, start_ms=0, end_ms=60_000, gpu_memory_bytes=None, peak_gpu_memory_bytes=None,
        peak_sm_percent=None, name="x", kind="C", started_ms=None, foreign=False, owner=None,
    )  # fmt: skip
    assert found([silent], [5] * 6) == []
    rest = remainder([], np.array([5.0] * 6))
    assert rest is not None
    assert rest.held == pytest.approx([5] * 6)


def test_where_a_process_runs() -> None:
    owner = Owner(user="ada", container="3f2a", runtime="docker", slurm_job="812")
    (layer,) = found([span(1, 0, 60, 8, owner=owner)], [8] * 6)
    assert layer.detail == "pid 1, docker 3f2a, Slurm job 812"
    assert where(span(1, 0, 60, 8, foreign=True)) == "outside this container"
    (nameless,) = found([span(1, 0, 60, 8, name=None, owner=None)], [8] * 6)
    assert (nameless.name, nameless.detail) == ("pid 1", "")


def unpacked(array: dict[str, str]) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(array["bdata"]), dtype="<f4")


def drawn(spans: Sequence[ProcessSpan], used: Sequence[float], width_px: int = 900) -> Any:
    told, known = found(spans, used), np.isfinite(used)
    rest = remainder(told, np.array(used))
    canvas = Canvas(look=LIGHT, width_px=width_px, revision="1h")
    return memory_by_process(DATA, told, rest, known, canvas, colour="#8b5cf6", total=24.0)


def test_layers_stand_on_each_other_and_a_gap_is_a_gap() -> None:
    used = [13, 13, NAN, 13, 13, 13]
    figure = drawn([span(1, 0, 20, 8), span(2, 0, 20, 4), span(1, 30, 60, 8), span(2, 30, 60, 4)], used)
    lower, upper, rest, *edges = figure["data"]
    assert unpacked(lower["y"]) == pytest.approx([8, 8, 0, 8, 8, 8])
    assert unpacked(upper["y"]) == pytest.approx([12, 12, 0, 12, 12, 12])
    assert unpacked(rest["y"]) == pytest.approx([13, 13, 0, 13, 13, 13])
    assert {trace["line"]["shape"] for trace in figure["data"]} == {"hv"}, "no slope into a gap"
    assert [trace["meta"] for trace in edges] == ["job1 (ada)", "job2 (ada)", "driver and others"]
    for edge in edges:
        assert np.isnan(unpacked(edge["y"])).tolist() == [False, False, True, False, False, False]
        assert edge["connectgaps"] is False
    assert unpacked(edges[1]["customdata"]).reshape(-1, 3)[0] == pytest.approx([4, 4, 4])
    json.dumps(figure, allow_nan=False)


def test_names_are_text_and_short_where_there_is_no_room() -> None:
    name = "<a href='x'>&%{y}"
    *_, edge = drawn([span(1, 0, 60, 8, name=name)], [8] * 6)["data"]
    assert edge["name"] == "&lt;a href='x'&gt;&amp;%{y} (ada), pid 1"
    assert name not in edge["hovertemplate"]
    *_, edge = drawn([span(1, 0, 60, 8)], [8] * 6, width_px=250)["data"]
    assert edge["name"] == "job1 (ada)"


def test_a_gpu_of_which_nothing_is_known_is_an_empty_chart() -> None:
    assert drawn([], [NAN] * 6)["data"] == []
