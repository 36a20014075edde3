"""Where history would be kept: a folder that can be written to, or a word on what to do."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, NamedTuple

from dashtop.doctor.report import Finding, State
from dashtop.doctor.storage import data_and_port
from dashtop.settings import load

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def folder_finding(**settings: object) -> Finding:
    """What is said of the data folder, second after SQLite."""
    return list(data_and_port(load(port=0, **settings)))[1]


def test_a_folder_that_is_yet_to_be_made_is_well(tmp_path: Path) -> None:
    found = folder_finding(data_dir=tmp_path / "not" / "yet")
    assert found.state is State.OK
    assert "GiB free" in found.text
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_its_place_is_told_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = folder_finding(data_dir=tmp_path / "file")
    assert found.state is State.FAIL
    assert "--data-dir" in (found.mend or "")


def test_little_space_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        total: int = 2**40
        used: int = 2**40 - 2**20
        free: int = 2**20

    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage())
    found = folder_finding(data_dir=tmp_path)
    assert found.state is State.WARN
    assert "--keep-mb" in (found.mend or "")


def test_memory_only_is_said() -> None:
    assert "memory only" in folder_finding(persist=False).text
