"""Measure what the page costs server, network and browser, compared with a naive page that sends whole figures.

    python benchmarks/page.py [--ticks 120] [--updates 2000] [--gpus 8] [--page gpus]

Both show the same series of one hour, with one sample per second, in four charts, in one tab of Chromium (software
rendering); the page shows all its other charts and panels as well. `--page overview` measures the overview instead. Two
runs each, about ten minutes in all:

- One tab sends a request per second. Printed are the time to the first chart (median of three visits without a cache,
  to a server that is warm), page weight, CPU time per tick of the server's threads that answer requests and of their
  reads of the history, bytes per tick, and milliseconds of the browser's main thread per tick.
- Updates follow each other without a pause, each one second later, so that charts are redrawn as often as in half an
  hour. Printed are heap and DOM nodes at the end and their growth, after forced garbage collections, and the number of
  ticks in Dash's undo history. The naive page is stopped after five minutes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser, CDPSession, Page

    from dashtop.model.ports import Services
    from dashtop.model.sample import Sample

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
MAX_RUN_S = 300
REQUEST_THREADS = ("MainThread", "waitress")
FIRST_CHART = "() => document.querySelector('.scatterlayer .trace') !== null"


def serve(form: str, gpus: int, *, is_fast: bool) -> None:
    """Serve one form with an hour of simulated history, and print its address."""
    from dashtop.app import create_app
    from dashtop.server import Server
    from dashtop.settings import Settings

    dashtop = create_app(Settings(demo=gpus, interval=60.0 if is_fast else 1.0))
    fill_history(dashtop.services)
    services = speed_up(dashtop.services) if is_fast else dashtop.services
    application: Any = dashtop.server
    if form == "naive":
        application = naive(services).server
    elif is_fast:
        application = dashboard(services).server
    server = Server(application, host="127.0.0.1", port=0)
    print(server.address, flush=True)
    threading.Thread(target=answer_cpu, args=(count_reads(),), daemon=True).start()
    server.run(dashtop.close)


def count_reads() -> Callable[[], int]:
    """Count the CPU of reads of the history that threads which answer requests wait for; return a function for it.

    It returns nanoseconds. The threads that read the history also do so for the reports of runs, without a page.
    """
    from dashtop.history.read_pool import ReadPool

    run, spent = ReadPool.run, [0]

    def run_counted(pool: ReadPool, read: Callable[[], Any]) -> Any:
        def read_counted() -> Any:
            begin = time.thread_time_ns()
            try:
                return read()
            finally:
                spent[0] += time.thread_time_ns() - begin

        is_request = threading.current_thread().name.startswith(REQUEST_THREADS)
        return run(pool, read_counted if is_request else read)

    ReadPool.run = run_counted  # type: ignore[method-assign, assignment]
    return lambda: spent[0]


def answer_cpu(read_reads_ns: Callable[[], int]) -> None:
    """Print for each line of the standard input the nanoseconds of CPU of the threads that answer requests.

    The rest of the server collects at the same pace without a page. The kernel knows both to the nanosecond, whereas
    the difference of a server with and without a page scatters by 2 ms a tick.
    """
    for _ in sys.stdin:
        threads = [each for each in threading.enumerate() if each.name.startswith(REQUEST_THREADS)]
        stats = [Path(f"/proc/self/task/{each.native_id}/schedstat").read_text(encoding="ascii") for each in threads]
        print(sum(int(stat.split()[0]) for stat in stats) + read_reads_ns(), flush=True)


def dashboard(services: Services) -> Any:
    """Return the page with other services than its own."""
    from flask import Flask

    from dashtop.settings import assets_dir
    from dashtop.ui.page import create_dash

    return create_dash(services, server=Flask("fast"), assets_folder=str(assets_dir()), interval_s=1.0)


def speed_up(services: Services) -> Services:
    """Return services in which one second passes each time the latest sample is read."""
    from dataclasses import replace
    from random import Random

    collector: Any = services.latest
    first: Any = collector.latest()
    random = Random(2)

    class FastClock:
        reads = 0
        interval_s = 1.0

        def latest(self) -> Any:
            self.reads += 1
            now = moved(first, random.uniform(0.85, 1.0))
            now = replace(
                now,
                sequence=first.sequence + self.reads,
                time_ms=first.time_ms + 1000 * self.reads,
                monotonic_s=services.clock.monotonic(),
            )
            services.history.append(now)
            return now

        def request_interval(self, _interval_s: float) -> float:
            return 1.0

        def __getattr__(self, name: str) -> Any:
            return getattr(collector, name)

    return replace(services, latest=FastClock())


def moved(sample: Sample, wave: float) -> Sample:
    """Return a sample with all GPU values multiplied by `wave`."""
    from dataclasses import replace

    gpus = (
        replace(gpu, values={key: None if value is None else value * wave for key, value in gpu.values.items()})
        for gpu in sample.gpus
    )
    return replace(sample, gpus=tuple(gpus), events=())


def fill_history(services: Services) -> None:
    """Fill one hour of history with the present sample, with varying values."""
    from dataclasses import replace
    from random import Random

    from tests.builders import wait_until_written

    random = Random(1)
    while (now := services.latest.latest()) is None or not now.gpus:
        time.sleep(0.05)
    for second in range(HOUR_S, 0, -1):
        then = replace(moved(now, random.uniform(0.85, 1.0)), time_ms=now.time_ms - 1000 * second)
        services.history.append(then)
    history: Any = services.history
    wait_until_written(history, timeout_s=60)


def naive(services: Services) -> Any:
    """Return the naive page: an interval, and a callback that returns whole figures."""
    import plotly.graph_objects as go
    from dash import Dash, Input, Output, dcc, html

    from dashtop.model.sample import SeriesKey

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
def start_server(form: str, gpus: int, *, is_fast: bool = False) -> Iterator[tuple[str, Callable[[], float]]]:
    """Yield the address of a server of that form, once its history has one hour, and what reads its CPU time, in ms."""
    command = [sys.executable, __file__, "--serve", form, "--gpus", str(gpus), *(["--fast"] if is_fast else [])]
    env = {**os.environ, "DASHTOP_RATE_LIMIT": "1000000/second"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            lines, questions = process.stdout, process.stdin
            assert lines is not None
            assert questions is not None
            address = lines.readline().strip()
            assert address, "the server did not start"

            def read_cpu_ms() -> float:
                print(file=questions, flush=True)
                return int(lines.readline()) / 1e6

            yield address, read_cpu_ms
        finally:
            process.terminate()


def read_metrics(wire: CDPSession) -> dict[str, float]:
    """Return the browser's metrics after two forced garbage collections."""
    for _ in range(2):
        wire.send("HeapProfiler.collectGarbage")
    return {each["name"]: each["value"] for each in wire.send("Performance.getMetrics")["metrics"]}


