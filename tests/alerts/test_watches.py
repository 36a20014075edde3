"""Watches and services: when a watch is met, that it is reported once, and that a service may be idle."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from dashtop.alerts.channels import Channel
from dashtop.alerts.delivery import Outbox
from dashtop.alerts.service import AlertService
from dashtop.alerts.watches import Watcher, build_alert
from dashtop.model.alert import Watch, WatchKind
from dashtop.model.metric import GIB
from dashtop.model.sample import PROCESSES, GpuProcess, ProcessInfo
from dashtop.model.unavailable import UnavailableReason
from tests.alerts.receivers import webhook
from tests.builders import NOON_MS, make_gpu, make_sample
from tests.clock import FakeClock
from tests.processes import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dashtop.model.sample import Gpu

ADA = ProcessInfo(name="python", username="ada", started_ms=NOON_MS - 5000)
PROCESS = GpuProcess(pid=4711, kind="C", gpu_memory_bytes=4 * GIB, sm_percent=0.0, info=ADA)
FREE = make_gpu(0, values={"gpu.memory.used_percent": 0.5, "gpu.memory.total_gb": 24.0, "gpu.utilization.gpu": 0.0})
HELD = replace(FREE, processes=(PROCESS,))


def make_watch(kind: WatchKind, **changes: Any) -> Watch:
    watch = Watch(
        id="0a1b2c3d",
        kind=kind,
        subject="GPU 0 (RTX)",
        gpu_uuid=FREE.device.uuid,
        pid=4711,
        started_ms=NOON_MS - 5000,
        channel=None,
        from_ms=NOON_MS,
        until_ms=NOON_MS + 10**9,
    )
    return replace(watch, **changes)


def count_seconds(watch: Watch, gpus: Sequence[tuple[Gpu, ...]]) -> int | None:
    """Return after how many samples, one a second, the watch is met; the last GPUs are repeated."""
    watcher = Watcher()
    for second in range(200):
        sample = make_sample(second, gpus=gpus[min(second, len(gpus) - 1)])
        if watcher.update(sample, [watch]):
            return second
    return None


def count_steps(alerts: AlertService, count: int) -> None:
    """Wait until notices were sent so many times."""
    step, steps = alerts._delivery.step, []

    def note() -> None:
        step()
        steps.append(alerts._list_stored())

    alerts._delivery.step = note  # type: ignore[method-assign]
    eventually(lambda: len([each for each in steps if each]) >= count)


def without_processes(gpu: Gpu) -> Gpu:
    return replace(gpu, processes=(), unavailable={PROCESSES: UnavailableReason.NOT_SUPPORTED})


def test_gpu_is_free_after_a_minute_without_work() -> None:
    watch = make_watch(WatchKind.GPU_FREE)
    assert count_seconds(watch, [(FREE,)]) == 60
    assert count_seconds(watch, [(HELD,)]) is None
    assert count_seconds(watch, [*[(FREE,)] * 30, (HELD,), (FREE,)]) == 91, "a restarted job begins the time anew"
    for use in ({"gpu.memory.used_percent": 40.0}, {"gpu.utilization.gpu": 60.0}):
        used = replace(FREE, values={**FREE.values, **use})
        assert count_seconds(watch, [(used,)]) is None, "use without a process is use too, as on the page"


def test_missing_data_meets_no_watch() -> None:
    for kind in WatchKind:
        watch = make_watch(kind)
        assert count_seconds(watch, [(without_processes(FREE),)]) is None
        assert count_seconds(watch, [()]) is None
        plain = count_seconds(watch, [(FREE,)])
        assert plain is not None
        frozen = [(FREE,), *[(without_processes(FREE),)] * 3, (FREE,)]
        assert count_seconds(watch, frozen) == plain + 3, "the time without data does not count"


def test_process_has_ended_when_no_gpu_shows_it() -> None:
    watch = make_watch(WatchKind.PROCESS_END)
    assert count_seconds(watch, [(HELD,)]) is None
    assert count_seconds(watch, [*[(HELD,)] * 10, (FREE,)]) == 15
    unnamed = replace(FREE, processes=(replace(PROCESS, info=ProcessInfo()),))
    assert count_seconds(watch, [(unnamed,)]) is None
    another = replace(PROCESS, info=replace(ADA, started_ms=NOON_MS + 60_000))
    assert count_seconds(watch, [(replace(FREE, processes=(another,)),)]) == 5, "another process has its pid now"


def test_watch_is_sent_to_its_channel_once_also_over_a_restart(tmp_path: Path) -> None:
    clock = FakeClock(now_ms=NOON_MS)
    with webhook() as hook:
        channels = [
            Channel.model_validate({"name": name, "kind": "json", "url": f"{hook.url}/{name}"}) for name in ("a", "b")
        ]
        for run in range(2):
            alerts = AlertService(tmp_path, clock=clock, is_writer=lambda: True, channels=channels)
            alerts.start()
            if run == 0:
                alerts.add_watch(make_watch(WatchKind.GPU_FREE, channel="b"))
            for second in range(100 * run, 100 * run + 70):
                alerts.update(make_sample(second, gpus=(FREE,)))
            (watch,) = alerts.watches()
            assert watch.met_ms is not None
            if run == 0:
                eventually(lambda: hook.requests)
            else:
                count_steps(alerts, 2)
            alerts.close()
        assert [path for path, _, _ in hook.requests] == ["/hook/b"]
        assert hook.bodies()[0]["alerts"][0]["text"] == "GPU 0 (RTX) has been free for a minute."


def test_what_was_sent_of_a_watch_is_forgotten_with_it() -> None:
    channel = Channel.model_validate({"name": "a", "kind": "json", "url": "http://127.0.0.1:1/"})
    outbox = Outbox(channel)
    alert = build_alert(make_watch(WatchKind.GPU_FREE, channel="a", met_ms=NOON_MS))
    outbox.collect([alert], [], NOON_MS)
    outbox.record(list(outbox.pending), NOON_MS)
    outbox.collect([alert], [], NOON_MS + 10**8)
    assert outbox.pending == []
    assert list(outbox.sent) == [alert.id]
    outbox.collect([], [], NOON_MS)
    assert outbox.sent == {}


@pytest.mark.parametrize("is_service", [False, True])
def test_service_may_be_idle(tmp_path: Path, is_service: bool) -> None:
    alerts = AlertService(tmp_path, clock=FakeClock(now_ms=NOON_MS), is_writer=lambda: True)
    alerts.start()
    if is_service:
        service = alerts.add_service(ADA, "ada")
        assert service is not None
        assert alerts.add_service(replace(ADA, started_ms=1), "bob") == service, "the next one of its kind is known"
    for second in range(3800):
        alerts.update(make_sample(second, gpus=(HELD,)))
    assert [alert.rule for alert in alerts.current() if alert.state.is_active] == ([] if is_service else ["idle_hold"])
    alerts.close()
    again = AlertService(tmp_path, clock=FakeClock(now_ms=NOON_MS), is_writer=lambda: True)
    again.start()
    eventually(again._loaded.is_set)
    assert (again.find_service(ADA) is not None) == is_service
    again.close()
