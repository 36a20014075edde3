"""What an answer of the API costs the server, beside Glances and nvitop-exporter on the same fake GPUs; and a load.

    python benchmarks/api.py [--seconds 10] [--rivals PYTHON | --no-rivals] [--load-minutes 1]

Prints, for 8 GPUs and at least 150 processes on the machine: CPU of the server (children included) per answer, above
what it takes when nobody asks; answers per CPU second; size of the answer. Then 50 clients at 1 Hz: percentiles of
their waits, and the NVML calls of a second with and without them. Then 20 streams and 50 polling clients: memory,
threads and descriptors at both ends of the load. PYTHON is an interpreter that has glances[web] and nvitop-exporter;
without it, both are installed into a temporary environment.
"""

from __future__ import annotations

import argparse
import http.client
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.soak import process_tree, read_resources
from tests.fake_nvml import World
from tests.processes import eventually, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ALL = "/api/v1/system/monitoring/all"
STREAM = "/api/v1/system/stream"
UNLIMITED = ("--rate-limit", "1000000/second")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PROCESSES = 150
"""On the machine, at least: Glances tells of every one, so an idle machine is not what its answer costs elsewhere."""
CLIENTS = 50
STREAMS = 20
# The project's own limits.
CPU_LIMIT_MS = 1.2
P99_LIMIT_MS = 50.0


@contextmanager
def inhabited() -> Iterator[None]:
    """Have at least so many processes on the machine."""
    there = sum(each.name.isdigit() for each in Path("/proc").iterdir())
    with ExitStack() as started:
        for _ in range(PROCESSES - there):
            process = started.enter_context(subprocess.Popen(["sleep", "infinity"]))
            started.callback(process.kill)
        yield


def cpu_s(pid: int) -> float:
    """CPU seconds that the process and its living children have taken."""
    total = 0
    for member in process_tree(pid):
        fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_S


def get(connection: http.client.HTTPConnection, path: str) -> bytes:
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 200, (answer.status, body[:200])
    return body


def cost(name: str, pid: int, address: str, path: str, seconds: float) -> float:
    """Print what one answer costs, and return it in milliseconds of CPU."""
    connection = http.client.HTTPConnection(address, timeout=30)
    size = len(get(connection, path))
    connection.close()  # some servers would, while nobody asks; the next question opens it anew
    started, before = time.monotonic(), cpu_s(pid)
    time.sleep(seconds)
    idle = (cpu_s(pid) - before) / (time.monotonic() - started)
    answers, started, before = 0, time.monotonic(), cpu_s(pid)
    while time.monotonic() < started + seconds:
        get(connection, path)
        answers += 1
    elapsed = time.monotonic() - started
    each = (cpu_s(pid) - before - idle * elapsed) / answers
    print(
        f"{name:<34} {1000 * each:7.2f} ms CPU an answer {1 / each:8.0f} a CPU second {answers / elapsed:7.0f}/s"
        f" {size / 1000:7.1f} kB   idle {100 * idle:.1f} % of a core"
    )
    return 1000 * each


# --- rivals ---------------------------------------------------------------------------------------------------------


def installed(folder: Path) -> Path:
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "glances[web]", "nvitop-exporter"], check=True)
    return python


@contextmanager
def rival(command: list[str | Path], env: dict[str, str], port: int, path: str) -> Iterator[int]:
    """Run a server until it answers with GPUs in it; yield its process id."""
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        with suppress(http.client.HTTPException):
            connection = http.client.HTTPConnection(f"127.0.0.1:{port}", timeout=10)
            connection.request("GET", path)
            return b"H100" in connection.getresponse().read()
        return False

    try:
        eventually(answers, timeout_s=60, every_s=0.5)
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def rivals(python: Path, env: dict[str, str], seconds: float) -> dict[str, float]:
    """Return milliseconds of CPU an answer by rival."""
    port, tools = free_port(), python.parent
    glances: list[str | Path] = [tools / "glances", "-w", "-B", "127.0.0.1", "-p", str(port), "--disable-check-update"]
    exporter: list[str | Path] = [tools / "nvitop-exporter", "--bind-address", "127.0.0.1", "--port", str(port)]
    costs = {}
    for name, command, path in (("Glances", glances, "/api/4/all"), ("nvitop-exporter", exporter, "/metrics")):
        with rival(command, env, port, path) as pid:
            costs[name] = cost(f"{name} {path}", pid, f"127.0.0.1:{port}", path, seconds)
    return costs


# --- load -----------------------------------------------------------------------------------------------------------


