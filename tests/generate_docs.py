"""Generate the reference tables in docs/ from the settings, metrics and alert rules.

python3 tests/generate_docs.py      writes them into the files
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dashtop.alerts.rules import EVENT_RULES, RULES
from dashtop.metrics import ALL_METRICS
from dashtop.model.metric import Severity
from dashtop.settings import Settings, options
from dashtop.sources.simulated.scenes import SCENES

if TYPE_CHECKING:
    from dashtop.alerts.rule import Rule

DOCS = Path(__file__).resolve().parent.parent / "docs"


def options_table() -> str:
    rows = ["| option | environment | default | meaning |", "|---|---|---|---|"]
    for name, option in options().items():
        value = f" {option.metavar}" if option.metavar and not option.has_optional_value else ""
        value = f" [{option.metavar}]" if option.has_optional_value else value
        environment = ", ".join(f"`{variable}`" for variable in option.env)
        rows.append(f"| `{option.flag}{value}` | {environment} | {default_text(name)} | {option.help} |")
    return "\n".join(rows)


def default_text(name: str) -> str:
    default = Settings.model_fields[name].default
    if default in {None, "", ()}:
        return "none"
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, tuple):
        return f"`{' '.join(default)}`"
    return "off" if name == "demo" else f"`{default}`"


def metrics_table() -> str:
    rows = ["| key | unit | meaning | Prometheus |", "|---|---|---|---|"]
    rows += [f"| `{each.key}` | {each.unit.symbol} | {each.help} | `{each.prometheus}` |" for each in ALL_METRICS]
    return "\n".join(rows)


def rules_table() -> str:
    rows = ["| rule | severity | fires after | clears after | about | limits |", "|---|---|---|---|---|---|"]
    for rule in RULES:
        severity = rule.severity.value + (f", then {Severity.WARNING.value}" if rule.escalate_after_s else "")
        state = "" if rule.enabled else " (off)"
        rows.append(
            f"| `{rule.id}`{state} | {severity} | {duration(rule.for_s)} | {duration(rule.clear_s)} | {rule.title} |"
            f" {limits_text(rule)} |"
        )
    for event in EVENT_RULES:
        clears = "acknowledged, or the GPU is back" if event.clear_s is None else duration(event.clear_s)
        rows.append(f"| `{event.id}` | {event.severity.value} | at once | {clears} | {event.title} | |")
    return "\n".join(rows)


def limits_text(rule: Rule) -> str:
    values = rule.limits.values if rule.limits is not None else {}
    return ", ".join(f"`{name} = {value:g}`" for name, value in values.items())


def scenes_table() -> str:
    rows = ["| name | what happens |", "|---|---|"]
    return "\n".join([*rows, *(f"| `{name}` | {scene.text} |" for name, scene in SCENES.items())])


def duration(seconds: float) -> str:
    if seconds == 0:
        return "at once"
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"


TABLES = {
    "configuration.md": {"options": options_table},
    "metrics.md": {"metrics": metrics_table},
    "alerts.md": {"rules": rules_table, "scenes": scenes_table},
}


def with_tables(file: str, text: str) -> str:
    for name, build_table in TABLES[file].items():
        before, opening, rest = text.partition(f"<!-- {name} -->\n")
        _, closing, after = rest.partition(f"<!-- /{name} -->")
        assert opening, name
        assert closing, name
        text = f"{before}{opening}{build_table()}\n{closing}{after}"
    return text


if __name__ == "__main__":
    for file in TABLES:
        path = DOCS / file
        path.write_text(with_tables(file, path.read_text()))
