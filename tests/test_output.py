"""Standard output that is closed, full or not UTF-8: the server goes on, the other commands say it or replace."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.processes import DASHTOP, START_TIMEOUT_S, Running, environment, eventually

NO_ROOM = {"closed": ">&-", "full": ">/dev/full"}


def run_shell(arguments: str, redirection: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    command = f"exec {shlex.quote(str(DASHTOP))} {arguments} {redirection}"
    env = {**environment(), **variables}
    return subprocess.run(["sh", "-c", command], env=env, capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize("redirection", [*NO_ROOM.values(), "| true"], ids=[*NO_ROOM, "pipe"])
def test_server_goes_on_without_standard_output(redirection: str, tmp_path: Path) -> None:
    log, data = tmp_path / "log", tmp_path / "data"
    serve = (
        f"{shlex.quote(str(DASHTOP))} --no-gpu --port 0 --data-dir {shlex.quote(str(data))} 2>{shlex.quote(str(log))}"
    )
    pid = tmp_path / "pid"
    command = f"(echo $(exec sh -c 'echo $PPID') >{shlex.quote(str(pid))}; exec {serve}) {redirection}"
    with subprocess.Popen(["sh", "-c", f"{command} & wait"], env=environment(), close_fds=True) as shell:
        try:
            found = eventually(
                lambda: re.search(r"goes on at (http://\S+)", log.read_text() if log.exists() else ""), START_TIMEOUT_S
            )
            server = Running(shell, found[1])  # type: ignore[arg-type]
            eventually(lambda: server.status("/readyz")[0] == 200, START_TIMEOUT_S)
            # The number of standard output is not that of a file of dashtop.
            assert Path(f"/proc/{int(pid.read_text())}/fd/1").readlink() == Path(os.devnull)
        finally:
            os.kill(int(pid.read_text()), 15)
    log_text = log.read_text()
    assert "Traceback" not in log_text
    assert "Exception ignored" not in log_text


@pytest.mark.parametrize("arguments", ["snapshot --no-gpu", "doctor --no-gpu", "doctor --no-gpu --json"])
@pytest.mark.parametrize("redirection", NO_ROOM.values(), ids=NO_ROOM)
def test_command_says_that_its_output_is_lost(arguments: str, redirection: str) -> None:
    done = run_shell(arguments, redirection)
    assert done.returncode == 1
    assert re.fullmatch(rb"dashtop: Cannot write to standard output \(.+\)\.\n", done.stderr)


def test_json_is_complete_where_standard_output_is_not_utf8() -> None:
    done = run_shell(
        "doctor --no-gpu --json", "", PYTHONIOENCODING="latin-1", DASHTOP_DATA_DIR="/\N{GREEK SMALL LETTER PI}"
    )
    assert done.stderr == b""
    assert done.stdout.isascii()
    assert "/\N{GREEK SMALL LETTER PI}" in str(json.loads(done.stdout))


def test_text_has_a_mark_for_what_latin_1_lacks() -> None:
    done = run_shell(
        "doctor --no-gpu",
        "",
        PYTHONIOENCODING="latin-1",
        DASHTOP_DATA_DIR="/\N{GREEK SMALL LETTER PI}\N{LATIN SMALL LETTER E WITH ACUTE}",
    )
    assert done.stderr == b""
    assert b"/?\xe9 " in done.stdout


@pytest.mark.parametrize("arguments", ["snapshot --demo 1", "--help", "doctor --help", "--print-completion bash"])
def test_output_in_other_encodings(arguments: str) -> None:
    for encoding in ("latin-1", "ascii"):
        done = run_shell(arguments, "", PYTHONIOENCODING=encoding)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.decode(encoding)


def test_japanese_locale(tmp_path: Path) -> None:
    """With a locale of the system, not only a setting of Python."""
    compiled = tmp_path / "ja_JP.EUC-JP"
    try:
        made = subprocess.run(["localedef", "-f", "EUC-JP", "-i", "ja_JP", compiled], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs localedef")
    if not (compiled / "LC_CTYPE").exists():
        pytest.skip(f"this system lacks the sources of the locale: {made.stderr!r}")
    done = run_shell("snapshot --demo 1", "", LOCPATH=str(tmp_path), LC_ALL=compiled.name)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["gpu_metrics"]["gpu_name"]
