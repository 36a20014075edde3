"""The page of the host: the cores that are offline, and what it shares with the panels of the page of a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dashtop.model.sample import Mount
from dashtop.ui import ids
from dashtop.ui.panels import PANELS, Section, host, host_page
from tests.builders import make_sample
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


def test_the_page_shows_the_mounts_of_the_storage_panel() -> None:
    mount = Mount(mount_point="/data", filesystem="xfs", used_bytes=2**40, total_bytes=2**41, used_percent=50.0)
    context = make_context(sample=make_sample(mounts=(mount,)))
    (panel,) = (panel for panel in PANELS if panel.id == ids.PANEL_HOST_STORAGE)
    assert panel.section is Section.HOST
    assert panel.live_data is not None
    assert panel.live_data(context) == host.storage_data(context)
