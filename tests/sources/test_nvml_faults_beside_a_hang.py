"""The matrix of return codes beside a GPU that hangs for ever, through the worker processes.

Every function of a device returns every code on some GPU. A GPU that is reported lost has no values, so only one
function fails on it; on the others many functions fail at a time, each with another code. Of the functions without a
device, those that leave the GPUs readable fail as well, with some of the codes.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import chain, product
from typing import TYPE_CHECKING

import pynvml
import pytest

from dashtop.model.sample import PROCESSES, Gpu
from dashtop.model.unavailable import UnavailableReason
from dashtop.sources.nvml import worker_process
from dashtop.sources.nvml.bindings import get_reason
from tests.sources.nvml_fixtures import RATES, open_reader, read_until
from tests.sources.test_nvml_faults import (
    CODES,
    LOOKUPS,
    LOST_CODES,
    METRIC_FUNCTIONS,
    OPTIONAL_FUNCTIONS,
    OTHER_FUNCTIONS,
    SUCCESSORS,
    get_allowed_reasons,
)

if TYPE_CHECKING:
    from dashtop.model.sample import GpuReading
    from tests.fake_nvml import World
    from tests.fake_nvml.fixtures import WorldFactory

Faults = Mapping[str, int]
"""The codes that the functions of one GPU return."""

GPU_COUNT = 64
HANGING_GPU, HEALTHY_GPU = 7, 0
METRIC_CODES = tuple(code for code in CODES if code not in LOST_CODES)
FUNCTIONS = tuple(name for name in (*METRIC_FUNCTIONS, *OTHER_FUNCTIONS) if name not in SUCCESSORS)
# Not called, or without effect on the GPU, if the other one fails; these fail on different GPUs.
HIDDEN_BY = {
    "nvmlGpmSampleGet": "nvmlGpmQueryDeviceSupport",
    "nvmlDeviceGetPcieThroughput": "nvmlDeviceGetFieldValues",
    "nvmlDeviceGetPciInfo_v3": "nvmlDeviceGetUUID",
    "nvmlDeviceRegisterEvents": "nvmlDeviceGetSupportedEventTypes",
}
_REST = tuple(name for name in FUNCTIONS if name not in {*HIDDEN_BY, *HIDDEN_BY.values()})
HALVES = ((*HIDDEN_BY, *_REST[::2]), (*HIDDEN_BY.values(), *_REST[1::2]))
REPORTING_LOSS = (*METRIC_FUNCTIONS, "nvmlDeviceGetUUID")
LOST_FAULTS = tuple({name: code} for name, code in product(REPORTING_LOSS, LOST_CODES) if name not in SUCCESSORS)
ARRANGEMENTS: dict[str, tuple[Faults, ...]] = {
    "many functions": tuple(
        {name: METRIC_CODES[(first + place) % len(METRIC_CODES)] for place, name in enumerate(half)}
        for half in HALVES
        for first in range(len(METRIC_CODES))
    ),
    "lost": LOST_FAULTS[:60],
    "lost, and not found": (*LOST_FAULTS[60:], *({name: code} for name, code in product(LOOKUPS, CODES))),
    "older functions": (
        *(
            {name: METRIC_CODES[(first + place) % len(METRIC_CODES)] for place, name in enumerate(SUCCESSORS)}
            for first in range(len(METRIC_CODES))
        ),
        *({name: code} for name, code in product(SUCCESSORS, LOST_CODES) if name in REPORTING_LOSS),
    ),
}


def test_arrangements_cover_every_function_and_code() -> None:
    covered = {fault for faults in chain(*ARRANGEMENTS.values()) for fault in faults.items()}
    functions = (*METRIC_FUNCTIONS, *OTHER_FUNCTIONS, *LOOKUPS)
    without_effect = {*OTHER_FUNCTIONS} - {*REPORTING_LOSS}
    assert covered == {*product(functions, CODES)} - {*product(without_effect, LOST_CODES)}


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_errors_beside_a_gpu_that_hangs(
    nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch, arrangement: str
) -> None:
    monkeypatch.setattr(worker_process, "HANG_TIMEOUT_S", 1.5)
    world = nvml_world("h100x8")
    faults = set_faults(world, arrangement)

    def is_complete(found: GpuReading) -> bool:
        return found.age_s == 0 and len(found.gpus) == GPU_COUNT and not any(map(is_waiting, found.gpus))

    with open_reader(world, monkeypatch) as gpus:
        found = read_until(gpus, is_complete, timeout_s=30)
        assert gpus.failures() == 1, "that of the GPU that hangs"
    assert found.gpus[HANGING_GPU].state is UnavailableReason.NOT_RESPONDING
    healthy = found.gpus[HEALTHY_GPU]
    assert healthy.state is None
    for index, codes in faults.items():
        gpu = found.gpus[index]
        assert gpu.device.index == index
        (check_lost if set(codes.values()) & {*LOST_CODES} or set(codes) & {*LOOKUPS} else check)(gpu, codes, healthy)
    for index in {*range(GPU_COUNT)} - {HANGING_GPU, *faults}:
        assert found.gpus[index].unavailable == healthy.unavailable


def set_faults(world: World, arrangement: str) -> dict[int, Faults]:
    """Set up GPU_COUNT GPUs with the faults of an arrangement. Return these by GPU."""
    template = world.gpu(0)
    template["processes"] = [{"pid": 4_000_000, "used_memory": 2**20, "type": "C"}]
    template["retired_pages"] = {"single_bit": [1], "double_bit": [], "pending": 0}
    template["fan_speed"] = 50
    for key in ("tx_bytes", "rx_bytes"):  # measured by the call that blocks
        template["pcie"].pop(key)
    world.data["gpus"] = [copy.deepcopy(template) for _ in range(GPU_COUNT)]
    for index, gpu in enumerate(world.gpus):
        gpu["uuid"] = f"GPU-{index:08d}-1111-4222-8333-444455556666"
        gpu["pci"]["bus_id"] = f"00000000:{index + 1:02X}:00.0"
    world.set_hang("nvmlDeviceGetUtilizationRates", gpu=HANGING_GPU)
    if arrangement == "older functions":
        for newer in SUCCESSORS.values():
            world.set_return(newer, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)
    turn = 7 * list(ARRANGEMENTS).index(arrangement)
    for place, function in enumerate(chain(*OPTIONAL_FUNCTIONS)):
        world.set_return(function, CODES[(turn + place) % len(CODES)])
    free = [index for index in range(GPU_COUNT) if index not in {HANGING_GPU, HEALTHY_GPU}]
    faults = dict(zip(free, ARRANGEMENTS[arrangement], strict=False))
    assert len(faults) == len(ARRANGEMENTS[arrangement])
    for index, codes in faults.items():
        for function, code in codes.items():
            world.set_return(function, code, gpu=index)
    return faults


def is_waiting(gpu: Gpu) -> bool:
    """Return whether a metric other than a rate has not been read yet."""
    waiting = {key for key, reason in gpu.unavailable.items() if reason is UnavailableReason.FIRST_READING}
    return not waiting <= {*RATES} - {*METRIC_FUNCTIONS.values()}


def check_lost(gpu: Gpu, codes: Faults, healthy: Gpu) -> None:
    """Check that a GPU has no values, for the reason of the only function that fails."""
    ((function, code),) = codes.items()
    assert gpu.state is get_reason(code), (function, code)
    assert set(gpu.unavailable) == {*healthy.values, PROCESSES}


def check(gpu: Gpu, codes: Faults, healthy: Gpu) -> None:
    """Check that the metric of each function that fails is missing for its reason, and no metric of another one."""
    assert gpu.state is None
    for function, key in METRIC_FUNCTIONS.items():
        reason = gpu.unavailable.get(key)
        if function in codes:
            assert reason in get_allowed_reasons(function, codes[function]), (function, codes[function])
        elif key not in {METRIC_FUNCTIONS.get(each) for each in codes} and HIDDEN_BY.get(function) not in codes:
            assert reason == healthy.unavailable.get(key), (function, codes)
