"""The README's examples of the API run as they stand, against a server of simulated GPUs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.processes import ROOT, Running, running
from tests.prometheus import program

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECTION = (ROOT / "README.md").read_text().partition("\n## API\n")[2].partition("\n## ")[0]
ADDRESS = "http://127.0.0.1:8050/"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)


def queries() -> list[str]:
    return [line for block in blocks("promql") for line in block.splitlines()]


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


def test_promql_is_well_formed(tmp_path: Path) -> None:
    rules = [{"record": f"example:query{index}", "expr": query} for index, query in enumerate(queries())]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "examples", "rules": rules}]}))
    checked = subprocess.run(
        [program("promtool"), "check", "rules", file], capture_output=True, text=True, timeout=60, check=False
    )
    assert checked.returncode == 0, checked.stderr


def test_promql_asks_for_what_is_there(dashtop: Running) -> None:
    told = dashtop.get("/metrics").decode()
    asked = {name for query in queries() for name in re.findall(r"dashtop_\w+", query)}
    assert asked
    for name in asked:
        assert re.search(rf"^{name}[{{ ]", told, re.MULTILINE), name
