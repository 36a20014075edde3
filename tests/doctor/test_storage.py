"""The check of the data folder: is it writable, and how much space is free?"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, NamedTuple

from dashtop.doctor.environment import check_storage_and_port
from dashtop.doctor.report import Finding, State
from dashtop.settings import load

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def folder_finding(**settings: object) -> Finding:
    """Return the finding about the data folder, the second one after SQLite."""
    return list(check_storage_and_port(load(port=0, **settings)))[1]


def test_folder_that_does_not_exist_yet_is_ok(tmp_path: Path) -> None:
    found = folder_finding(data_dir=tmp_path / "not" / "yet")
    assert found.state is State.OK
    assert "GiB free" in found.text
    assert list(tmp_path.iterdir()) == []


def test_file_in_place_of_the_folder_fails_with_a_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = folder_finding(data_dir=tmp_path / "file")
    assert found.state is State.FAIL
    assert "--data-dir" in (found.fix or "")


def test_little_space_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        total: int = 2**40
        used: int = 2**40 - 2**20
        free: int = 2**20

    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage())
    found = folder_finding(data_dir=tmp_path)
    assert found.state is State.WARN
    assert "--keep-mb" in (found.fix or "")


def test_memory_only_is_reported() -> None:
    assert "memory only" in folder_finding(persist=False).text
