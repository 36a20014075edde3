"""Queries of the history about many GPUs."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from dashtop.model.sample import SeriesKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from dashtop.model.ports import History
    from dashtop.model.sample import Series
    from dashtop.ui.panels.base import PanelContext

# Each query has the deadline of a read for itself; one for each GPU would decode every stored row as many times.
_GPUS_PER_QUERY: Final = 8


def read_gpu_series(
    history: History, uuids: Iterable[str], metrics: Sequence[str], buckets: tuple[int, int, int]
) -> Iterator[tuple[str, dict[str, Series]]]:
    """Yield the series of each GPU by metric. `buckets`: start, end and step, epoch milliseconds."""
    remaining = iter(uuids)
    while found := list(islice(remaining, _GPUS_PER_QUERY)):
        keys = [SeriesKey(metric, uuid) for uuid in found for metric in metrics]
        series = iter(history.query(keys, *buckets).series)
        for uuid in found:
            yield uuid, dict(zip(metrics, islice(series, len(metrics)), strict=True))


def read_stored_gpus(context: PanelContext) -> dict[str, tuple[int | None, str | None]]:
    """Return index and name of each GPU that is or was present, by UUID. Read once a minute."""
    key = f"stored-gpus|{context.sample.time_ms // 60_000}|{context.services.history.read_status().version}"
    stored = context.cache.get_or_create(
        key, lambda: {gpu.uuid: (gpu.index, gpu.name) for gpu in context.services.history.gpus()}
    )
    return stored | {gpu.device.uuid: (gpu.device.index, gpu.device.name) for gpu in context.sample.gpus}


def label_gpu(uuid: str, gpus: Mapping[str, tuple[int | None, str | None]]) -> str:
    """Return "GPU 3", or the beginning of the UUID of a GPU whose index is not known."""
    index, _ = gpus.get(uuid, (None, None))
    return f"GPU {index}" if index is not None else uuid[: len("GPU-12345678")]
