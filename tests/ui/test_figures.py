"""Line charts: arrays, gaps, bands, threshold lines, plain JSON."""

from __future__ import annotations

import base64
import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from dashtop.metrics import METRICS
from dashtop.model.metric import Severity, Thresholds
from dashtop.model.run import RunMark
from dashtop.model.sample import Event, Series, SeriesKey, SeriesSet
from dashtop.ui.charts import figures
from dashtop.ui.charts.base_figure import ChartStyle, Figure, Mark, capacity_axis, message_figure, round_axis
from dashtop.ui.charts.figures import Line, Notes
from dashtop.ui.charts.notes import build_alert_bands, build_run_bands, build_run_marks, build_throttle_bands
from dashtop.ui.charts.resolution import TimeSpan
from dashtop.ui.theme import DARK, LIGHT
from tests.runs.builders import make_run

START = 1_800_000_000_000
NAN = float("nan")
STYLE = ChartStyle(theme=LIGHT, width_px=400, revision="1h")


def series(metric: str, values: list[float], *, spread: float = 1.0) -> Series:
    mean = np.array(values, dtype=np.float32)
    return Series(key=SeriesKey(metric), mean=mean, minimum=mean - spread, maximum=mean + spread)


def line(
    metric: str, values: list[float], *, name: str = "GPU", spread: float = 1.0, total: float | None = None
) -> Line:
    return Line(
        series=series(metric, values, spread=spread), metric=METRICS[metric], name=name, colour="#8b5cf6", total=total
    )


def series_set(*lines: Line) -> SeriesSet:
    return SeriesSet(
        start_ms=START, step_ms=2000, count=len(lines[0].series.mean), series=tuple(each.series for each in lines)
    )


def decode(trace: dict[str, Any]) -> list[float]:
    values: list[float] = np.frombuffer(base64.b64decode(trace["y"]["bdata"]), dtype="<f4").tolist()
    return values


def utilization(values: list[float], style: ChartStyle = STYLE, spread: float = 1.0) -> Figure:
    curve = line("gpu.utilization.gpu", values, spread=spread)
    return figures.percent(series_set(curve), [curve], style)


def test_values_are_rounded_to_a_sixteenth() -> None:
    *_, curve = utilization([10.0, 20.03, 30.97])["data"]
    assert decode(curve) == pytest.approx([10.0, 20.03, 30.97], abs=1 / 32)
    assert (curve["x0"], curve["dx"]) == (START, 2000)


def test_a_gap_stays_a_gap_and_its_band_has_no_height() -> None:
    low, high, curve = utilization([10.0, NAN, NAN, 40.0])["data"]
    assert np.isnan(decode(curve)).tolist() == [False, True, True, False]
    assert curve["connectgaps"] is False
    lows, highs = decode(low), decode(high)
    assert [b - a for a, b in zip(lows, highs, strict=True)] == [2.0, 0.0, 0.0, 2.0]
    assert not np.isnan(lows + highs).any()


def test_the_band_begins_and_ends_with_the_values() -> None:
    low, _, curve = utilization([NAN, NAN, 10.0, 20.0, NAN])["data"]
    assert low["x0"] == START + 2 * 2000
    assert decode(low) == [9.0, 19.0]
    assert len(decode(curve)) == 5


def test_no_band_where_minimum_and_maximum_are_the_same() -> None:
    assert len(utilization([10.0, 20.0], spread=0.0)["data"]) == 1


def test_a_value_between_gaps_has_a_marker() -> None:
    *_, curve = utilization([NAN, 10.0, NAN, 20.0, 30.0])["data"]
    assert curve["mode"] == "lines+markers"
    assert list(base64.b64decode(curve["marker"]["size"]["bdata"])) == [0, 5, 0, 0, 0]


