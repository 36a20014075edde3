"""A static fact about a process is a field of ProcessInfo: API, schema and history take it from there.

The page shows it by one row of its table of fields.
"""

from __future__ import annotations

import json
from dataclasses import field, fields, make_dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

from dashtop.history.encoder import Span
from dashtop.history.queries import _decode_info
from dashtop.model.sample import GpuProcess, ProcessInfo
from dashtop.ui.panels import processes
from dashtop.web.api import schemas, serializers
from tests.builders import make_gpu
from tests.ui.worlds import make_context, world

if TYPE_CHECKING:
    import pytest

FULL = ProcessInfo(
    name="train.py",
    username="ada",
    container="3f2a",
    container_runtime="docker",
    slurm_job="812",
    kubernetes_pod="74ba62da",
    environment="llm",
    notebook="train.ipynb",
    started_ms=5,
    foreign=True,
)
NAMES = {each.metadata["name"] for each in fields(ProcessInfo)}


def process(info: ProcessInfo) -> GpuProcess:
    return GpuProcess(pid=41, kind="C", gpu_memory_bytes=1, info=info)


def test_example_sets_every_field() -> None:
    assert all(getattr(FULL, each.name) != each.default for each in fields(ProcessInfo))


def test_api_and_its_schema_have_every_field() -> None:
    body = serializers.process(process(FULL), now_ms=10)
    assert {name: body[name] for name in NAMES} == FULL.to_json()
    for model in (schemas.GpuProcess, schemas.ProcessOnGpu, schemas.ProcessSpan):
        assert model.model_fields.keys() >= NAMES
        assert all(model.model_fields[name].description for name in NAMES)


def test_new_fact_is_one_field_of_the_model_and_one_row_of_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = field(default=None, metadata={"name": "queue", "help": "Queue of the job."})
    extended = make_dataclass(
        "Extended", [("queue", "str | None", queue)], bases=(ProcessInfo,), frozen=True, kw_only=True
    )
    running = process(extended(name="train.py", queue="long"))
    assert serializers.process(running, now_ms=10)["queue"] == "long"
    assert json.loads(str(Span.start(running, "GPU-0", 0).to_row()[-1]))["queue"] == "long"

    row = processes.Field("queue", attrgetter("process.info.queue"), "Queue", "Queue of the job")
    monkeypatch.setattr(processes, "FIELDS", (*processes.FIELDS, row))
    services, _, _ = world()
    assert "data-column='queue'" in str(processes.layout(services))
    data = processes.live_data(make_context(make_gpu(processes=(running,))))
    assert [each["queue"] for each in data["processes"]] == ["long"]


def test_history_keeps_every_field() -> None:
    for info in (FULL, ProcessInfo()):
        facts = json.loads(str(Span.start(process(info), "GPU-0", 0).to_row()[-1]))
        assert _decode_info(facts) == info


def test_rows_of_version_0_1_are_understood() -> None:
    owner = {"user": "ada", "container": "3f2a", "runtime": "docker", "slurm_job": None}
    facts = {"name": "train.py", "kind": "C", "started_ms": 5, "foreign": False, "owner": owner}
    assert _decode_info(facts) == ProcessInfo(
        name="train.py", username="ada", container="3f2a", container_runtime="docker", started_ms=5
    )
    assert _decode_info(facts | {"owner": None}) == ProcessInfo(name="train.py", started_ms=5)


def test_unknown_fields_of_a_newer_version_are_ignored() -> None:
    assert ProcessInfo.from_json({"process_name": "x", "colour": "blue"}) == ProcessInfo(name="x")
