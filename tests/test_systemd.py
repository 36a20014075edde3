"""The systemd units of docs/deployment.md: systemd accepts them, and they keep the history."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.processes import DASHTOP, ROOT

if TYPE_CHECKING:
    from pathlib import Path

UNITS = dict(
    zip(
        ("system", "user"),
        re.findall(r"```ini\n(.*?)```", (ROOT / "docs" / "deployment.md").read_text(), re.DOTALL),
        strict=True,
    )
)


@pytest.mark.parametrize("manager", UNITS)
def test_systemd_accepts_the_unit(manager: str, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    unit = tmp_path / "dashtop.service"
    unit.write_text(re.sub(r"ExecStart=\S+", f"ExecStart={DASHTOP}", UNITS[manager]))
    command = [analyze, "verify", "--man=no", "--recursive-errors=no", f"--{manager}", str(unit)]
    (tmp_path / "runtime").mkdir(mode=0o700)
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "runtime"), "PATH": "/usr/bin:/bin"},
    )
    assert result.returncode == 0, result.stderr
    assert "dashtop.service" not in result.stderr, "no warning about an unknown or ignored line"


@pytest.mark.parametrize("manager", UNITS)
def test_unit_keeps_the_history(manager: str) -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.read_string(UNITS[manager])
    assert unit["Service"]["Environment"] == f"DASHTOP_DATA_DIR=%S/{unit['Service']['StateDirectory']}"
    assert unit["Service"]["ExecStart"].split()[1:] == ["--port", "8050"]
