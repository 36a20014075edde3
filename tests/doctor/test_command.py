"""`dashtop doctor` as a command: words, exit status, JSON, and the port."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from dashtop.doctor.environment import check_storage_and_port
from dashtop.doctor.report import Finding, State
from dashtop.settings import Settings
from tests.processes import DASHTOP, running

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fake_nvml.fixtures import WorldFactory


def doctor(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [DASHTOP, "doctor", "--port", "0", *arguments],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **env},
    )  # fmt: skip


def test_no_problems(nvml_world: WorldFactory) -> None:
    done = doctor(env=nvml_world("rtx3090").env())

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("No problems found.\n")
    assert "GPU 0: NVIDIA GeForce RTX 3090" in done.stdout
    assert "Fix:" not in done.stdout
    assert "\x1b" not in done.stdout


def test_problem_with_its_fix(tmp_path: Path) -> None:
    done = doctor(env={"LD_LIBRARY_PATH": str(tmp_path)})

    assert (done.returncode, done.stderr) == (1, "")
    assert "  fail  the NVIDIA driver library" in done.stdout
    assert "Fix:  " in done.stdout
    assert done.stdout.endswith("1 problem found.\n")


def test_json(nvml_world: WorldFactory, tmp_path: Path) -> None:
    healthy = doctor("--json", env=nvml_world("rtx3090").env())
    body = json.loads(healthy.stdout)
    assert (healthy.returncode, body["ok"]) == (0, True)
    (gpu,) = body["gpus"]
    assert gpu["metrics_present"] > 20
    assert gpu["missing"]["gpu.utilization.compute"] == "not supported by this device"
    assert {finding["state"] for finding in body["findings"]} == {"ok"}

    failing = doctor("--json", env={"LD_LIBRARY_PATH": str(tmp_path)})
    body = json.loads(failing.stdout)
    assert (failing.returncode, body["ok"], body["gpus"]) == (1, False, [])
    (problem,) = [finding for finding in body["findings"] if finding["state"] != "ok"]
    assert problem["fix"]


def test_json_is_an_option_of_doctor_only() -> None:
    done = subprocess.run([DASHTOP, "snapshot", "--json"], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 2
    assert "--json" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def port(number: int, host: str = "127.0.0.1", url_prefix: str = "/") -> Finding:
    *_, finding = check_storage_and_port(Settings(host=host, port=number, url_prefix=url_prefix))
    return finding


class TestPort:
    def test_free(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            free = probe.getsockname()[1]
        assert port(free) == Finding(area="Page", text=f"127.0.0.1:{free} is free")

    def test_port_in_use_by_a_silent_program(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            found = port(other.getsockname()[1])
        assert (found.state, found.fix) == (State.FAIL, "dashtop --port 0")

    def test_port_in_use_by_another_server(self) -> None:
        class Other(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"[1, 2]")

            def log_message(self, *arguments: object) -> None:
                pass

        with HTTPServer(("127.0.0.1", 0), Other) as other:
            answering = threading.Thread(target=other.handle_request)
            answering.start()
            found = port(other.server_port)
            answering.join(5)
        assert found.state is State.FAIL

    def test_port_in_use_by_dashtop_is_ok(self) -> None:
        with running("--no-gpu", "--url-prefix", "/gpu/") as dashtop:
            found = port(urlsplit(dashtop.url).port or 0, url_prefix="/gpu/")
        assert found.state is State.OK
        assert "dashtop is running" in found.text

    @pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
    def test_address_of_another_machine(self, host: str) -> None:
        found = port(8050, host)
        assert (found.state, found.fix) == (State.FAIL, "dashtop --host 127.0.0.1")
