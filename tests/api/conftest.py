from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dashtop.model.sample import GpuProcess, Mount, ProcessInfo
from tests.api.client import make_client
from tests.builders import FixedSample, make_gpu, make_sample

if TYPE_CHECKING:
    from flask.testing import FlaskClient


@pytest.fixture
def two_gpus() -> FlaskClient:
    process = GpuProcess(
        pid=12345, kind="C", gpu_memory_bytes=8192 * 2**20, cpu_percent=25.5, info=ProcessInfo(name="python")
    )
    unknown = GpuProcess(pid=12346, kind="G", gpu_memory_bytes=None)
    gpus = (
        make_gpu(0, values={"gpu.utilization.gpu": 78.5, "gpu.clocks.gpu_mhz": 1800.0}, processes=(process, unknown)),
        make_gpu(1, values={"gpu.utilization.gpu": 0.0}),
    )
    mounts = (
        Mount(mount_point="/", filesystem="ext4", used_bytes=2**30, total_bytes=4 * 2**30, used_percent=25.0),
        Mount(mount_point="/dead", filesystem="nfs", used_bytes=None, total_bytes=None, used_percent=None),
    )
    return make_client(FixedSample(make_sample(gpus=gpus, host={"system.cpu.usage_percent": 35.25}, mounts=mounts)))
