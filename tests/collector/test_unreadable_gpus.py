"""GPUs that are lost when dashtop starts keep the identity that the history knows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dashtop.collector.unreadable_gpus import RETRY_S, UnreadableGpus
from dashtop.model.sample import StoredGpu
from dashtop.sources.gpu_records import build_unreadable_device
from tests.builders import NOON_MS, make_gpu, make_history, make_sample, wait_until_written
from tests.clock import FakeClock

if TYPE_CHECKING:
    from pathlib import Path

    from dashtop.model.sample import Gpu


def unreadable(index: int) -> Gpu:
    return replace(make_gpu(index), device=build_unreadable_device(index), values={})


def test_a_gpu_that_is_lost_at_the_start_is_the_one_of_the_history(tmp_path: Path) -> None:
    first = make_history(tmp_path)
    first.append(make_sample(1, time_ms=NOON_MS, gpus=(make_gpu(3), make_gpu(4))))
    # An earlier version stored what it could not identify.
    first.append(make_sample(2, time_ms=NOON_MS + 1000, gpus=(make_gpu(3), unreadable(4))))
    wait_until_written(first)
    first.close()
    history = make_history(tmp_path)
    found = UnreadableGpus(history.gpus, FakeClock()).identify((make_gpu(3), unreadable(4), unreadable(5)))
    assert [gpu.device.uuid for gpu in found] == [make_gpu(3).device.uuid, make_gpu(4).device.uuid, "unreadable-5"]
    assert [gpu.device.name for gpu in found][1] == make_gpu(4).device.name
    history.close()


def test_an_index_of_a_gpu_that_is_present_elsewhere_says_nothing() -> None:
    moved = make_gpu(4)
    stored = (StoredGpu(moved.device.uuid, 3, moved.device.name),)
    gpus = (unreadable(3), moved)
    assert UnreadableGpus(lambda: stored, FakeClock()).identify(gpus) == gpus


def test_the_history_is_asked_only_while_a_gpu_is_unknown() -> None:
    clock = FakeClock()
    answers: list[tuple[StoredGpu, ...]] = [(StoredGpu("GPU-4", 4, "H100"),), ()]
    unreadable_gpus = UnreadableGpus(answers.pop, clock)

    def identify() -> str:
        return unreadable_gpus.identify((unreadable(4),))[0].device.uuid

    assert unreadable_gpus.identify((make_gpu(0),)) == (make_gpu(0),)
    assert [identify(), identify()] == ["unreadable-4", "unreadable-4"]
    clock.advance(RETRY_S)
    assert [identify(), identify()] == ["GPU-4", "GPU-4"]
    assert not answers
