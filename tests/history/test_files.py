"""The file of the history: deleted, replaced or planted by others while dashtop runs or before it starts."""

from __future__ import annotations

import gc
import os
import shutil
import sqlite3
from typing import TYPE_CHECKING

import pytest

from dashtop.history.sqlite import FILE
from tests.builders import make_history, wait_until_written
from tests.history.writer import append, count_values, fill
from tests.processes import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dashtop.history.store import HistoryStore


def delete_file(folder: Path) -> None:
    for path in folder.glob(f"{FILE}*"):
        path.unlink()


def delete_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def move_folder(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))


def replace_folder(folder: Path) -> None:
    move_folder(folder)
    folder.mkdir()


def replace_file(folder: Path) -> None:
    """Restore a backup in place of the file."""
    with sqlite3.connect(folder / FILE) as source, sqlite3.connect(folder / "copy") as target:
        source.backup(target)
    source.close()
    target.close()
    delete_file(folder)
    (folder / "copy").rename(folder / FILE)


def read_seconds(folder: Path) -> list[int]:
    with sqlite3.connect(folder / FILE) as file:
        rows = file.execute("SELECT time_ms / 1000 FROM head WHERE tier = 0 ORDER BY id").fetchall()
    file.close()
    return [second for (second,) in rows]


@pytest.mark.parametrize("change", [delete_file, delete_folder, move_folder, replace_folder, replace_file])
def test_file_that_is_no_longer_there_is_noticed(change: Callable[[Path], None], tmp_path: Path) -> None:
    folder = tmp_path / "data"
    history = make_history(folder)
    fill(history, 0, 10)
    wait_until_written(history)
    change(folder)
    fill(history, 10, 20)
    wait_until_written(history)
    append(history, 20)
    wait_until_written(history)
    kept = list(range(10)) if change is replace_file else []
    assert read_seconds(folder) == [*kept, *range(10, 21)]
    (event,) = history.events(0, 2**62)
    assert event.kind == "history_replaced"
    assert str(folder / FILE) in event.text
    assert event.text in str(history.status_message())
    other = make_history(folder)
    append(other, 30)
    assert "writes the history in" in str(eventually(other.status_message)), "the lock was acquired anew"
    history.close()
    other.close()


def test_folder_replaced_by_that_of_another_process_stays_intact(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    replaced = [make_history(folder)]
    fill(replaced[0], 0, 10)
    wait_until_written(replaced[0])
    move_folder(folder)
    other = make_history(folder)
    fill(other, 0, 10)
    wait_until_written(other)
    fill(replaced[0], 10, 20)
    eventually(lambda: "writes the history in" in str(replaced[0].status_message()))
    replaced.pop().close()
    gc.collect()
    assert (folder / f"{FILE}-wal").exists(), "the file of the other process was deleted"
    fill(other, 10, 20)
    wait_until_written(other)
    assert other.status_message() is None
    assert read_seconds(folder) == list(range(20))
    other.close()


def plant_writable_file(path: Path) -> None:
    path.touch()
    path.chmod(0o666)


def plant_link(path: Path) -> None:
    path.parent.chmod(0o1777)
    path.symlink_to(path.with_name("target"))


def plant_file_of_another_user(path: Path) -> None:
    path.parent.chmod(0o1777)
    path.touch(0o600)
    try:
        os.chown(path, 12345, -1)
    except PermissionError:
        pytest.skip("only root can create a file of another user")


@pytest.mark.parametrize(
    ("plant", "reason"),
    [
        (plant_writable_file, f"other users can write {FILE}"),
        (plant_link, f"{FILE} is a symbolic link in a shared folder"),
        (plant_file_of_another_user, f"{FILE} belongs to another user"),
    ],
)
def test_file_planted_by_another_user_is_not_used(plant: Callable[[Path], None], reason: str, tmp_path: Path) -> None:
    path = tmp_path / FILE
    plant(path)
    before = path.lstat()
    history = make_history(tmp_path)
    fill(history, 0, 50)
    message = str(eventually(history.status_message))
    assert "memory only" in message
    assert reason in message
    assert count_values(history, 50) == 50
    history.close()
    after = path.lstat()
    assert (after.st_mode, after.st_size, after.st_uid) == (before.st_mode, before.st_size, before.st_uid)
    assert not (tmp_path / "target").exists()


def test_link_in_a_private_folder_is_followed(tmp_path: Path) -> None:
    """A user may keep the file on another disk."""
    (tmp_path / "disk").mkdir()
    (tmp_path / FILE).symlink_to(tmp_path / "disk" / FILE)
    history: HistoryStore = make_history(tmp_path)
    fill(history, 0, 50)
    wait_until_written(history)
    assert history.status_message() is None
    history.close()
    assert read_seconds(tmp_path / "disk") == list(range(50))
