"""Exports hold what is stored, in every format and layout, in constant memory, and are safe to open."""

from __future__ import annotations

import csv
import io
import json
import sys
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dashtop.cli import main
from dashtop.export.command import FORMAT_NAMES
from dashtop.export.table import FORMATS, Table, escape_formula
from dashtop.model.errors import ExportError
from dashtop.model.sample import SeriesKey, StoredGpu
from tests.builders import NOON_MS, make_device, make_gpu, make_history, make_sample, wait_until_written
from tests.ui.worlds import Recorded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dashtop.history.store import HistoryStore

CPU = SeriesKey("system.cpu.usage_percent")
TEMPERATURE = SeriesKey("gpu.temperature", make_device().uuid)
GPUS = (StoredGpu(make_device().uuid, 0, "NVIDIA H100"),)
SECONDS = (0, 1, 2, 7, 8)
LAYOUTS = ("wide", "long")


@pytest.fixture
def history() -> Iterator[HistoryStore]:
    """Five samples with a gap of four seconds after the third; the GPU is missing in the last."""
    stored = make_history()
    for second in SECONDS:
        gpus = () if second == 8 else (make_gpu(values={TEMPERATURE.metric: 40 + second}),)
        stored.append(make_sample(second, host={CPU.metric: second + 0.25}, gpus=gpus))
    wait_until_written(stored)
    yield stored
    stored.close()


def make_table(
    history: HistoryStore, *keys: SeriesKey, step_ms: int = 1000, layout: str = "wide", gpus: tuple[StoredGpu, ...] = ()
) -> Table:
    return Table(
        history,
        keys or (CPU, TEMPERATURE),
        start_ms=NOON_MS,
        end_ms=NOON_MS + 9000,
        step_ms=step_ms,
        layout=layout,
        gpus=gpus,
    )


def write(table: Table, name: str) -> bytes:
    return b"".join(FORMATS[name].write(table))


def read_csv(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode(), newline="")))


def test_wide_csv_has_units_in_its_header_and_a_row_per_bucket_with_a_reading(history: HistoryStore) -> None:
    header, *rows = read_csv(write(make_table(history, gpus=GPUS), "csv"))
    assert header[0] == "time (UTC)"
    assert header[1:4] == [f"system.cpu.usage_percent {each} (%)" for each in ("mean", "min", "max")]
    assert header[4] == "gpu.temperature mean (°C) GPU 0"
    assert [row[0] for row in rows] == [f"2027-01-15T08:00:0{second}Z" for second in SECONDS]
    assert rows[3][1:] == ["7.25"] * 3 + ["47.0"] * 3
    assert rows[4][1:] == ["8.25"] * 3 + [""] * 3


def test_gpu_without_an_index_is_named_by_its_uuid(history: HistoryStore) -> None:
    header, *_ = read_csv(write(make_table(history), "csv"))
    assert header[4] == f"gpu.temperature mean (°C) {TEMPERATURE.gpu_uuid}"


def test_wide_json_has_the_same_content(history: HistoryStore) -> None:
    body = json.loads(write(make_table(history, step_ms=3000, gpus=GPUS), "json"))
    assert body["step_ms"] == 3000
    assert body["columns"][3] == {
        "metric": "gpu.temperature",
        "statistic": "mean",
        "unit": "°C",
        "gpu": 0,
        "gpu_name": "NVIDIA H100",
        "gpu_uuid": TEMPERATURE.gpu_uuid,
    }
    assert body["rows"] == [
        [NOON_MS, 1.25, 0.25, 2.25, 41.0, 40.0, 42.0],
        [NOON_MS + 6000, 7.75, 7.25, 8.25, 47.0, 47.0, 47.0],
    ]


def test_wide_parquet_has_the_same_content(history: HistoryStore) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    content = parquet.read_table(io.BytesIO(write(make_table(history, gpus=GPUS), "parquet")))
    assert (content.schema.names[0], str(content.schema.field(0).type)) == ("time", "timestamp[ms, tz=UTC]")
    assert content.schema.field(4).metadata[b"unit"].decode() == "°C"
    assert content.column(1).to_pylist() == [second + 0.25 for second in SECONDS]
    assert content.column(4).to_pylist() == [40.0, 41.0, 42.0, 47.0, None]


LONG_HEADER = ["time", "gpu", "gpu_name", "metric", "mean", "min", "max"]
LONG_ROWS: list[list[Any]] = [
    [NOON_MS, None, None, CPU.metric, 1.25, 0.25, 2.25],
    [NOON_MS, 0, "NVIDIA H100", TEMPERATURE.metric, 41.0, 40.0, 42.0],
    [NOON_MS + 6000, None, None, CPU.metric, 7.75, 7.25, 8.25],
    [NOON_MS + 6000, 0, "NVIDIA H100", TEMPERATURE.metric, 47.0, 47.0, 47.0],
]