def test_charts_without_values() -> None:
    curve = line("gpu.temperature", [NAN, NAN])
    assert len(utilization([NAN, NAN])["data"]) == 1
    assert len(figures.temperature(series_set(curve), [curve], None, STYLE)["data"]) == 1
    assert len(figures.memory(series_set(curve), curve, STYLE)["data"]) == 1


def test_lines_have_label_unit_and_digits_for_the_cursor() -> None:
    figure = utilization([1.0, 2.0])
    assert figure["layout"]["hovermode"] is False
    assert figure["data"][-1]["meta"] == {"label": "GPU", "unit": "%", "digits": 1, "band": True}
    assert "band" not in utilization([1.0, 2.0], spread=0.0)["data"][-1]["meta"]
    assert len(figure["data"]) > 1
    assert not any("meta" in trace for trace in figure["data"][:-1])


def test_memory_has_an_axis_up_to_its_total_and_all_charts_one_width() -> None:
    vram = line("gpu.memory.used_gb", [10.0, 12.0], name="VRAM", total=24.0)
    ram = line("system.memory.used_gb", [100.0, 120.0], name="RAM", total=512.0)
    layouts = [figures.memory(series_set(each), each, STYLE)["layout"] for each in (vram, ram)]
    assert layouts[0]["yaxis"]["tickvals"] == [0.0, 6.0, 12.0, 18.0, 24.0]
    assert layouts[1]["yaxis"]["tickvals"][-1] == 512.0
    assert [layout["annotations"][0]["text"] for layout in layouts] == ["VRAM 24.0 GiB", "RAM 512.0 GiB"]
    assert [layout["shapes"][0]["y0"] for layout in layouts] == [24.0, 512.0]
    assert layouts[0]["margin"] == layouts[1]["margin"] == utilization([1.0, 2.0])["layout"]["margin"]


@pytest.mark.parametrize(
    ("capacity", "ticks"),
    [
        (23.5, ["0", "6", "12", "18"]),
        (23.99, ["0", "6", "12", "18", "24"]),
        (15.0, ["0", "4", "8", "12"]),
        (79.65, ["0", "20", "40", "60", "80"]),
        (1007.3, ["0", "256", "512", "768"]),
        (1.0, ["0", "0.25", "0.5", "0.75", "1"]),
    ],
)
def test_ticks_of_memory_are_round(capacity: float, ticks: list[str]) -> None:
    axis = capacity_axis(capacity)
    assert axis["ticktext"] == ticks
    assert axis["tickvals"] == [float(tick) for tick in ticks]


def test_memory_without_a_gpu_and_without_a_total() -> None:
    ram = line("system.memory.used_gb", [8.0, 9.0], name="RAM")
    layout = figures.memory(series_set(ram), ram, STYLE)["layout"]
    assert layout["shapes"] == layout["annotations"] == []
    assert layout["yaxis"]["range"][1] > 10.0


def test_temperature_marks_the_thresholds_of_the_device() -> None:
    thresholds = Thresholds(elevated=68, high=83, warning=83, critical=88, message="hot")
    curve = line("gpu.temperature", [60.0, 61.0])
    layout = figures.temperature(series_set(curve), [curve], thresholds, STYLE)["layout"]
    assert [shape["y0"] for shape in layout["shapes"]] == [83, 88]
    assert [note["text"] for note in layout["annotations"]] == ["warning 83 °C", "critical 88 °C"]
    assert layout["yaxis"]["range"][1] > 88


def test_power_marks_its_limit() -> None:
    curve = line("gpu.power.current_watts", [100.0, 120.0])
    layout = figures.limited(series_set(curve), [curve], 350.0, STYLE, is_warning=True)["layout"]
    assert [shape["y0"] for shape in layout["shapes"]] == [350.0]
    assert [note["text"] for note in layout["annotations"]] == ["limit 350 W"]
    assert layout["yaxis"]["range"][1] > 350
    unlimited = figures.limited(series_set(curve), [curve], None, STYLE)["layout"]
    assert unlimited["shapes"] == unlimited["annotations"] == []
    assert unlimited["yaxis"]["range"][1] > 121


