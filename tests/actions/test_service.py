"""Signals to processes: a real one reaches the process that is meant and no other, and each refusal is recorded."""

from __future__ import annotations

import errno
import json
import os
import signal
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from dashtop.actions import service as service_module
from dashtop.actions.audit import REFUSED_FILE, SENT_FILE, AuditLog
from dashtop.actions.service import ActionService
from dashtop.model.action import ActionRefusedError, ActionRequest, ActionScope, ActionSignal, Refusal
from dashtop.model.sample import ProcessInfo
from dashtop.sources.host import process_handle
from dashtop.sources.host.process_handle import ProcessFacts, find_pidfd_error, list_ancestors, read_facts
from tests.actions.targets import (
    SLEEP,
    STARTED_MS,
    STUBBORN,
    child,
    has_ended,
    on_gpu,
    orphan,
    sample_of,
    state,
)
from tests.builders import FixedSample, make_gpu
from tests.processes import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dashtop.model.sample import GpuProcess, Sample


class SteppedClock:
    """The clock of the machine, which tests can advance."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now_ms(self) -> int:
        return STARTED_MS + 60_000

    def monotonic(self) -> float:
        from time import monotonic

        return monotonic() + self.ahead_s


class Bench:
    """An ActionService over a sample that tests set."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = SteppedClock()
        self.latest = FixedSample(None)
        self.scope = ActionScope.OWN

    def service(self) -> ActionService:
        return ActionService(self.scope, audit=AuditLog(self.folder), latest=self.latest, clock=self.clock)

    def show(self, *processes: GpuProcess, **options: Any) -> Sample:
        self.latest.sample = sample_of(*processes, **options)
        return self.latest.sample

    def records(self, file: str) -> list[dict[str, Any]]:
        path = self.folder / file
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def expect(self, pid: int, expected: Refusal, service: ActionService | None = None, **changes: Any) -> None:
        """Send a request and check that it is refused, and that the log says so."""
        with pytest.raises(ActionRefusedError) as refused:
            (service or self.service()).send(request(pid, **changes))
        assert refused.value.refusal is expected
        assert "{" not in str(refused.value)
        assert self.records(REFUSED_FILE)[-1]["outcome"] == expected.name.lower()


def request(pid: int, sent: ActionSignal = ActionSignal.TERM, **changes: Any) -> ActionRequest:
    asked = ActionRequest(
        pid=pid,
        started_ms=STARTED_MS,
        gpu_uuid=make_gpu(0).device.uuid[:12],
        signal=sent,
        client="10.0.0.5",
        viewer="ada",
    )
    return replace(asked, **changes)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.fixture(scope="module")
def target() -> Iterator[int]:
    """A process that no refused request ends."""
    with orphan() as pid:
        yield pid
        assert state(pid) == "S", "no refused request reached it"


def test_signal_reaches_the_process_and_only_that(bench: Bench) -> None:
    with ExitStack() as stack:
        meant, other = (stack.enter_context(orphan()) for _ in range(2))
        bench.show(on_gpu(meant), on_gpu(other))
        service = bench.service()
        service.send(request(meant, ActionSignal.STOP))
        eventually(lambda: state(meant) == "T")
        service.send(request(meant, ActionSignal.CONT))
        eventually(lambda: state(meant) == "S")
        service.send(request(meant))
        eventually(lambda: has_ended(meant))
        eventually(lambda: state(other) == "S")
        service.send(request(other, ActionSignal.INT))
        eventually(lambda: has_ended(other))
    sent = bench.records(SENT_FILE)
    assert [(each["pid"], each["signal"], each["outcome"]) for each in sent] == [
        (meant, "STOP", "sent"), (meant, "CONT", "sent"), (meant, "TERM", "sent"), (other, "INT", "sent")
    ]  # fmt: skip
    assert sent[0] == {
        "time_ms": STARTED_MS + 60_000, "client": "10.0.0.5", "viewer": "ada", "pid": meant, "started_ms": STARTED_MS,
        "owner": "ada", "name": "python", "signal": "STOP", "outcome": "sent",
    }  # fmt: skip
    assert bench.records(REFUSED_FILE) == []


