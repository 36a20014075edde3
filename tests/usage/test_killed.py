"""A real server that ends: all but the last minute of the usage is stored if it is killed, all if it is stopped."""

from __future__ import annotations

import getpass
import json
import os
import signal
import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from dashtop.cli import main
from dashtop.history.sqlite import FILE
from dashtop.model.usage import BUCKET_MS
from tests.processes import eventually, running

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fake_nvml import World
    from tests.fake_nvml.fixtures import WorldFactory

MAX_LOST_S = 60.0


def read_stored_s(folder: Path) -> float:
    """Return the seconds of held time in the file."""
    with closing(sqlite3.connect(f"{(folder / FILE).as_uri()}?mode=ro", uri=True)) as file:
        (held_ms,) = file.execute(
            f"SELECT coalesce(sum(held_ms), 0) FROM usage WHERE width_ms = {BUCKET_MS}"
        ).fetchone()
    return float(held_ms) / 1000


def run_until_stored(folder: Path, env: dict[str, str], stored_s: float) -> float:
    """Run dashtop until it has stored more held time, and kill it; return how long it ran."""
    with running(env=env) as dashtop:
        began_s = time.monotonic()
        eventually(lambda: read_stored_s(folder) > stored_s, MAX_LOST_S, every_s=0.2)
        dashtop.stop(signal.SIGKILL)
        return time.monotonic() - began_s


def set_holder(world: World) -> None:
    """Let this process be the only one that holds a GPU."""
    for index in range(8):
        world.gpu(index)["processes"] = []
    world.gpu(0)["processes"] = [{"pid": os.getpid(), "used_memory": 2**30, "type": "C"}]


def test_stopped_dashtop_has_stored_all(nvml_world: WorldFactory, tmp_path: Path) -> None:
    world = nvml_world("h100x8")
    set_holder(world)
    folder = tmp_path / "data"
    with running("--interval", "0.5", env={**world.save().env(), "DASHTOP_DATA_DIR": str(folder)}) as dashtop:

        def read_held_s() -> float:
            lines = dashtop.get("metrics").decode().splitlines()
            return sum(float(line.split()[-1]) for line in lines if line.startswith("dashtop_user_gpu_seconds_total{"))

        eventually(lambda: read_held_s() > 1.5)
        held_s = read_held_s()
        assert read_stored_s(folder) == 0, "the period is not over"
        assert dashtop.stop() == 0
    assert held_s - 0.01 < read_stored_s(folder) < held_s + 5, "in whole milliseconds"


@pytest.mark.long
def test_killed_dashtop_has_stored_all_but_a_minute(
    nvml_world: WorldFactory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = nvml_world("h100x8")
    set_holder(world)
    folder = tmp_path / "data"
    env = {**world.save().env(), "DASHTOP_DATA_DIR": str(folder)}
    ran_s = run_until_stored(folder, env, 0.0)
    first_s = read_stored_s(folder)
    assert ran_s - MAX_LOST_S < first_s < ran_s + 5
    ran_s += run_until_stored(folder, env, first_s)
    assert ran_s - 2 * MAX_LOST_S < read_stored_s(folder) < ran_s + 10, "nothing is counted twice"
    main(["usage", "--data-dir", str(folder), "--range", "1h", "--format", "json"])
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["key"], row["processes"], len(row["gpus"])) == (getpass.getuser(), 1, 1)
    assert row["held_h"] * 3600 == pytest.approx(read_stored_s(folder), abs=1)
    assert row["energy_kind"] is not None
