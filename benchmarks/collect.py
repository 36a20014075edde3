"""What one sample costs: host, 8 GPUs and 24 processes, beside nvitop and gpustat on the same fake driver.

    python benchmarks/collect.py [--ticks 60] [--rivals PYTHON | --no-rivals]

Prints CPU of dashtop's two processes together (NVML's latencies off), wall time of a sample (latencies as on real
machines, see tests/fake_nvml/world.py), the NVML calls that it makes, and the ratios. Ticks come once a second, as in
service: costly metrics are asked seldom, so 60 of them are the whole round. PYTHON is an interpreter that has nvitop
and gpustat; without it, both are installed into a temporary environment.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dashtop.collector.sampler import Sampler
from dashtop.model.ports import SystemClock
from dashtop.sources.host.reader import PsutilHostReader
from dashtop.sources.nvml.subprocess_reader import SubprocessGpuReader
from tests.fake_nvml import World

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
GPUS = 8
PROCESSES_PER_GPU = 3
WARM_UP_TICKS = 4
EVERY_S = 1.0
CHEAP_READS = 300
RIVALS = ("nvitop", "gpustat")
COLUMNS = ("CPU", "(child's)", "wall", "longest", "NVML calls", "per GPU", "CPU x", "wall x")
# The project's own limits, in milliseconds.
LIMITS_MS = {"full sample, CPU": 6.0, "full sample, wall": 20.0, "cheap tier, CPU": 1.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Of one sample: seconds of CPU without latencies, of wall time with them, and NVML calls by function.

    `child_s` is the part of `cpu_s` that a reading child takes.
    """

    name: str
    cpu_s: float
    child_s: float = 0.0
    walls_s: list[float]
    calls: dict[str, float]

    @property
    def wall_s(self) -> float:
        return median(self.walls_s)


def children() -> list[int]:
    tasks = Path("/proc/self/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def cpu_s(pids: list[int]) -> float:
    """CPU that other processes have used, threads included. The clock is numbered as clock_getcpuclockid(3) does."""
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


@contextmanager
def workers() -> Iterator[list[int]]:
    """As many real processes as are to be on the GPUs."""
    with ExitStack() as stack:
        started = []
        for _ in range(GPUS * PROCESSES_PER_GPU):
            process = subprocess.Popen(["sleep", "infinity"])
            stack.callback(process.wait)
            stack.callback(process.kill)
            started.append(process.pid)
        yield started


def make_world(folder: Path, pids: list[int]) -> World:
    world = World.load("h100x8", folder / "world.txt", Path(tempfile.gettempdir()) / f"dashtop-bench-{os.getuid()}")
    for index, gpu in enumerate(world.gpus):
        gpu["processes"] = [
            {"pid": pid, "used_memory": 2**30, "type": "C", "sm_util": 30, "mem_util": 10, "enc_util": 0, "dec_util": 0}
            for pid in pids[index::GPUS]
        ]
        # Whoever waits for an event sleeps in the driver; the fake would wake a hundred times a second for it.
        gpu.pop("event_types", None)
    assert len(world.gpus) == GPUS
    world.save()
    return world


class Service:
    """Samples as `dashtop serve` takes them, once a second."""

    def __init__(self, world: World) -> None:
        os.environ.update(world.env())
        self._gpus = SubprocessGpuReader(clock=SystemClock())
        self._host = PsutilHostReader(clock=SystemClock())
        self._sampler = Sampler(host=self._host, gpus=self._gpus, clock=SystemClock())
        for _ in range(WARM_UP_TICKS):
            sample = self._sampler.sample(10.0)
            time.sleep(EVERY_S)
        described = [process for gpu in sample.gpus for process in gpu.processes if process.info.name is not None]
        assert (len(sample.gpus), len(described)) == (GPUS, GPUS * PROCESSES_PER_GPU), sample.gpu_error
        # Without the workers, which are children too.
        self._readers = [pid for pid in children() if (Path(f"/proc/{pid}/comm")).read_text().strip() != "sleep"]

    def full(self, ticks: int) -> tuple[float, float, list[float]]:
        """Return CPU seconds of both processes a tick and the child's part of them, and each sample's wall time.

        What happens between two ticks is included.
        """
        walls = []
        own, child = time.process_time(), cpu_s(self._readers)
        for _ in range(ticks):
            started = time.perf_counter()
            self._sampler.sample(10.0)
            walls.append(time.perf_counter() - started)
            time.sleep(max(0.0, EVERY_S - walls[-1]))
        own, child = time.process_time() - own, cpu_s(self._readers) - child
        return (own + child) / ticks, child / ticks, walls

    def host_alone(self, ticks: int) -> float:
        """Return CPU seconds of the host's part, processes included; other threads rest meanwhile."""
        sampler = Sampler(host=self._host, gpus=None, clock=SystemClock())
        before = time.process_time()
        for _ in range(ticks):
            sampler.sample(0.0)
        return (time.process_time() - before) / ticks

    def cheap(self) -> tuple[float, float, list[float]]:
        """The same for one read of the GPUs alone, so soon after the last that only what every tick asks is due."""
        self._gpus.read(10.0)
        walls = []
        own, child = time.process_time(), cpu_s(self._readers)
        for _ in range(CHEAP_READS):
            started = time.perf_counter()
            self._gpus.read(10.0)
            walls.append(time.perf_counter() - started)
        own, child = time.process_time() - own, cpu_s(self._readers) - child
        return (own + child) / CHEAP_READS, child / CHEAP_READS, walls

    def close(self) -> None:
        self._sampler.close()


def calls_since(world: World, before: Counter[tuple[str, str]], samples: int) -> dict[str, float]:
    """Return the calls made by one sample, by function."""
    made: Counter[str] = Counter()
    for (function, _), count in (world.calls() - before).items():
        made[function] += count
    return {function: count / samples for function, count in made.most_common()}


def measure_dashtop(folder: Path, pids: list[int], ticks: int) -> tuple[Cost, Cost, float]:
    service = Service(make_world(folder, pids))
    try:
        cheap_cpu, cheap_child, _ = service.cheap()
        full_cpu, full_child, _ = service.full(ticks)
        host_cpu = service.host_alone(50)
    finally:
        service.close()
    world = make_world(folder, pids).with_realistic_latencies().count_calls()
    world.save()
    service = Service(world)
    try:
        before = world.calls()
        *_, cheap_walls = service.cheap()
        cheap_calls = calls_since(world, before, CHEAP_READS)
        time.sleep(EVERY_S)
        before = world.calls()
        *_, walls = service.full(ticks)
        calls = calls_since(world, before, ticks)
    finally:
        service.close()
    return (
        Cost(name="dashtop, full sample", cpu_s=full_cpu, child_s=full_child, walls_s=walls, calls=calls),
        Cost(name="dashtop, cheap tier", cpu_s=cheap_cpu, child_s=cheap_child, walls_s=cheap_walls, calls=cheap_calls),
        host_cpu,
    )


def measure_rival(python: Path, name: str, folder: Path, pids: list[int], samples: int) -> Cost:
    costs = []
    for latencies in (False, True):
        world = make_world(folder, pids)
        if latencies:
            world.with_realistic_latencies().count_calls().save()
        script = str(ROOT / "benchmarks" / "rivals.py")
        command = [str(python), script, name, "--samples", str(samples), "--every", str(EVERY_S)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=world.env()
        ) as running:
            assert running.stdin is not None
            assert running.stdout is not None
            assert running.stdout.readline() == "warm\n", f"{name} did not start"
            before = world.calls() if latencies else Counter()
            running.stdin.write("\n")
            running.stdin.flush()
            costs.append(json.loads(running.stdout.readline()))
    without, slow = costs
    calls = calls_since(world, before, samples)
    return Cost(name=f"{name} {without['version']}", cpu_s=without["cpu_s"], walls_s=slow["walls_s"], calls=calls)


def install_rivals(folder: Path) -> Path:
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *RIVALS], check=True)
    return python