def test_long_layout_has_a_row_per_series_in_every_format(history: HistoryStore) -> None:
    table = make_table(history, step_ms=3000, layout="long", gpus=GPUS)
    body = json.loads(write(table, "json"))
    assert (body["step_ms"], body["columns"], body["rows"]) == (3000, LONG_HEADER, LONG_ROWS)

    header, *rows = read_csv(write(table, "csv"))
    times = ["2027-01-15T08:00:00Z", "2027-01-15T08:00:00Z", "2027-01-15T08:00:06Z", "2027-01-15T08:00:06Z"]
    assert header == LONG_HEADER
    assert rows == [
        [time, *("" if cell is None else str(cell) for cell in row[1:])]
        for time, row in zip(times, LONG_ROWS, strict=True)
    ]

    parquet = pytest.importorskip("pyarrow.parquet")
    content = parquet.read_table(io.BytesIO(write(table, "parquet")))
    assert content.schema.names == LONG_HEADER
    assert [str(kind) for kind in content.schema.types] == [
        "timestamp[ms, tz=UTC]", "int32", "string", "string", "double", "double", "double",
    ]  # fmt: skip
    assert [list(row.values())[1:] for row in content.to_pylist()] == [row[1:] for row in LONG_ROWS]
    assert [row["time"].timestamp() * 1000 for row in content.to_pylist()] == [row[0] for row in LONG_ROWS]


def test_long_layout_leaves_out_a_series_without_a_reading(history: HistoryStore) -> None:
    body = json.loads(write(make_table(history, layout="long", gpus=GPUS), "json"))
    assert [row[3] for row in body["rows"] if row[0] == NOON_MS + 8000] == [CPU.metric]


def test_parquet_without_pyarrow_names_the_extra(history: HistoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ExportError, match=r"pip install 'dashtop\[parquet\]'"):
        write(make_table(history), "parquet")


def test_command_offers_every_format() -> None:
    assert set(FORMAT_NAMES) == set(FORMATS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_time_range_without_data_gives_a_complete_file_without_rows(layout: str) -> None:
    empty = make_history()
    table = make_table(empty, layout=layout)
    assert len(read_csv(write(table, "csv"))) == 1
    assert json.loads(write(table, "json"))["rows"] == []
    parquet = pytest.importorskip("pyarrow.parquet")
    assert parquet.read_table(io.BytesIO(write(table, "parquet"))).num_rows == 0
    empty.close()


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_cell_begins_like_a_formula(start: str, layout: str, history: HistoryStore) -> None:
    assert escape_formula(f"{start}cmd|' /C calc'!A1") == f"'{start}cmd|' /C calc'!A1"
    hostile = StoredGpu(make_device().uuid, 0, f"{start}HYPERLINK()")
    keys = (TEMPERATURE, SeriesKey(f"{start}HYPERLINK()"))
    rows = read_csv(write(make_table(history, *keys, layout=layout, gpus=(hostile,)), "csv"))
    assert len(rows) > 1
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows for cell in row)


@pytest.mark.long
@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_does_not_grow_with_the_length_of_an_export(layout: str) -> None:
    keys = [SeriesKey(f"gpu.{number}", "GPU") for number in range(60)]

    def measure_peak(seconds: int) -> int:
        end_ms = NOON_MS + seconds * 1000
        recorded = Recorded(NOON_MS, end_ms)
        table = Table(recorded, keys, start_ms=NOON_MS, end_ms=end_ms, step_ms=1000, layout=layout)
        tracemalloc.start()
        rows = sum(chunk.count(b"\n") for chunk in FORMATS["csv"].write(table))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert rows == 1 + seconds * (len(keys) if layout == "long" else 1)
        return peak

    assert measure_peak(9_000) < 1.2 * measure_peak(3_000)


def test_parquet_has_few_row_groups() -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    keys = [SeriesKey(f"gpu.{number}", "GPU") for number in range(60)]
    end_ms = NOON_MS + 40_000 * 1000
    table = Table(Recorded(NOON_MS, end_ms), keys, start_ms=NOON_MS, end_ms=end_ms, step_ms=1000)
    file = parquet.ParquetFile(io.BytesIO(write(table, "parquet")))
    assert (file.metadata.num_rows, file.num_row_groups) == (40_000, 2)
    rows = file.read()
    times = np.array([time.timestamp() * 1000 for time in rows.column("time").to_pylist()])
    np.testing.assert_array_equal(times, NOON_MS + 1000 * np.arange(40_000))
    assert rows.column("gpu.7 mean GPU").null_count == 0