@pytest.mark.parametrize(
    ("highest", "metric", "texts"),
    [
        (0.0, "gpu.pcie.rx_mbps", ["0", "0.25", "0.5", "0.75", "1 MB/s"]),
        (730.0, "gpu.power.current_watts", ["0", "250", "500", "750 W"]),
        (57_000.0, "gpu.nvlink.rx_mbps", ["0", "20", "40", "60 GB/s"]),
        (1980.0, "gpu.clocks.gpu_mhz", ["0", "1000", "2000 MHz"]),
    ],
)
def test_ticks_from_zero_are_round_and_the_last_has_the_unit(highest: float, metric: str, texts: list[str]) -> None:
    axis = round_axis(highest, METRICS[metric].unit)
    assert axis["ticktext"] == texts
    assert axis["range"][1] >= max(axis["tickvals"][-1], highest)


def test_a_limit_far_above_the_values_does_not_flatten_them() -> None:
    curve = line("gpu.pcie.rx_mbps", [100.0, 120.0])
    layout = figures.limited(series_set(curve), [curve], 63_000.0, STYLE)["layout"]
    assert layout["shapes"] == []
    assert layout["yaxis"]["range"][1] < 200


def test_narrow_charts_have_few_times_that_stand_upright() -> None:
    for width, ticks in ((260, 3), (400, 5), (1200, 8)):
        style = ChartStyle(theme=LIGHT, width_px=width, revision="1h")
        axis = utilization([1.0, 2.0], style)["layout"]["xaxis"]
        assert (axis["nticks"], axis["tickangle"]) == (ticks, 0)


def test_the_time_before_a_history_is_hatched() -> None:
    style = ChartStyle(theme=LIGHT, width_px=400, revision="24h", recorded_from_ms=START + 4000)
    hatched, *_ = utilization([NAN, NAN, 3.0, 4.0], style)["data"]
    assert hatched["fillpattern"]["shape"] == "/"
    assert (hatched["x0"], hatched["dx"]) == (START, 4000)
    assert "fillpattern" not in utilization([1.0, 2.0, 3.0])["data"][0]


def test_events_are_ticks_and_throttle_reasons_are_bands() -> None:
    curve = line("gpu.clocks.gpu_mhz", [1800.0, 900.0, 900.0])
    flags = series("gpu.clocks.event_reasons", [4.0, 0x40, 0x44], spread=0.0)
    data = series_set(curve)
    bands = build_throttle_bands(flags, data, LIGHT)
    assert [(band.text, band.start_ms - START, band.end_ms - START) for band in bands] == [
        ("SW Power Cap", 0, 2000),
        ("HW Thermal Slowdown", 2000, 6000),
        ("SW Power Cap", 4000, 6000),
    ]
    assert {band.colour for band in bands} == {LIGHT.neutral, LIGHT.critical}
    notes = Notes(marks=[Mark(START + 2000, "XID 79", "critical")], bands=bands)
    figure = figures.limited(data, [curve], 1980.0, STYLE, notes)
    assert figure["marks"] == [[START + 2000, "XID 79"]]
    assert figure["bands"][1] == [START + 2000, START + 6000, "HW Thermal Slowdown"]
    tick = figure["layout"]["shapes"][-1]
    assert (tick["type"], tick["x0"], tick["line"]["color"]) == ("line", START + 2000, LIGHT.critical)


def test_an_empty_chart_says_why_and_has_no_axes() -> None:
    figure = message_figure("NVLink: not supported by this device", STYLE)
    assert figure["layout"]["annotations"][0]["text"] == figure["message"]
    assert not figure["layout"]["xaxis"]["visible"]
    assert not figure["layout"]["yaxis"]["visible"]


