"""What outlives a restart, is shared between processes, and what a disk that fails does to alerts."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from dashtop.alerts import service as module
from dashtop.alerts.files import ALERTS_FILE, MARKS_FILE, AlertFiles, RunState
from dashtop.alerts.service import AlertService
from dashtop.metrics.xid import xid_event
from dashtop.model.alert import Silence
from tests.builders import NOON_MS, make_gpu, make_sample
from tests.clock import FakeClock
from tests.processes import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FAILED = make_gpu(0, values={"gpu.remapped_rows.failure": 1.0})


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., AlertService]:
    monkeypatch.setattr(module, "FILE_INTERVAL_S", 0.02)

    def start(*, is_writer: bool = True, folder: Path | None = tmp_path, boot_id: str | None = None) -> AlertService:
        clock = FakeClock(now_ms=NOON_MS)
        service = AlertService(folder, clock=clock, is_writer=lambda: is_writer, boot_id=boot_id)
        service.start()
        return service

    return start


def test_active_alert_and_its_acknowledgement_outlive_a_restart(
    start: Callable[..., AlertService], tmp_path: Path
) -> None:
    first = start()
    assert [event.kind for event in first.update(make_sample(1, gpus=(FAILED,)))] == ["alert_firing"]
    (alert,) = first.current()
    assert first.acknowledge(alert.id, "ada") is not None
    first.close()
    assert (tmp_path / ALERTS_FILE).stat().st_mode & 0o077 == 0
    second = start()
    assert second.update(make_sample(9, gpus=(FAILED,))) == (), "it is not reported again"
    (again,) = second.current()
    assert (again.since_ms, again.acked_by) == (alert.since_ms, "ada")
    ended = second.update(make_sample(10, gpus=(make_gpu(0, values={"gpu.remapped_rows.failure": 0.0}),)))
    assert [(event.kind, event.text[:7]) for event in ended] == [("alert_resolved", "Ended: ")]
    second.close()


def test_gpu_that_vanishes_while_dashtop_is_down_is_missing(start: Callable[..., AlertService], tmp_path: Path) -> None:
    first = start()
    first.update(make_sample(1, gpus=(make_gpu(0), make_gpu(1))))
    first.close()
    second = start()
    second.update(make_sample(2, gpus=(make_gpu(0),)))
    (alert,) = second.current()
    assert (alert.rule, alert.gpu_uuid, alert.state.value) == ("gpu_missing", make_gpu(1).device.uuid, "pending")
    second.close()
    (tmp_path / ALERTS_FILE).write_text('{"gpus": [{"uuid": 7, "gpu_id": 0, "label": "", "is_present": true}, 3, {}]}')
    third = start()
    third.update(make_sample(3, gpus=(make_gpu(0),)))
    assert third.current() == (), "what is not a GPU is ignored"
    third.close()


@pytest.mark.parametrize(("boot_id", "left"), [("one", {"xid_hardware"}), ("two", set()), (None, {"xid_hardware"})])
def test_hardware_error_ends_when_the_machine_was_started_anew(
    start: Callable[..., AlertService], boot_id: str | None, left: set[str]
) -> None:
    first, gpu = start(boot_id="one"), make_gpu(0)
    sample = make_sample(1, gpus=(gpu,))
    first.update(replace(sample, events=(xid_event(48, time_ms=sample.time_ms, gpu_uuid=gpu.device.uuid),)))
    first.close()
    second = start(boot_id=boot_id)
    second.update(make_sample(2, gpus=()))
    assert {alert.rule for alert in second.current()} >= {"xid_hardware"}, "unless the GPU can be read, it is not over"
    second.update(make_sample(3, gpus=(gpu,)))
    assert {alert.rule for alert in second.current()} == left
    second.close()


def test_missing_samples_are_an_alert_until_one_arrives() -> None:
    clock = FakeClock(now_ms=NOON_MS)
    service = AlertService(None, clock=clock, is_writer=lambda: True, interval_s=5.0)
    service.start()
    clock.advance(1000.0)
    assert service.current() == (), "before the first sample nothing is missing"
    service.update(make_sample(1))
    clock.advance(50.0)
    assert service.current() == ()
    clock.advance(13.0)
    (alert,) = service.current()
    assert (alert.rule, alert.state.value, alert.text) == ("stale", "firing", "dashtop has had no reading for 63 s.")
    acknowledged = service.acknowledge(alert.id, "ada")
    assert acknowledged is not None
    assert service.current()[0].acked_by == "ada"
    assert [event.kind for event in service.update(make_sample(2))] == ["alert_firing", "alert_resolved"]
    assert service.current() == ()
    service.close()


def test_processes_of_a_folder_share_marks_and_one_keeps_the_alerts(
    start: Callable[..., AlertService], tmp_path: Path
) -> None:
    writer, reader = start(), start(is_writer=False)
    for each in (writer, reader):
        each.update(make_sample(1, gpus=(FAILED,)))
    alert = reader.current()[0]
    reader.acknowledge(alert.id, "ada")
    silence = Silence(id="", rule="*", gpu_uuid=None, user=None, from_ms=0, until_ms=NOON_MS + 9000, reason="")
    kept = writer.add_silence(silence)
    assert kept is not None

    def shown(by: AlertService) -> bool:
        by.update(make_sample(2, gpus=(FAILED,)))
        now = by.current()[0]
        return (now.acked_by, now.silenced_by) == ("ada", kept.id)

    eventually(lambda: shown(writer), 10)
    eventually(lambda: shown(reader), 10)
    for each in (reader, writer):
        each.close()
    assert len(json.loads((tmp_path / ALERTS_FILE).read_text())["alerts"]) == 1


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"alerts": 5}', '{"alerts": [{}, 7]}', '{"silences": [{"id": []}]}', "\x00"]
)
def test_damaged_files_are_ignored(start: Callable[..., AlertService], tmp_path: Path, content: str) -> None:
    for name in (ALERTS_FILE, MARKS_FILE):
        (tmp_path / name).write_text(content)
    service = start()
    assert len(service.update(make_sample(1, gpus=(FAILED,)))) == 1
    service.close()


def test_planted_files_are_not_used(start: Callable[..., AlertService], tmp_path: Path) -> None:
    first = start()
    first.update(make_sample(1, gpus=(FAILED,)))
    first.close()
    (tmp_path / ALERTS_FILE).chmod(0o666)
    service = start()
    assert len(service.update(make_sample(2, gpus=(FAILED,)))) == 1, "the stored alert does not count"
    service.close()


def test_disk_that_hangs_delays_no_sample_for_long(
    start: Callable[..., AlertService], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "START_TIMEOUT_S", 0.01)
    released = threading.Event()
    monkeypatch.setattr(AlertFiles, "read_state", lambda _self: RunState() if released.wait(20) else None)
    service = start()
    assert len(service.update(make_sample(1, gpus=(FAILED,)))) == 1
    assert service.acknowledge(service.current()[0].id, "ada") is not None
    assert not released.is_set()
    released.set()
    service.close()


def test_disk_that_fails_is_logged_once_and_written_later(
    start: Callable[..., AlertService], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocker = tmp_path / "folder"
    blocker.write_text("")
    service = start(folder=blocker)
    service.update(make_sample(1, gpus=(FAILED,)))
    eventually(lambda: caplog.records, 10)
    blocker.unlink()
    eventually((blocker / ALERTS_FILE).exists, 10)
    service.close()
    assert len(caplog.records) == 1
