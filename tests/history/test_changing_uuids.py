"""A driver that reports another UUID with each sample: memory and database stay bounded."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

from dashtop.history.encoder import MAX_NEW_GPUS, NEW_GPU_INTERVAL_S
from dashtop.model.sample import SeriesKey
from tests.builders import NOON_MS, make_device, make_gpu, make_history, make_sample, wait_until_written

if TYPE_CHECKING:
    import pytest

    from dashtop.history.store import HistoryStore
    from tests.history.conftest import Storage

KEY = "gpu.temperature"
SAMPLES_PER_S = 10
MAX_GROWTH_BYTES = 5_000_000


def append_samples(history: HistoryStore, first: int, last: int) -> None:
    """Append samples with a GPU that stays and one that is new in each."""
    for number in range(first, last):
        gpus = (
            make_gpu(0, values={KEY: 40}),
            make_gpu(device=make_device(1, uuid=f"GPU-{number}"), values={KEY: number % 100}),
        )
        sample = make_sample(number, time_ms=NOON_MS + number * 1000 // SAMPLES_PER_S, gpus=gpus)
        object.__setattr__(sample, "monotonic_s", number / SAMPLES_PER_S)
        history.append(sample)
    wait_until_written(history)


def test_changing_uuids_do_not_fill_the_database(storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    history = storage.history()
    append_samples(history, 0, 600)
    history.close()
    ((gpus,),) = storage.query_sql("SELECT count(DISTINCT gpu) FROM series WHERE gpu <> ''")
    assert MAX_NEW_GPUS <= gpus <= MAX_NEW_GPUS + 600 / SAMPLES_PER_S / NEW_GPU_INTERVAL_S + 2
    assert sum("Too many new GPUs" in message for message in caplog.messages) == 1


def test_changing_uuids_do_not_fill_the_memory() -> None:
    history = make_history()
    append_samples(history, 0, 2000)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    append_samples(history, 2000, 4000)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < MAX_GROWTH_BYTES
    found = history.query([SeriesKey(KEY, make_device(0).uuid)], NOON_MS, NOON_MS + 400_000, 1000).series[0]
    assert set(found.mean.tolist()) == {40.0}, "the GPU that stays has all its values"
    history.close()


def test_many_mig_instances_after_the_start_are_stored() -> None:
    """Eight GPUs cut into seven instances each."""
    history = make_history()
    history.append(make_sample(1, gpus=tuple(make_gpu(index) for index in range(8))))
    instances = tuple(
        make_gpu(device=make_device(index, uuid=f"MIG-{index}"), values={KEY: index}) for index in range(56)
    )
    history.append(make_sample(2, gpus=instances))
    keys = [SeriesKey(KEY, f"MIG-{index}") for index in range(56)]
    found = history.query(keys, NOON_MS, NOON_MS + 3000, 3000)
    assert [series.mean[0] for series in found.series] == list(range(56))
    history.close()
