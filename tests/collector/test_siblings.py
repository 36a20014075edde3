"""The folder in which the workers of one server meet: theirs alone, the same for all, gone with the last."""

from __future__ import annotations

import stat
import subprocess
import sys
from typing import TYPE_CHECKING

from dashtop.collector.siblings import join

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from dashtop.collector.siblings import Siblings


def joined(root: Path, name: str = "1-a") -> Siblings:
    found = join(name, roots=(root,))
    assert found is not None
    return found


def test_siblings_meet_agree_and_the_last_cleans_up(tmp_path: Path) -> None:
    first, second = joined(tmp_path), joined(tmp_path)
    other = joined(tmp_path, "2-a")
    assert first.folder == second.folder != other.folder
    assert stat.S_IMODE(first.folder.stat().st_mode) == 0o700
    assert first.agreed("token", lambda: "one") == second.agreed("token", lambda: "two") == "one"
    assert other.agreed("token", lambda: "three") == "three"
    assert 0 < first.most_bytes <= 128_000_000
    first.close()
    assert second.folder.exists()
    second.close()
    assert not second.folder.exists()
    assert other.folder.exists()
    other.close()


def test_what_killed_ones_left_is_swept_away(tmp_path: Path) -> None:
    script = (
        "import os, sys, pathlib; from dashtop.collector.siblings import join;"
        "each = join('9-a', roots=(pathlib.Path(sys.argv[1]),)); each.agreed('token', lambda: 'old'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False, timeout=30)
    (left,) = next(tmp_path.iterdir()).iterdir()
    assert (left / "token").read_text() == "old"
    same = joined(tmp_path, "9-a")
    assert same.agreed("token", lambda: "new") == "new"
    same.close()


def test_a_root_that_somebody_else_has_prepared_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good, open_to_all, linked = (tmp_path / name for name in ("good", "open", "linked"))
    for root in (good, open_to_all, linked):
        root.mkdir()
    sound = joined(good)
    own = sound.folder.parent.name
    (open_to_all / own).mkdir(mode=0o700)
    (open_to_all / own).chmod(0o777)
    (linked / own).symlink_to(good / own)
    found = join("1-a", roots=(tmp_path / "missing", open_to_all, linked, good))
    assert found is not None
    assert found.folder == sound.folder
    assert caplog.text.count("is not a folder of this user alone") == 2
    assert join("1-a", roots=(open_to_all, linked)) is None
    assert "each collects for itself" in caplog.text
    found.close()
    sound.close()
