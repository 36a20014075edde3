"""The audit log: private, bounded, and refusals never replace what was done."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import stat
from typing import TYPE_CHECKING

import pytest

from dashtop.actions.audit import REFUSED_FILE, SENT_FILE, AuditLog
from dashtop.model.action import SENT, ActionRecord

if TYPE_CHECKING:
    from pathlib import Path


def record(number: int, outcome: str = SENT) -> ActionRecord:
    return ActionRecord(
        time_ms=number, client="::1", viewer=None, pid=number, started_ms=5, owner="ada", name="python", signal="TERM",
        outcome=outcome,
    )  # fmt: skip


def test_newest_records_come_first_from_both_files(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path / "new")
    assert audit.read_newest() == []
    for number in range(6):
        audit.append(record(number, SENT if number % 2 else "gone"))
    assert [each.time_ms for each in audit.read_newest()] == [5, 4, 3, 2, 1, 0]
    for name in (SENT_FILE, REFUSED_FILE):
        status = (tmp_path / "new" / name).stat()
        assert stat.S_IMODE(status.st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def test_records_of_one_millisecond_keep_their_order(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path)
    for pid in range(4):
        audit.append(dataclasses.replace(record(7, "gone"), pid=pid))
    assert [each.pid for each in audit.read_newest()] == [3, 2, 1, 0]


def test_size_is_bounded_and_refusals_leave_what_was_sent(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path, max_bytes=5000)
    audit.append(record(0))
    for number in range(1, 150):
        audit.append(record(number, "wrong_token"))
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes.keys() == {SENT_FILE, REFUSED_FILE, f"{REFUSED_FILE}.1"}
    assert max(sizes.values()) <= 5000
    newest = audit.read_newest()
    assert (newest[0].time_ms, newest[-1].time_ms) == (149, 0)
    assert len(newest) < 100


def test_records_just_after_a_new_file_has_begun_are_read_from_both(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path, max_bytes=10_000)
    number = 0
    while not (tmp_path / f"{SENT_FILE}.1").exists():
        audit.append(record(number))
        number += 1
    assert len(audit.read_newest()) == number


def test_line_that_was_cut_is_left_out(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path)
    audit.append(record(1))
    with (tmp_path / SENT_FILE).open("a") as file:
        file.write('{"time_ms": 2, "cli\n[]\n')
    audit.append(record(3))
    assert [each.time_ms for each in audit.read_newest()] == [3, 1]


def _append_many(folder: Path, first: int) -> None:
    audit = AuditLog(folder, max_bytes=10_000)
    for number in range(first, first + 40):
        audit.append(record(number))


def test_processes_that_share_a_folder_lose_no_record(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_append_many, args=(tmp_path, 40 * each)) for each in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    lines = [line for path in tmp_path.iterdir() for line in path.read_text().splitlines()]
    assert len(lines) > 40
    assert all(line.startswith("{") and line.endswith("}") for line in lines)


def test_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = AuditLog(tmp_path)
    audit.append(record(1))
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:10]))
        with pytest.raises(OSError, match="full"):
            audit.append(record(2))
    audit.append(record(3))
    assert [each.time_ms for each in audit.read_newest()] == [3, 1]


def test_pipe_in_place_of_the_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / SENT_FILE, 0o600)
    with pytest.raises(OSError):  # noqa: PT011 - ENXIO without a reader, else the type of the file
        AuditLog(tmp_path).check()
