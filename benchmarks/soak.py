"""Growth of dashtop while everything around it fails: drivers, disk, database, clients.

    python benchmarks/soak.py [--minutes 60] [--warm-up 20] [--seed 1]

Runs dashtop with eight GPUs of the fake NVML library, a history on disk and three viewers, and injects one fault after
another: of the driver, of the disk (LD_PRELOAD), of the database (locked, damaged). Silent connections, streams that
nobody reads, bad requests and wrong access tokens come all the time. Prints the slope of the memory (RSS) after the
warm-up, and threads and file descriptors before the first fault and after the last. Exits with status 1 if memory
grows by more than 5 MB an hour, or if dashtop does not recover.

Faults that end the NVML worker are injected in the first half only, so that one worker lives for the second half, in
which its memory is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import http.client
import json
import os
import random
import secrets
import socket
import sqlite3
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter, defaultdict, deque
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import pynvml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dashtop.history.sqlite import FILE
from tests.fake_nvml import World
from tests.faults import ALL, FAULTS, is_healthy
from tests.history.faulty_disk import HANG, FaultyDisk
from tests.processes import Running, eventually, running
from tests.streams import STREAM
from tests.viewers import TICK, PageViewer, build_tick

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOKEN = "soak-token-of-the-benchmark"
MAX_SLOPE_MB = 5.0
READING_INTERVAL_S = 5.0
FAULT_S = 8.0
PAUSE_S = 4.0
MISUSE_INTERVAL_S = 0.5
MAX_HELD_CONNECTIONS = 24
HOLD_S = 30.0
KEPT_EVENTS = 20
DAMAGE_NOTICE = "The history file was unusable"
"""Stays for ten minutes."""
WORKER_WARM_UP_S = 300.0
VIEWS = (
    {"gpu": "0", "range": "1h", "width": 400},
    {"gpu": "3", "range": "24h", "width": 700, "theme": "dark"},
    {"view": "compare"},
)
MALFORMED = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),  # TLS
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"b" * 40_000 + b"\r\n\r\n",
    b"\r\n\r\n\r\n",
)
BAD_PATHS = (
    "/api/v1/system/history?range=9y&metrics=none",
    "/api/v1/system/history?range=24h&metrics=" + "x" * 500,
    "/api/v1/system/monitoring/all?gpu_id=-1",
    "/api/v1/system/export?range=1h&gpu=nobody",
    "/api/v1/system/events?range=%00",
    "/assets/../../etc/passwd",
    "/embed/none",
)
BAD_BODIES = (
    b"{",
    b"[" * 100_000,
    b"null",
    b'{"output": "nobody.knows"}',
    json.dumps(build_tick({"gpu": "x" * 1000, "zoom": [1, "2"], "versions": [], "width": 1e99})).encode(),
)


# --- measuring ------------------------------------------------------------------------------------------------------


def process_tree(pid: int) -> list[int]:
    members = [pid]
    for tasks in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread may end meanwhile
            for child in (tasks / "children").read_text().split():
                members += process_tree(int(child))
    return members


def read_process(pid: int) -> tuple[float, float, float]:
    """RSS in MiB, threads, file descriptors of one process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return int(status["VmRSS"].split()[0]) / 1024, int(status["Threads"]), descriptors


def read_resources(pid: int) -> tuple[float, float, float]:
    """RSS in MiB, threads, file descriptors of the process and its children."""
    found = [read_process(member) for member in process_tree(pid)]
    rss, threads, descriptors = (sum(values) for values in zip(*found, strict=True))
    return rss, threads, descriptors


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Memory:
    """RSS in MB of the server and of each NVML worker, over time in seconds."""

    server: list[tuple[float, float]] = field(default_factory=list)
    workers: dict[int, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))

    def read(self, pid: int, at_s: float) -> None:
        self.server.append((at_s, read_process(pid)[0] * 1.048576))
        for child in process_tree(pid)[1:]:
            with contextlib.suppress(OSError, KeyError):  # it may end meanwhile
                if b"nvml.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                    self.workers[child].append((at_s, read_process(child)[0] * 1.048576))

    def latest(self) -> str:
        """Return the newest reading of the server and of the worker that lives for longest."""
        if not self.server or not self.workers:
            return "nothing measured yet"
        return f"server {self.server[-1][1]:.1f} MB, worker {self.longest_worker()[-1][1]:.1f} MB"

    def longest_worker(self) -> list[tuple[float, float]]:
        return max(self.workers.values(), key=lambda readings: readings[-1][0] - readings[0][0])