def test_a_zoomed_chart_has_the_selected_range() -> None:
    zoomed = ChartStyle(theme=LIGHT, width_px=400, revision="z", zoom=TimeSpan(START + 500, START + 3100))
    assert utilization([1.0, 2.0, 3.0], zoomed)["layout"]["xaxis"]["range"] == [START + 500, START + 3100]


def test_figures_are_plain_json_without_a_template() -> None:
    for theme in (LIGHT, DARK):
        figure = utilization([1.0, NAN], ChartStyle(theme=theme, width_px=400, revision="1h"))
        text = json.dumps(figure, allow_nan=False)
        assert "template" not in figure["layout"]
        assert theme.muted in text


def test_alerts_are_strips_from_their_beginning_to_their_end() -> None:
    data = series_set(line("gpu.temperature", [50.0] * 6))
    start, step = data.start_ms, data.step_ms
    end = start + data.count * step

    def event(time_ms: int, kind: str, code: int | None, severity: Severity = Severity.WARNING) -> Event:
        return Event(time_ms=time_ms, kind=kind, severity=severity, text=f"alert {code}", gpu_uuid="GPU-0", code=code)

    events = [
        event(start - 5 * step, "alert_firing", 1),
        event(start - 5 * step, "alert_firing", 2),
        event(start - step, "alert_resolved", 2),
        event(start + step, "alert_firing", 3, Severity.CRITICAL),
        event(start + 2 * step, "alert_resolved", 1),
        event(start + 2 * step, "alert_firing", None),
        event(start + 2 * step, "xid", 3),
        event(end + step, "alert_firing", 4),
    ]
    bands = build_alert_bands(events, data, LIGHT)
    assert [(band.start_ms, band.end_ms, band.text, band.colour) for band in bands] == [
        (start, start + 2 * step, "alert 1", LIGHT.warning),
        (start + step, end, "alert 3", LIGHT.critical),
    ]
    assert all(band.strip == "top" for band in bands)


def test_runs_are_strips_below_the_axis_with_their_marks() -> None:
    data = series_set(line("gpu.temperature", [50.0] * 6))
    start, step = data.start_ms, data.step_ms
    end = start + data.count * step
    runs = [
        make_run(1, begin_ms=start - step, end_ms=start + step, user="ada"),
        make_run(2, begin_ms=start + 2 * step),
        make_run(3, begin_ms=start - 9 * step, end_ms=start),
        make_run(4, begin_ms=end + step),
    ]
    bands = build_run_bands(runs, data)
    assert [(band.start_ms, band.end_ms, band.text, band.strip) for band in bands] == [
        (start + 2 * step, end, "Run run 2", "axis"),
        (start, start + step, "Run run 1 of ada", "axis"),
    ]
    marks = [(runs[0], (RunMark(start - 1, "before"), RunMark(start, "epoch 1"))), (runs[3], (RunMark(end, "after"),))]
    assert build_run_marks(marks, data, 600) == [Mark(start, "run 1: epoch 1")]


def test_many_marks_of_runs_are_spread_over_the_chart() -> None:
    data = series_set(line("gpu.temperature", [50.0] * 600))
    start, end = data.start_ms, data.start_ms + data.count * data.step_ms
    runs = [make_run(number, begin_ms=start) for number in (1, 2)]
    steps = tuple(RunMark(time_ms, f"step {number}") for number, time_ms in enumerate(range(start, end, 500)))
    found = build_run_marks([(runs[0], steps)], data, 320)
    distances = {later.time_ms - earlier.time_ms for earlier, later in pairwise(found[1:])}
    assert distances == {(end - start) // 20}
    assert found[0].time_ms == start
    assert end - found[-1].time_ms <= (end - start) // 20
    count = (end - start) // 20 // 500
    assert found[1].text.endswith(f"({count} marks)")
    assert found[1].text.startswith("run 1: step ")
    both = build_run_marks([(runs[0], steps[:1]), (runs[1], steps[:1])], data, 320)
    assert both == [Mark(start, "2 marks of 2 runs")]
