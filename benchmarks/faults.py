"""How dashtop answers while the driver of eight GPUs fails (the fake NVML library): /monitoring/all, 20 times a second.

    python benchmarks/faults.py [--seconds 10] [--lost-seconds 300] [--driver-only | --history-only]

Each fault lasts that long from when it is seen, then dashtop has to recover. Prints per fault the waits, the longest
time between two samples (collected once a second) and the time to recovery.

Then the healthy GPUs beside one that fails, from /gpu-metrics/all ten times a second: how long they are unavailable
when a call of one GPU hangs, how a driver that takes 8 s to initialize is shown, and what is missing while one GPU is
lost.

Then a history that does not answer for a minute (LD_PRELOAD), with twelve viewers of the page and a health check ten
times a second.

Ends with 1 where the 99th percentile of the waits or a goal is missed.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pynvml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dashtop.model.unavailable import UnavailableReason
from tests.fake_nvml import World
from tests.faults import FAULTS, GPUS, ApiPoller, Fault, is_healthy
from tests.history.faulty_disk import HANG, FaultyDisk
from tests.processes import Running, eventually, running
from tests.viewers import PageViewer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

RATE = 20.0
LOOK_INTERVAL_S = 0.1
FAILING_GPU = 3
HANG_US, SLOW_INIT_US = 60_000_000, 8_000_000
MAX_UNAVAILABLE_S, MAX_APPEARING_S = 10.0, 5.0
P99_LIMIT_MS = 100.0
VIEWERS = 12
HANG_S = 60.0
HEALTH_INTERVAL_S = 0.1
MAX_TICK_S = 1.5
MAX_HEALTH_MS = 100.0
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


def load_world(folder: Path) -> World:
    """Return the saved world of eight GPUs."""
    world = World.load("h100x8", folder / "world.txt", Path(tempfile.gettempdir()) / f"dashtop-nvml-{os.getuid()}")
    return world.save()


def look(server: Running, timeout_s: float) -> Iterator[tuple[float, list[Any]]]:
    """Yield seconds since the start and the GPUs, every LOOK_INTERVAL_S; no GPUs if the API reports an error."""
    started = time.monotonic()
    while (now := time.monotonic() - started) < timeout_s:
        status, body = server.status("/api/v1/system/gpu-metrics/all")
        yield now, body if status == 200 else []
        time.sleep(LOOK_INTERVAL_S)


def find_missing(gpus: list[Any]) -> list[set[str]]:
    """Return the metrics without a value, by GPU."""
    return [set(gpu["unavailable"]) for gpu in gpus]


def wait_until_complete(server: Running) -> list[set[str]]:
    """Wait until no value is still to be read for the first time. Return what is missing then."""

    def get_complete() -> list[set[str]] | None:
        gpus = server.json("/api/v1/system/gpu-metrics/all")
        waiting = UnavailableReason.FIRST_READING.text in {why for gpu in gpus for why in gpu["unavailable"].values()}
        return find_missing(gpus) if len(gpus) == GPUS and not waiting else None

    complete: list[set[str]] = eventually(get_complete, 40, every_s=0.5)
    return complete


def list_others(per_gpu: list[Any]) -> list[Any]:
    """Leave out the GPU that fails."""
    return [each for index, each in enumerate(per_gpu) if index != FAILING_GPU]


def measure_hang(function: str, timeout_s: float, folder: Path) -> bool:
    """Let a call of one GPU take a minute. Print how long the others lack values; return whether the goal is met."""
    world = load_world(folder)
    with running(*OPTIONS, env=world.env()) as server:
        complete = list_others(wait_until_complete(server))
        world.set_latency(function, HANG_US, gpu=FAILING_GPU).save()
        missing_at, readable_at, complete_at = 0.0, 0.0, 0.0
        for now, gpus in look(server, timeout_s):
            missing = list_others(find_missing(gpus))
            if missing != complete:
                missing_at = missing_at or now
                complete_at = 0.0
            elif missing_at:
                complete_at = complete_at or now
            has_values = bool(gpus) and all(gpu["temperature"] is not None for gpu in list_others(gpus))
            readable_at = (readable_at or now) if has_values else 0.0
        shown = gpus[FAILING_GPU]["state"] or "no state"
        world.clear_faults().save()
        recovered = time.monotonic()
        eventually(lambda: is_complete(server), 60)
        recovery_s = time.monotonic() - recovered
    print(f"{function} of one GPU takes 60 s")
    print(f"  the others: first value missing at {missing_at:.1f} s, readable from {readable_at:.1f} s,", end=" ")
    print(f"complete from {complete_at:.1f} s")
    print(f"  the GPU itself: {shown}; every GPU {recovery_s:.1f} s after the end")
    return check_goal("the others are readable", readable_at, MAX_UNAVAILABLE_S, "s")


def is_complete(server: Running) -> bool:
    """Return whether every GPU has a temperature."""
    gpus = server.json("/api/v1/system/gpu-metrics/all")
    return len(gpus) == GPUS and all(gpu["temperature"] is not None for gpu in gpus)


def check_goal(name: str, value: float, limit: float, unit: str) -> bool:
    print(f"  {name}: {value:.1f} {unit}, goal {limit:g} {unit}: {'met' if value <= limit else 'MISSED'}")
    return value <= limit


def measure_slow_init(folder: Path) -> bool:
    """Let nvmlInit take 8 s. Print what is shown meanwhile; return whether the GPUs are there soon afterwards."""
    world = load_world(folder).set_latency("nvmlInit_v2", SLOW_INIT_US).save()
    print("nvmlInit takes 8 s")
    shown, host_at = "", 0.0
    with running(*OPTIONS, env=world.env(), ready=False) as server:
        started = time.monotonic()
        while (now := time.monotonic() - started) < 2 * SLOW_INIT_US / 1e6:
            status, body = server.status("/api/v1/system/monitoring/all")
            is_sampled = status == 200
            state = body["gpu_status"] if is_sampled else f"{status} {body['detail']}"
            state = state or f"{len(body['gpu_list'])} GPUs"
            if is_sampled and not host_at and body["system_metrics"]["cpu"]["usage_percent"] is not None:
                host_at = now
            if state != shown:
                gpu_status, gpu_body = server.status("/api/v1/system/gpu-metrics/all")
                detail = gpu_body["detail"] if gpu_status != 200 else "values"
                print(f"  {now:4.1f} s: {state}; /gpu-metrics/all: {gpu_status} {detail}")
                shown = state
            if is_sampled and body["gpu_list"]:
                break
            time.sleep(LOOK_INTERVAL_S)
    print(f"  values of the host from {host_at:.1f} s")
    return check_goal("after nvmlInit, the GPUs appear", now - SLOW_INIT_US / 1e6, MAX_APPEARING_S, "s")


def measure_loss(seconds: float, folder: Path) -> bool:
    """Let one GPU be lost. Print how often a value of the others is missing; return whether it never is."""
    world = load_world(folder)
    with running(*OPTIONS, env=world.env()) as server:
        complete = list_others(wait_until_complete(server))
        world.set_return("*", pynvml.NVML_ERROR_GPU_IS_LOST, gpu=FAILING_GPU).save()
        looks, incomplete, shown_at = 0, 0, 0.0
        for now, gpus in look(server, seconds):
            missing = list_others(find_missing(gpus))
            looks += len(complete)
            incomplete += sum(each != usual for each, usual in zip(missing, complete, strict=True))
            if not shown_at and gpus[FAILING_GPU]["state"] is not None:
                shown_at = now
        world.clear_faults().save()
        recovered = time.monotonic()
        eventually(lambda: is_complete(server), 60)
        recovery_s = time.monotonic() - recovered
    print(f"one GPU lost for {seconds:.0f} s")
    print(f"  shown after {shown_at:.1f} s, back {recovery_s:.1f} s after the end; {looks} looks at a healthy GPU")
    return check_goal("with a value missing", 100 * incomplete / looks, 0.0, "%")


def measure_driver_faults(seconds: float, lost_s: float, folder: Path) -> bool:
    """Print the figures of the driver faults. Return whether the goals are met."""
    results = (
        measure_hang("nvmlDeviceGetUtilizationRates", 2 * seconds, folder),
        measure_hang("nvmlDeviceGetFieldValues", 2 * seconds, folder),  # in the background
        measure_slow_init(folder),
        measure_loss(lost_s, folder),
    )
    return all(results)


def check_health(url: str, results: Connection) -> None:
    """Send start and duration of a health check every HEALTH_INTERVAL_S, and by how much that was exceeded, in s."""
    while True:
        started_s = time.monotonic()
        with urllib.request.urlopen(f"{url}healthz", timeout=10) as answer:
            answer.read()
        answered_s = time.monotonic()
        time.sleep(HEALTH_INTERVAL_S)
        results.send((started_s, answered_s - started_s, time.monotonic() - answered_s - HEALTH_INTERVAL_S))


def measure_hanging_history(folder: Path) -> bool:
    """Let the disk of the history hang. Print the waits of the page and of /healthz; return whether goals are met."""
    disk, world = FaultyDisk(folder), load_world(folder)
    views = [
        {"gpu": str(number % GPUS), "range": ("5m", "1h", "6h", "24h")[number % 4], "width": 400 + 100 * (number // 4)}
        for number in range(VIEWERS)
    ]
    with ExitStack() as stack:
        server = stack.enter_context(running("--rate-limit", "1000/second", env={**world.env(), **disk.env}))
        viewers = [stack.enter_context(PageViewer(server.url, view)) for view in views]
        receiver, sender = multiprocessing.Pipe(duplex=False)
        # Not in this process, whose threads parse the answers to the viewers.
        checker = multiprocessing.get_context("spawn").Process(target=check_health, args=(server.url, sender))
        checker.start()
        stack.callback(checker.join)
        stack.callback(checker.terminate)
        eventually(lambda: all(len(viewer.ticks) > 5 for viewer in viewers), 60)
        phases = [("before", time.monotonic())]
        time.sleep(HANG_S / 4)
        disk.fail(HANG)
        phases.append(("history hangs", time.monotonic()))
        time.sleep(HANG_S)
        disk.work()
        phases.append(("afterwards", time.monotonic()))
        eventually(lambda: "detail" not in server.json("/readyz"), 30)
        recovery_s = time.monotonic() - phases[-1][1]
        time.sleep(HANG_S / 4)
        health = []
        while receiver.poll():
            health.append(receiver.recv())
    print(f"the history does not answer for {HANG_S:.0f} s, {VIEWERS} viewers; written again after {recovery_s:.1f} s")
    print(f"  {'':<16}{'ticks':>8}{'failed':>8}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}{'healthz p99':>14}{'max ms':>9}")
    for (name, from_s), to_s in zip(phases, [*(at_s for _, at_s in phases[1:]), math.inf], strict=True):
        ticks = [tick for viewer in viewers for tick in viewer.ticks if from_s <= tick.started_s < to_s]
        waits = np.percentile([1000 * tick.duration_s for tick in ticks], (50, 99, 100))
        checks = np.percentile([1000 * wait_s for at_s, wait_s, _ in health if from_s <= at_s < to_s], (99, 100))
        failed = sum(tick.status != 200 for tick in ticks)
        print(f"  {name:<16}{len(ticks):>8}{failed:>8}" + "".join(f"{wait:>9.1f}" for wait in waits), end="")
        print(f"{checks[0]:>14.1f}{checks[1]:>9.1f}")
    delay_s = max(delay_s for _, _, delay_s in health)
    print(f"  the machine delayed a process that only waits by up to {1000 * delay_s:.1f} ms")
    during = [tick for viewer in viewers for tick in viewer.ticks if tick.started_s >= phases[1][1]]
    results = (
        check_goal("failed ticks", sum(tick.status != 200 for tick in during), 0, ""),
        check_goal("longest tick", max(tick.duration_s for tick in during), MAX_TICK_S, "s"),
        check_goal("longest /healthz", max(1000 * wait_s for _, wait_s, _ in health), MAX_HEALTH_MS, "ms"),
    )
    return all(results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--lost-seconds", type=float, default=300.0, help="how long one GPU is lost")
    parser.add_argument("--driver-only", action="store_true", help="only the healthy GPUs beside one that fails")
    parser.add_argument("--history-only", action="store_true", help="only the history that does not answer")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.history_only:
            sys.exit(0 if measure_hanging_history(Path(folder)) else "A goal is missed.")
        if not given.driver_only:
            print(f"{'':<28}{'answers':>8}{'median ms':>10}{'p99 ms':>10}{'max ms':>10}{'gap s':>12}{'recovery s':>14}")
            worst = max(measure(fault, given.seconds, Path(folder)) for fault in (None, *FAULTS))
            if worst > P99_LIMIT_MS:
                sys.exit(f"Over the limit: {worst:.1f} ms at the 99th percentile of {P99_LIMIT_MS:.0f} ms.")
        if not measure_driver_faults(given.seconds, given.lost_seconds, Path(folder)):
            sys.exit("A goal is missed.")
        if not given.driver_only and not measure_hanging_history(Path(folder)):
            sys.exit("A goal is missed.")


if __name__ == "__main__":
    main()
