"""How dashtop answers while the driver of eight GPUs fails (the fake NVML library): /monitoring/all, 20 times a second.

    python benchmarks/faults.py [--seconds 10]

Each fault lasts that long from when it is seen, then dashtop has to recover. Prints per fault the waits, the longest
time between two samples (collected once a second) and the time to recovery; ends with 1 where the 99th percentile of
the waits is over the project's limit.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.fake_nvml import World
from tests.faults import FAULTS, ApiPoller, Fault, is_healthy
from tests.processes import eventually, running

RATE = 20.0
P99_LIMIT_MS = 100.0
OPTIONS = ("--no-persist", "--rate-limit", "1000/second")


def measure(fault: Fault | None, seconds: float, folder: Path) -> float:
    """Print a line about a fault, or none; return the 99th percentile of the waits in milliseconds."""
    world = World.load("h100x8", folder / "world.txt", Path(tempfile.gettempdir()) / f"dashtop-nvml-{os.getuid()}")
    world.save()
    recovered = 0.0
    with running(*OPTIONS, env=world.env()) as dashtop, ApiPoller(dashtop.url, RATE) as poller:
        poller.wait_until_healthy()
        if fault is not None:
            fault.begin(world)
            eventually(lambda: fault.is_shown_in(poller.last_body()), 20)
        time.sleep(seconds)
        if fault is not None:
            world.clear_faults().save()
            ended = time.monotonic()
            eventually(lambda: is_healthy(poller.last_body()), 20)
            recovered = time.monotonic() - ended
    middle, p99, most = np.percentile([1000 * answer.duration_s for answer in poller.responses], (50, 99, 100))
    print(
        f"{fault.name if fault else 'no fault':<28}{len(poller.responses):>8}{middle:>10.1f}{p99:>10.1f}{most:>10.1f}"
        f"{poller.longest_gap_s():>12.2f}{recovered:>14.1f}"
    )
    return float(p99)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    print(f"{'':<28}{'answers':>8}{'median ms':>10}{'p99 ms':>10}{'max ms':>10}{'gap s':>12}{'recovery s':>14}")
    with tempfile.TemporaryDirectory() as folder:
        worst = max(measure(fault, given.seconds, Path(folder)) for fault in (None, *FAULTS))
    if worst > P99_LIMIT_MS:
        sys.exit(f"Over the limit: {worst:.1f} ms at the 99th percentile of {P99_LIMIT_MS:.0f} ms.")


if __name__ == "__main__":
    main()