def test_kill_needs_a_term_ten_seconds_earlier(bench: Bench) -> None:
    with orphan(STUBBORN) as pid:
        bench.show(on_gpu(pid))
        service = bench.service()
        bench.expect(pid, Refusal.TOO_EARLY_TO_KILL, service, signal=ActionSignal.KILL)
        service.send(request(pid))
        bench.clock.ahead_s = 8.5
        service.send(request(pid))  # a second one does not begin the wait again
        bench.expect(pid, Refusal.WAIT_TO_KILL, service, signal=ActionSignal.KILL)
        assert "in 2 s" in str(ActionRefusedError(Refusal.WAIT_TO_KILL, 2))
        assert state(pid) == "S"
        bench.clock.ahead_s = 10.1
        service.send(request(pid, ActionSignal.KILL))
        eventually(lambda: has_ended(pid))


def test_process_that_has_ended_is_gone(bench: Bench) -> None:
    with child() as process:
        listed = on_gpu(process.pid)
        process.kill()
        eventually(lambda: has_ended(process.pid))
        bench.show(listed)
        bench.expect(process.pid, Refusal.GONE)  # a zombie
        process.wait(10)
    bench.expect(process.pid, Refusal.GONE)


def test_process_that_ends_between_check_and_signal_is_gone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with child() as process:
        bench.show(on_gpu(process.pid))
        monkeypatch.setattr(service_module, "list_ancestors", lambda _pid: [])

        def end(_service: ActionService, _pid: int, _facts: ProcessFacts) -> None:
            process.kill()
            process.wait(10)

        monkeypatch.setattr(ActionService, "_check_allowed", end)
        bench.expect(process.pid, Refusal.GONE)
    assert [each["outcome"] for each in bench.records(SENT_FILE)] == ["sent"], "it is recorded before it is sent"


def test_pid_of_another_process_now(bench: Bench, target: int) -> None:
    listed = on_gpu(target)
    bench.show(listed)
    bench.expect(target, Refusal.OTHER_PROCESS, started_ms=STARTED_MS - 5_000)
    assert listed.start_ticks is not None
    bench.show(replace(listed, start_ticks=listed.start_ticks - 1))  # the sample is of the process before it
    bench.expect(target, Refusal.OTHER_PROCESS)


def test_process_without_gpu_memory(bench: Bench, target: int) -> None:
    bench.show()
    bench.expect(target, Refusal.NO_GPU_MEMORY)
    bench.show(on_gpu(target, gpu_memory_bytes=0))
    bench.expect(target, Refusal.NO_GPU_MEMORY)
    bench.show(on_gpu(target))
    bench.expect(target, Refusal.NO_GPU_MEMORY, gpu_uuid="GPU-99999999")


def test_process_that_cannot_be_identified(bench: Bench, target: int) -> None:
    for info in (ProcessInfo(foreign=True, started_ms=STARTED_MS), ProcessInfo()):
        bench.show(on_gpu(target, info=info))
        bench.expect(target, Refusal.FOREIGN)
    bench.show(on_gpu(target, start_ticks=None))
    bench.expect(target, Refusal.FOREIGN)


def test_process_that_only_draws(bench: Bench, target: int) -> None:
    bench.show(on_gpu(target, kind="G"))
    bench.expect(target, Refusal.GRAPHICS_ONLY)
    sample = bench.show(on_gpu(target, kind="G"))
    computing = make_gpu(1, processes=(on_gpu(target, kind="C+G"),))
    bench.latest.sample = replace(sample, gpus=(*sample.gpus, computing))
    bench.service().send(request(target, ActionSignal.CONT))


def test_dashtop_its_children_and_its_ancestors(bench: Bench) -> None:
    own, parent = os.getpid(), os.getppid()
    assert list_ancestors(own)[0] == parent
    bench.show(on_gpu(own), on_gpu(parent))
    bench.expect(own, Refusal.DASHTOP, signal=ActionSignal.CONT)
    bench.expect(parent, Refusal.ANCESTOR, signal=ActionSignal.CONT)
    with child() as process:  # as the NVML worker
        bench.show(on_gpu(process.pid))
        bench.expect(process.pid, Refusal.DASHTOP)
        assert process.poll() is None


def test_first_process(bench: Bench) -> None:
    bench.show(on_gpu(1))
    bench.expect(1, Refusal.INIT, signal=ActionSignal.CONT)


