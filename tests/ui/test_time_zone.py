"""The time zone of the server: from TZ, from the link /etc/localtime, from /etc/timezone, or as a distance."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from dashtop.ui.time_zone import find_server_zone

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.delenv("TZ", raising=False)
    zones = tmp_path / "usr/share/zoneinfo"
    for name in ("Europe/Berlin", "Asia/Kolkata", "UTC"):
        (zones / name).parent.mkdir(parents=True, exist_ok=True)
        (zones / name).touch()
    (tmp_path / "etc").mkdir()
    yield tmp_path
    monkeypatch.undo()
    time.tzset()


def test_the_variable_is_first_then_the_link_then_the_name_in_a_file(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "etc/timezone").write_text("UTC\n")
    assert find_server_zone(root) == "UTC"
    (root / "etc/localtime").symlink_to(root / "usr/share/zoneinfo/Europe/Berlin")
    assert find_server_zone(root) == "Europe/Berlin"
    monkeypatch.setenv("TZ", ":Asia/Kolkata")
    assert find_server_zone(root) == "Asia/Kolkata"


@pytest.mark.parametrize(("rule", "shown"), [("XXX-2", "+02:00"), ("XXX+3:30", "-03:30"), ("XXX0", "UTC")])
def test_a_zone_without_a_name_is_a_distance_from_utc(
    rule: str, shown: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", rule)
    time.tzset()
    assert find_server_zone(root) == shown


@pytest.mark.parametrize("name", ["../../etc/passwd", "Mars/Phobos", "Europe/Berlin\n<b>", "\xff"])
def test_only_names_of_the_zone_database_count(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "etc/timezone").write_bytes(name.encode("latin-1"))
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.delenv("TZ")
    assert find_server_zone(root) == "UTC"
