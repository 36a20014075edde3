"""Measures memory growth over a day of short processes: 10,000 in 24 simulated hours, through events and history.

    python benchmarks/churn.py [--folder DIRECTORY]

Eight GPUs with three processes each; at each of 10,000 samples, 8.64 simulated seconds apart, one ends and one starts.
The history is written to DIRECTORY, or to a temporary folder. Prints memory, objects and file size every two hours.
Exits with status 1 if the last twelve hours add more than 4 MiB of memory.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dashtop.collector.events import detect_events
from dashtop.model.sample import GpuProcess, ProcessInfo, Sample
from tests.builders import NOON_MS, make_gpu, make_history, make_sample

GPUS, EACH, PROCESSES, HOURS = 8, 3, 10_000, 24
STEP_MS = 1000 * 3600 * HOURS // PROCESSES
MIB = 2**20
MAX_GROWTH_MIB = 4.0


def process(number: int) -> GpuProcess:
    return GpuProcess(
        pid=1_000 + number % 4_000,
        kind="C",
        gpu_memory_bytes=(100 + number % 900) * MIB,
        info=ProcessInfo(
            name=f"short-{number}",
            started_ms=NOON_MS + number * STEP_MS,
            username=f"user-{number % 50}",
            container=f"{number:012x}",
            container_runtime="docker",
        ),
    )


def sample(number: int) -> Sample:
    """Return the sample in which process `number` has just started, and the one 24 before it has ended."""
    alive: list[list[GpuProcess]] = [[] for _ in range(GPUS)]
    for each in range(number, number + GPUS * EACH):
        alive[each % GPUS].append(process(each))
    gpus = [make_gpu(gpu, values={"gpu.temperature": 50.0}, processes=tuple(alive[gpu])) for gpu in range(GPUS)]
    return make_sample(number + 1, time_ms=NOON_MS + number * STEP_MS, gpus=tuple(gpus))


def rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / MIB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    before: Sample | None = None
    found: list[float] = []
    print(f"{'hours':>6}{'RSS, MiB':>12}{'objects':>12}{'file, MiB':>12}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        history = make_history(folder, interval_s=STEP_MS / 1000)
        for number in range(PROCESSES):
            now = sample(number)
            now = replace(now, events=detect_events(before, now))
            history.append(now)
            before = now
            if (number + 1) % (PROCESSES // 12) == 0:
                gc.collect()
                found.append(rss_mib())
                size = sum(file.stat().st_size for file in folder.iterdir()) / MIB
                hours = (number + 1) * STEP_MS / 3_600_000
                print(f"{hours:>6.0f}{found[-1]:>12.1f}{sys.getallocatedblocks():>12}{size:>12.1f}", flush=True)
        history.close()
    grown = found[-1] - found[len(found) // 2 - 1]
    print(f"the last twelve hours: {grown:+.1f} MiB")
    if grown > MAX_GROWTH_MIB:
        sys.exit(f"Over the limit: {MAX_GROWTH_MIB:g} MiB.")


if __name__ == "__main__":
    main()
