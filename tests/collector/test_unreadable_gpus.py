"""GPUs that are lost when dashtop starts keep the identity that the history knows; since when a GPU is unreadable."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from dashtop.collector.unreadable_gpus import RETRY_S, UnreadableGpus, add_state_starts
from dashtop.model.sample import StoredGpu
from dashtop.model.unavailable import UnavailableReason
from dashtop.sources.gpu_records import build_unreadable_device, mark_unavailable
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


SILENT, INITIALIZING = UnavailableReason.DRIVER_SILENT, UnavailableReason.INITIALIZING
LOST, RESET, ASLEEP = UnavailableReason.GPU_LOST, UnavailableReason.GPU_RESET_REQUIRED, UnavailableReason.ASLEEP


def follow(*states: UnavailableReason | None) -> list[int | None]:
    """Return since when each state of a GPU holds, in seconds from the first sample on."""
    previous, found = None, []
    for second, state in enumerate(states):
        gpu = make_gpu() if state is None else mark_unavailable(make_gpu().device, state)
        sample = make_sample(second, time_ms=NOON_MS + 1000 * second, gpus=(make_gpu(1), gpu))
        previous = add_state_starts(previous, sample)
        since_ms = previous.gpus[1].state_since_ms
        found.append(None if since_ms is None else (since_ms - NOON_MS) // 1000)
        assert previous.gpus[0] == make_gpu(1)
    return found


def test_a_state_begins_when_the_gpu_is_first_seen_in_it() -> None:
    assert follow(None, LOST, LOST, None, LOST) == [None, 1, 1, None, 4]
    assert follow(None, ASLEEP, LOST, RESET) == [None, 1, 2, 2]
    assert follow(None, SILENT, INITIALIZING, SILENT, LOST) == [None, 1, 1, 1, 4]


def test_the_start_of_a_state_before_dashtop_started_is_not_known() -> None:
    assert follow(LOST, LOST, RESET, None, RESET) == [None, None, None, None, 4]


def test_a_gpu_that_appears_unreadable_and_one_whose_reader_knows_keep_their_start() -> None:
    gpu = replace(mark_unavailable(make_gpu().device, LOST), state_since_ms=NOON_MS - 7000)
    before, sample = make_sample(1, time_ms=NOON_MS), make_sample(2, time_ms=NOON_MS + 1000, gpus=(gpu,))
    assert add_state_starts(before, sample).gpus == (gpu,)
    appeared = replace(sample, gpus=(replace(gpu, state_since_ms=None, device=make_gpu(5).device),))
    assert add_state_starts(before, appeared) == appeared
