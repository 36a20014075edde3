"""What the README says is so."""

from __future__ import annotations

import re

from dashtop.cli import COMMANDS
from tests.processes import ROOT
from tests.readme import README, with_tables

TEXT = README.read_text()


def test_the_tables_are_current() -> None:
    assert with_tables(TEXT) == TEXT, "run: python3 tests/readme.py"


def test_every_command_is_told_of() -> None:
    for name in COMMANDS:
        assert f"`dashtop {name}`" in TEXT


def test_every_link_and_picture_is_there() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_the_test_command_is_what_ci_runs() -> None:
    assert "python3 tests/run.py" in TEXT
    assert "python3 tests/run.py" in (ROOT / ".ci" / "run").read_text()
