"""One sample as nvitop or gpustat takes it; run by benchmarks/collect.py in an environment that has them.

python benchmarks/rivals.py nvitop|gpustat --samples 10 --every 1
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def nvitop() -> Callable[[], Any]:
    """What nvitop's own interface takes each second: a snapshot of each device and of all processes."""
    module = importlib.import_module("nvitop")
    devices = module.Device.all()

    def sample() -> object:
        snapshots = [device.as_snapshot() for device in devices]
        processes = [process for device in devices for process in device.processes().values()]
        return snapshots, module.GpuProcess.take_snapshots(processes, failsafe=True)

    return sample


def gpustat() -> Callable[[], Any]:
    """What `gpustat --watch` asks for each time."""
    query: Callable[[], Any] = importlib.import_module("gpustat").GPUStatCollection.new_query
    return query


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["nvitop", "gpustat"])
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--every", type=float, default=1.0)
    given = parser.parse_args()
    sample = {"nvitop": nvitop, "gpustat": gpustat}[given.name]()
    walls = []
    sample()
    print("warm", flush=True)
    input()
    cpu = time.process_time()
    for _ in range(given.samples):
        started = time.perf_counter()
        sample()
        walls.append(time.perf_counter() - started)
        time.sleep(max(0.0, given.every - walls[-1]))
    cpu = time.process_time() - cpu
    version = importlib.metadata.version(given.name)
    print(json.dumps({"version": version, "cpu_s": cpu / given.samples, "walls_s": walls}), flush=True)


if __name__ == "__main__":
    main()
