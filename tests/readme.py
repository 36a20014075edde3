"""The tables of the README, made from the settings and the metric tables.

python3 tests/readme.py      writes them into README.md
"""

from __future__ import annotations

from pathlib import Path

from dashtop.metrics import ALL_METRICS
from dashtop.settings import Settings, options

README = Path(__file__).resolve().parent.parent / "README.md"


def options_table() -> str:
    rows = ["| option | environment | default | what |", "|---|---|---|---|"]
    for name, option in options().items():
        value = f" {option.metavar}" if option.metavar and not option.optional_value else ""
        value = f" [{option.metavar}]" if option.optional_value else value
        environment = ", ".join(f"`{variable}`" for variable in option.env)
        rows.append(f"| `{option.flag}{value}` | {environment} | {shown_default(name)} | {option.help} |")
    return "\n".join(rows)


def shown_default(name: str) -> str:
    default = Settings.model_fields[name].default
    if default in {None, "", ()}:
        return "none"
    if isinstance(default, bool):
        return "on" if default else "off"
    return "off" if name == "demo" else f"`{default}`"


def metrics_table() -> str:
    rows = ["| key | unit | what | Prometheus |", "|---|---|---|---|"]
    rows += [f"| `{each.key}` | {each.unit.symbol} | {each.help} | `{each.prometheus}` |" for each in ALL_METRICS]
    return "\n".join(rows)


TABLES = {"options": options_table, "metrics": metrics_table}


def with_tables(text: str) -> str:
    for name, table in TABLES.items():
        before, opening, rest = text.partition(f"<!-- {name} -->\n")
        _, closing, after = rest.partition(f"<!-- /{name} -->")
        assert opening, name
        assert closing, name
        text = f"{before}{opening}{table()}\n{closing}{after}"
    return text


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text()))
