"""What the page costs server, wire and browser, beside the naive form (whole figures of all readings at every tick).

    python benchmarks/page.py [--ticks 300] [--gpus 8]

Both show the same six series of one hour at one reading a second in four charts, in one tab of Chromium that asks once
a second; the page shows all its other panels as well. Prints: CPU of the server per tick above what collecting alone
takes, bytes per tick on the wire, milliseconds of the browser's main thread per tick (software rendering), growth of
heap and DOM nodes over the ticks with forced garbage collections, page weight, and time to the first chart.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.api import cpu_s

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, CDPSession

    from dashtop.domain.services import Services

HOUR_S = 3600
FORMS = ("page", "naive")
# Of the GPU, of the host, and the charts they share.
NAIVE_CHARTS = (
    (("gpu.utilization.gpu",), ("system.cpu.usage_percent",)),
    (("gpu.memory.used_gb",), ("system.memory.used_gb",)),
    (("gpu.temperature",), ()),
    (("gpu.power.current_watts",), ()),
)
TICK = "_dash-update-component"
FIRST_CHART = "() => document.querySelector('.scatterlayer .trace') !== null"


def serve(form: str, gpus: int) -> None:
    """Serve one form over an hour of simulated readings, and say where."""
    from dashtop.factory import create_app
    from dashtop.server import Server
    from dashtop.settings import Settings

    dashtop = create_app(Settings(demo=gpus, interval=1.0))
    remember(dashtop.services)
    application: Any = dashtop.server if form == "page" else naive(dashtop.services).server
    server = Server(application, host="127.0.0.1", port=0)
    print(server.address, flush=True)
    server.run(dashtop.close)


def remember(services: Services) -> None:
    """Give the history an hour: the present sample, over and over, with values that move."""
    from dataclasses import replace
    from random import Random

    random = Random(1)
    while (now := services.latest.latest()) is None or not now.gpus:
        time.sleep(0.05)
    for second in range(HOUR_S, 0, -1):
        wave = random.uniform(0.85, 1.0)
        moved = tuple(
            replace(gpu, values={key: None if value is None else value * wave for key, value in gpu.values.items()})
            for gpu in now.gpus
        )
        services.history.append(replace(now, time_ms=now.time_ms - 1000 * second, gpus=moved))
    history: Any = services.history
    assert history.flush(60)


def naive(services: Services) -> Any:
    """The form that comes to mind first: an interval, and a callback that returns every figure whole."""
    import plotly.graph_objects as go
    from dash import Dash, Input, Output, dcc, html

    from dashtop.domain.sample import SeriesKey

    app = Dash("naive", compress=True, serve_locally=True)
    graphs = [dcc.Graph(id=f"graph-{number}") for number in range(len(NAIVE_CHARTS))]
    app.layout = html.Div([dcc.Interval(id="tick", interval=1000), *graphs])

    @app.callback([Output(graph, "figure") for graph in graphs], Input("tick", "n_intervals"))
    def draw(_ticks: int) -> list[Any]:
        sample = services.latest.latest()
        assert sample is not None
        uuid, end = sample.gpus[0].device.uuid, sample.time_ms // 1000 * 1000
        figures = []
        for of_gpu, of_host in NAIVE_CHARTS:
            keys = [*(SeriesKey(key, uuid) for key in of_gpu), *(SeriesKey(key) for key in of_host)]
            data = services.history.query(keys, end - HOUR_S * 1000, end, 1000)
            times = [data.start_ms + number * data.step_ms for number in range(data.count)]
            figures.append(
                go.Figure([go.Scatter(x=times, y=list(each.mean), name=each.key.metric) for each in data.series])
            )
        return figures

    return app


@contextmanager
def serving(form: str, gpus: int) -> Iterator[tuple[str, int]]:
    """Yield address and process of a server of that form, once an hour is in its history."""
    command = [sys.executable, __file__, "--serve", form, "--gpus", str(gpus)]
    env = {**os.environ, "DASHTOP_RATE_LIMIT": "1000000/second"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address, "the server did not start"
            yield address, process.pid
        finally:
            process.terminate()


def settled(wire: CDPSession) -> dict[str, float]:
    """Return the browser's own figures after two forced garbage collections."""
    for _ in range(2):
        wire.send("HeapProfiler.collectGarbage")
    return {each["name"]: each["value"] for each in wire.send("Performance.getMetrics")["metrics"]}


def measure(browser: Browser, form: str, ticks: int, gpus: int) -> dict[str, float]:
    """Look at a form for that many ticks."""
    with serving(form, gpus) as (address, pid):
        idle_from = cpu_s(pid)
        time.sleep(10)
        idle_per_s = (cpu_s(pid) - idle_from) / 10
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        wire = page.context.new_cdp_session(page)
        received: list[float] = []
        wire.send("Network.enable")
        wire.send("Performance.enable", {"timeDomain": "threadTicks"})  # CPU time: others use this machine as well
        wire.on("Network.loadingFinished", lambda event: received.append(event["encodedDataLength"]))
        begin = time.monotonic()
        page.goto(address)
        page.wait_for_function(FIRST_CHART, timeout=60_000)
        first_chart_s = time.monotonic() - begin
        weight = sum(received)
        answers: list[str] = []
        page.on(
            "requestfinished", lambda request: answers.append(request.url) if "_dash-update" in request.url else None
        )
        page.wait_for_timeout(5000)
        before, cpu, since = settled(wire), cpu_s(pid), time.monotonic()
        received.clear()
        answers.clear()
        while len(answers) < ticks and time.monotonic() < since + 3 * ticks:
            page.wait_for_timeout(500)
        spent_s = time.monotonic() - since
        done = max(len(answers), 1)
        busy_ms = 1000 * (cpu_s(pid) - cpu - idle_per_s * spent_s)
        bytes_ = sum(received)
        after = settled(wire)
        page.close()
        return {
            "answers": done,
            "seconds": spent_s,
            "server CPU per tick, ms": busy_ms / done,
            "bytes per tick": bytes_ / done,
            "main thread per tick, ms": 1000 * (after["TaskDuration"] - before["TaskDuration"]) / done,
            "heap growth, MB": (after["JSHeapUsedSize"] - before["JSHeapUsedSize"]) / 1e6,
            "DOM node growth": after["Nodes"] - before["Nodes"],
            "page weight, kB": weight / 1000,
            "first chart, s": first_chart_s,
        }


def main() -> None:
    """Measure both forms and print them beside each other."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ticks", type=int, default=300)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--serve", choices=FORMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.gpus)
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu", "--js-flags=--expose-gc"]
        )
        found = {form: measure(browser, form, options.ticks, options.gpus) for form in FORMS}
        browser.close()
    print(f"{'':28}{'dashtop':>12}{'naive':>12}")
    for name in found["page"]:
        print(f"{name:28}{found['page'][name]:12.1f}{found['naive'][name]:12.1f}")


if __name__ == "__main__":
    main()