def show(costs: list[Cost], host_cpu: float) -> None:
    full, cheap, *_ = costs
    print(f"{GPUS} GPUs, {GPUS * PROCESSES_PER_GPU} processes; milliseconds and calls are of one sample;")
    print("'x': how many times what dashtop's full sample takes\n")
    print(f"{'':<24}" + "".join(f"{column:>11}" for column in COLUMNS))
    for cost in costs:
        calls = sum(cost.calls.values())
        times = [1e3 * seconds for seconds in (cost.cpu_s, cost.child_s, cost.wall_s, max(cost.walls_s))]
        ratios = [cost.cpu_s / full.cpu_s, cost.wall_s / full.wall_s]
        print(f"{cost.name:<24}" + "".join(f"{value:>11.2f}" for value in (*times, calls, calls / GPUS, *ratios)))
    print(f"\nhost alone, without processes: {1e3 * host_cpu:.2f} ms CPU")
    print("calls that a full sample makes most, per tick and GPU:")
    for function, count in list(full.calls.items())[:12]:
        print(f"  {count / GPUS:>6.2f}  {function}")
    print()
    measured = {
        "full sample, CPU": full.cpu_s,
        "full sample, wall": mean(full.walls_s),
        "cheap tier, CPU": cheap.cpu_s,
    }
    for what, limit in LIMITS_MS.items():
        verdict = "within" if 1e3 * measured[what] <= limit else "OVER"
        print(f"{what:<20}{1e3 * measured[what]:>8.2f} ms   {verdict} {limit:g} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ticks", type=int, default=60)
    parser.add_argument("--rival-samples", type=int, default=10)
    parser.add_argument("--rivals", type=Path, metavar="PYTHON")
    parser.add_argument("--no-rivals", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, workers() as pids:
        folder = Path(scratch)
        full, cheap, host_cpu = measure_dashtop(folder, pids, given.ticks)
        costs = [full, cheap]
        if not given.no_rivals:
            python = given.rivals or install_rivals(folder / "rivals")
            costs += [measure_rival(python, name, folder, pids, given.rival_samples) for name in RIVALS]
        show(costs, host_cpu)


if __name__ == "__main__":
    main()
