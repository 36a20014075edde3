"""Measures the growth of `dashtop --demo 8 --interval 0.5` with one polling client.

    python benchmarks/soak.py [--minutes 10] [--warm-up 2]

Prints memory (RSS of the process and its children), threads and file descriptors: median after warm-up, and the slope
of a straight line through the readings, per hour.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.processes import Running, running

POLL_INTERVAL_S = 2.0


def process_tree(pid: int) -> list[int]:
    members = [pid]
    for tasks in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread may end meanwhile
            for child in (tasks / "children").read_text().split():
                members += process_tree(int(child))
    return members


def read_resources(pid: int) -> tuple[float, float, float]:
    """RSS in MiB, threads, file descriptors."""
    rss = threads = descriptors = 0
    for member in process_tree(pid):
        status = dict(line.split(":", 1) for line in Path(f"/proc/{member}/status").read_text().splitlines())
        rss += int(status["VmRSS"].split()[0])
        threads += int(status["Threads"])
        descriptors += len(list(Path(f"/proc/{member}/fd").iterdir()))
    return rss / 1024, threads, descriptors


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def watch(dashtop: Running, minutes: float, warm_up: float) -> None:
    pid, begun = dashtop.process.pid, time.monotonic()
    times: list[float] = []
    readings: list[tuple[float, float, float]] = []
    cpu = cpu_seconds(pid)
    while (elapsed := time.monotonic() - begun) < 60 * minutes:
        dashtop.json("/api/v1/system/monitoring/all?gpu_id=3")
        if elapsed >= 60 * warm_up:
            times.append(elapsed / 3600)
            readings.append(read_resources(pid))
        time.sleep(POLL_INTERVAL_S)
    spent = cpu_seconds(pid) - cpu
    print(f"{len(times)} readings over {minutes - warm_up:g} min after {warm_up:g} min of warm-up")
    print(f"{'':<22}{'first':>10}{'median':>10}{'last':>10}{'slope/h':>12}")
    for name, values in zip(("RSS, MiB", "threads", "file descriptors"), zip(*readings, strict=True), strict=True):
        slope = np.polyfit(times, values, 1)[0]
        print(f"{name:<22}{values[0]:>10.1f}{np.median(values):>10.1f}{values[-1]:>10.1f}{slope:>12.2f}")
    print(f"CPU: {100 * spent / (time.monotonic() - begun):.2f} % of one core")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--warm-up", type=float, default=2)
    given = parser.parse_args()
    with running("--demo", "8", "--interval", "0.5") as dashtop:
        watch(dashtop, given.minutes, given.warm_up)


if __name__ == "__main__":
    main()
