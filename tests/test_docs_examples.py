"""The examples in the documentation run as they stand, against simulated GPUs (PromQL: test_prometheus.py)."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.processes import DASHTOP, ROOT, Running, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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


def data_programs() -> list[str]:
    """Return the Python programs of docs/notebook.md below "Data in a notebook"."""
    text = (ROOT / "docs/notebook.md").read_text()
    return re.findall(r"```python\n(.*?)```", text[text.index("## Data in a notebook") :], re.DOTALL)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the export of docs/notebook.md on simulated GPUs; return the folder of the file."""
    pytest.importorskip("pyarrow")
    folder = tmp_path_factory.mktemp("exported")
    (command,) = [block for block in blocks("docs/notebook.md", "sh") if block.startswith("dashtop export ")]
    subprocess.run([DASHTOP, *shlex.split(command)[1:], "--demo", "2"], cwd=folder, check=True, timeout=60)
    return folder


@pytest.mark.parametrize("program", data_programs())
def test_program_with_exported_data(dashtop: Running, exported: Path, program: str) -> None:
    for library in re.findall(r"^import (polars|duckdb)\b", program, re.MULTILINE):
        pytest.importorskip(library)
    if "read_history" in program:
        pytest.importorskip("pandas")
    program = program.replace(ADDRESS, dashtop.url)
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=exported, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
