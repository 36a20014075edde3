"""Exports: what is in the file is what was kept, in any format, a piece at a time, and safe to open."""

from __future__ import annotations

import csv
import io
import json
import sys
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dashtop.cli import main
from dashtop.export.formats import FORMATS, harmless
from dashtop.export.request import FORMAT_NAMES
from dashtop.export.table import Table
from dashtop.model.sample import SeriesKey
from tests.builders import NOON_MS, make_device, make_gpu, make_history, make_sample, wait_until_written
from tests.ui.worlds import Recorded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dashtop.history.store import HistoryStore

CPU = SeriesKey("system.cpu.usage_percent")
HEAT = SeriesKey("gpu.temperature", make_device().uuid)
SECONDS = (0, 1, 2, 7, 8)


@pytest.fixture
def history() -> Iterator[HistoryStore]:
    """Five seconds, with a gap of four after the third; the GPU is not read in the last."""
    kept = make_history()
    for second in SECONDS:
        gpus = () if second == 8 else (make_gpu(values={HEAT.metric: 40 + second}),)
        kept.append(make_sample(second, host={CPU.metric: second + 0.25}, gpus=gpus))
    wait_until_written(kept)
    yield kept
    kept.close()


def table(history: HistoryStore, *keys: SeriesKey, step_ms: int = 1000) -> Table:
    return Table(history, keys or (CPU, HEAT), start_ms=NOON_MS, end_ms=NOON_MS + 9000, step_ms=step_ms)


def written(table: Table, name: str) -> bytes:
    return b"".join(FORMATS[name].write(table))


def test_csv_has_units_in_its_header_and_a_row_for_each_bucket_with_a_reading(history: HistoryStore) -> None:
    header, *rows = csv.reader(io.StringIO(written(table(history), "csv").decode(), newline=""))
    assert header[0] == "time (UTC)"
    assert header[1:4] == [f"system.cpu.usage_percent {each} (%)" for each in ("mean", "min", "max")]
    assert header[4] == f"gpu.temperature mean (°C) {HEAT.gpu_uuid}"
    assert [row[0] for row in rows] == [f"2027-01-15T08:00:0{second}Z" for second in SECONDS]
    assert rows[3][1:] == ["7.25"] * 3 + ["47.0"] * 3
    assert rows[4][1:] == ["8.25"] * 3 + [""] * 3


def test_json_says_the_same(history: HistoryStore) -> None:
    body = json.loads(written(table(history, step_ms=3000), "json"))
    assert body["step_ms"] == 3000
    assert body["columns"][3] == {
        "metric": "gpu.temperature",
        "statistic": "mean",
        "unit": "°C",
        "gpu_uuid": HEAT.gpu_uuid,
    }
    assert body["rows"] == [
        [NOON_MS, 1.25, 0.25, 2.25, 41.0, 40.0, 42.0],
        [NOON_MS + 6000, 7.75, 7.25, 8.25, 47.0, 47.0, 47.0],
    ]


def test_parquet_says_the_same(history: HistoryStore) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    read = parquet.read_table(io.BytesIO(written(table(history), "parquet")))
    assert str(read.schema.field(0).type) == "timestamp[ms, tz=UTC]"
    assert read.schema.field(4).metadata[b"unit"].decode() == "°C"
    assert read.column(1).to_pylist() == [second + 0.25 for second in SECONDS]
    assert read.column(4).to_pylist() == [40.0, 41.0, 42.0, 47.0, None]


