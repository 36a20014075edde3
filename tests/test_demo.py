"""The demo starts with a week of history that agrees with its live values."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from dashtop import create_app
from dashtop.demo import PARTS, build_past
from dashtop.model.errors import SettingsError
from dashtop.model.sample import SeriesKey
from dashtop.model.timerange import DAY_MS, RANGES
from dashtop.settings import load
from dashtop.sources.simulated.curves import OUTAGE_S
from dashtop.sources.simulated.reader import SimulatedGpuReader
from tests.builders import make_history
from tests.clock import FakeClock
from tests.processes import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask.testing import FlaskClient

API = "/api/v1/system"
METRICS = ("gpu.utilization.gpu", "gpu.memory.used_gb", "gpu.temperature", "gpu.power.current_watts")


@pytest.fixture(scope="module")
def client() -> Iterator[FlaskClient]:
    dashtop = create_app(load(demo=4, rate_limit="100000/second"))
    try:
        eventually(dashtop.services.latest.latest)
        yield dashtop.server.test_client()
    finally:
        dashtop.close()


@pytest.mark.parametrize(
    ("scene", "rules"), [("hang", {"hang"}), ("gpu_missing", {"gpu_missing"}), ("not-hang", set())]
)
def test_scene_is_played_before_the_start(scene: str, rules: set[str]) -> None:
    dashtop = create_app(load(demo=2, demo_scene=scene))
    try:
        sample = eventually(dashtop.services.latest.latest)
        active = {alert.rule: alert for alert in dashtop.services.alerts.current() if alert.state.is_active}
        assert set(active) == rules
        assert len(sample.gpus) == (1 if scene == "gpu_missing" else 2)
        assert all(sample.time_ms - (alert.since_ms or 0) > 60_000 for alert in active.values())
    finally:
        dashtop.close()


def test_scene_without_samples_ends_with_dashtop() -> None:
    dashtop = create_app(load(demo=1, demo_scene="not-stale"))
    eventually(dashtop.services.latest.latest)
    dashtop.close()
    assert not dashtop.services.latest.alive()


def test_unknown_scene_is_refused() -> None:
    with pytest.raises(SettingsError, match="did you mean hang"):
        load(demo=2, demo_scene="hangs")
    with pytest.raises(SettingsError, match="--demo-scene 'hang': needs --demo"):
        load(demo_scene="hang")


def read_json(client: FlaskClient, path: str) -> Any:
    answer = client.get(API + path)
    assert answer.status_code == 200, answer.text
    return answer.json


@pytest.mark.parametrize("name", ["1h", "6h", "24h", "7d"])
@pytest.mark.parametrize("gpu", range(4))
def test_every_range_is_full_at_start(client: FlaskClient, name: str, gpu: int) -> None:
    answer = read_json(client, f"/history?range={name}&gpu_id={gpu}&metrics={','.join(METRICS)}")

    # One GPU is lost for some minutes once a week, and has no values then.
    lost = read_json(client, f"/events?range={name}&gpu_id={gpu}&kind=gpu_lost")
    lost_share = len(lost) * OUTAGE_S * 1000 / RANGES[name].span_ms

    assert set(answer["series"]) == set(METRICS)
    for series in answer["series"].values():
        for column in ("mean", "min", "max"):
            filled = sum(value is not None for value in series[column]) / len(answer["timestamps"])
            assert filled >= 0.99 - lost_share, (column, filled)
        ordered = zip(series["min"], series["mean"], series["max"], strict=True)
        assert all(low <= mean <= high for low, mean, high in ordered if mean is not None)


@pytest.mark.parametrize("name", ["1h", "6h", "24h", "7d"])
def test_host_history_is_full_and_leads_up_to_the_memory_in_use(client: FlaskClient, name: str) -> None:
    metrics = ("system.cpu.usage_percent", "system.memory.used_gb", "system.memory.used_percent")
    answer = read_json(client, f"/history?range={name}&metrics={','.join(metrics)}")
    total_gb = read_json(client, "/metrics")["memory"]["total_gb"]

    assert set(answer["series"]) == set(metrics)
    for series in answer["series"].values():
        assert sum(value is not None for value in series["mean"]) >= 0.99 * len(series["mean"])
        assert all(value is None or value >= 0 for value in series["min"])
    used = [value for value in answer["series"][metrics[1]]["mean"] if value is not None]
    steps = [abs(after - before) for before, after in pairwise(used)]
    assert max(steps[:-3]) < 0.1 * total_gb


def test_events_of_a_week(client: FlaskClient) -> None:
    events = read_json(client, "/events?range=7d")

    kinds = {event["kind"] for event in events}
    assert kinds >= {"process_start", "process_end", "throttle_begin", "throttle_end", "xid", "gpu_lost", "gpu_back"}
    assert all(event["advice"] for event in events if event["kind"] == "xid")
    times = [event["timestamp"] for event in events]
    assert times == sorted(times) or times == sorted(times, reverse=True)


def test_spans_of_processes_agree_with_the_memory_in_use() -> None:
    clock = FakeClock()
    gpus = SimulatedGpuReader(4, clock=clock)
    past = build_past(gpus.gpus, clock.now_ms())
    history = make_history(starts=False)
    history.start(past)
    try:
        for gpu in gpus.gpus:
            spans = history.processes(gpu.device.uuid, clock.now_ms() - 7 * DAY_MS, clock.now_ms())
            assert spans
            for time_ms in range(clock.now_ms() - 7 * DAY_MS, clock.now_ms(), 3_600_000):
                held = sum(span.gpu_memory_bytes or 0 for span in spans if span.start_ms <= time_ms <= span.end_ms)
                state = gpu.read(time_ms)
                used = state.values["gpu.memory.used_gb"] if state.state is None else 0.0
                assert used is not None
                assert held == pytest.approx(used * 2**30), (gpu.device.name, time_ms)
    finally:
        history.close()


def test_live_values_continue_the_curves_of_the_history() -> None:
    clock = FakeClock()
    gpus = SimulatedGpuReader(4, clock=clock)
    past = build_past(gpus.gpus, clock.now_ms())
    blocks = list(past.blocks)
    _, newest = blocks[-1]
    values = {key: row for row, key in enumerate(past.keys)}

    for gpu in gpus.gpus:
        live = gpu.read(int(newest.times_ms[-1]))
        for metric in METRICS:
            row = next(row for key, row in values.items() if key.metric == metric and key.gpu_uuid == gpu.device.uuid)
            assert newest.mean[row, -1] == np.float32(live.values[metric])
    assert clock.now_ms() - newest.times_ms[-1] <= 1000
    assert len(blocks) > 1
    for (_, before), (_, after) in pairwise(blocks):
        gap_ms = after.times_ms[0] - before.times_ms[-1]
        assert gap_ms == before.times_ms[-1] - before.times_ms[-2]


def test_parts_of_the_history_follow_each_other_without_a_gap() -> None:
    clock = FakeClock()
    gpus = SimulatedGpuReader(1, clock=clock).gpus
    history = make_history(starts=False)
    history.start(build_past(gpus, clock.now_ms()))
    try:
        for part in PARTS[1:]:
            middle_ms = clock.now_ms() - part.span_ms
            bounds = middle_ms - 2 * 3_600_000, min(middle_ms + 2 * 3_600_000, clock.now_ms()), 2000
            (series,) = history.query([SeriesKey(METRICS[0], gpus[0].device.uuid)], *bounds).series
            distances = np.diff(np.flatnonzero(np.isfinite(series.mean)))
            assert distances.max() * 2 <= 60, part
    finally:
        history.close()


@pytest.mark.parametrize("hours", [1, 6, 24, 7 * 24])
def test_energy_of_the_history_is_power_times_time(client: FlaskClient, hours: int) -> None:
    metrics = ("gpu.energy.total_wh", "gpu.power.current_watts")
    answer = read_json(client, f"/history?range={hours}h&gpu_id=0&metrics={','.join(metrics)}")
    energy, power = (np.array(answer["series"][metric]["mean"], dtype=np.float64) for metric in metrics)
    known = energy[np.isfinite(energy)]
    assert (np.diff(known) >= 0).all()
    assert known[-1] - known[0] == pytest.approx(np.nanmean(power) * hours, rel=0.03)


def test_export_equals_history(client: FlaskClient) -> None:
    history = read_json(client, f"/history?range=24h&gpu_id=2&metrics={METRICS[0]}")
    exported = read_json(client, f"/export?range=24h&format=json&gpu_id=2&metrics={METRICS[0]}")

    means = dict(zip(history["timestamps"], history["series"][METRICS[0]]["mean"], strict=True))
    statistics = [column["statistic"] for column in exported["columns"]]
    rows = {row[0]: row[1 + statistics.index("mean")] for row in exported["rows"]}
    assert history["step_ms"] == RANGES["24h"].step_ms
    assert len(rows.keys() & means.keys()) > 5700
    for time_ms in rows.keys() & set(sorted(means)[:-2]):  # the newest buckets fill between the two calls
        assert rows[time_ms] == means[time_ms]
