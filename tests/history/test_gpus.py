"""The history keeps index and name of each GPU, so that an export needs no driver."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashtop.model.sample import StoredGpu
from tests.builders import make_device, make_gpu, make_history, make_sample, wait_until_written

if TYPE_CHECKING:
    from dashtop.history.store import HistoryStore
    from tests.history.conftest import Storage

FIRST, SECOND, THIRD = (f"GPU-{letter}" for letter in "cba")
NAME = make_device().name


def append(history: HistoryStore, second: int, *uuids: str) -> None:
    gpus = tuple(make_gpu(device=make_device(index, uuid=uuid)) for index, uuid in enumerate(uuids))
    history.append(make_sample(second, gpus=gpus))


def test_gpus_are_in_the_order_of_their_index_after_a_restart(storage: Storage) -> None:
    history = storage.history()
    append(history, 0, FIRST, SECOND, THIRD)
    expected = tuple(StoredGpu(uuid, index, NAME) for index, uuid in enumerate((FIRST, SECOND, THIRD)))
    assert history.gpus() == expected
    wait_until_written(history)
    history.close()
    reader = storage.history(starts=False)
    assert reader.gpus() == expected
    reader.close()


def test_a_replaced_gpu_has_no_index(storage: Storage) -> None:
    history = storage.history()
    append(history, 0, FIRST, SECOND)
    append(history, 1, FIRST, THIRD)
    expected = (StoredGpu(FIRST, 0, NAME), StoredGpu(THIRD, 1, NAME), StoredGpu(SECOND, None, NAME))
    assert history.gpus() == expected
    wait_until_written(history)
    assert history.gpus() == expected
    history.close()


def test_indices_follow_a_renumbering_and_back(storage: Storage) -> None:
    history = storage.history()
    for second, uuids in enumerate([(FIRST, SECOND), (SECOND,), (FIRST, SECOND)]):
        append(history, second, *uuids)
        wait_until_written(history)
        assert [(gpu.uuid, gpu.index) for gpu in history.gpus()[: len(uuids)]] == [
            (uuid, index) for index, uuid in enumerate(uuids)
        ]
    history.close()


def test_database_without_the_table_gets_it_from_the_next_writer(storage: Storage) -> None:
    history = storage.history()
    append(history, 0, FIRST)
    wait_until_written(history)
    history.close()
    storage.query_sql("DROP TABLE gpu")
    reader = storage.history(starts=False)
    assert reader.gpus() == ()
    assert {key.gpu_uuid for key in reader.series()} >= {FIRST}
    reader.close()
    history = storage.history()
    append(history, 10, FIRST)
    wait_until_written(history)
    assert history.gpus() == (StoredGpu(FIRST, 0, NAME),)
    assert not list(storage.folder.glob("*unusable*"))
    history.close()


def test_history_in_memory_has_the_gpus() -> None:
    history = make_history()
    append(history, 0, FIRST)
    wait_until_written(history)
    assert history.gpus() == (StoredGpu(FIRST, 0, NAME),)
    history.close()
