"""`[alerts.<rule>]` of the settings file: what it changes, and the sentence about what it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dashtop.alerts.overrides import apply_to_event_rules, apply_to_rules, parse_overrides
from dashtop.alerts.rules import EVENT_RULES, RULES
from dashtop.alerts.service import AlertService
from dashtop.model.errors import SettingsError
from dashtop.model.sample import Mount
from dashtop.settings import load
from tests.builders import NOON_MS, make_sample
from tests.clock import FakeClock

if TYPE_CHECKING:
    from pathlib import Path

FULL = Mount(mount_point="/", filesystem="ext4", used_bytes=1, total_bytes=2**40, used_percent=97.0)


def load_text(tmp_path: Path, text: str) -> AlertService:
    file = tmp_path / "dashtop.toml"
    file.write_text(text)
    settings = load(config=str(file))
    return AlertService(None, clock=FakeClock(now_ms=NOON_MS), is_writer=lambda: True, overrides=settings.alerts)


def test_times_limits_and_switches_of_the_file_apply(tmp_path: Path) -> None:
    service = load_text(
        tmp_path,
        """
[alerts.hang]
for = "15m"
[alerts.vram_full]
enabled = true
[alerts.gpu_hot]
margin = 10
clear = "1 h"
[alerts.xid_contained]
clear = 60
[alerts.oom_kill]
enabled = false
""",
    )
    rules = {rule.id: rule for rule in service.rules()}
    assert (rules["hang"].for_s, rules["hang"].limits["utilization"]) == (900.0, 95.0)
    assert rules["vram_full"].enabled
    assert (rules["gpu_hot"].limits, rules["gpu_hot"].clear_s) == ({"margin": 10.0}, 3600.0)
    assert rules["xid_contained"].clear_s == 60.0
    assert not rules["oom_kill"].enabled
    unchanged = {rule.id: rule.for_s for rule in RULES if rule.id != "hang"}
    assert {name: rules[name].for_s for name in unchanged} == unchanged


def test_changed_limit_is_judged(tmp_path: Path) -> None:
    services = [load_text(tmp_path, ""), load_text(tmp_path, "[alerts.disk_full]\npercent = 2\nfor = 1\n")]
    for service in services:
        service.start()
        for second in range(310):
            service.update(make_sample(second, mounts=(FULL,)))
    assert [[alert.rule for alert in service.current()] for service in services] == [["disk_full"], []]
    for service in services:
        service.close()


def test_rules_without_changes_are_those_of_the_table() -> None:
    assert apply_to_rules(RULES, {}) == RULES
    assert apply_to_event_rules(EVENT_RULES, {}) == EVENT_RULES


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "[alerts.hangs]\nfor = 1",
            "[alerts.hangs]: there is no such rule. Did you mean hang? (in the settings file).",
        ),
        ("alerts = 3", "[alerts] must have tables of rules, such as [alerts.hang] (in the settings file)."),
        ("[alerts]\nhang = 3", '[alerts.hang] must be a table with keys such as for = "15m" (in the settings file).'),
        (
            "[alerts.gpu_lost]\nwhile = 1",
            "[alerts.gpu_lost] while: there is no such key; this rule has for, clear, enabled (in the settings file).",
        ),
        (
            '[alerts.hang]\nfor = "soon"',
            '[alerts.hang] for = soon: must be a time such as "30s", "15m" or "4h" (in the settings file).',
        ),
        ("[alerts.hang]\nfor = true", "[alerts.hang] for = True: must be a time"),
        ('[alerts.hang]\nfor = "40d"', "[alerts.hang] for = 40d: must be at most 30 days (in the settings file)."),
        ("[alerts.hang]\nfor = 0", "which must be more than 0 (in the settings file)."),
        ("[alerts.hang]\nfor = -3", "[alerts.hang] for = -3: must be a time"),
        ("[alerts.hang]\nenabled = 1", "[alerts.hang] enabled = 1: must be true or false (in the settings file)."),
        ("[alerts.disk_full]\npercent = 101", "percent = 101: must be a number from 0 to 100 (in the settings file)."),
        ("[alerts.disk_full]\ngib = nan", "gib = nan: must be a number from 0 to 1000000 (in the settings file)."),
        ("[alerts.disk_full]\ngib = true", "gib = True: must be a number"),
        ("[alerts.xid_hardware]\nclear = 1", "this rule has enabled (in the settings file)."),
    ],
)
def test_wrong_table_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_text(tmp_path, text)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_rule_and_limit_can_be_set() -> None:
    for rule in RULES:
        limits = rule.limits.values if rule.limits is not None else {}
        table = {"for": "90s", "clear": 30, "enabled": True, **dict.fromkeys(limits, 7)}
        (changed,) = apply_to_rules([rule], parse_overrides({rule.id: table}))
        assert (changed.for_s, changed.clear_s, changed.enabled) == (90.0, 30.0, True)
        assert changed.limits is None or set(changed.limits.values.values()) == {7.0}
