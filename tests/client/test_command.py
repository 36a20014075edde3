"""`dashtop run NAME -- command`: the command runs as without it, and the run is recorded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from dashtop.cli import main
from tests.client.servers import Recorder, recording
from tests.processes import DASHTOP, environment, find_free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@pytest.fixture
def server() -> Iterator[Recorder]:
    with recording() as recorder:
        yield recorder


def start(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [DASHTOP, "run", *arguments],
        env={**environment(), **(env or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_command_is_a_run(server: Recorder) -> None:
    code = "import os, sys; print(os.getpid(), sys.argv[1:], input()); sys.stderr.write('err\\n'); sys.exit(3)"
    process = start("train", "--tag", "lr=3e-4", "--tag", "a=b=c", "--url", server.url, "--token", "secret",
                    "--", sys.executable, "-c", code, "--flag", "--", "x")  # fmt: skip
    out, err = process.communicate("typed", timeout=60)
    pid, rest = out.strip().split(" ", 1)
    assert (process.returncode, rest) == (3, "['--flag', '--', 'x'] typed")
    (body,) = server.bodies("POST", "/runs")
    assert (body["name"], body["tags"], body["pid"]) == ("train", {"lr": "3e-4", "a": "b=c"}, int(pid))
    assert server.bodies("PATCH")[0]["status"] == "failed"
    assert err.splitlines()[0] == "err"
    assert "97 % recorded" in err


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_passed_on(server: Recorder, sent: signal.Signals) -> None:
    code = (
        "import signal, sys\n"
        f"signal.signal({int(sent)}, lambda *a: sys.exit(7))\n"
        "print('ready', flush=True)\n"
        "while True: signal.pause()\n"
    )
    with start("train", "--url", server.url, "--", sys.executable, "-c", code) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(sent)
        assert process.wait(60) == 7


def test_a_command_that_a_signal_ends(server: Recorder) -> None:
    process = start("train", "--url", server.url, "--", "sh", "-c", "kill -9 $$")
    assert (process.communicate(timeout=60)[0], process.returncode) == ("", 128 + signal.SIGKILL)


def test_without_a_server_the_command_runs_all_the_same() -> None:
    (port,) = find_free_ports(1)
    # Neither do settings that no server would accept concern it.
    env = {"DASHTOP_URL": f"http://127.0.0.1:{port}", "DASHTOP_INTERVAL": "nonsense"}
    process = start("train", "--", "sh", "-c", "echo done; exit 4", env=env)
    out, err = process.communicate(timeout=60)
    assert (out, process.returncode) == ("done\n", 4)
    assert err.count("not recorded by dashtop") == 1


def test_what_cannot_be_run(server: Recorder, tmp_path: os.PathLike[str]) -> None:
    for command, status in (("/no/such/program", 127), (os.fspath(tmp_path), 126)):
        process = start("train", "--url", server.url, "--", command)
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err.startswith(f"dashtop: {command}: ")) == (status, True)
    assert server.requests == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [(("train",), "two dashes"), (("train", "--tag", "lr", "--", "true"), "NAME=VALUE"), (("--", "true"), "NAME")],
)
def test_requests_that_make_no_sense(arguments: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", *arguments])
    assert ended.value.code == 2
    assert text in capsys.readouterr().err
