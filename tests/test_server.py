"""The real command: it starts, reports values of this machine, and ends."""

from __future__ import annotations

import http.client
import json
import os
import platform
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from tests.processes import DASHTOP, Running, eventually, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fake_nvml.fixtures import WorldFactory

ALL = "/api/v1/system/monitoring/all"
GIB = 2**30


def meminfo() -> dict[str, int]:
    """/proc/meminfo in bytes."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines}


def df() -> dict[str, tuple[int, int, int]]:
    """Used and total bytes and percent of each mount, as df tells them."""
    shown = subprocess.run(
        ["df", "--block-size=1", "--output=used,size,pcent,target"], capture_output=True, text=True, check=True
    )
    rows = [line.split(maxsplit=3) for line in shown.stdout.splitlines()[1:]]
    return {
        target: (int(used), int(size), int(percent.rstrip("%")))
        for used, size, percent, target in rows
        if percent != "-"
    }


def test_this_machines_truth_within_five_seconds() -> None:
    started = time.monotonic()
    with running("--no-gpu", is_forked=False) as dashtop:
        body = eventually(lambda: _with_rates(dashtop), timeout_s=5)
        assert time.monotonic() - started < 5
        memory, host = meminfo(), body["system_metrics"]
        assert host["memory"]["total_gb"] == pytest.approx(memory["MemTotal"] / GIB, abs=0.001)
        assert host["memory"]["available_gb"] == pytest.approx(memory["MemAvailable"] / GIB, abs=0.3)
        assert host["swap"]["total_gb"] == pytest.approx(memory["SwapTotal"] / GIB, abs=0.001)
        assert host["cpu"]["core_count"] == os.cpu_count()
        assert 0 <= host["cpu"]["usage_percent"] <= 100
        assert host["cpu"]["load_1m"] == pytest.approx(os.getloadavg()[0], abs=1.0)
        known = df()
        assert body["storage"]
        for mount in body["storage"]:
            used, total, percent = known[mount["mount_point"]]
            assert mount["total_gb"] == pytest.approx(total / GIB, abs=0.001)
            assert mount["used_gb"] == pytest.approx(used / GIB, abs=0.1)
            assert mount["used_percent"] == pytest.approx(percent, abs=1.5)
        assert body["gpu_available"] is False


def _with_rates(dashtop: Running) -> dict[str, Any] | None:
    body: dict[str, Any] = dashtop.json(ALL)
    host = body["system_metrics"]
    told = (host["cpu"]["usage_percent"], host["network"]["upload_mbps"], host["disk_io"]["read_mbps"])
    return body if body["storage"] and None not in told else None


def test_network_and_disk_traffic_are_what_the_kernel_counts(tmp_path: Path) -> None:
    """Writes past the cache must show as disk writes; the kernel's own counters are the measure."""
    with running("--no-gpu", "--interval", "0.5") as dashtop:

        def writes() -> float:
            with (tmp_path / "load").open("wb") as file:
                file.write(os.urandom(4 * 2**20))
                file.flush()
                os.fsync(file.fileno())
            rate: float | None = dashtop.json(ALL)["system_metrics"]["disk_io"]["write_mbps"]
            return rate or 0.0

        assert eventually(lambda: writes() > 1.0)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_within_two_seconds_children_included(nvml_world: WorldFactory, sent: signal.Signals) -> None:
    env = nvml_world("rtx3090").env()

    def took_s() -> float:
        with running(env=env) as dashtop:
            eventually(lambda: dashtop.json(ALL)["gpu_available"])
            family = _descendants(dashtop.process.pid)
            assert family
            started = time.monotonic()
            assert dashtop.stop(sent) == 0
            took = time.monotonic() - started
            assert not [pid for pid in family if _exists(pid)]
        return took

    # It needs a quarter of a second of processor time, for which a busy machine may keep it waiting, but not each time.
    assert took_s() < 2 or took_s() < 2


