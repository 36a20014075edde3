"""The page of the host: the cores that are offline, and what it shares with the panels of the page of a GPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dashtop.model.sample import Mount, Series, SeriesKey, SeriesSet
from dashtop.ui import ids
from dashtop.ui.charts.base_figure import ChartStyle
from dashtop.ui.panels import PANELS, ChartData, Section, host, host_page
from dashtop.ui.theme import chart_theme
from tests.builders import NOON_MS, make_sample
from tests.ui.worlds import make_context


@pytest.mark.parametrize(
    ("online", "text"),
    [
        ((0, 1, 2, 3), ""),
        ((), ""),
        ((0, 2, 3), "Offline: 1"),
        ((0, 5, 7, 8, 12), "Offline: 1-4, 6, 9-11"),
    ],
)
def test_cores_that_are_offline_are_named(online: tuple[int, ...], text: str) -> None:
    sample = make_sample()
    sample = replace(sample, host=replace(sample.host, core_ids=online, per_core=tuple(50.0 for _ in online)))
    data = host_page.cpu_data(make_context(sample=sample))
    assert data["texts"] == {"cores.offline": text}
    assert data["cores"] == [50] * len(online)


def test_cores_above_the_highest_that_is_online_are_offline_if_the_kernel_says_so() -> None:
    sample = make_sample()
    sample = replace(sample, host=replace(sample.host, core_ids=(0, 1), offline_cores=(2, 3)))
    data = host_page.cpu_data(make_context(sample=sample))
    assert data["texts"] == {"cores.offline": "Offline: 2-3"}
    assert (data["core_ids"], data["offline_cores"]) == ((0, 1), (2, 3))


def test_the_page_shows_the_mounts_of_the_storage_panel() -> None:
    mount = Mount(mount_point="/data", filesystem="xfs", used_bytes=2**40, total_bytes=2**41, used_percent=50.0)
    context = make_context(sample=make_sample(mounts=(mount,)))
    (panel,) = (panel for panel in PANELS if panel.id == ids.PANEL_HOST_STORAGE)
    assert panel.section is Section.HOST
    assert panel.live_data is not None
    assert panel.live_data(context) == host.storage_data(context)


@pytest.mark.parametrize(("total", "has_line"), [(16.0, True), (0.0, False)])
def test_the_chart_of_swap_says_that_there_is_none(total: float, has_line: bool) -> None:
    (chart,) = (chart for panel in PANELS for chart in panel.charts if chart.id == ids.CHART_HOST_SWAP)
    sample = make_sample(host={"system.swap.used_gb": 0.0, "system.swap.total_gb": total})
    mean = np.zeros(10, dtype=np.float32)
    series = Series(key=SeriesKey("system.swap.used_gb"), mean=mean, minimum=mean, maximum=mean)
    data = SeriesSet(start_ms=NOON_MS, step_ms=1000, count=10, series=(series,))
    style = ChartStyle(theme=chart_theme(dark=False), width_px=400, revision="1h")
    figure = chart.draw(ChartData(series=data, processes=(), interval_ms=1000), sample, None, style)
    assert figure is not None
    texts = [note["text"] for note in figure["layout"].get("annotations", [])]
    assert (bool(figure["data"]), "none on this machine" in " ".join(texts)) == (has_line, not has_line)
