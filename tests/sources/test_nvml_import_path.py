"""Modules in the current directory are not imported by the subprocesses that load NVML."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from dashtop.sources.nvml import library
from tests.processes import DASHTOP
from tests.sources.nvml_fixtures import open_reader, resize_world

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fake_nvml.fixtures import WorldFactory

MODULES = ("dashtop", "pynvml", "psutil", "numpy", "json", "ctypes", "pickle", "signal", "socket")
"""dashtop, what it depends on, and modules of the standard library that the subprocesses import."""


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Start in a directory with a file for each of MODULES; each writes its name to the marker when it is imported."""
    marker, folder = tmp_path / "imported", tmp_path / "current"
    folder.mkdir()
    for name in MODULES:
        (folder / f"{name}.py").write_text(f"open({str(marker)!r}, 'a').write('{name} ')\n")
    monkeypatch.chdir(folder)
    return marker


def imported(marker: Path) -> list[str]:
    return marker.read_text().split() if marker.exists() else []


def test_nvml_worker_imports_nothing_from_the_current_directory(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, marker: Path
) -> None:
    world = resize_world(nvml_world("rtx3090"), 1)
    with open_reader(world, monkeypatch) as gpus:
        found = gpus.read(20)
    assert imported(marker) == []
    assert [gpu.values["gpu.temperature"] for gpu in found.gpus] == [30]


def test_library_probe_imports_nothing_from_the_current_directory(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, marker: Path, tmp_path: Path
) -> None:
    world = nvml_world("rtx3090").save()
    for name, value in world.env().items():
        monkeypatch.setenv(name, value)
    found = library.find(tmp_path / "nvidiactl")
    assert imported(marker) == []
    assert (found.path, found.error) == (str(world.library.path), None)


@pytest.mark.parametrize("arguments", [("snapshot",), ("doctor", "--json", "--port", "0")], ids=lambda each: each[0])
def test_commands_import_nothing_from_the_current_directory(
    nvml_world: WorldFactory, marker: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    env = {**os.environ, **nvml_world("rtx3090").env(), "DASHTOP_DATA_DIR": str(tmp_path / "data")}
    done = subprocess.run([DASHTOP, *arguments], capture_output=True, text=True, timeout=60, check=False, env=env)
    assert imported(marker) == []
    assert (done.returncode, done.stderr) == (0, "")
    body = json.loads(done.stdout)
    assert len(body.get("gpu_list", body.get("gpus"))) == 1
