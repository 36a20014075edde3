"""A Python that was built without SQLite."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from dashtop.history.memory import MISSING_SQLITE
from tests.processes import environment, running

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def command(tmp_path: Path) -> Path:
    """Return a `dashtop` whose Python has no module `_sqlite3`."""
    script = tmp_path / "dashtop"
    lines = ("import sys", "sys.modules['_sqlite3'] = None", "from dashtop.cli import main", "main()")
    script.write_text("\n".join([f"#!{sys.executable}", *lines, ""]))
    script.chmod(0o755)
    return script


def test_the_last_hour_is_kept_in_memory(command: Path) -> None:
    with running("--no-gpu", command=command) as server:
        assert server.json("/readyz")["detail"].startswith(MISSING_SQLITE)
        system = "/api/v1/system"
        history = server.json(f"{system}/history?range=1m&metrics=system.memory.used_gb")
        assert any(history["series"]["system.memory.used_gb"]["mean"])
        assert "restart" in [event["kind"] for event in server.json(f"{system}/events?range=1h")]
        assert not any("Traceback" in line for line in server.lines)


def test_doctor_says_it(command: Path) -> None:
    report = subprocess.run(
        [command, "doctor", "--no-gpu"], env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert report.returncode == 1
    assert MISSING_SQLITE in " ".join(report.stdout.split())
    assert report.stderr == ""