def print_slope(name: str, readings: list[tuple[float, float]], from_s: float) -> float:
    """Print and return the growth in MB an hour of the readings since a time."""
    used = np.array([reading for reading in readings if reading[0] >= from_s])
    if len(used) < 10:
        print(f"{name:<14} too few readings")
        return 0.0
    times, values = used[:, 0], used[:, 1]
    slope = float(np.polyfit(times / 3600, values, 1)[0])
    fifth = max(len(values) // 5, 1)
    print(
        f"{name:<14}{(times[-1] - times[0]) / 60:>8.1f} min{np.median(values[:fifth]):>10.1f} MB"
        f"{np.median(values[-fifth:]):>10.1f} MB{values.max():>10.1f} MB{slope:>+10.2f} MB/h"
    )
    return slope


# --- faults of the machine ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Injection:
    """A fault: the context manager begins and ends it. `ends_worker`: the NVML worker hangs, crashes or is replaced."""

    name: str
    inject: Callable[[], contextlib.AbstractContextManager[object]]
    ends_worker: bool = False


class Machine:
    """The driver, the disk and the database of a running dashtop."""

    def __init__(self, folder: Path, randomness: random.Random) -> None:
        self._random = randomness
        cache = Path(tempfile.gettempdir()) / f"dashtop-nvml-{os.getuid()}"
        self.world = World.load("h100x8", folder / "world.txt", cache).save()
        self.disk = FaultyDisk(folder)
        self.env = {**self.world.env(), **self.disk.env}

    def injections(self) -> list[Injection]:
        """Every fault that can be injected."""
        drivers = [
            Injection(fault.name, lambda fault=fault: self._driver(fault.begin), ends_worker=fault is not FAULTS[0])  # type: ignore[misc]
            for fault in FAULTS
        ]
        returned = [
            Injection(f"{name} {code}", lambda name=name, code=code: self._driver(self._returning(name, code)))  # type: ignore[misc]
            for name, code in (
                ("nvmlDeviceGetPowerUsage", pynvml.NVML_ERROR_UNKNOWN),
                ("nvmlDeviceGetMemoryInfo_v2", pynvml.NVML_ERROR_NOT_SUPPORTED),
                ("nvmlDeviceGetComputeRunningProcesses_v3", pynvml.NVML_ERROR_NO_PERMISSION),
                ("nvmlDeviceGetFieldValues", pynvml.NVML_ERROR_TIMEOUT),
            )
        ]
        disks = [
            Injection(f"disk: {os.strerror(error)}", lambda error=error: self._disk(error))  # type: ignore[misc]
            for error in (errno.ENOSPC, errno.EROFS, errno.EIO)
        ]
        return [
            *drivers,
            *returned,
            *disks,
            Injection("slow driver", lambda: self._driver(self._slow)),
            Injection("XID event", lambda: self._driver(self._event)),
            Injection("disk hangs", lambda: self._disk(HANG)),
            Injection("database locked", self._locked),
            Injection("database damaged", self._damaged),
        ]

    def _any_gpu(self) -> int:
        return self._random.randrange(len(self.world.gpus))

    def _returning(self, function: str, code: int) -> Callable[[World], object]:
        return lambda world: world.set_return(function, code, gpu=self._any_gpu()).save()

    def _slow(self, world: World) -> None:
        world.set_latency("nvmlDeviceGetUtilizationRates", 200_000, gpu=self._any_gpu()).save()

    def _event(self, world: World) -> None:
        world.add_event(self._any_gpu(), "xid", self._random.choice((13, 31, 43, 63, 94)))
        del world.data["events"][:-KEPT_EVENTS]
        world.save()

    @contextmanager
    def _driver(self, begin: Callable[[World], object]) -> Iterator[None]:
        begin(self.world)
        try:
            yield
        finally:
            self.world.clear_faults().save()

    @contextmanager
    def _disk(self, error: int) -> Iterator[None]:
        self.disk.fail(error)
        try:
            yield
        finally:
            self.disk.work()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with contextlib.closing(sqlite3.connect(self.disk.data / FILE, isolation_level=None, timeout=5)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield

    @contextmanager
    def _damaged(self) -> Iterator[None]:
        """Overwrite a page; then let a write fail, after which dashtop opens the file anew and checks it."""
        path = self.disk.data / FILE
        with path.open("r+b") as file:
            file.seek(self._random.randrange(1, max(path.stat().st_size // 8192, 2)) * 8192)
            file.write(self._random.randbytes(8192))
        self.disk.fail(errno.EIO)
        time.sleep(6)
        self.disk.work()
        yield


# --- clients --------------------------------------------------------------------------------------------------------


class Misuse:
    """A thread of clients that misbehave, each from another address of the loopback network."""

    def __init__(self, dashtop: Running, cookie: str, counts: Counter[str], randomness: random.Random) -> None:
        address = urlsplit(dashtop.url)
        self._server = (str(address.hostname), int(address.port or 0))
        self._cookie = cookie
        self._counts = counts
        self._random = randomness
        self._held: deque[tuple[float, socket.socket]] = deque()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Misuse:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        kinds: dict[str, Callable[[], None]] = {
            "silent connection": self._be_silent,
            "incomplete request": lambda: self._hold(b"GET / HTTP/1.1\r\nHost: local"),
            "stream not read": self._open_stream,
            "stream cut off": lambda: self._send(self._stream_request(), reads=1),
            "malformed request": lambda: self._send(self._random.choice(MALFORMED)),
            "bad request": self._request_bad_path,
            "bad callback": self._send_bad_callback,
            "wrong token": self._present_wrong_token,
        }
        while not self._ended.wait(MISUSE_INTERVAL_S):
            name = self._random.choice(list(kinds))
            with contextlib.suppress(OSError, http.client.HTTPException):  # the server may close the connection
                kinds[name]()
            self._counts[name] += 1
            while self._held and (
                len(self._held) > MAX_HELD_CONNECTIONS or time.monotonic() - self._held[0][0] > HOLD_S
            ):
                self._held.popleft()[1].close()
        for _, connection in self._held:
            connection.close()

    def _connect(self) -> socket.socket:
        connection = socket.socket()
        connection.settimeout(10)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.bind((f"127.0.{self._random.randrange(1, 5)}.{self._random.randrange(1, 255)}", 0))
        connection.connect(self._server)
        return connection

    def _hold(self, data: bytes) -> None:
        connection = self._connect()
        connection.sendall(data)
        self._held.append((time.monotonic(), connection))

    def _be_silent(self) -> None:
        self._hold(b"")

    def _stream_request(self) -> bytes:
        return f"GET {STREAM} HTTP/1.1\r\nHost: localhost\r\nCookie: {self._cookie}\r\n\r\n".encode()

    def _open_stream(self) -> None:
        self._hold(self._stream_request())

    def _send(self, data: bytes, reads: int = 1) -> None:
        with self._connect() as connection:
            connection.sendall(data)
            for _ in range(reads):
                connection.recv(1000)

    def _request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> None:
        connection = http.client.HTTPConnection(*self._server, timeout=10)
        connection.sock = self._connect()
        connection.request(method, path, body, headers)
        connection.getresponse().read()
        connection.close()

    def _request_bad_path(self) -> None:
        self._request("GET", self._random.choice(BAD_PATHS), Cookie=self._cookie)

    def _send_bad_callback(self) -> None:
        headers = {"Cookie": self._cookie, "Content-Type": "application/json"}
        self._request("POST", TICK, self._random.choice(BAD_BODIES), **headers)

    def _present_wrong_token(self) -> None:
        self._request("GET", "/", Authorization=f"Bearer {secrets.token_urlsafe(24)}", Accept="text/html")


def sign_in(dashtop: Running) -> str:
    """Return the cookie that the access token gives."""
    address = urlsplit(dashtop.url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=10)
    connection.request("GET", f"/?token={TOKEN}")
    cookie = str(connection.getresponse().getheader("Set-Cookie"))
    connection.close()
    return cookie.partition(";")[0]


# --- the soak -------------------------------------------------------------------------------------------------------


def read_health(dashtop: Running, cookie: str) -> bool:
    """Return whether every GPU is read and the history is written."""
    found: dict[str, Any] = {}
    for path in (ALL, "/readyz"):
        request = urllib.request.Request(dashtop.url + path.removeprefix("/"), headers={"Cookie": cookie})
        with urllib.request.urlopen(request, timeout=10) as answer:
            found[path] = json.load(answer)
    return is_healthy(found[ALL]) and DAMAGE_NOTICE in found["/readyz"].get("detail", DAMAGE_NOTICE)


def soak(minutes: float, warm_up: float, seed: int) -> bool:
    """Run the soak, print what was measured, and return whether the goals are met."""
    randomness = random.Random(seed)
    counts: Counter[str] = Counter()
    memory = Memory()
    options = ("--token", TOKEN, "--keep-mb", "50", "--rate-limit", "1000/second")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, ExitStack() as stack:
        machine = Machine(Path(folder), randomness)
        dashtop = stack.enter_context(running(*options, env=machine.env, ready=False))
        pid = dashtop.process.pid
        cookie = sign_in(dashtop)
        eventually(lambda: read_health(dashtop, cookie), 60, 0.5)
        viewers = [stack.enter_context(PageViewer(dashtop.url, view, headers={"Cookie": cookie})) for view in VIEWS]
        eventually(lambda: all(len(viewer.ticks) > 5 for viewer in viewers), 60, 0.5)
        start = read_resources(pid)
        cpu_s, started_s = cpu_seconds(pid), time.monotonic()
        with Misuse(dashtop, cookie, counts, random.Random(seed + 1)):
            waiting: list[Injection] = []
            while (elapsed_s := time.monotonic() - started_s) < 60 * minutes:
                if not waiting:
                    waiting = [
                        each for each in machine.injections() if elapsed_s < 30 * minutes or not each.ends_worker
                    ]
                    randomness.shuffle(waiting)
                    print(f"{elapsed_s / 60:5.1f} min: {counts.total()} faults, {memory.latest()}", flush=True)
                injection = waiting.pop()
                counts[injection.name] += 1
                with injection.inject():
                    _watch(memory, pid, started_s, FAULT_S)
                _watch(memory, pid, started_s, PAUSE_S)
        cpu_percent = 100 * (cpu_seconds(pid) - cpu_s) / (time.monotonic() - started_s)
        eventually(lambda: read_health(dashtop, cookie), 90, 0.5)
        time.sleep(HOLD_S)  # what clients have left open is closed
        end = read_resources(pid)
        ticks = [tick for viewer in viewers for tick in viewer.ticks]
    print(f"{counts.total()} faults: {', '.join(f'{count} x {name}' for name, count in sorted(counts.items()))}")
    failed = Counter(tick.status for tick in ticks if tick.status != 200)
    longest_s = max(tick.duration_s for tick in ticks)
    print(
        f"{len(ticks)} ticks of {len(VIEWS)} viewers: {failed.total()} failed {dict(failed)}, longest {longest_s:.2f} s"
    )
    print(f"CPU of the server: {cpu_percent:.1f} % of one core")
    print(f"{'':<14}{'before the first fault':>26}{'after the last':>18}")
    for name, before, after in zip(("RSS, MiB", "threads", "descriptors"), start, end, strict=True):
        print(f"{name:<14}{before:>26.1f}{after:>18.1f}")
    print(f"{'RSS':<14}{'measured':>12}{'first':>13}{'last':>13}{'highest':>13}{'slope':>15}")
    worker = memory.longest_worker()
    slopes = [
        print_slope("server", memory.server, 60 * warm_up),
        print_slope("NVML worker", worker, worker[0][0] + WORKER_WARM_UP_S),
    ]
    return max(slopes) < MAX_SLOPE_MB


def _watch(memory: Memory, pid: int, started_s: float, seconds: float) -> None:
    """Read the memory for some seconds."""
    end_s = time.monotonic() + seconds
    while (remaining_s := end_s - time.monotonic()) > 0:
        memory.read(pid, time.monotonic() - started_s)
        time.sleep(min(READING_INTERVAL_S, remaining_s))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--warm-up", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    if not soak(given.minutes, given.warm_up, given.seed):
        sys.exit(f"Over the limit: {MAX_SLOPE_MB:g} MB an hour.")


if __name__ == "__main__":
    main()