def test_the_child_does_not_outlive_a_killed_server(nvml_world: WorldFactory) -> None:
    with running(env=nvml_world("rtx3090").env()) as dashtop:
        eventually(lambda: dashtop.json(ALL)["gpu_available"])
        (child,) = _descendants(dashtop.process.pid)
        dashtop.stop(signal.SIGKILL)
        eventually(lambda: not _exists(child), timeout_s=5)


def _descendants(pid: int) -> list[int]:
    found = []
    for tasks in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):  # threads end
            found += [int(child) for child in (tasks / "children").read_text().split()]
    return found


def _exists(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_values_of_the_api_are_the_worlds(nvml_world: WorldFactory) -> None:
    world = nvml_world("h100x8")
    with running(env=world.env()) as dashtop:
        eventually(lambda: dashtop.status(f"{ALL}?gpu_id=7")[1].get("gpu_processes"))
        for index, gpu in enumerate(world.gpus):
            body = dashtop.json(f"{ALL}?gpu_id={index}")
            metrics = body["gpu_metrics"]
            assert metrics["gpu_uuid"] == gpu["uuid"]
            assert metrics["utilization"]["gpu"] == gpu["utilization"]["gpu"]
            assert metrics["memory"]["used_gb"] == pytest.approx(gpu["memory"]["used"] / GIB, abs=0.001)
            assert metrics["temperature"] == gpu["temperature"]
            assert metrics["power"]["current_watts"] == gpu["power"]["usage"] / 1000
            assert metrics["fan_speed"] is None
            assert len(body["gpu_processes"]) == len(gpu["processes"])
        assert len(body["gpu_list"]) == 8


def test_the_driver_is_read_as_often_however_many_ask(nvml_world: WorldFactory) -> None:
    world = nvml_world("rtx3090").count_calls()
    with running("--interval", "0.5", "--rate-limit", "100000/second", env=world.env()) as dashtop:

        def calls_in_three_collections() -> int:
            seen, before = {dashtop.json(ALL)["timestamp"]}, sum(world.calls().values())

            def three_more() -> bool:
                seen.add(dashtop.json(ALL)["timestamp"])
                return len(seen) > 3

            eventually(three_more, every_s=0.05)
            return sum(world.calls().values()) - before

        eventually(lambda: dashtop.json(ALL)["gpu_available"])
        quiet = calls_in_three_collections()
        ended = threading.Event()
        answered: list[int] = []

        def ask() -> None:
            while not ended.is_set():
                answered.append(len(dashtop.get(ALL)))

        crowd = [threading.Thread(target=ask) for _ in range(8)]
        for each in crowd:
            each.start()
        try:
            busy = calls_in_three_collections()
        finally:
            ended.set()
            for each in crowd:
                each.join()
        assert len(answered) > 100
        assert 0 < busy < 2 * quiet


def test_port_zero_takes_a_free_one_and_a_taken_one_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = _fails("--no-gpu", "--port", str(port))
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1] == (
        f"dashtop: Port {port} is in use. Choose another with --port, or --port 0 for a free one."
    )


@pytest.mark.parametrize("arguments", [["--port", "x"], ["--interval", "0"], ["--nonsense"], ["--host", "256.1.1.1"]])
def test_a_bad_value_is_one_line(arguments: list[str]) -> None:
    result = _fails(*arguments)
    assert result.returncode == (1 if "--host" in arguments else 2)
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("dashtop: ")
    assert result.stdout == ""


