"""Which runs are running, lost or ended, and which processes and GPUs belong to them."""

from __future__ import annotations

import sqlite3
import threading
from typing import TYPE_CHECKING

import pytest

from dashtop.history import runs as store_module
from dashtop.history.read_pool import ReadPool
from dashtop.history.runs import FILE, RunStore
from dashtop.model.errors import RunsError
from dashtop.model.run import FOREIGN, MAX_MARKS, NO_PID, SILENCE_MS, RunMark, RunStatus
from dashtop.model.timerange import DAY_MS
from dashtop.runs import service as service_module
from dashtop.runs.report import TOO_SHORT
from tests.builders import NOON_MS, make_gpu, make_sample
from tests.runs.builders import STARTED_MS, make_process, make_run, make_world

if TYPE_CHECKING:
    from pathlib import Path


def test_gpus_are_those_of_the_process_tree() -> None:
    world = make_world()
    world.tree.started = {100: STARTED_MS, 101: STARTED_MS, 102: STARTED_MS, 200: STARTED_MS}
    world.tree.parents = {101: 100, 102: 101}
    world.service.add(make_run(pid=100, started_ms=STARTED_MS + 300))
    gpus = (
        make_gpu(0, processes=(make_process(102), make_process(200))),
        make_gpu(1, processes=(make_process(200),)),
        make_gpu(2, processes=(make_process(101),)),
    )
    world.latest.sample = make_sample(gpus=gpus)
    world.service.follow()
    run = world.get()
    assert (run.is_local, run.user) == (True, "ada")
    assert run.gpus == (gpus[0].device.uuid, gpus[2].device.uuid)
    assert run.processes == ((102, STARTED_MS), (101, STARTED_MS))
    world.tree.parents = {}  # the middle process has ended; its child still belongs to the run
    world.latest.sample = make_sample(gpus=(make_gpu(1, processes=(make_process(102),)),))
    world.service.follow()
    assert world.get().gpus == (gpus[0].device.uuid, gpus[2].device.uuid, gpus[1].device.uuid)


def test_a_process_that_is_another_one_here_is_not_known() -> None:
    world = make_world()
    world.tree.started = {7: STARTED_MS - 3_600_000}
    world.latest.sample = make_sample(gpus=(make_gpu(processes=(make_process(7),)),))
    world.service.add(make_run(pid=7, started_ms=STARTED_MS, user="in a container"))
    world.service.follow()
    run = world.get()
    assert (run.is_local, run.gpus, run.user) == (False, (), "in a container")
    assert run.to_json()["gpu_uuids"] is None
    report = world.service.report(run)
    assert report["gpus"] is None
    assert "container" in report["unavailable"]["gpus"]


def test_a_process_that_ended_before_the_run_was_reported() -> None:
    world = make_world()
    world.latest.sample = make_sample(gpus=(make_gpu(0),))
    boot_id = "0b7e6a3a-5c1f-4f9a-9f6e-2f1f3f0f7a11"
    for number, begin_ms in ((1, NOON_MS), (2, NOON_MS - 3_600_000)):
        world.service.add(make_run(number, pid=100, started_ms=STARTED_MS, begin_ms=begin_ms), boot_id)
    world.service.add(make_run(3, pid=None))
    reasons = []
    for number in (1, 2, 3):
        run = world.service.update(f"0000000{number}", RunStatus.FINISHED, NOON_MS + 10)
        assert run is not None
        reasons.append(world.service.report(run)["unavailable"]["gpus"])
    assert reasons == [TOO_SHORT, FOREIGN, NO_PID]


def test_a_run_is_lost_when_its_process_is_gone() -> None:
    world = make_world()
    world.tree.started = {100: STARTED_MS}
    world.service.add(make_run(pid=100, started_ms=STARTED_MS))
    world.service.follow()
    assert world.get().status is RunStatus.RUNNING
    world.tree.started = {100: STARTED_MS + 10_000}  # another process has the pid
    world.clock.advance(4)
    world.service.follow()
    assert (world.get().status, world.get().end_ms) == (RunStatus.LOST, NOON_MS + 4_000)
    ended = world.service.update("00000001", RunStatus.FINISHED, NOON_MS + 3_000)  # it said so after all
    assert ended is not None
    assert (ended.status, ended.end_ms) == (RunStatus.FINISHED, NOON_MS + 3_000)


def test_a_run_that_ends_while_its_process_is_looked_at_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    world.tree.started = {100: STARTED_MS}
    world.service.add(make_run(pid=100, started_ms=STARTED_MS))

    def end(_pid: int) -> None:
        world.service.update("00000001", RunStatus.FINISHED, None)

    monkeypatch.setattr(world.tree, "start_ms", end)
    world.service.follow()
    assert world.get().status is RunStatus.FINISHED


def test_a_silent_run_is_lost_and_goes_on_with_the_next_heartbeat() -> None:
    world = make_world()
    world.service.add(make_run())
    world.clock.advance(SILENCE_MS / 1000)
    world.service.follow()
    assert world.get().status is RunStatus.RUNNING
    world.clock.advance(1)
    world.service.follow()
    assert (world.get().status, world.get().end_ms) == (RunStatus.LOST, NOON_MS)
    assert [run.status for run in world.service.recent()] == [RunStatus.LOST]
    world.service.update("00000001", None, None)
    assert (world.get().status, world.get().end_ms) == (RunStatus.RUNNING, None)
    world.service.update("00000001", RunStatus.FAILED, None)
    world.service.update("00000001", None, None)  # a heartbeat that comes late
    assert world.get().status is RunStatus.FAILED


