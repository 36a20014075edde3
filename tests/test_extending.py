"""The examples of docs/architecture.md, "How to add something": each is applied to a copy of the source and used."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

DOCUMENT = (ROOT / "docs" / "architecture.md").read_text()
APP = """
from dashtop import create_app
from dashtop.settings import load
dashtop = create_app(load(demo=1))
assert dashtop.services.latest.wait(-1, 20).gpus
client = dashtop.server.test_client()
API = "/api/v1/system"
def get(path):
    answer = client.get(path)
    assert answer.status_code == 200, (path, answer.text)
    return answer
"""
CHECKS = {
    "A metric": f"""{APP}
assert "headroom_gb" in get(API + "/gpu-metrics").get_json()["memory"]
assert "gpu.memory.headroom_gb" in get(API + "/history?range=5m&metrics=gpu.memory.headroom_gb").get_json()["series"]
assert "headroom_gb" in get(API + "/openapi.json").text
from dashtop.metrics import METRICS
assert METRICS["gpu.memory.headroom_gb"].read.__code__.co_argcount == 1
dashtop.close()
""",
    "A panel": f"""{APP}
assert "panel-headroom" in get("/_dash-layout").text
assert 'data-embed="panel-headroom"' in get("/embed/panel-headroom").text
dashtop.close()
""",
    "A route": f"""{APP}
assert get(API + "/gpu-count").get_json() == {{"count": 1}}
assert "/gpu-count" in get(API + "/openapi.json").get_json()["paths"]
assert client.get(API + "/gpu-count?x=1").status_code == 422
dashtop.close()
""",
    "A setting": """
import os, pathlib
from dashtop.cli import parse
from dashtop.settings import load
assert load(**parse(["--site", "a"])[1]).site == "a"
os.environ["DASHTOP_SITE"] = "b"
assert load().site == "b"
del os.environ["DASHTOP_SITE"]
pathlib.Path("x.toml").write_text("site = 'c'")
assert load(config="x.toml").site == "c"
""",
    "A fault kind": """
from dashtop.model.unavailable import Unavailable, UnavailableReason
reason = UnavailableReason.OVERHEATED
assert (reason.http_status, reason.is_failure, reason.is_lost) == (500, True, True)
assert reason.advice == "Reset the GPU, or reboot."
assert str(Unavailable(reason)) == "the GPU has switched off: too hot"
""",
}


def read_example(heading: str) -> list[tuple[str, list[str]]]:
    """Return the changes of an example: file, and lines that begin with a space (there) or a plus (added)."""
    (text,) = re.findall(rf"^### {heading}\n.*?^```diff\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    files = re.split(r"^--- (.*)\n", text, flags=re.MULTILINE)
    return [(name, body.splitlines()) for name, body in zip(files[1::2], files[2::2], strict=True)]


def apply_change(folder: Path, name: str, lines: list[str]) -> None:
    path = folder / name
    before = "\n".join(line[1:] for line in lines if line.startswith(" "))
    after = "\n".join(line[1:] for line in lines)
    if not before:
        assert not path.exists()
        path.write_text(after + "\n")
        return
    text = path.read_text()
    assert text.count(before + "\n") == 1, f"{name} has not exactly one {before!r}"
    path.write_text(text.replace(before, after))


def test_every_example_is_checked() -> None:
    assert re.findall(r"^### (.*)$", DOCUMENT, re.MULTILINE) == list(CHECKS)


@pytest.mark.parametrize("heading", CHECKS)
def test_documented_example_works(heading: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "app", tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    changes = read_example(heading)
    for name, lines in changes:
        apply_change(tmp_path, name, lines)
    result = subprocess.run(
        [sys.executable, "-c", CHECKS[heading]],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "app")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(("heading", "files"), [("A metric", 1), ("A panel", 2), ("A route", 2), ("A setting", 1)])
def test_an_addition_touches_few_files(heading: str, files: int) -> None:
    assert len({name for name, _ in read_example(heading)}) == files
