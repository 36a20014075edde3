"""`dashtop usage`: reads the stored ledger without a server, and that of the demo."""

from __future__ import annotations

import csv
import io
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from dashtop.cli import main
from dashtop.model.sample import GpuProcess, ProcessInfo
from dashtop.usage.ledger import UsageLedger
from tests.builders import make_gpu, make_history, make_sample, wait_until_written

if TYPE_CHECKING:
    from pathlib import Path

ADA = GpuProcess(pid=7, kind="C", gpu_memory_bytes=2**30, info=ProcessInfo(name="train", username="ada", started_ms=5))
VALUES = {"gpu.utilization.gpu": 50.0, "gpu.power.current_watts": 360.0}


def store(folder: Path) -> None:
    """Store the usage of the last half hour."""
    history, ledger = make_history(folder), UsageLedger(interval_s=1.0)
    now_ms = time.time_ns() // 1_000_000
    for second in range(0, 1801, 2):
        gpu = make_gpu(0, values=VALUES, processes=(ADA,))
        sample = make_sample(second, time_ms=now_ms - 1000 * (1801 - second), gpus=(gpu,))
        history.append(replace(sample, usage=ledger.update(sample)))
    wait_until_written(history)
    history.close()


def test_usage_of_a_stored_history(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path)
    arguments = ["usage", "--data-dir", str(tmp_path), "--range", "2h"]
    main(arguments)
    text = capsys.readouterr().out
    assert "% of the window" in text
    assert "Cost" not in text
    main([*arguments, "--by", "process", "--format", "json", "--price-gpu-hour", "2"])
    body = json.loads(capsys.readouterr().out)
    (row,) = body["rows"]
    assert (row["key"], row["user"], row["pid"]) == ("train 7", "ada", 7)
    assert row["held_h"] == pytest.approx(0.5, rel=0.05)
    assert row["cost"] == pytest.approx(2 * row["shared_h"], rel=0.01)
    main([*arguments, "--by", "gpu", "--format", "csv"])
    (cells,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert float(cells["energy_kwh"]) == pytest.approx(0.18, rel=0.05)


def test_usage_of_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    main(["usage", "--demo", "2", "--range", "7d", "--format", "json"])
    body = json.loads(capsys.readouterr().out)
    assert body["coverage"] > 0.98
    assert {row["energy_kind"] for row in body["rows"]} <= {"counter", "integrated", "mixed", "estimated_share"}
    assert 2 * 24 * 7 * 0.8 < sum(row["shared_h"] for row in body["rows"]) <= 2 * 24 * 7.1


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--range", "0d"), "must be a number with a unit"),
        (("--by", "nobody"), "invalid choice"),
        (("--price-kwh", "-1"), "must be a number from 0"),
        ((), "No usage is stored"),
    ],
)
def test_mistakes_are_one_line(
    arguments: tuple[str, ...], word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["usage", "--data-dir", str(tmp_path), *arguments])
    assert exit_.value.code == (1 if not arguments else 2)
    assert word in capsys.readouterr().err
