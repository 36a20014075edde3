"""What the documentation states is so."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from dashtop.cli import COMMANDS
from dashtop.client.environment import URL_VARIABLE
from dashtop.notebook import PROXY_URL_VARIABLE
from dashtop.settings import options
from tests.generate_docs import DOCS, TABLES, with_tables
from tests.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md"))]
README = (ROOT / "README.md").read_text()
OTHER_PROGRAMS_OPTIONS = {  # gunicorn's, docker's and those of dashtop's subcommands, which are no settings
    *("--workers", "--threads", "--keep-alive", "--graceful-timeout", "--limit-request-line", "--bind"),
    *("--user", "--now", "--http-socket", "--module", "--enable-threads", "--preload"),
    *("--gpus", "--pid", "--build", "--detach", "--name", "--publish", "--tag", "--volume"),
    *("--help", "--print-completion", "--json", "--range", "--start", "--end", "--step", "--metrics", "--format"),
    *("--gpu", "--layout", "--verify", "--record", "--count", "--memory", "--by"),
}

document = pytest.mark.parametrize("document", PAGES, ids=lambda path: path.name)


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def find_links(text: str) -> list[tuple[str, str]]:
    """Return target and anchor of each link to a file of the repository."""
    return re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text)


def find_source_files(text: str) -> list[str]:
    return re.findall(r"`((?:app/|tests/|assets/|benchmarks/)[\w./*-]+)`", text)


def find_options(text: str) -> list[str]:
    return re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)


def find_environment_variables(text: str) -> list[str]:
    return re.findall(r"\bDASHTOP_[A-Z_]+\b", text)


@pytest.mark.parametrize("find", [find_links, find_source_files, find_options, find_environment_variables])
def test_documentation_has_what_is_checked(find: Callable[[str], list[object]]) -> None:
    assert len(find("\n".join(page.read_text() for page in PAGES))) > 10


@pytest.mark.parametrize("file", TABLES)
def test_generated_tables_are_current(file: str) -> None:
    text = (DOCS / file).read_text()
    assert with_tables(file, text) == text, "run: python3 tests/generate_docs.py"


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 250


def test_readme_names_every_command() -> None:
    for name in COMMANDS:
        assert f"`dashtop {name}`" in README


@document
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text()
    for target, anchor in find_links(text):
        file = document.parent / target if target else document
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text()), f"{target}#{anchor}"


@document
def test_source_files_exist(document: Path) -> None:
    for name in find_source_files(document.read_text()):
        assert list(ROOT.glob(name)), name


def read_without_examples(document: Path) -> str:
    """Return the text without examples of changes, which add things (tests/test_extending.py applies them)."""
    return re.sub(r"^```diff\n.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)


@document
def test_options_exist(document: Path) -> None:
    named = set(find_options(read_without_examples(document)))
    known = {option.flag for option in options().values()} | OTHER_PROGRAMS_OPTIONS
    assert document.name == "CHANGELOG.md" or named <= known, named - known


@document
def test_environment_variables_exist(document: Path) -> None:
    named = set(find_environment_variables(read_without_examples(document)))
    known = {name for option in options().values() for name in option.env} | {PROXY_URL_VARIABLE, URL_VARIABLE}
    assert named <= known, named - known


def test_test_command_is_what_ci_runs() -> None:
    assert "python3 tests/run.py" in README
    assert "python3 tests/run.py" in (ROOT / ".ci" / "run").read_text()
