"""Queries of the history about many GPUs."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from dashtop.model.sample import SeriesKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from dashtop.model.ports import History
    from dashtop.model.sample import Series

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
