"""Generate the reference tables in docs/ from the settings and the metric tables.

python3 tests/generate_docs.py      writes them into the files
"""

from __future__ import annotations

from pathlib import Path

from dashtop.metrics import ALL_METRICS
from dashtop.settings import Settings, options

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


TABLES = {"configuration.md": ("options", options_table), "metrics.md": ("metrics", metrics_table)}


def with_table(file: str, text: str) -> str:
    name, build_table = TABLES[file]
    before, opening, rest = text.partition(f"<!-- {name} -->\n")
    _, closing, after = rest.partition(f"<!-- /{name} -->")
    assert opening, name
    assert closing, name
    return f"{before}{opening}{build_table()}\n{closing}{after}"


if __name__ == "__main__":
    for file in TABLES:
        path = DOCS / file
        path.write_text(with_table(file, path.read_text()))
