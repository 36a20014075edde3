"""A static fact about a process is a field of ProcessInfo: API, schema and history take it from there."""

from __future__ import annotations

import json
from dataclasses import fields

from dashtop.history.encoder import Span
from dashtop.history.queries import _decode_info
from dashtop.model.sample import GpuProcess, ProcessInfo
from dashtop.web.api import schemas, serializers

FULL = ProcessInfo(
    name="train.py",
    username="ada",
    container="3f2a",
    container_runtime="docker",
    slurm_job="812",
    kubernetes_pod="74ba62da",
    environment="llm",
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
