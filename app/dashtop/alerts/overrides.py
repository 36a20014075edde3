"""Settings of single rules: `[alerts.<rule>]` in the settings file changes times, limits, and whether it is judged."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final

from dashtop.alerts.rule import DAY, HOUR, MINUTE, EventRule, Limits, Mode, Rule
from dashtop.alerts.rules import EVENT_RULES, RULES

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNITS: Final = {"": 1.0, "s": 1.0, "m": MINUTE, "min": MINUTE, "h": HOUR, "d": DAY}
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*([a-z]*)", re.ASCII)
MAX_DURATION_S: Final = 30 * DAY
MAX_LIMIT: Final = 1e6
_MAX_QUOTED: Final = 60
_PERCENT_LIMIT: Final = re.compile(r"(.*_)?(percent|utilization|pressure)")


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleOverride:
    """What the settings change of one rule; None: as in the table. Times in seconds."""

    for_s: float | None = None
    clear_s: float | None = None
    enabled: bool | None = None
    limits: Mapping[str, float] = field(default_factory=dict)


def parse_overrides(value: object) -> dict[str, RuleOverride]:
    """Return the changes by rule. Raise ValueError, a sentence that names rule and key."""
    if not isinstance(value, Mapping):
        raise ValueError("[alerts] must have tables of rules, such as [alerts.hang]")  # noqa: TRY004 - pydantic's way
    rules: dict[str, Rule | EventRule] = {rule.id: rule for rule in RULES}
    rules |= {rule.id: rule for rule in EVENT_RULES}
    found = {}
    for name, table in value.items():
        if isinstance(table, RuleOverride):
            found[name] = table
            continue
        rule = rules.get(name)
        if rule is None:
            raise ValueError(f"[alerts.{_quote(name)}]: there is no such rule.{_suggest(name, rules)}")
        if not isinstance(table, Mapping):
            raise ValueError(f'[alerts.{name}] must be a table with keys such as for = "15m"')  # noqa: TRY004
        try:
            found[name] = _parse_table(rule, table)
        except ValueError as error:
            raise ValueError(f"[alerts.{name}] {error}") from None
    return found


def _parse_table(rule: Rule | EventRule, table: Mapping[str, object]) -> RuleOverride:
    limits = rule.limits.values if isinstance(rule, Rule) and rule.limits is not None else {}
    times = [*(["for"] if isinstance(rule, Rule) else []), *(["clear"] if rule.clear_s is not None else [])]
    known = [*times, "enabled", *limits]
    given: dict[str, Any] = {"limits": {}}
    for key, value in table.items():
        if key not in known:
            raise ValueError(f"{_quote(key)}: there is no such key; this rule has {', '.join(known)}")
        try:
            if key in times:
                given[f"{key}_s"] = _parse_duration(value)
            elif key == "enabled":
                given[key] = _parse_flag(value)
            else:
                given["limits"][key] = _parse_limit(key, value)
        except ValueError as error:
            raise ValueError(f"{key} = {_quote(value)}: {error}") from None
    if isinstance(rule, Rule) and rule.mode is Mode.MEAN and given.get("for_s") == 0:
        raise ValueError("for = 0: this rule judges the mean of some time, which must be more than 0")
    return RuleOverride(**given)


def _parse_duration(value: object) -> float:
    text = str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None or match[2] not in _UNITS:
        raise ValueError('must be a time such as "30s", "15m" or "4h"')
    seconds = float(match[1]) * _UNITS[match[2]]
    if seconds > MAX_DURATION_S:
        raise ValueError("must be at most 30 days")
    return seconds


def _parse_flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")  # noqa: TRY004
    return value


def _parse_limit(key: str, value: object) -> float:
    highest = 100.0 if _PERCENT_LIMIT.fullmatch(key) else MAX_LIMIT
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not 0 <= float(str(value)) <= highest:
        raise ValueError(f"must be a number from 0 to {highest:.0f}")
    return float(str(value))


def _suggest(name: object, rules: Mapping[str, object]) -> str:
    close = get_close_matches(str(name), rules, 1)
    return f" Did you mean {close[0]}?" if close else f" The rules are {', '.join(rules)}."


def _quote(value: object) -> str:
    return repr(value)[:_MAX_QUOTED] if not isinstance(value, str) else value[:_MAX_QUOTED]


def apply_to_rules(rules: Sequence[Rule], overrides: Mapping[str, RuleOverride]) -> tuple[Rule, ...]:
    """Return the rules as the settings change them."""
    return tuple(_apply(rule, overrides[rule.id]) if rule.id in overrides else rule for rule in rules)


def apply_to_event_rules(rules: Sequence[EventRule], overrides: Mapping[str, RuleOverride]) -> tuple[EventRule, ...]:
    """Return the rules about events as the settings change them."""
    changed = []
    for rule in rules:
        override = overrides.get(rule.id, RuleOverride())
        clear_s = rule.clear_s if override.clear_s is None else override.clear_s
        enabled = rule.enabled if override.enabled is None else override.enabled
        changed.append(replace(rule, clear_s=clear_s, enabled=enabled))
    return tuple(changed)


def _apply(rule: Rule, override: RuleOverride) -> Rule:
    if override.limits and rule.limits is not None:
        values = {**rule.limits.values, **override.limits}
        rule = replace(rule, **rule.limits.build(**values), limits=Limits(values, rule.limits.build))
    return replace(
        rule,
        for_s=rule.for_s if override.for_s is None else override.for_s,
        clear_s=rule.clear_s if override.clear_s is None else override.clear_s,
        enabled=rule.enabled if override.enabled is None else override.enabled,
    )