def test_too_low_limit_of_memory_is_one_line(tmp_path: Path) -> None:
    limited = f"ulimit -v 400000; exec {DASHTOP} --no-gpu --no-persist --port 0"
    result = subprocess.run(["sh", "-c", limited], capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "dashtop: Not enough memory or threads (" in result.stderr


def _fails(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([DASHTOP, *arguments], capture_output=True, text=True, timeout=20, check=False)


def test_address_has_the_name_of_the_machine_if_bound_to_all_addresses() -> None:
    with running("--demo", "1", "--host", "0.0.0.0", "--no-auth", ready=False) as server:
        assert urlsplit(server.url).hostname == platform.node().lower()


@pytest.mark.parametrize(
    ("variables", "base"),
    [
        ({"JUPYTER_SERVER_URL": "http://localhost:8888/base/"}, "http://localhost:8888/base/"),
        ({"JUPYTERHUB_SERVICE_PREFIX": "/user/ada/", "JUPYTER_SERVER_URL": "http://127.0.0.1:9/"}, "/user/ada/"),
        ({"JUPYTERHUB_SERVICE_PREFIX": "/services/gpus/", "JUPYTERHUB_SERVICE_NAME": "gpus"}, None),
        ({}, None),
    ],
)
def test_address_below_a_jupyter_server_is_printed_in_its_terminals(
    variables: dict[str, str], base: str | None
) -> None:
    with running("--demo", "1", env=variables) as server:
        port = urlsplit(server.url).port
        lines = [line.strip() for line in server.lines if line.startswith("With jupyter-server-proxy")]
        assert lines == ([] if base is None else [f"With jupyter-server-proxy: {base}proxy/{port}/"])


def test_address_below_a_jupyter_server_has_the_generated_token() -> None:
    variables = {"JUPYTERHUB_SERVICE_PREFIX": "/user/ada/"}
    with running("--demo", "1", "--allowed-hosts", "hub.example", env=variables, ready=False) as server:
        eventually(lambda: len(server.lines) > 1 and "With jupyter-server-proxy" in "".join(server.lines))
        (line,) = [each.strip() for each in server.lines if each.startswith("With jupyter-server-proxy")]
        assert line.endswith(f"?{urlsplit(server.url).query}")
        assert "token=" in line


def test_snapshot_is_one_reading_and_quick() -> None:
    result = subprocess.run([DASHTOP, "snapshot", "--no-gpu"], capture_output=True, text=True, timeout=20, check=True)
    body = json.loads(result.stdout)
    assert body["system_metrics"]["cpu"]["usage_percent"] is not None
    assert body["system_metrics"]["network"]["upload_mbps"] is not None
    assert body["storage"]


def test_snapshot_of_gpus_ends_its_child(nvml_world: WorldFactory) -> None:
    environment = nvml_world("rtx3090").env(dict(os.environ))
    result = subprocess.run(
        [DASHTOP, "snapshot"], env=environment, capture_output=True, text=True, timeout=20, check=True
    )
    assert json.loads(result.stdout)["gpu_metrics"]["gpu_name"] == "NVIDIA GeForce RTX 3090"


def test_help_and_version() -> None:
    shown = subprocess.run([DASHTOP, "--help"], capture_output=True, text=True, timeout=20, check=True).stdout
    for option in ("--host", "--port", "--interval", "--no-gpu", "--demo", "--config", "DASHTOP_PORT", "snapshot"):
        assert option in shown
    version = subprocess.run([DASHTOP, "--version"], capture_output=True, text=True, timeout=20, check=True).stdout
    assert version.startswith("dashtop ")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x00 nonsense\r\n\r\n", 400),
        (b"GET /api/ HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", 431),
        (b"POST /api/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", 400),
        (b"POST /api/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n", 413),
    ],
    ids=["no HTTP", "headers too large", "no length", "body too large"],
)
def test_what_cannot_be_read_is_answered_as_errors_are(served: Running, request_: bytes, status: int) -> None:
    address = urlsplit(served.url)
    with socket.create_connection((address.hostname, address.port or 0), timeout=10) as connection:
        connection.sendall(request_)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == status
        assert answer.getheader("Content-Type") == "application/json"
        assert set(json.loads(answer.read())) == {"detail"}


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    with running("--no-gpu") as server:
        yield server
