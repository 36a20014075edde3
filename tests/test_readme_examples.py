"""The README's examples of the API run as they stand, against simulated GPUs (PromQL: test_prometheus.py)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.processes import ROOT, Running, running

if TYPE_CHECKING:
    from collections.abc import Iterator

SECTION = (ROOT / "README.md").read_text().partition("\n## API\n")[2].partition("\n## ")[0]
ADDRESS = "http://127.0.0.1:8050/"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)


@pytest.fixture(scope="module")
def dashtop() -> Iterator[Running]:
    with running("--demo", "2", "--interval", "0.5") as server:
        yield server


@pytest.mark.parametrize("command", [line for block in blocks("sh") for line in block.splitlines()])
def test_curl(dashtop: Running, command: str) -> None:
    command = command.replace(ADDRESS, dashtop.url)
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)


@pytest.mark.parametrize("program", blocks("python"))
def test_python(dashtop: Running, program: str) -> None:
    program = program.replace(ADDRESS, dashtop.url)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
