"""The generated access token is stored in the data folder unless another user could read or write it there."""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING

import pytest

from dashtop.web.security.token import load_token

if TYPE_CHECKING:
    from pathlib import Path


def test_generated_token_is_stored_in_data_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    token = load_token(folder)
    assert re.fullmatch(r"[\w-]{32}", token)
    assert load_token(folder) == token
    assert [file.name for file in folder.iterdir()] == ["token"]
    assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", ["readable by others", "a link", "weak", "empty", "a folder", "another user's"])
def test_untrusted_token_file_is_neither_used_nor_changed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    token = load_token(tmp_path)
    file = tmp_path / "token"
    if kind == "readable by others":
        file.chmod(0o640)
    elif kind == "a link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    elif kind == "a folder":
        file.unlink()
        file.mkdir()
    elif kind == "another user's":
        user = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    else:
        file.write_text("short" if kind == "weak" else "")
    before = file.lstat()
    tokens = {load_token(tmp_path), load_token(tmp_path)}
    assert len(tokens) == 2
    assert token not in tokens
    assert all(len(each) == 32 for each in tokens)
    assert file.lstat() == before
    assert "DASHTOP_TOKEN" in caplog.text
