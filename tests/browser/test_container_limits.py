"""The System panel shows the limits of a container if there are any."""

from __future__ import annotations

import shutil
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from werkzeug.serving import make_server

from dashtop.app import Readers, create_app
from dashtop.model.ports import SystemClock
from dashtop.settings import load
from dashtop.sources.host.reader import PsutilHostReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.browser.conftest import BrowserTab

GIB = 2**30


@contextmanager
def serve(root: Path) -> Iterator[str]:
    """Serve a dashtop whose own cgroup is below `root`, and return its address."""
    clock = SystemClock()
    host = PsutilHostReader(clock=clock, proc=root / "proc", sys=root / "sys")
    dashtop = create_app(load(gpu=False, persist=False), readers=Readers(host=host, gpus=None), clock=clock)
    server = make_server("127.0.0.1", 0, dashtop.server, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        dashtop.close()


# Flask-Compress does not close the static files that it compresses.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.long
def test_limits_are_shown_only_inside_a_container(tmp_path: Path, new_tab: Callable[..., BrowserTab]) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    cgroup = tmp_path / "sys/fs/cgroup"
    cgroup.mkdir(parents=True)
    files = {"cpu.max": "150000 100000", "memory.max": str(8 * GIB), "memory.current": str(3 * GIB)}
    for name, text in files.items():
        (cgroup / name).write_text(text)
    with serve(tmp_path) as url:
        tab = new_tab().open(url)
        facts = tab.page.locator("#panel-system .optional:visible")
        facts.first.wait_for()
        assert facts.all_inner_texts() == ["Container CPU limit\n1.50", "Container memory\n3.0 / 8.0"]

    shutil.rmtree(cgroup)
    with serve(tmp_path) as url:
        tab = new_tab().open(url)
        tab.wait_until("() => document.querySelector('[data-metric=\"system.cpu.core_count\"]').innerText > 0")
        assert tab.page.locator("#panel-system .optional").count() > 0
        assert tab.page.locator("#panel-system .optional:visible").count() == 0