def test_abandoned_export_stops_reading() -> None:
    recorded = Recorded(NOON_MS, NOON_MS + 10**8)
    table = Table(recorded, [CPU], start_ms=NOON_MS, end_ms=NOON_MS + 99_999_000, step_ms=1000)
    chunks = FORMATS["csv"].write(table)
    assert next(chunks)
    assert next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    assert recorded.queries == 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data folder with 20 seconds of three equal GPUs, whose UUIDs are not in the order of their indices."""
    stored = make_history(tmp_path / "data")
    for second in range(20):
        gpus = tuple(
            make_gpu(device=make_device(index, uuid=f"GPU-{letter}"), values={TEMPERATURE.metric: 40 + index})
            for index, letter in enumerate("cab")
        )
        stored.append(make_sample(second, host={CPU.metric: second}, gpus=gpus))
    wait_until_written(stored)
    stored.close()
    return tmp_path / "data"


INTERVAL = ("--start", "2027-01-15T08:00:00Z", "--end", "2027-01-15T08:00:20Z", "--step", "1")


def export(folder: Path, *arguments: str) -> bytes:
    output = folder.parent / "output"
    main(["export", "--data-dir", str(folder), "-o", str(output), *arguments])
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []
    return output.read_bytes()


def test_command_writes_a_file_without_a_server(folder: Path) -> None:
    body = json.loads(export(folder, *INTERVAL, "--metrics", CPU.metric, "--format", "json"))
    np.testing.assert_array_equal([row[1] for row in body["rows"]], np.arange(20))


def test_columns_of_equal_gpus_are_in_the_order_of_their_index(folder: Path) -> None:
    header, first, *_ = read_csv(export(folder, *INTERVAL, "--metrics", f"{CPU.metric},{TEMPERATURE.metric}"))
    assert header[1::3] == [
        "system.cpu.usage_percent mean (%)", *(f"gpu.temperature mean (°C) GPU {index}" for index in range(3)),
    ]  # fmt: skip
    assert first[1::3] == ["0.0", "40.0", "41.0", "42.0"]


@pytest.mark.parametrize(
    ("wanted", "indices"),
    [("1", [1]), ("2,0", [0, 2]), ("GPU-b", [2]), ("0,GPU-a,0", [0, 1]), ("all", [0, 1, 2]), (None, [0, 1, 2])],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_command_exports_the_selected_gpus_and_the_host(
    folder: Path, layout: str, wanted: str | None, indices: list[int]
) -> None:
    selection = () if wanted is None else ("--gpu", wanted)
    body = json.loads(export(folder, *INTERVAL, *selection, "--format", "json", "--layout", layout))
    if layout == "wide":
        found = [(column["metric"], column["gpu"]) for column in body["columns"] if column["statistic"] == "mean"]
    else:
        found = [(row[3], row[1]) for row in body["rows"] if row[0] == NOON_MS]
    # The wide layout also has columns for the metrics that were never read.
    read = [place for place in found if place[0] in {CPU.metric, TEMPERATURE.metric}]
    assert read == [(CPU.metric, None), *((TEMPERATURE.metric, index) for index in indices)]


def test_history_of_unknown_gpus_is_exported_by_uuid(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashtop.history.store.HistoryStore.gpus", lambda _: ())
    body = json.loads(export(folder, *INTERVAL, "--gpu", "GPU-b", "--format", "json", "--metrics", TEMPERATURE.metric))
    assert [(column["gpu_uuid"], column["gpu"]) for column in body["columns"]] == [("GPU-b", None)] * 3


@pytest.mark.parametrize("duration", ["30s", "90m", "2h", "3d", "1w"])
def test_command_exports_any_duration_of_the_demo(duration: str, tmp_path: Path) -> None:
    output = tmp_path / "demo.csv"
    main(["export", "--demo", "2", "--range", duration, "--metrics", TEMPERATURE.metric, "-o", str(output)])
    header, *rows = read_csv(output.read_bytes())
    assert header[1::3] == ["gpu.temperature mean (°C) GPU 0", "gpu.temperature mean (°C) GPU 1"]
    expected = {"30s": 30, "90m": 1080, "2h": 1440, "3d": 2160, "1w": 5040}[duration]
    assert expected - 2 <= len(rows) <= expected
    assert all(cell for row in rows for cell in row)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["export"], 1, "No history is stored there"),
        (["export", "--end", "2027-01-15"], 2, "--end needs --start"),
        (["export", "--start", "2027-01-15", "--end", "2027-01-14"], 2, "--end must be later than --start"),
        (["export", "--metrics", "gpu.nonsense"], 2, "unknown metric 'gpu.nonsense'"),
        (["export", "--start", "yesterday"], 2, "--start: must be a time such as 2026-01-31T14:00, not 'yesterday'"),
        (["export", "--step", "0"], 2, "--step: must be a whole number of at least 1, not '0'"),
        (["export", "--range", "2 hours"], 2, "--range: must be a number with a unit"),
        (["export", "--gpu", "7"], 1, "GPU 7 is not in the history. No GPU is stored."),
        (["export", "--layout", "tall"], 2, "--layout: invalid choice: 'tall'"),
    ],
)
def test_impossible_export_is_one_line(
    arguments: list[str], status: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--data-dir", str(tmp_path)])
    assert ended.value.code == status
    errors = capsys.readouterr().err
    assert message in errors
    assert len(errors.splitlines()) == 1


def test_unknown_gpu_lists_the_stored_ones(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        export(folder, "--gpu", "0,3")
    assert "GPU 3 is not in the history. Stored are 0, 1, 2." in capsys.readouterr().err


def test_file_that_cannot_be_written_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = folder / "missing" / "file.csv"
    with pytest.raises(SystemExit) as ended:
        main(["export", "--data-dir", str(folder), *INTERVAL, "-o", str(missing)])
    assert ended.value.code == 1
    assert f"{missing} cannot be written (No such file or directory)" in capsys.readouterr().err
