"""The files for operators: rules and scrape configuration that promtool accepts, with names that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml  # type: ignore[import-untyped]

from dashtop.fleet import queries
from dashtop.fleet.dialects import DIALECTS
from dashtop.fleet.history import RULES_FILE
from dashtop.settings import options
from tests.debian import program
from tests.processes import ROOT
from tests.test_exporter import find_unknown_metrics

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = ROOT / "docs" / "fleet"
RULE_FILES = sorted(FOLDER.glob("*-rules*.yaml"))
OUTPUTS = {*queries.RULES} - {queries.RULE_USER}


def run_promtool(*arguments: str) -> str:
    checked = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    return checked.stdout


@pytest.mark.parametrize("file", RULE_FILES, ids=lambda file: file.name)
def test_rules_are_valid(file: Path) -> None:
    assert "SUCCESS" in run_promtool("check", "rules", str(file))


def test_scrape_configuration_is_valid(tmp_path: Path) -> None:
    for file in FOLDER.glob("*.yaml"):
        shutil.copy(file, tmp_path)
    (tmp_path / "dashtop-token").write_text("token-of-the-whole-fleet")
    assert "2 rule files found" in run_promtool("check", "config", str(tmp_path / "prometheus.yaml"))


def test_scrape_configuration_of_the_compose_file_is_valid(tmp_path: Path) -> None:
    compose = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    (tmp_path / "prometheus.yml").write_text(compose["configs"]["prometheus"]["content"])
    shutil.copy(FOLDER / compose["configs"]["recording-rules"]["file"], tmp_path)
    run_promtool("check", "config", str(tmp_path / "prometheus.yml"))
    known = {name for option in options().values() for name in option.env}
    for name, service in compose["services"].items():
        assert set(service.get("environment", {})) <= known, name
    assert (ROOT / "Dockerfile").is_file()


def test_rules_of_each_exporter_have_the_same_outputs() -> None:
    assert ROOT / RULES_FILE in RULE_FILES
    for file in RULE_FILES:
        if file.name.startswith("recording"):
            groups = yaml.safe_load(file.read_text())["groups"]
            recorded = {rule["record"] for group in groups for rule in group["rules"]}
            assert recorded - {queries.RULE_USER} == OUTPUTS, file.name
            assert {group["interval"] for group in groups} == {"1m"}


@pytest.mark.parametrize("name", ["recording-rules.yaml", "alert-rules.yaml", "grafana-dashboard.json"])
def test_names_of_metrics_exist(name: str) -> None:
    text = (FOLDER / name).read_text()
    assert find_unknown_metrics(text) <= {"dashtop_gpu_user_memory_bytes", "dashtop_user_gpu_seconds_total"}
    assert set(re.findall(r"\bdashtop:[a-z0-9_:]+", text)) <= {*queries.RULES}


def test_names_of_dcgm_are_those_of_the_table() -> None:
    known = {
        name
        for dialect in DIALECTS
        for sources in dialect.sources.values()
        for source in sources
        for name in (source.metric, *source.plus)
    }
    for file in FOLDER.glob("*dcgm*"):
        assert set(re.findall(r"\bDCGM_[A-Z_]+", file.read_text())) <= known, file.name


def test_dashboard_has_panels_of_its_own() -> None:
    dashboard = json.loads((FOLDER / "grafana-dashboard.json").read_text())
    other = json.loads((ROOT / "docs" / "grafana-dashboard.json").read_text())
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"]) >= 12
    assert dashboard["uid"] != other["uid"]