@contextmanager
def clients(address: str, waits: list[float], failures: Counter[str]) -> Iterator[None]:
    """Run CLIENTS that ask once a second, each on a connection of its own; their waits are in seconds."""
    ended = threading.Event()

    def poll(offset: float) -> None:
        connection = http.client.HTTPConnection(address, timeout=30)
        due = time.monotonic() + offset
        while not ended.wait(max(0.0, due - time.monotonic())):
            started = time.perf_counter()
            try:
                get(connection, ALL)
                waits.append(time.perf_counter() - started)
            except (OSError, AssertionError, http.client.HTTPException) as error:
                failures[type(error).__name__] += 1
                connection.close()
            due += 1.0
        connection.close()

    threads = [threading.Thread(target=poll, args=(index / CLIENTS,)) for index in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


@contextmanager
def streams(address: str, events: list[int]) -> Iterator[None]:
    """Hold STREAMS open and read them; each event counts one in `events`."""
    with ExitStack() as stack:
        threads = []
        for _ in range(STREAMS):
            connection = http.client.HTTPConnection(address, timeout=30)
            connection.request("GET", STREAM)
            kept = connection.sock
            answer = connection.getresponse()
            assert answer.status == 200, answer.status

            def read(answer: http.client.HTTPResponse = answer) -> None:
                with suppress(OSError, ValueError, http.client.HTTPException):
                    events.extend(1 for line in answer if line.startswith(b"data: "))

            thread = threading.Thread(target=read)
            thread.start()
            threads.append(thread)
            stack.callback(kept.shutdown, socket.SHUT_RDWR)
        yield
    for thread in threads:
        thread.join()


def nvml_calls(world: World, during: Callable[[], None]) -> float:
    before = world.calls()
    started = time.monotonic()
    during()
    return sum((world.calls() - before).values()) / (time.monotonic() - started)


def load(world: World, pid: int, address: str, seconds: float, minutes: float) -> bool:
    """Put the load on; tell whether the waits were short enough."""
    quiet = nvml_calls(world, lambda: time.sleep(seconds))
    waits: list[float] = []
    failures: Counter[str] = Counter()
    with clients(address, waits, failures):
        busy = nvml_calls(world, lambda: time.sleep(seconds))
    p50, p99, most = 1000 * np.percentile(waits, (50, 99, 100))
    print(f"{CLIENTS} clients at 1 Hz: {len(waits)} answers, {dict(failures) or 'none'} failed")
    print(
        f"  waits: median {p50:.1f} ms, 99th percentile {p99:.1f} ms (limit {P99_LIMIT_MS:.0f}), longest {most:.1f} ms"
    )
    print(f"  NVML calls a second: {quiet:.0f} without clients, {busy:.0f} with them")
    events: list[int] = []
    with clients(address, waits, failures), streams(address, events):
        time.sleep(min(10.0, 30 * minutes))
        first = read_resources(pid)
        time.sleep(60 * minutes)
        last = read_resources(pid)
    failed = dict(failures) or "none"
    print(f"{STREAMS} streams, {CLIENTS} clients, {minutes:g} min: {len(events)} events, {failed} failed")
    for name, begun, ended in zip(("RSS, MiB", "threads", "descriptors"), first, last, strict=True):
        print(f"  {name}: {begun:.1f} -> {ended:.1f}")
    return bool(p99 <= P99_LIMIT_MS and not failures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--load-minutes", type=float, default=1.0)
    parser.add_argument("--rivals", type=Path)
    parser.add_argument("--no-rivals", action="store_true")
    given = parser.parse_args()
    with inhabited(), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world = World.load("h100x8", folder / "world.txt", Path(tempfile.gettempdir()) / f"dashtop-nvml-{os.getuid()}")
        world.count_calls().save()
        with running(*UNLIMITED, "--data-dir", str(folder / "data"), env=world.env()) as dashtop:
            eventually(lambda: dashtop.json(ALL)["gpu_available"])
            address, pid = urlsplit(dashtop.url).netloc, dashtop.process.pid
            own = cost(f"dashtop {ALL}", pid, address, ALL, given.seconds)
            good = load(world, pid, address, given.seconds, given.load_minutes)
        if not given.no_rivals:
            python = given.rivals or installed(folder / "rivals")
            for rival_name, each in rivals(python, {**os.environ, **world.env()}, given.seconds).items():
                print(f"{rival_name}: {each / own:.1f} times dashtop's CPU an answer")
    if own > CPU_LIMIT_MS or not good:
        sys.exit(f"Over a limit: {own:.2f} ms CPU an answer of {CPU_LIMIT_MS}, or the waits above.")


if __name__ == "__main__":
    main()