def test_without_pyarrow_parquet_says_what_to_install(history: HistoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    from dashtop.model.errors import ExportError

    with pytest.raises(ExportError, match="pip install"):
        written(table(history), "parquet")


def test_every_format_of_the_command_is_one() -> None:
    assert set(FORMAT_NAMES) == set(FORMATS)


@pytest.mark.parametrize("name", ["csv", "json"])
def test_an_empty_stretch_is_a_whole_file_without_rows(name: str) -> None:
    empty = make_history()
    text = written(table(empty), name).decode()
    empty.close()
    assert (
        len(list(csv.reader(io.StringIO(text, newline="")))) == 1 if name == "csv" else json.loads(text)["rows"] == []
    )


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_no_cell_is_taken_for_a_formula(start: str) -> None:
    assert harmless(f"{start}cmd|' /C calc'!A1").startswith("'")
    hostile = make_history()
    key = SeriesKey(f"{start}HYPERLINK()", None)
    (header,) = csv.reader(io.StringIO(written(table(hostile, key), "csv").decode(), newline=""))
    hostile.close()
    assert len(header) > 1
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in header)


def test_an_export_takes_no_more_memory_where_it_is_longer() -> None:
    keys = [SeriesKey(f"gpu.{number}", "GPU") for number in range(60)]

    def peak(seconds: int) -> int:
        recorded = Recorded(NOON_MS, NOON_MS + seconds * 1000)
        long = Table(recorded, keys, start_ms=NOON_MS, end_ms=NOON_MS + seconds * 1000, step_ms=1000)
        tracemalloc.start()
        rows = sum(piece.count(b"\n") for piece in FORMATS["csv"].write(long))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert rows == seconds + 1
        return most

    assert peak(12_000) < 1.2 * peak(3_000)


def test_parquet_puts_rows_into_few_groups_each_of_which_it_remembers_to_the_end() -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    keys = [SeriesKey(f"gpu.{number}", "GPU") for number in range(60)]
    recorded = Recorded(NOON_MS, NOON_MS + 40_000 * 1000)
    long = Table(recorded, keys, start_ms=NOON_MS, end_ms=NOON_MS + 40_000 * 1000, step_ms=1000)
    told = parquet.ParquetFile(io.BytesIO(written(long, "parquet")))
    assert (told.metadata.num_rows, told.num_row_groups) == (40_000, 2)
    rows = told.read()
    times = np.array([time.timestamp() * 1000 for time in rows.column("time").to_pylist()])
    np.testing.assert_array_equal(times, NOON_MS + 1000 * np.arange(40_000))
    assert rows.column("gpu.7 mean GPU").null_count == 0


def test_a_table_left_in_the_middle_asks_no_further() -> None:
    recorded = Recorded(NOON_MS, NOON_MS + 10**8)
    pieces = FORMATS["csv"].write(Table(recorded, [CPU], start_ms=NOON_MS, end_ms=NOON_MS + 99_999_000, step_ms=1000))
    assert next(pieces)
    assert next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert recorded.queries == 1


def test_the_command_writes_a_file_without_a_server(tmp_path: Path) -> None:
    kept = make_history(tmp_path / "data")
    for second in range(20):
        kept.append(make_sample(second, host={CPU.metric: second}))
    wait_until_written(kept)
    kept.close()
    output = tmp_path / "cpu.json"
    main(
        ["export", "--data-dir", str(tmp_path / "data"), "--start", "2027-01-15T08:00:00Z", "--end",
         "2027-01-15T08:00:20Z", "--step", "1", "--metrics", CPU.metric, "--format", "json", "-o", str(output)]
    )  # fmt: skip
    rows = json.loads(output.read_text())["rows"]
    np.testing.assert_array_equal([row[1] for row in rows], np.arange(20))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["export"], 1, "There is no history"),
        (["export", "--end", "2027-01-15"], 1, "There is no history"),
        (["export", "--metrics", "gpu.nonsense"], 2, "there is no metric 'gpu.nonsense'"),
        (["export", "--start", "yesterday"], 2, "invalid time value"),
        (["export", "--step", "0"], 2, "invalid seconds value"),
        (["snapshot", "--range", "1h"], 2, "unrecognized arguments: --range"),
    ],
)
def test_what_cannot_be_exported_is_a_sentence(
    arguments: list[str], status: int, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--data-dir", str(tmp_path)])
    assert ended.value.code == status
    assert sentence in capsys.readouterr().err
