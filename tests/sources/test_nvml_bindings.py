"""C arrays filled by NVML: struct layouts match those of pynvml, and long lists fit."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import pynvml
import pytest

from dashtop.sources.nvml.bindings import FIELD_VALUE, INITIAL_ROWS, PROCESS_INFO, UTILIZATION_SAMPLE
from tests.sources.nvml_fixtures import open_reader, read_complete, resize_world

if TYPE_CHECKING:
    from struct import Struct

    from tests.fake_nvml.fixtures import WorldFactory


@pytest.mark.parametrize(
    ("layout", "structure"),
    [
        (FIELD_VALUE, pynvml.c_nvmlFieldValue_t),
        (PROCESS_INFO, pynvml.c_nvmlProcessInfo_v2_t),
        (PROCESS_INFO, pynvml.c_nvmlProcessInfo_v3_t),
        (UTILIZATION_SAMPLE, pynvml.c_nvmlProcessUtilizationSample_t),
    ],
)
def test_struct_layouts_match_pynvml(layout: Struct, structure: type[ctypes.Structure]) -> None:
    fields = [field[0] for field in structure._fields_]
    filled = structure()
    for number, name in enumerate(fields, start=1):
        ctypes.memmove(ctypes.addressof(filled) + getattr(structure, name).offset, bytes([number]), 1)

    assert layout.size == ctypes.sizeof(structure)
    assert layout.unpack(bytes(filled)) == tuple(range(1, len(fields) + 1))


def test_row_buffer_grows_for_long_process_lists(nvml_world: WorldFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    world = resize_world(nvml_world("rtx3090"), 1)
    world.gpu(0)["processes"] = [
        {"pid": 100_000 + n, "used_memory": (n + 1) * 2**20, "type": "C", "sm_util": n % 100, "mem_util": 1}
        for n in range(3 * INITIAL_ROWS)
    ]
    with open_reader(world, monkeypatch) as gpus:
        processes = read_complete(gpus)[0].processes

    assert {(each.pid, each.sm_percent) for each in processes} == {
        (100_000 + n, n % 100) for n in range(3 * INITIAL_ROWS)
    }
