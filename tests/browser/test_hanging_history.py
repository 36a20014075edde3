"""A history that does not answer for a time: the page lives, and shows the whole history as soon as it answers."""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING

import pytest

from dashtop.history.sqlite import FILE
from tests.builders import make_device, make_gpu, make_history, make_sample, wait_until_written
from tests.history.faulty_disk import HANG, FaultyDisk
from tests.processes import eventually, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.browser.conftest import BrowserTab
    from tests.fake_nvml.fixtures import WorldFactory

SECONDS = 3300  # of the hour that sparklines show
KEY = "gpu.utilization.gpu"
NOTICE = "[data-text='history_status']"
# Share of the width of a sparkline in which a line is drawn.
DRAWN = """selector => {
  const path = [...document.querySelectorAll(selector)].find(line => line.closest('svg').clientWidth);
  const ends = (path?.getAttribute('d') || '').match(/[ML][\\d.]+/g) || [];
  const positions = ends.map(end => Number(end.slice(1)));
  return positions.length ? (Math.max(...positions) - Math.min(...positions)) / 300 : 0;
}"""


def fill(folder: Path, uuid: str) -> None:
    """Store some minutes that end shortly before now."""
    history = make_history(folder)
    start_ms = round(1000 * (time.time() - SECONDS - 5))
    gpu = make_gpu(device=make_device(0, uuid=uuid), values={KEY: 50.0})
    for second in range(SECONDS):
        history.append(make_sample(second, time_ms=start_ms + 1000 * second, gpus=(gpu,)))
    wait_until_written(history)
    history.close()


@pytest.mark.parametrize("fault", [HANG, errno.EIO])
def test_page_shows_the_whole_history_when_it_answers_again(
    fault: int, tmp_path: Path, nvml_world: WorldFactory, new_tab: Callable[..., BrowserTab]
) -> None:
    world, disk = nvml_world("rtx4090").save(), FaultyDisk(tmp_path)
    fill(disk.data, world.gpu(0)["uuid"])
    size = (disk.data / FILE).stat().st_size
    with running("--interval", "0.5", env={**world.env(), **disk.env}) as server:
        eventually(lambda: server.json("/readyz").get("detail") is None and (disk.data / FILE).stat().st_size >= size)
        disk.fail(fault)
        single, grid = new_tab().open(f"{server.url}?gpu=0"), new_tab().open(f"{server.url}?view=compare")
        lines = ((single, f"[data-spark='{KEY}'] path.line"), (grid, ".gpu-card .sparkline path.line"))
        for tab, line in lines:
            tab.page.locator(NOTICE, has_text="history").first.wait_for(state="attached")
            tab.wait_until(f"selector => ({DRAWN})(selector) > 0", line)
            assert tab.page.evaluate(DRAWN, line) < 0.3
        disk.work()
        for tab, line in lines:
            tab.wait_until(f"selector => ({DRAWN})(selector) > 0.7", line)
            tab.wait_until(f"() => document.querySelector(\"{NOTICE}\").textContent === ''")
            assert tab.errors == []
