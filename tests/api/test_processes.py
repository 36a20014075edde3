"""A process in the API: fields of the driver, fields of the host, and null for missing ones."""

from __future__ import annotations

from dataclasses import replace

from dashtop.model.sample import GpuProcess, ProcessInfo
from dashtop.web.api.serializers import process

NOW_MS = 1_800_000_000_000


def test_process_has_every_field() -> None:
    owner = ProcessInfo(
        username="ada",
        container="31cb02944da7",
        container_runtime="docker",
        slurm_job="42",
        kubernetes_pod="74ba62da-1a3d-11e7-bb11-080027cb0e22",
        environment="train",
    )
    full = GpuProcess(
        pid=4321,
        kind="C+G",
        gpu_memory_bytes=3 * 2**30,
        sm_percent=97.0,
        memory_percent=40.0,
        encoder_percent=0.0,
        decoder_percent=1.5,
        cpu_percent=200 / 3,
        tree_cpu_percent=1000 / 3,
        usable_cpus=4.0,
        host_memory_bytes=512 * 2**20,
        info=replace(owner, name="python3", started_ms=NOW_MS - 90_500),
    )
    assert process(full, NOW_MS) == {
        "pid": 4321,
        "process_name": "python3",
        "gpu_memory_mb": 3072.0,
        "cpu_percent": 66.6667,
        "tree_cpu_percent": 333.3333,
        "usable_cpus": 4.0,
        "type": "C+G",
        "username": "ada",
        "sm_percent": 97.0,
        "memory_percent": 40.0,
        "encoder_percent": 0.0,
        "decoder_percent": 1.5,
        "host_memory_mb": 512.0,
        "started": NOW_MS - 90_500,
        "running_seconds": 90.5,
        "container": "31cb02944da7",
        "container_runtime": "docker",
        "slurm_job": "42",
        "kubernetes_pod": "74ba62da-1a3d-11e7-bb11-080027cb0e22",
        "environment": "train",
        "notebook": None,
        "foreign": False,
    }


def test_process_of_another_pid_namespace_is_foreign_and_otherwise_null() -> None:
    body = process(GpuProcess(pid=4321, kind="C", gpu_memory_bytes=None, info=ProcessInfo(foreign=True)), NOW_MS)

    assert {name: value for name, value in body.items() if value is not None} == {
        "pid": 4321,
        "type": "C",
        "foreign": True,
    }


def test_clock_set_back_gives_no_negative_running_time() -> None:
    young = GpuProcess(pid=1, kind="C", gpu_memory_bytes=None, info=ProcessInfo(started_ms=NOW_MS + 5_000))

    assert process(young, NOW_MS)["running_seconds"] == 0.0
