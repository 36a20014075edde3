"""The wheel is whole: installed in an environment of its own, away from the source, it serves page and assets."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
import venv
from typing import TYPE_CHECKING

import pytest

from tests.processes import ROOT, running

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("dashtop-*.whl")
    environment = folder / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", wheel], check=True, capture_output=True, timeout=300)
    return environment / "bin" / "dashtop"


@pytest.mark.timeout(600)
def test_installed_wheel_serves_page_and_assets(installed: Path, tmp_path: Path) -> None:
    with running("--demo", "2", command=installed, cwd=tmp_path) as dashtop:
        assert b"_dash-config" in dashtop.get("/")
        listed = dashtop.get("/_dash-layout")
        assert b"live-indicator" in listed
        page = dashtop.get("/").decode()
        own = [part.split('"')[0] for part in page.split('"./assets/')[1:]]
        assert any(".css" in name for name in own)
        assert any(".js" in name for name in own)
        for name in own:
            assert dashtop.get(f"/assets/{name}")
        body = dashtop.json("/api/v1/system/monitoring/all")
        assert body["simulated"] is True
        assert len(body["gpu_list"]) == 2


@pytest.mark.timeout(600)
def test_installed_command_knows_its_version(installed: Path, tmp_path: Path) -> None:
    result = subprocess.run([installed, "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
    python = installed.parent / "python"
    shown = subprocess.run(
        [python, "-c", "import importlib.metadata as m, json; print(json.dumps(m.version('dashtop')))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.split() == ["dashtop", json.loads(shown.stdout)]


def test_no_page_needs_the_internet(installed: Path, tmp_path: Path) -> None:
    with running("--no-gpu", command=installed, cwd=tmp_path) as dashtop, urllib.request.urlopen(dashtop.url) as answer:
        page = answer.read().decode()
    assert "https://" not in page.replace("https://www.w3.org", "")
