"""The state machine of alerts, with samples at the times that a test chooses."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from dashtop.alerts.engine import AlertEngine
from dashtop.alerts.rule import Mode, Rule, Scope
from dashtop.alerts.rules import RULES
from dashtop.metrics.xid import xid_event
from dashtop.model.alert import Alert, AlertState
from dashtop.model.metric import Severity
from dashtop.model.sample import Event, Gpu, GpuProcess, Mount, ProcessInfo
from dashtop.model.unavailable import UnavailableReason
from tests.builders import NOON_MS, make_device, make_gpu, make_sample

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

UUID = make_device(0).uuid
HEALTHY: Mapping[str, float | None] = {
    "gpu.utilization.gpu": 97.0,
    "gpu.temperature": 70.0,
    "gpu.temperature_slowdown": 87.0,
    "gpu.temperature_shutdown": 92.0,
    "gpu.memory.used_gb": 20.0,
    "gpu.memory.total_gb": 24.0,
    "gpu.power.max_watts": 450.0,
    "gpu.power.limit_default_watts": 450.0,
    "gpu.clocks.event_reasons": 4.0,
    "gpu.pcie.generation": 4.0,
    "gpu.pcie.max_generation": 4.0,
    "gpu.pcie.width": 16.0,
    "gpu.pcie.max_width": 16.0,
    "gpu.ecc.volatile_uncorrected": 0.0,
    "gpu.remapped_rows.pending": 0.0,
    "gpu.remapped_rows.failure": 0.0,
    "gpu.memory_temperature": 80.0,
    "gpu.memory_temperature_limit": 95.0,
    "gpu.fan_rpm": 1800.0,
    "gpu.fan_speed": 60.0,
    "gpu.recovery_action": 0.0,
    "gpu.nvlink.active": 12.0,
}
PENDING: Mapping[str, float | None] = {"gpu.remapped_rows.pending": 1.0}
UNKNOWN: Mapping[str, float | None] = {"gpu.remapped_rows.pending": None}
TRAINING = GpuProcess(pid=7, kind="C", gpu_memory_bytes=20 * 2**30, sm_percent=90.0, info=ProcessInfo(started_ms=1))


class Machine:
    """A machine that an engine watches: one sample a second."""

    def __init__(self, engine: AlertEngine | None = None, *, start_s: int = 1000) -> None:
        self.engine = engine or AlertEngine(RULES)
        self.second = start_s
        self.changes: list[Alert] = []
        self.acknowledged: dict[str, int] = {}

    def run(
        self,
        seconds: int,
        build: Callable[[], Gpu] | None = None,
        *,
        events: tuple[Event, ...] = (),
        mounts: tuple[Mount, ...] = (),
        host: Mapping[str, float] | None = None,
        error: UnavailableReason | None = None,
        has_gpu: bool = True,
        values: Mapping[str, float | None] | None = None,
    ) -> list[str]:
        """Sample for some seconds; return what changed, as "rule state"."""
        changes: list[Alert] = []
        for _ in range(seconds):
            self.second += 1
            gpu = build() if build is not None else healthy(values)
            sample = make_sample(
                self.second, gpus=(gpu,) if has_gpu and not error else (), mounts=mounts, host=host, error=error
            )
            changes += self.engine.update(dataclasses.replace(sample, events=events), self.acknowledged)
        self.changes += changes
        return [f"{alert.rule} {alert.state.value}" for alert in changes]

    def active(self) -> dict[str, Alert]:
        return {alert.rule: alert for alert in self.engine.alerts() if alert.state.is_active}


def healthy(values: Mapping[str, float | None] | None = None) -> Gpu:
    known = {key: value for key, value in {**HEALTHY, **(values or {})}.items() if value is not None}
    return dataclasses.replace(make_gpu(0, values=known), processes=(TRAINING,))


def lost() -> Gpu:
    return dataclasses.replace(make_gpu(0, values={}), state=UnavailableReason.GPU_LOST, unavailable={}, values={})


def test_full_load_is_no_alert() -> None:
    machine = Machine()
    assert machine.run(4000) == []


@pytest.mark.parametrize(
    ("rule", "bad", "fires_after_s", "good", "clears_after_s"),
    [
        ("gpu_hot", {"gpu.temperature": 85.0}, 300, {"gpu.temperature": 75.0}, 300),
        ("gpu_overheating", {"gpu.temperature": 87.5, "gpu.temperature_slowdown": None}, 30, {}, 300),
        ("hw_thermal", {"gpu.clocks.event_reasons": 0x48}, 300, {}, 600),
        ("power_brake", {"gpu.clocks.event_reasons": 0x80}, 300, {}, 600),
        ("hw_slowdown", {"gpu.clocks.event_reasons": 0x08}, 600, {}, 600),
        ("power_limit_low", {"gpu.power.max_watts": 300.0}, 600, {}, 600),
        ("ecc_uncorrected", {"gpu.ecc.volatile_uncorrected": 2.0}, 1, {}, 1),
        ("remap_pending", {"gpu.remapped_rows.pending": 1.0}, 60, {}, 1),
        ("memory_hot", {"gpu.memory_temperature": 95.0}, 300, {"gpu.memory_temperature": 90.0}, 300),
        ("fan_stopped", {"gpu.fan_rpm": 0.0}, 60, {}, 1),
        ("recovery", {"gpu.recovery_action": 2.0}, 1, {}, 1),
        ("nvlink_down", {"gpu.nvlink.active": 11.0}, 60, {}, 1),
        ("remap_failed", {"gpu.remapped_rows.failure": 1.0}, 1, {}, 1),
        ("pcie_low", {"gpu.pcie.generation": 3.0}, 300, {}, 300),
        ("pcie_low", {"gpu.pcie.width": 8.0}, 300, {}, 300),
    ],
)
def test_rule_fires_after_its_time_and_clears_after_its_own(
    rule: str, bad: dict[str, float | None], fires_after_s: int, good: dict[str, float | None], clears_after_s: int
) -> None:
    machine = Machine()
    machine.run(10)
    early = machine.run(max(1, fires_after_s - 5), values=bad)
    assert f"{rule} firing" not in early or fires_after_s == 1
    machine.run(35, values=bad)
    assert rule in machine.active()
    assert machine.active()[rule].gpu_id == 0
    assert f"{rule} resolved" not in machine.run(max(0, clears_after_s - 5), values=good) or clears_after_s == 1
    machine.run(15, values=good)
    assert rule not in machine.active()


def test_condition_that_ends_before_its_time_fires_nothing() -> None:
    machine = Machine()
    for _ in range(5):
        assert machine.run(55, values=PENDING) == ["remap_pending pending"]
        assert machine.run(5) == ["remap_pending resolved"]
    assert machine.active() == {}


def test_idle_link_and_hot_gpu_without_known_limits_are_no_alert() -> None:
    without_limits = {"gpu.temperature": 110.0, "gpu.temperature_slowdown": None, "gpu.temperature_shutdown": None}
    machine = Machine()
    assert machine.run(1000, values={"gpu.pcie.generation": 1.0, "gpu.utilization.gpu": 3.0}) == []
    assert machine.run(1000, values=without_limits) == []


def test_lost_gpu_freezes_its_other_alerts_and_explains_them() -> None:
    machine = Machine()
    machine.run(100, values=PENDING)
    assert machine.run(9, lost) == ["gpu_lost pending"]
    assert sorted(machine.run(600, lost)) == ["gpu_lost firing", "remap_pending firing"], "the second is inhibited"
    active = machine.active()
    assert active["remap_pending"].inhibited_by == active["gpu_lost"].id
    assert "fallen off the bus" in active["gpu_lost"].text
    changes = machine.run(61, values=PENDING)
    assert sorted(changes[-2:]) == ["gpu_lost resolved", "remap_pending firing"]
    assert machine.active()["remap_pending"].inhibited_by is None


def test_missing_data_never_resolves_until_it_is_long_unobservable() -> None:
    machine = Machine()
    machine.run(100, values=PENDING)
    assert machine.run(890, values=UNKNOWN) == []
    assert machine.run(20, values=UNKNOWN) == ["remap_pending resolved"]
    assert not machine.changes[-1].observable


def test_hanging_driver_clock_step_and_suspend_raise_no_false_alarm() -> None:
    machine = Machine()
    machine.run(250, values={"gpu.temperature": 86.0})
    machine.second += 3600  # suspended: monotonic and wall clock go on, nothing was observed
    assert machine.run(1, values={"gpu.temperature": 86.0}) == []
    machine = Machine()
    assert machine.run(50, error=UnavailableReason.DRIVER_SILENT) == ["driver_silent pending"]
    assert machine.run(100) == ["driver_silent resolved"]


def test_driver_that_stays_silent_is_critical() -> None:
    machine = Machine()
    machine.run(61, error=UnavailableReason.DRIVER_SILENT)
    assert machine.active()["driver_silent"].severity is Severity.CRITICAL
    machine.run(31)
    assert machine.active() == {}


def test_driver_that_falls_silent_while_its_gpus_stay_listed_is_critical() -> None:
    machine = Machine()
    machine.run(100)
    machine.run(61, lambda: dataclasses.replace(lost(), state=UnavailableReason.DRIVER_SILENT))
    (alert,) = machine.active().values()
    assert (alert.rule, alert.severity) == ("driver_silent", Severity.CRITICAL)
    assert UnavailableReason.DRIVER_SILENT.text in alert.text
    machine.run(31)
    assert machine.active() == {}


def test_sleeping_gpus_are_no_silent_driver() -> None:
    machine = Machine()
    machine.run(100, lambda: dataclasses.replace(lost(), state=UnavailableReason.ASLEEP))
    assert machine.active() == {}


def test_flapping_alert_takes_longer_to_clear_each_time() -> None:
    machine = Machine()
    for _ in range(6):
        machine.run(11, lost)
        machine.run(200)
    flapping = [alert for alert in machine.changes if alert.state is AlertState.FIRING]
    assert [alert.flaps for alert in flapping] == [0, 0, 0, 1, 2, 3]
    machine.run(11, lost)
    assert "gpu_lost resolved" not in machine.run(61)


def test_held_memory_without_work_is_reported_and_becomes_a_warning() -> None:
    def idle() -> Gpu:
        return dataclasses.replace(healthy(), processes=(dataclasses.replace(TRAINING, sm_percent=0.0),))

    machine = Machine()
    assert machine.run(3590, idle) == ["idle_hold pending"]
    machine.run(400, idle)
    alert = machine.active()["idle_hold"]
    assert (alert.severity, alert.subject) == (Severity.INFO, "7:1")
    assert "pid 7 holds 20.0 GiB on GPU 0" in alert.text
    machine.run(3 * 3600, idle)
    assert machine.active()["idle_hold"].severity is Severity.WARNING
    assert machine.run(1, lambda: dataclasses.replace(healthy({"gpu.memory.used_gb": 0.1}), processes=())) == [
        "idle_hold resolved"
    ]


def test_notebook_that_is_used_again_is_no_longer_reported() -> None:
    def notebook(sm_percent: float) -> Gpu:
        return dataclasses.replace(healthy(), processes=(dataclasses.replace(TRAINING, sm_percent=sm_percent),))

    machine = Machine()
    machine.run(3700, lambda: notebook(0.0))
    assert set(machine.active()) == {"idle_hold"}
    machine.run(600, lambda: notebook(40.0 if machine.second % 1000 < 10 else 0.0))
    assert set(machine.active()) == {"idle_hold"}, "a health check of 10 s excuses nothing"
    changes = machine.run(1200, lambda: notebook(40.0 if machine.second % 20 < 4 else 0.0))
    assert changes[0] == "idle_hold resolved"
    assert "idle_hold firing" not in changes, "it is reported once, however often the process rests"


def test_card_below_its_slowdown_temperature_is_not_about_to_switch_off() -> None:
    limits = {"gpu.temperature_slowdown": 93.0, "gpu.temperature_shutdown": 96.0}  # a T4
    machine = Machine()
    assert machine.run(305, values={**limits, "gpu.temperature": 92.0}) == ["gpu_hot pending", "gpu_hot firing"]
    machine.run(40, values={**limits, "gpu.temperature": 94.0})
    assert machine.active()["gpu_hot"].inhibited_by == machine.active()["gpu_overheating"].id


def test_held_memory_of_unknown_use_is_not_judged() -> None:
    unknown = dataclasses.replace(TRAINING, sm_percent=None)

    def two_holders() -> Gpu:
        other = dataclasses.replace(unknown, pid=8)
        return dataclasses.replace(healthy({"gpu.utilization.gpu": 0.0}), processes=(unknown, other))

    assert Machine().run(5000, two_holders) == []


def test_missing_gpu_is_reported_unless_it_was_removed_on_purpose() -> None:
    machine = Machine()
    machine.run(10)
    assert machine.run(5000, error=UnavailableReason.DRIVER_SILENT)[0] == "driver_silent pending", "nothing is known"
    assert "gpu_missing" not in machine.active()
    machine.run(100)
    assert machine.run(599, has_gpu=False) == ["gpu_missing pending"]
    assert machine.run(2, error=UnavailableReason.NO_DEVICE) == ["gpu_missing firing"], "its only GPU is gone"
    alert = machine.active()["gpu_missing"]
    assert alert.text == "GPU 0 (NVIDIA GeForce RTX 3090) is no longer present."
    known = machine.engine.known_gpus()
    restarted = Machine(AlertEngine(RULES, machine.engine.alerts(), known_gpus=known), start_s=10_000)
    restarted.run(2000, has_gpu=False)
    assert set(restarted.active()) == {"gpu_missing"}
    assert restarted.run(1) == ["gpu_missing resolved"]
    assert alert.since_ms is not None
    machine.acknowledged = {alert.id: alert.since_ms + 1}
    assert machine.run(1, has_gpu=False) == ["gpu_missing resolved"]
    assert machine.run(5000, has_gpu=False) == []


def test_links_that_were_never_active_are_not_missing() -> None:
    machine = Machine()
    assert machine.run(100, values={"gpu.nvlink.links": 18.0}) == []
    assert machine.run(70, values={"gpu.nvlink.active": 9.0}) == ["nvlink_down pending", "nvlink_down firing"]
    assert machine.active()["nvlink_down"].text.endswith("3 of 12 NVLinks are down.")
    machine.second += 90_000
    machine.run(1, values={"gpu.nvlink.active": 9.0})
    assert machine.run(1, values={"gpu.nvlink.active": 9.0}) == [], "a day later it is how the machine is"
    assert machine.active() == {}


def test_disk_that_fills_up_is_reported_before_it_is_full() -> None:
    def disk(used_percent: float) -> Mount:
        return Mount(
            mount_point="/data", filesystem="ext4", used_bytes=1, total_bytes=1000 * 2**30, used_percent=used_percent
        )

    def fill(machine: Machine, minutes: int, percent: Callable[[int], float]) -> None:
        for minute in range(minutes):
            machine.run(60, mounts=(disk(percent(minute)),))

    slow, burst, steady = Machine(), Machine(), Machine()
    fill(slow, 90, lambda minute: 40 + 0.05 * minute)  # 30 GiB an hour: full in 18 h
    assert slow.active() == {}
    fill(burst, 90, lambda minute: 50 if minute < 60 else 90)  # one checkpoint of 400 GiB
    assert burst.active() == {}
    fill(steady, 60, lambda minute: 40 + 0.4 * minute)  # 240 GiB an hour, 360 left
    assert "GiB left, and is full in 1." in steady.active()["disk_full"].text
    fill(steady, 70, lambda minute: 64)
    assert steady.active() == {}


def test_stopped_fan_of_a_cool_card_is_none() -> None:
    machine = Machine()
    assert machine.run(300, values={"gpu.fan_rpm": 0.0, "gpu.fan_speed": 0.0, "gpu.temperature": 45.0}) == []
    assert machine.run(300, values={"gpu.fan_rpm": 0.0, "gpu.temperature": 55.0}) == []


def test_uncorrected_error_and_its_xid_are_one_notice() -> None:
    machine = Machine()
    machine.run(1, events=(xid_event(48, time_ms=NOON_MS + 1_001_000, gpu_uuid=UUID),))
    machine.run(5, values={"gpu.ecc.volatile_uncorrected": 1.0})
    active = machine.active()
    assert active["ecc_uncorrected"].inhibited_by == active["xid_hardware"].id
    assert active["xid_hardware"].since_ms is not None
    machine.acknowledged = {active["xid_hardware"].id: active["xid_hardware"].since_ms + 1}
    assert machine.run(5, values={"gpu.ecc.volatile_uncorrected": 1.0}) == ["xid_hardware resolved"]
    later = Machine()
    later.run(1, events=(xid_event(48, time_ms=NOON_MS + 1_001_000, gpu_uuid=UUID),))
    later.run(100)
    later.run(2, values={"gpu.ecc.volatile_uncorrected": 1.0})
    assert later.active()["ecc_uncorrected"].inhibited_by is None


def test_link_error_is_critical_once_the_driver_asks_for_a_recovery() -> None:
    machine = Machine()
    machine.run(1, events=(xid_event(145, time_ms=1, gpu_uuid=UUID),))
    assert machine.active()["xid_contained"].severity is Severity.WARNING
    machine.run(1, events=(xid_event(154, time_ms=1, gpu_uuid=UUID),))
    assert {alert.subject: alert.severity for alert in machine.engine.alerts()} == {
        "xid 145": Severity.CRITICAL, "xid 154": Severity.WARNING,
    }  # fmt: skip


def test_killed_process_is_a_warning_for_a_while() -> None:
    event = Event(time_ms=1, kind="oom_kill", severity=Severity.WARNING, text="The kernel killed a process.")
    machine = Machine()
    assert machine.run(1, events=(event,)) == ["oom_kill firing"]
    assert machine.run(605) == ["oom_kill resolved"]


SPINNING: Mapping[str, float | None] = {
    "gpu.utilization.gpu": 100.0,
    "gpu.utilization.compute": 20.0,
    "gpu.utilization.tensor": 0.0,
    "gpu.utilization.dram": 0.5,
    "gpu.power.current_watts": 110.0,
    "gpu.pcie.tx_mbps": 0.2,
    "gpu.pcie.rx_mbps": 0.1,
}


def test_processes_that_wait_for_each_other_are_reported() -> None:
    machine = Machine()
    assert machine.run(590, values=SPINNING) == ["hang pending"]
    machine.run(60, values=SPINNING)
    text = machine.active()["hang"].text
    assert "draws a steady 110 of 450 W for 1" in text
    assert machine.run(70, values={**SPINNING, "gpu.utilization.tensor": 60.0})[-1] == "hang resolved"


def test_hang_without_activity_metrics_is_seen_by_the_power_before() -> None:
    spinning = {
        **SPINNING,
        "gpu.utilization.compute": None,
        "gpu.utilization.tensor": None,
        "gpu.utilization.dram": None,
    }
    training = {**spinning, "gpu.power.current_watts": 380.0, "gpu.pcie.rx_mbps": 800.0}
    machine = Machine()
    assert machine.run(1400, values=spinning) == [], "it may be a small model"
    machine.run(700, values=training)
    assert machine.active() == {}
    machine.run(640, values=spinning)
    assert set(machine.active()) == {"hang"}
    assert machine.run(70, values=training)[-1] == "hang resolved"
    other = Machine()
    other.run(700, values=training)
    restarted = dataclasses.replace(healthy(spinning), processes=(dataclasses.replace(TRAINING, pid=8),))
    other.run(1000, lambda: restarted)
    assert other.active() == {}, "another process"


@pytest.mark.parametrize(
    "change",
    [
        {"gpu.utilization.tensor": 9.0},
        {"gpu.power.current_watts": 300.0},
        {"gpu.pcie.rx_mbps": 900.0},
        {"gpu.utilization.compute": None},
        {"gpu.utilization.gpu": 60.0},
    ],
)
def test_work_that_looks_like_a_hang_is_none(change: dict[str, float | None]) -> None:
    assert "hang" not in Machine().run(1300, values={**SPINNING, **change})
    machine = Machine()
    for watts in range(40):  # a small model: little power, but it varies
        machine.run(40, values={**SPINNING, "gpu.power.current_watts": 80.0 + 2 * (watts % 20)})
    assert machine.active() == {}


def test_full_disk_and_memory() -> None:
    full = Mount(mount_point="/data", filesystem="ext4", used_bytes=96, total_bytes=100 * 2**30, used_percent=95.0)
    machine = Machine()
    machine.run(301, mounts=(full,))
    assert machine.active()["disk_full"].text == "/data has 5.0 GiB left."
    machine.run(1, mounts=(dataclasses.replace(full, used_percent=50.0),))
    assert machine.active() == {}
    little = {"system.memory.available_gb": 1.0, "system.memory.total_gb": 64.0}
    machine.run(121, host=little)
    assert set(machine.active()) == {"ram_low", "ram_low_critical"}
    assert machine.active()["ram_low"].inhibited_by == machine.active()["ram_low_critical"].id


def test_memory_pressure_is_told_and_used_swap_is_not() -> None:
    machine = Machine()
    machine.run(121, host={"system.memory.pressure_percent": 25.0})
    assert machine.active()["swap_thrash"].text == "Processes wait for memory 25 % of the time."
    assert Machine().run(300, host={"system.swap.used_percent": 100.0}) == []
    swapping = {"system.swap.in_mbps": 15.0, "system.swap.out_mbps": 10.0, "system.memory.total_gb": 64.0}
    machine = Machine()
    assert machine.run(300, host={**swapping, "system.memory.available_gb": 30.0}) == []
    machine.run(121, host={**swapping, "system.memory.available_gb": 5.0})
    assert machine.active()["swap_thrash"].text.endswith("and 25 MB/s go to and from swap space.")


def test_hardware_xid_fires_at_once_and_stays_until_it_is_acknowledged() -> None:
    machine = Machine()
    xid = xid_event(79, time_ms=1, gpu_uuid=UUID)
    assert machine.run(1, events=(xid, xid)) == ["xid_hardware firing"]
    assert machine.run(5000) == []
    (alert,) = machine.engine.alerts()
    machine.acknowledged = {alert.id: 0}
    assert machine.run(1) == [], "an earlier episode was acknowledged"
    assert alert.since_ms is not None
    machine.acknowledged = {alert.id: alert.since_ms + 1}
    assert machine.run(1) == ["xid_hardware resolved"]


def test_contained_xid_ends_by_itself_and_an_applications_is_none() -> None:
    machine = Machine()
    assert machine.run(1, events=(xid_event(31, time_ms=1, gpu_uuid=UUID),)) == []
    assert machine.run(1, events=(xid_event(94, time_ms=1, gpu_uuid=UUID),)) == ["xid_contained firing"]
    assert machine.run(595) == []
    assert machine.run(10) == ["xid_contained resolved"]


def test_alerts_go_on_after_a_restart() -> None:
    first = Machine()
    first.run(100, values=PENDING)
    first.run(1, events=(xid_event(48, time_ms=1, gpu_uuid=UUID),), values=PENDING)
    second = Machine(AlertEngine(RULES, first.engine.alerts()), start_s=10)
    assert second.run(30, values=PENDING) == [], "no second notice"
    assert set(second.active()) == {"remap_pending", "xid_hardware"}
    assert second.run(2) == ["remap_pending resolved"]


def test_rule_that_fails_is_logged_once_and_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_gpu: Gpu) -> float:
        raise ZeroDivisionError

    broken = Rule(id="broken", title="", scope=Scope.GPU, severity=Severity.INFO, score=fail, message="")
    machine = Machine(AlertEngine((broken, *RULES)))
    assert machine.run(70, values=PENDING) == ["remap_pending pending", "remap_pending firing"]
    assert [record.message for record in caplog.records] == ["The alert rule broken failed and judges nothing."]


def test_every_rule_is_complete() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.message.endswith(".")
        assert rule.title
        assert rule.advice or not rule.enabled
        assert rule.mode is Mode.HOLD or rule.for_s > 0
