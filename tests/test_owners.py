"""Files of another user, as after a first start with sudo: the page goes on, and says what it cannot use."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.processes import DASHTOP, environment, running

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOBODY = 65534
CAPABILITIES = "-dac_override,-dac_read_search,-fowner,-chown"
"""Without these, root has no access to the files of other users either."""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a home folder with settings and a history that dashtop wrote."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("giving files to another user needs root and setpriv")
    (tmp_path / ".config" / "dashtop").mkdir(parents=True)
    config = tmp_path / ".config" / "dashtop" / "config.toml"
    config.write_text("interval = 2\n")
    config.chmod(0o600)
    data = tmp_path / ".local" / "share" / "dashtop"
    with running("--no-gpu", env={"DASHTOP_DATA_DIR": str(data / os.uname().nodename)}):
        pass
    return tmp_path


def give_away(folder: Path) -> None:
    """Make everything in a folder another user's, for that user only."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
        path.chmod(0o700 if path.is_dir() else 0o600)


def variables(home: Path) -> dict[str, str]:
    return {"HOME": str(home), "XDG_DATA_HOME": f"{home}/.local/share", "XDG_CONFIG_HOME": f"{home}/.config"}


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*as_other_user(home), *arguments],
        env={**environment(), **variables(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def as_other_user(home: Path) -> list[str]:
    wrapper = home / "dashtop"
    limited = f"--bounding-set={CAPABILITIES} --inh-caps={CAPABILITIES}"
    wrapper.write_text(f'#!/bin/sh\nunset DASHTOP_DATA_DIR\nexec setpriv {limited} {DASHTOP} "$@"\n')
    wrapper.chmod(0o755)
    return [str(wrapper)]


@pytest.mark.parametrize(
    "find_folder",
    [lambda home: home / ".config", lambda home: home / ".config" / "dashtop" / "config.toml"],
    ids=["folder", "file"],
)
def test_settings_file_of_another_user_is_a_warning(home: Path, find_folder: Callable[[Path], Path]) -> None:
    give_away(find_folder(home))
    done = run(home, "snapshot", "--no-gpu")
    assert done.returncode == 0
    assert done.stderr.count("is not used: it cannot be read (Permission denied).") == 1


@pytest.mark.parametrize("folder", [".local", ".local/share/dashtop"])
def test_history_of_another_user_is_left_alone_and_the_page_goes_on(home: Path, folder: str) -> None:
    give_away(home / folder)
    report = run(home, "doctor", "--no-gpu")
    assert report.returncode == 1
    assert "is not writable: the history would be kept in memory only" in " ".join(report.stdout.split())
    assert report.stderr == ""

    (command,) = as_other_user(home)
    with running("--no-gpu", command=home / command, env=variables(home)) as server:
        _, ready = server.status("/readyz")
        assert "kept in memory only" in ready["detail"]
        assert server.json("/api/v1/system/history?range=1m&metrics=system.cpu.usage_percent")["timestamps"]