def test_kernel_thread(bench: Bench, target: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.show(on_gpu(target))
    facts = replace(read_facts(target), is_kernel_thread=True)
    monkeypatch.setattr(process_handle, "read_facts", lambda _pid: facts)
    bench.expect(target, Refusal.KERNEL_THREAD)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
def test_process_of_another_user_needs_all(bench: Bench) -> None:
    with child(f"import os; os.setresuid(65534, 65534, 65534); {SLEEP}") as process:
        bench.show(on_gpu(process.pid))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(service_module, "list_ancestors", lambda _pid: [])  # it is a child of the tests
            bench.expect(process.pid, Refusal.OTHER_USER)
            bench.scope = ActionScope.ALL
            bench.service().send(request(process.pid))
        assert process.wait(10) == -signal.SIGTERM


def test_all_without_root(bench: Bench, target: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.show(on_gpu(target))
    bench.scope = ActionScope.ALL
    service = bench.service()
    service.refuse(request(target), Refusal.NO_TOKEN)
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    with pytest.raises(ActionRefusedError) as refused:
        service.send(request(target))
    assert refused.value.refusal is Refusal.NOT_ROOT


@pytest.mark.parametrize(
    ("error", "expected"),
    [(errno.ENOSYS, Refusal.NO_PIDFD), (errno.EPERM, Refusal.NO_PIDFD), (errno.EINVAL, Refusal.GONE)],
)
def test_no_pidfd_no_signal(
    error: int, expected: Refusal, bench: Bench, target: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_pid: int) -> int:
        raise OSError(error, os.strerror(error))

    bench.show(on_gpu(target))
    assert find_pidfd_error() is None
    monkeypatch.setattr(os, "pidfd_open", fail)
    bench.expect(target, expected)
    assert find_pidfd_error() == expected.text


def test_system_without_pidfd(bench: Bench, target: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.show(on_gpu(target))
    monkeypatch.delattr(os, "pidfd_open")
    bench.expect(target, Refusal.UNSUPPORTED)


def test_signal_that_the_kernel_does_not_permit(bench: Bench, target: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_descriptor: int, _signal: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    bench.show(on_gpu(target))
    monkeypatch.setattr(signal, "pidfd_send_signal", fail)
    bench.expect(target, Refusal.NOT_PERMITTED)


def test_reading_that_is_too_old(bench: Bench, target: int) -> None:
    bench.show(on_gpu(target), age_s=16)
    bench.expect(target, Refusal.STALE)
    bench.latest.interval_s = 60
    bench.service().send(request(target, ActionSignal.CONT))
    bench.latest.sample = None
    bench.expect(target, Refusal.STALE)


def test_off_and_simulated(bench: Bench, target: int) -> None:
    bench.show(on_gpu(target))
    service = ActionService(ActionScope.OFF, audit=None, latest=bench.latest, clock=bench.clock)
    for is_simulated, expected in ((False, Refusal.DISABLED), (True, Refusal.SIMULATED)):
        assert bench.latest.sample is not None
        bench.latest.sample = replace(bench.latest.sample, simulated=is_simulated)
        with pytest.raises(ActionRefusedError) as refused:
            service.send(request(target))
        assert refused.value.refusal is expected
    assert service.records() == []
    assert list(bench.folder.iterdir()) == []


def test_nothing_is_done_if_it_cannot_be_recorded(bench: Bench, target: int) -> None:
    (bench.folder / SENT_FILE).symlink_to(bench.folder / "elsewhere")
    bench.show(on_gpu(target))
    bench.expect(target, Refusal.NOT_RECORDED)
    assert not (bench.folder / "elsewhere").exists()
    (bench.folder / SENT_FILE).unlink()
    (bench.folder / SENT_FILE).touch(0o666)
    (bench.folder / SENT_FILE).chmod(0o666)
    bench.expect(target, Refusal.NOT_RECORDED)


def test_hostile_names_are_one_line_of_the_log(bench: Bench, target: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    hostile = ProcessInfo(name="a\n{}\x1b[31m", username="b\u202ec", started_ms=STARTED_MS)
    bench.show(on_gpu(target, info=hostile))
    asked = request(target, ActionSignal.CONT, viewer="eve\r\nSIGKILL", client="::1\n")
    service = bench.service()
    service.send(asked)
    service.refuse(asked, Refusal.WRONG_TOKEN)
    for file in (SENT_FILE, REFUSED_FILE):
        (record,) = bench.records(file)
        assert all(str(value).isprintable() for value in record.values()), record
    assert all(message.isprintable() for message in caplog.messages)
    assert len(caplog.messages) == 2
    assert [message.startswith("refused: SIG") for message in caplog.messages] == [False, True]
