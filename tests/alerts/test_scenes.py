"""Every rule fires in its scene, and not in the scene that is often taken for it."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import TYPE_CHECKING

import pytest

from dashtop.alerts.rules import EVENT_RULES, RULES
from dashtop.alerts.service import AlertService
from dashtop.model.alert import AlertState
from dashtop.sources.simulated.scene import Scene, ScenePlayer
from dashtop.sources.simulated.scenes import SCENES
from tests.alerts.test_engine import HEALTHY, TRAINING
from tests.builders import NOON_MS, make_gpu, make_sample
from tests.clock import FakeClock

if TYPE_CHECKING:
    from dashtop.model.alert import Alert
    from dashtop.model.sample import Sample

STEP_S = 5.0
"""As long as a gap may be that counts as observed."""
DISABLED = frozenset(rule.id for rule in RULES if not rule.enabled)
ALL_ENABLED = tuple(dataclasses.replace(rule, enabled=True) for rule in RULES)


@cache
def quiet_machine() -> Sample:
    """Two GPUs in training, on a machine with room."""
    values = {key: value for key, value in HEALTHY.items() if value is not None}
    values |= {"gpu.utilization.compute": 80.0, "gpu.utilization.tensor": 40.0, "gpu.utilization.dram": 30.0}
    gpus = tuple(dataclasses.replace(make_gpu(index, values=values), processes=(TRAINING,)) for index in range(2))
    return make_sample(1, gpus=gpus, host={"system.memory.available_gb": 40.0, "system.memory.total_gb": 64.0})


def play(scene: Scene) -> list[Alert]:
    """Return the alerts that fire in a scene, and are not explained by another one. Time comes from the scene."""
    clock = FakeClock(now_ms=NOON_MS, monotonic_s=0.0)
    service = AlertService(None, clock=clock, is_writer=lambda: True, rules=ALL_ENABLED, interval_s=1.0)
    service._loaded.set()  # nothing is stored
    player, base = ScenePlayer(scene, 0.0), quiet_machine()
    fired: dict[str, Alert] = {}
    while clock.monotonic() < scene.duration_s:
        clock.advance(STEP_S)
        sample = player.play(dataclasses.replace(base, time_ms=clock.now_ms(), monotonic_s=clock.monotonic()))
        if sample is not None:
            service.update(sample)
        for alert in service.current():
            if alert.state is AlertState.FIRING and alert.inhibited_by is None:
                fired[alert.rule] = alert
    return list(fired.values())


@pytest.mark.parametrize("name", SCENES)
def test_rule_fires_in_its_scene_only(name: str) -> None:
    scene = SCENES[name]
    fired = {alert.rule for alert in play(scene)}
    assert (scene.rule in fired) is scene.fires
    assert fired - DISABLED - scene.also <= {scene.rule}, "nothing else is reported"


def test_every_rule_has_both_scenes() -> None:
    rules = {rule.id for rule in RULES} | {rule.id for rule in EVENT_RULES}
    assert {scene.rule for scene in SCENES.values() if scene.fires} == rules
    assert {scene.rule for scene in SCENES.values() if not scene.fires} == rules


def test_scene_lasts_long_enough() -> None:
    times = {rule.id: rule.for_s for rule in RULES}
    for scene in SCENES.values():
        assert scene.duration_s > times.get(scene.rule, 0.0) * (1.0 if scene.fires else 1.5), scene.name
