"""What a fleet costs dashtop: 1,000 nodes of 8 GPUs in a real engine, 20 viewers, and 50 peers of which 5 are silent.

    python benchmarks/fleet.py [--nodes 1000] [--engine prometheus] [--no-history] [--no-peers]

The engine scrapes one server that has the series of all nodes (honor_labels); the past of the recording rules is
written with promtool. Prints wall time and CPU of dashtop for the first reading, a refresh, and each kind of series;
memory of a dashtop that shows the fleet; queries of 1 and of 20 viewers; and how long a round of peers takes.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from itertools import cycle
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dashtop.fleet import serialize, views
from dashtop.fleet.client import Credentials
from dashtop.fleet.peers import PeersSource
from dashtop.fleet.prometheus import PrometheusSource
from dashtop.model.fleet import FleetQuery, SeriesKind
from dashtop.model.ports import SystemClock
from tests.debian import program
from tests.fleet.engines import _Quiet, serving
from tests.fleet.test_peers import GPUS, HOST, Node, make_bodies
from tests.processes import eventually, find_free_ports, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dashtop.model.ports import FleetSource

GPUS_PER_NODE = 8
USERS = 40
REFRESHES = 8
VIEWERS = 20
VIEW_S = 45.0
GIB = 2**30
# The project's own limits.
WALL_LIMIT_S, CPU_LIMIT_MS, RSS_LIMIT_MB, ROUND_LIMIT_MS = 1.0, 150.0, 200.0, 100.0


class Fleet:
    """The series of all nodes. Values change with every scrape."""

    def __init__(self, nodes: int) -> None:
        self._random = Random(7)
        self.gpus = []
        for node in range(nodes):
            for index in range(GPUS_PER_NODE):
                uuid = f"{node:08x}-{index:04x}-4000-8000-{node * GPUS_PER_NODE + index:012x}"
                labels = f'instance="gpu{node:04}:8050",gpu="{index}",uuid="GPU-{uuid}",name="NVIDIA H100 80GB HBM3"'
                self.gpus.append((labels, self._random.choice((0.0, 0.0, 0.5, 0.9)), self._random.randrange(USERS)))
        self.nodes = nodes

    def write(self) -> bytes:
        """Return an exposition."""
        draw, lines = self._random.random, []
        for labels, load, user in self.gpus:
            now = min(1.0, load * (0.9 + 0.1 * draw()))
            used = round(60 * GIB * (load > 0))
            lines.append(
                f"dashtop_gpu_up{{{labels}}} 1\n"
                f"dashtop_gpu_free{{{labels}}} {int(load == 0)}\n"
                f"dashtop_gpu_mig_mode{{{labels}}} 0\n"
                f"dashtop_gpu_utilization_ratio{{{labels}}} {now:.2f}\n"
                f"dashtop_gpu_memory_used_bytes{{{labels}}} {used}\n"
                f"dashtop_gpu_memory_total_bytes{{{labels}}} {80 * GIB}\n"
                f"dashtop_gpu_temperature_celsius{{{labels}}} {40 + 30 * now:.0f}\n"
                f"dashtop_gpu_power_watts{{{labels}}} {70 + 600 * now:.1f}\n"
            )
            if load > 0:
                lines.append(f'dashtop_gpu_user_memory_bytes{{{labels},user="user{user:02}"}} {used}\n')
        for node in range(self.nodes):
            instance = f'instance="gpu{node:04}:8050"'
            lines.append(
                f'up{{{instance},job="dashtop"}} {int(node % 100 != 99)}\n'
                f"dashtop_sample_age_seconds{{{instance}}} 0.5\n"
                f"dashtop_load1{{{instance}}} {8 * draw():.2f}\n"
                f"dashtop_cpu_utilization_ratio{{{instance}}} {draw():.3f}\n"
                f"dashtop_memory_used_ratio{{{instance}}} {draw():.3f}\n"
            )
        return "".join(lines).encode()

    def write_past(self, file: Path) -> None:
        """Write the past of the recording rules as OpenMetrics: a day of nodes, an hour of GPUs, a month of users."""
        now = int(time.time()) // 60 * 60 - 60  # Prometheus takes no samples before the end of a block
        with file.open("w") as out:
            out.write("# TYPE dashtop:node_gpu_utilization:avg5m gauge\n")
            for node in range(self.nodes):
                labels = f'{{instance="gpu{node:04}:8050",job="dashtop"}}'
                for moment in range(now - 86_400, now + 1, 120):
                    out.write(
                        f"dashtop:node_gpu_utilization:avg5m{labels} {(node + moment // 120) % 100 / 100} {moment}\n"
                    )
            out.write("# TYPE dashtop:gpu_utilization:avg5m gauge\n")
            for labels, load, _ in self.gpus:
                for moment in range(now - 3600, now + 1, 60):
                    out.write(f'dashtop:gpu_utilization:avg5m{{{labels},job="dashtop"}} {load} {moment}\n')
            out.write("# TYPE dashtop:user_gpu_seconds:rate5m gauge\n")
            for user in range(USERS):
                for moment in range(now - 30 * 86_400, now + 1, 60 * 5):
                    out.write(f'dashtop:user_gpu_seconds:rate5m{{user="user{user:02}"}} {user / 4} {moment}\n')
            out.write("# EOF\n")


def serve_exposition(nodes: int) -> None:
    """Serve the series of all nodes, in turn with four sets of values; the address is printed."""
    fleet = Fleet(nodes)
    bodies = cycle([fleet.write() for _ in range(4)])

    class Handler(_Quiet):
        def do_GET(self) -> None:  # noqa: N802
            self.send(200, next(bodies), "text/plain; version=0.0.4")

    with serving(Handler) as url:
        print(url, flush=True)
        threading.Event().wait()


def serve_peers(count: int, hanging: int) -> None:
    """Serve the REST API of some dashtops, of which the last do not answer; the addresses are printed."""
    bodies = {path: json.dumps(body).encode() for path, body in make_bodies(GPUS_PER_NODE).items()}
    assert set(bodies) == {GPUS, HOST}

    class Handler(_Quiet):
        def do_GET(self) -> None:  # noqa: N802
            self.send(200, bodies[self.path], "application/json")

    with ExitStack() as stack:
        urls = [stack.enter_context(serving(Handler)) for _ in range(count)]
        for _ in range(hanging):
            node = stack.enter_context(Node().serve())
            node.gate.clear()
            urls.append(node.url)
        print(" ".join(urls), flush=True)
        threading.Event().wait()


@contextmanager
def child(*arguments: str) -> Iterator[list[str]]:
    """Run this file with arguments; yield the words of its first line."""
    process = subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()
    finally:
        process.kill()
        process.wait(10)


@contextmanager
def engine(name: str, exposition: str, past: Path | None) -> Iterator[str]:
    """Run an engine that scrapes the exposition every 15 s, with the past already in it; yield its base URL."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        listen = f"127.0.0.1:{find_free_ports(1)[0]}"
        config, data = Path(folder) / "config.yml", Path(folder) / "data"
        target = exposition.removeprefix("http://")
        job = {
            "job_name": "dashtop",
            "honor_labels": True,
            "scrape_interval": "15s",
            "scrape_timeout": "14s",
            "static_configs": [{"targets": [target]}],
        }
        config.write_text(json.dumps({"scrape_configs": [job]}))
        if past is not None and name == "prometheus":
            started = time.monotonic()
            subprocess.run(
                [
                    *(program("promtool"), "tsdb", "create-blocks-from", "--max-block-duration=768h"),
                    *("openmetrics", str(past), str(data)),  # it reads the file once for each block
                ],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            print(f"past loaded in {time.monotonic() - started:.0f} s")
        commands = {
            "prometheus": [
                f"--config.file={config}",
                f"--storage.tsdb.path={data}",
                f"--web.listen-address={listen}",
                "--storage.tsdb.retention.time=60d",
            ],
            "victoria-metrics": [
                f"-promscrape.config={config}",
                f"-storageDataPath={data}",
                f"-httpListenAddr={listen}",
                "-search.latencyOffset=1s",
                "-promscrape.maxScrapeSize=64MB",
            ],
        }
        process = subprocess.Popen(
            [program(name), *commands[name]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder
        )
        try:
            url = f"http://{listen}"
            eventually(lambda: urllib.request.urlopen(f"{url}/api/v1/query?query=1", timeout=5).status == 200, 60, 0.2)
            yield url
        finally:
            process.terminate()
            process.wait(60)


def measure(source: FleetSource, count: int) -> tuple[list[float], list[float], Any]:
    """Return wall and CPU seconds of some readings, and the last one."""
    walls, cpus, reading = [], [], None
    for _ in range(count):
        wall, cpu = time.perf_counter(), time.process_time()
        reading = source.current(30.0)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
        assert reading.error is None, reading.error
        time.sleep(1.0)
    return walls, cpus, reading


def verdict(value: float, limit: float) -> str:
    """Return whether a value keeps its limit."""
    return "" if value <= limit else f"  ABOVE {limit:g}"


def measure_engine(url: str, gpus: int) -> None:
    """Print what readings and series cost."""
    source = PrometheusSource(url, credentials=Credentials(), clock=SystemClock(), interval_s=15.0)
    eventually(lambda: len(source._client.query("dashtop_gpu_up", timeout_s=30).rows) == gpus, 120, 1.0)
    walls, cpus, reading = measure(source, 1)
    print(f"first reading: {walls[0]:.2f} s wall, {1000 * cpus[0]:.0f} ms CPU, {len(reading.gpus)} GPUs")
    walls, cpus, reading = measure(source, REFRESHES)
    wall, cpu = statistics.median(walls), 1000 * statistics.median(cpus)
    print(
        f"refresh: {wall:.2f} s wall (best {min(walls):.2f}), {cpu:.0f} ms CPU (best {1000 * min(cpus):.0f})"
        f"{verdict(wall, WALL_LIMIT_S)}{verdict(cpu, CPU_LIMIT_MS)}"
    )
    cpu_s = time.process_time()
    summary, holders = views.summarize(reading), views.list_holders(reading.gpus)
    views.find_free(reading.gpus, count=4)
    print(f"views: {1000 * (time.process_time() - cpu_s):.0f} ms CPU; {summary}; {len(holders)} holders")
    cpu_s = time.process_time()
    body = json.dumps(serialize.describe_fleet(reading, source.engine, 0.0, views.EVERYTHING))
    print(f"/fleet: {1000 * (time.process_time() - cpu_s):.0f} ms CPU, {len(body) / 1e6:.1f} MB")
    for kind in SeriesKind:
        span_s = 30 * 86_400 if kind is SeriesKind.USERS else 86_400
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        series = source.history(FleetQuery(kind=kind, span_s=span_s, node="gpu0001"))
        took, used = time.perf_counter() - wall_s, time.process_time() - cpu_s
        state = (
            series.error.sentence if series.error is not None else f"{len(series.rows)} rows x {len(series.times_ms)}"
        )
        print(f"{kind.value}: {took:.2f} s wall, {1000 * used:.0f} ms CPU, {state}")
    source.close()


def count_queries(url: str) -> float:
    """Return how many instant queries Prometheus has answered."""
    text = urllib.request.urlopen(f"{url}/metrics", timeout=10).read().decode()
    found = re.findall(r'prometheus_http_requests_total\{code="200",handler="/api/v1/query"\} (\S+)', text)
    return sum(map(float, found))


def read_rss_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def measure_viewers(url: str, *, has_counter: bool) -> None:
    """Print the memory of a dashtop that shows the fleet, and the queries of one viewer and of many."""
    with running("--no-gpu", "--no-persist", "--fleet-url", url, "--rate-limit", "1000/second") as dashtop:
        before = read_rss_mb(dashtop.process.pid)
        body = eventually(lambda: dashtop.json("/api/v1/system/fleet/free?count=4"), 60, 1.0)
        print(f"memory of dashtop: {before:.0f} MB before it shows the fleet, ", end="")
        counts = []
        for viewers in (1, VIEWERS):
            asked = count_queries(url) if has_counter else 0.0
            end = time.monotonic() + VIEW_S

            def view(end: float = end) -> None:
                while time.monotonic() < end:
                    dashtop.json("/api/v1/system/fleet/free?count=4")
                    time.sleep(5.0)

            threads = [threading.Thread(target=view) for _ in range(viewers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            counts.append((count_queries(url) if has_counter else 0.0) - asked)
        dashtop.get("/api/v1/system/fleet")
        after = read_rss_mb(dashtop.process.pid)
        print(f"{after:.0f} MB after{verdict(after, RSS_LIMIT_MB)}; {len(body['nodes'])} nodes with four free GPUs")
        if has_counter:
            print(f"queries in {VIEW_S:.0f} s: {counts[0]:.0f} of 1 viewer, {counts[1]:.0f} of {VIEWERS}")


def measure_peers() -> None:
    """Print how long a round takes."""
    with child("--serve-peers") as urls:
        dead = [f"127.0.0.1:{port}" for port in find_free_ports(2)]
        source = PeersSource([*dead, *urls], credentials=Credentials(), clock=SystemClock(), interval_s=5.0)
        walls, cpus, reading = measure(source, 1 + REFRESHES)
        up = sum(node.state.value == "up" for node in reading.nodes)
        rounds = [1000 * wall for wall in walls[1:]]
        print(
            f"peers: {len(reading.nodes)} nodes, {up} up, {len(reading.gpus)} GPUs;"
            f" a round {statistics.median(rounds):.0f} ms (best {min(rounds):.0f}, first {1000 * walls[0]:.0f}),"
            f" {1000 * statistics.median(cpus[1:]):.0f} ms CPU{verdict(min(rounds), ROUND_LIMIT_MS)}"
        )
        source.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--engine", choices=("prometheus", "victoria-metrics"), default="prometheus")
    parser.add_argument("--no-history", action="store_true")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--serve-exposition", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--serve-peers", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve_exposition:
        serve_exposition(given.nodes)
    elif given.serve_peers:
        serve_peers(45, 3)
    else:
        if not given.no_peers:
            measure_peers()
        with tempfile.TemporaryDirectory() as folder:
            past = None if given.no_history else Path(folder) / "past.om"
            if past is not None:
                Fleet(given.nodes).write_past(past)
            with ExitStack() as stack:
                (exposition,) = stack.enter_context(child("--serve-exposition", "--nodes", str(given.nodes)))
                url = stack.enter_context(engine(given.engine, exposition, past))
                measure_engine(url, given.nodes * GPUS_PER_NODE)
                measure_viewers(url, has_counter=given.engine == "prometheus")


if __name__ == "__main__":
    main()
