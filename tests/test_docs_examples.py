"""The examples in the documentation run as they stand, against simulated GPUs (PromQL: test_prometheus.py)."""

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

ADDRESS = "http://127.0.0.1:8050/"


def blocks(file: str, language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", (ROOT / file).read_text(), re.DOTALL)
    assert found, f"{file} has no example in {language}"
    return found


def curl_commands(file: str) -> list[str]:
    lines = [line for block in blocks(file, "sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("curl ")]


@pytest.fixture(scope="module")
def dashtop() -> Iterator[Running]:
    with running("--demo", "2", "--interval", "0.5") as server:
        yield server


@pytest.mark.parametrize("command", [*curl_commands("README.md"), *curl_commands("docs/api.md")])
def test_curl(dashtop: Running, command: str) -> None:
    command = command.replace(ADDRESS, dashtop.url)
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)


@pytest.mark.parametrize(
    "program",
    [*blocks("README.md", "python"), *blocks("docs/api.md", "python"), *blocks("docs/deployment.md", "python")],
)
def test_python(dashtop: Running, program: str) -> None:
    program = program.replace(ADDRESS, dashtop.url)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