def test_only_the_process_that_writes_the_history_ends_runs() -> None:
    world = make_world()
    world.is_writer = False
    world.service.add(make_run())
    world.clock.advance(10 * SILENCE_MS / 1000)
    world.service.follow()
    assert world.get().status is RunStatus.RUNNING


def test_processes_share_runs(tmp_path: Path) -> None:
    first, second = make_world(tmp_path), make_world(tmp_path)
    first.service.add(make_run())
    second.service.follow()
    assert [run.name for run in second.service.recent()] == ["run 1"]
    second.service.add_marks("00000001", [RunMark(NOON_MS, "epoch 1")])
    assert first.service.marks("00000001", 10) == (RunMark(NOON_MS, "epoch 1"),)
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0
    assert make_world(tmp_path).service.add(make_run(name="again")) == second.get()


def test_a_final_report_is_stored_once_the_history_is_complete() -> None:
    world = make_world()
    world.service.add(make_run())
    world.service.update("00000001", RunStatus.FINISHED, None)
    world.service.follow()
    assert not world.get().has_report
    assert not world.service.report(world.get())["is_final"]
    world.clock.advance(21)
    world.service.follow()
    assert world.get().has_report
    assert world.service.report(world.get())["is_final"]


# --- limits and faults ------------------------------------------------------------------------------------------------


def test_sums_of_a_run_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    world.tree.started = {100: STARTED_MS}
    world.latest.sample = make_sample(gpus=(make_gpu(0, processes=(make_process(100),)),))
    sums = iter((1.0, 2.0))
    monkeypatch.setattr(
        service_module,
        "summarize",
        lambda _report: {"energy_wh": next(sums), "energy_kind": "counter", "peak_bytes": 7},
    )
    monkeypatch.setattr(service_module, "MAX_SUMMARY_SHARE", 1e9)
    world.service.add(make_run(pid=100, started_ms=STARTED_MS))
    world.service.follow()

    def read() -> tuple[float | None, int | None]:
        (run,) = world.service.recent()
        return run.energy_wh, run.peak_bytes

    assert read() == (1.0, 7)
    world.clock.advance(29)
    world.service.update("00000001", None, None)
    assert read() == (1.0, 7), "a heartbeat does not hide them"
    world.service.follow()
    assert read() == (1.0, 7)
    world.clock.advance(2)
    world.service.follow()
    assert read() == (2.0, 7)
    monkeypatch.undo()
    world.service.update("00000001", RunStatus.FINISHED, None)
    world.clock.advance(30)
    world.service.follow()
    world.service.follow()
    assert world.service.recent()[0].has_report
    assert read() == (None, None), "the report has no readings here"


def test_a_run_keeps_10_000_marks() -> None:
    world = make_world()
    world.service.add(make_run())
    for first in range(0, MAX_MARKS + 500, 500):
        world.service.add_marks("00000001", [RunMark(NOON_MS + at, f"step {at}") for at in range(first, first + 500)])
    assert world.get().mark_count == MAX_MARKS
    assert world.service.marks("00000001", 2)[-1] == RunMark(NOON_MS + MAX_MARKS - 1, f"step {MAX_MARKS - 1}")


def test_old_runs_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MAX_RUNS", 3)
    monkeypatch.setattr(store_module, "MAX_RUNNING", 3)
    store = RunStore(None)
    store.add(make_run(1, begin_ms=NOON_MS - 732 * DAY_MS, status=RunStatus.LOST))
    store.add(make_run(2, begin_ms=NOON_MS - DAY_MS))
    assert store.find("00000001") is None
    for number in (3, 4):
        store.add(make_run(number, begin_ms=NOON_MS - number, status=RunStatus.FINISHED, end_ms=NOON_MS))
    assert [run.id for run in store.read_recent(10)] == ["00000003", "00000004", "00000002"]
    store.add(make_run(5))
    assert [run.id for run in store.read_recent(10)] == ["00000005", "00000003", "00000002"]
    store.add(make_run(6))
    assert store.add(make_run(7)) is None


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    (tmp_path / FILE).chmod(0o600)
    store = RunStore(tmp_path)
    with pytest.raises(RunsError, match="not a database"):
        store.add(make_run())
    assert store.add(make_run()) is not None
    assert (tmp_path / f"{FILE}.damaged").read_bytes().startswith(b"no database")


def test_a_file_of_another_version_stays(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / FILE)
    connection.executescript("PRAGMA user_version = 99; CREATE TABLE later (id INTEGER)")
    connection.close()
    with pytest.raises(RunsError, match="another version"):
        RunStore(tmp_path).add(make_run())
    assert sqlite3.connect(tmp_path / FILE).execute("PRAGMA user_version").fetchone() == (99,)


def test_a_hanging_disk_delays_no_request_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world()
    hangs = threading.Event()
    world.service._pool = ReadPool(0.05)
    monkeypatch.setattr(world.service._store, "add", lambda _run: hangs.wait(30))
    try:
        with pytest.raises(RunsError, match="does not answer"):
            world.service.add(make_run())
        with pytest.raises(RunsError, match="does not answer"):
            world.service.find("00000001")
        assert world.service.recent() == ()
    finally:
        hangs.set()