def visit(browser: Browser, address: str, name: str) -> tuple[Page, CDPSession, float, float]:
    """Open the page without a cache; return it, its CDP session, seconds to the first chart, and bytes until then."""
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    wire = page.context.new_cdp_session(page)
    received: list[float] = []
    wire.send("Network.enable")
    wire.send("Performance.enable", {"timeDomain": "threadTicks"})  # CPU time: others use this machine as well
    wire.on("Network.loadingFinished", lambda event: received.append(event["encodedDataLength"]))
    begin = time.monotonic()
    page.goto(f"{address}?page={name}", wait_until="commit")
    page.wait_for_function(FIRST_CHART, timeout=60_000)
    return page, wire, time.monotonic() - begin, sum(received)


def measure_tick(browser: Browser, form: str, ticks: int, gpus: int, name: str) -> dict[str, float]:
    """Measure one form with a request per second."""
    with start_server(form, gpus) as (address, read_cpu_ms):
        visit(browser, address, name)[0].context.close()
        visits = []
        for _ in range(3):
            page, wire, first_chart_s, weight = visit(browser, address, name)
            visits.append(first_chart_s)
            if len(visits) < 3:
                page.context.close()
        received: list[float] = []
        answers: list[str] = []
        wire.on("Network.loadingFinished", lambda event: received.append(event["encodedDataLength"]))
        page.on("requestfinished", lambda request: answers.append(request.url) if TICK in request.url else None)
        page.wait_for_timeout(5000)
        before, cpu_ms, since = read_metrics(wire), read_cpu_ms(), time.monotonic()
        received.clear()
        answers.clear()
        while len(answers) < ticks and time.monotonic() < since + 3 * ticks:
            page.wait_for_timeout(500)
        done, busy_ms, bytes_ = max(len(answers), 1), read_cpu_ms() - cpu_ms, sum(received)
        after = read_metrics(wire)
        page.context.close()
        return {
            "first chart, s": statistics.median(visits),
            "page weight, kB": weight / 1000,
            "ticks": done,
            "server CPU per tick, ms": busy_ms / done,
            "bytes per tick": bytes_ / done,
            "main thread per tick, ms": 1000 * (after["TaskDuration"] - before["TaskDuration"]) / done,
        }


def measure_growth(browser: Browser, form: str, updates: int, gpus: int, name: str) -> dict[str, float]:
    """Measure one form with updates that follow each other without a pause."""
    with start_server(form, gpus, is_fast=True) as (address, _):
        page, wire, _, _ = visit(browser, address, name)
        answers: list[str] = []
        page.on("requestfinished", lambda request: answers.append(request.url) if TICK in request.url else None)
        # Dash drops an answer that arrives after the next tick; our page sends one request at a time.
        page.evaluate("ms => window.dash_clientside.set_props('tick', {interval: ms})", 20 if form == "page" else 600)

        def run(count: int, limit_s: float) -> int:
            answers.clear()
            end = time.monotonic() + limit_s
            while len(answers) < count and time.monotonic() < end:
                page.wait_for_timeout(200)
            return len(answers)

        run(100, 60)
        before = read_metrics(wire)
        done = run(updates, MAX_RUN_S)
        after = read_metrics(wire)
        undo_ticks = page.evaluate("() => window.dash_stores[0].getState().history.past.length")
        page.context.close()
        return {
            "updates": done,
            "JS heap, MB": after["JSHeapUsedSize"] / 1e6,
            "heap growth, MB": (after["JSHeapUsedSize"] - before["JSHeapUsedSize"]) / 1e6,
            "DOM nodes": after["Nodes"],
            "DOM node growth": after["Nodes"] - before["Nodes"],
            "ticks in the undo history": undo_ticks,
        }


def main() -> None:
    """Measure both forms and print the results."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ticks", type=int, default=120)
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--page", default="gpus", help="the page that is measured (default: %(default)s)")
    parser.add_argument("--serve", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--fast", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.gpus, is_fast=options.fast)
        return
    found: dict[str, dict[str, float]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        for form in FORMS:
            found[form] = measure_tick(browser, form, options.ticks, options.gpus, options.page)
            found[form] |= measure_growth(browser, form, options.updates, options.gpus, options.page)
        browser.close()
    print(f"{'':28}{'dashtop':>12}{'naive':>12}")
    for name in found["page"]:
        print(f"{name:28}{found['page'][name]:12.1f}{found['naive'][name]:12.1f}")


if __name__ == "__main__":
    main()
