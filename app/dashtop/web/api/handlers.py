"""Handlers of the endpoints, named after their routes: current values, history, export, events, past processes."""

from __future__ import annotations

import math
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from flask import Response
from werkzeug.exceptions import ServiceUnavailable, UnprocessableEntity

from dashtop.export.table import FORMATS, Table
from dashtop.metrics import ALL_METRICS
from dashtop.model.errors import ExportError
from dashtop.model.metric import MIB
from dashtop.model.sample import SeriesKey, StoredGpu
from dashtop.model.timerange import SECOND_MS
from dashtop.web.api import serializers
from dashtop.web.api.context import find_gpu, get_gpu, get_gpus, get_readable_gpu, json_response
from dashtop.web.api.params import DEFAULT_POINTS_OF_ALL, ExportParams
from dashtop.web.api.serializers import DIGITS, scaled, to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from numpy.typing import NDArray

    from dashtop.model.ports import History
    from dashtop.model.sample import Gpu, Sample, SeriesSet
    from dashtop.web.api.context import Context, StreamLimiter
    from dashtop.web.api.params import EventsParams, GpuParams, HistoryParams, Params, ProcessHistoryParams

STATISTICS = ("mean", "min", "max")
MAX_CELLS = 2_000_000
"""Values in one response of /history: more than every metric of a GPU at 5000 points."""
LARGE_QUERY_CELLS = 200_000
"""A larger response is streamed, and few are written at a time: 200 000 values take 30 MB until they are JSON."""
PIECE_CELLS = 50_000
"""Values of a large response that are in memory at a time."""
MAX_EXPORT_ROWS = 5_000_000
"""Two years in steps of 15 s, or a month in steps of 1 s. Reading thousands of empty years would take hours."""


def monitoring_all(context: Context, params: GpuParams) -> Response:
    """Return everything about the machine and one GPU."""
    sample = context.get_sample()
    gpu = find_gpu(sample, params.gpu_id)
    key = ("monitoring_all", gpu.device.index if gpu is not None else None)
    return json_response(context.cache.get_or_create(sample, key, lambda: serializers.monitoring_all(sample, gpu)))


def gpu_metrics(context: Context, params: GpuParams) -> Response:
    """Return every metric of one GPU."""
    sample = context.get_sample()
    gpu = get_readable_gpu(sample, params.gpu_id)
    key = ("gpu_metrics", gpu.device.index)
    return json_response(context.cache.get_or_create(sample, key, lambda: serializers.gpu_metrics_with_reasons(gpu)))


def gpu_info(context: Context, params: GpuParams) -> Response:
    """Return the static facts of one GPU."""
    return json_response(serializers.gpu_info(get_gpu(context.get_sample(), params.gpu_id).device))


def _sample_handler(serialize: Callable[[Sample], object]) -> Callable[[Context, Params], Response]:
    """Return a handler whose response depends on the sample only."""

    def handler(context: Context, _params: Params) -> Response:
        sample = context.get_sample()
        return json_response(context.cache.get_or_create(sample, serialize, lambda: serialize(sample)))

    return handler


def _serialize_processes(sample: Sample) -> object:
    get_gpus(sample)  # raises if NVML failed; an empty list means that there are no processes
    return serializers.processes(sample)


gpu_list = _sample_handler(lambda sample: [serializers.gpu_info(gpu.device) for gpu in get_gpus(sample)])
gpu_metrics_all = _sample_handler(
    lambda sample: [serializers.gpu_metrics_with_reasons(gpu) for gpu in get_gpus(sample)]
)
metrics = _sample_handler(lambda sample: serializers.system_metrics_with_reasons(sample.host))
processes = _sample_handler(_serialize_processes)
storage = _sample_handler(lambda sample: [serializers.storage(mount) for mount in sample.host.mounts])


def history(context: Context, params: HistoryParams) -> Response:
    """Return the series of one GPU and the host. A large response is streamed, a few series at a time."""
    names = _find_metrics(params)
    keys = _find_series_keys(names, _find_gpus(context.get_sample(), names, params))
    points = params.points or (DEFAULT_POINTS_OF_ALL if params.metrics is None else None)
    start_ms, end_ms, step_ms = params.resolve(context.services.clock, points)
    cells_per_series = len(STATISTICS) * ((end_ms - start_ms) // step_ms + 2)
    cells = cells_per_series * len(keys)
    if cells > MAX_CELLS:
        raise UnprocessableEntity(
            f"This is {cells} values, at most {MAX_CELLS} are allowed. Ask for fewer points or metrics."
        )
    pieces = _write_columns(
        context.services.history,
        keys,
        start_ms,
        end_ms,
        step_ms,
        series_per_piece=max(1, PIECE_CELLS // cells_per_series),
    )
    if cells <= LARGE_QUERY_CELLS:
        return json_response(b"".join(pieces))
    return _stream(context.large_query_limiter, pieces, media_type="application/json")


def _write_columns(
    history: History, keys: Sequence[SeriesKey], start_ms: int, end_ms: int, step_ms: int, *, series_per_piece: int
) -> Iterator[bytes]:
    """Yield the JSON of the series, a few at a time."""
    separator = b""
    for first in range(0, max(len(keys), 1), series_per_piece):
        series_set = history.query(keys[first : first + series_per_piece], start_ms, end_ms, step_ms)
        if first == 0:
            times = [series_set.start_ms + index * step_ms for index in range(series_set.count)]
            yield b'{"timestamps":%b,"step_ms":%d,"series":{' % (to_json(times), step_ms)
        if series_set.series:
            yield separator + to_json(_columns(series_set))[1:-1]
            separator = b","
    yield b'},"incomplete":%b}' % to_json(history.read_status().error)


def _find_metrics(params: HistoryParams) -> list[str]:
    """Return the keys of the selected metrics."""
    selected = params.metrics.split(",") if params.metrics is not None else [metric.key for metric in ALL_METRICS]
    return list(dict.fromkeys(selected))


def _find_gpus(sample: Sample, names: Sequence[str], params: HistoryParams) -> Sequence[Gpu]:
    """Return the selected GPUs. Raise as `get_gpu` does if metrics of a GPU are named."""
    if isinstance(params, ExportParams) and params.gpu is not None:
        if params.gpu == "all":
            return get_gpus(sample)
        return [get_gpu(sample, index) for index in sorted({int(index) for index in params.gpu.split(",")})]
    is_gpu_required = params.metrics is not None and any(name.startswith("gpu.") for name in names)
    gpu = get_gpu(sample, params.gpu_id) if is_gpu_required else find_gpu(sample, params.gpu_id)
    return [gpu] if gpu is not None else []


def _find_series_keys(names: Sequence[str], gpus: Sequence[Gpu]) -> list[SeriesKey]:
    """Return the series of the host, then those of each GPU."""
    host = [SeriesKey(name) for name in names if not name.startswith("gpu.")]
    return host + [SeriesKey(name, gpu.device.uuid) for gpu in gpus for name in names if name.startswith("gpu.")]


def _columns(series_set: SeriesSet) -> dict[str, object]:
    return {
        series.key.metric: {
            "mean": _column(series.mean),
            "min": _column(series.minimum),
            "max": _column(series.maximum),
        }
        for series in series_set.series
    }


def _column(values: NDArray[np.float32]) -> list[float | None]:
    """Return rounded values, None for NaN."""
    rounded: list[float] = np.round(values.astype(np.float64), DIGITS).tolist()
    return [None if math.isnan(value) else value for value in rounded]


def export(context: Context, params: ExportParams) -> Response:
    """Return the history as a file, streamed. A download occupies a thread, so it counts as a stream."""
    services = context.services
    names = _find_metrics(params)
    gpus = _find_gpus(context.get_sample(), names, params)
    keys = _find_series_keys(names, gpus)
    if params.metrics is None:
        stored = set(services.history.series())
        if (error := services.history.read_status().error) is not None:
            raise ServiceUnavailable(error)  # the file would lack columns
        keys = [key for key in keys if key in stored]
    start_ms, end_ms, step_ms = params.resolve(services.clock, params.points)
    if params.step is not None:
        step_ms = params.step * SECOND_MS
        if (end_ms - start_ms) // step_ms > MAX_EXPORT_ROWS:
            raise UnprocessableEntity(
                f"step: must give at most {MAX_EXPORT_ROWS} rows. Use a larger step or a shorter time range."
            )
    file_format = FORMATS[params.format]
    table = Table(
        services.history,
        keys,
        start_ms=start_ms,
        end_ms=end_ms,
        step_ms=step_ms,
        gpus=[StoredGpu(gpu.device.uuid, gpu.device.index, gpu.device.name) for gpu in gpus],
        layout=params.layout,
    )
    try:
        response = _stream(context.stream_limiter, file_format.write(table), media_type=file_format.media_type)
    except ExportError as error:
        raise UnprocessableEntity(str(error)) from None
    name = params.range if params.start is None else f"{start_ms}-{end_ms}"
    response.headers["Content-Disposition"] = f'attachment; filename="dashtop-{name}{file_format.suffix}"'
    return response


def _stream(limiter: StreamLimiter, chunks: Iterator[bytes], *, media_type: str) -> Response:
    """Return a streamed response that counts as an open stream. Raise what the first chunk raises."""
    limited = _limit_stream(limiter, chunks)
    response = Response(chain((next(limited),), limited), content_type=media_type)
    response.call_on_close(limited.close)
    response.headers["Cache-Control"] = "no-store"
    return response


def _limit_stream(limiter: StreamLimiter, chunks: Iterator[bytes]) -> Generator[bytes, None, None]:
    """Yield the chunks. Counts as an open stream until the last one, or until the generator is closed."""
    limiter.acquire()
    try:
        yield from chunks
    finally:
        limiter.release()


def events(context: Context, params: EventsParams) -> Response:
    """Return events, the oldest first."""
    start_ms, end_ms, _ = params.resolve(context.services.clock)
    wanted = params.to_filter(_find_gpu_uuid(context, params.gpu_id) if params.gpu_id is not None else None)
    indices = {gpu.device.uuid: gpu.device.index for gpu in context.get_sample().gpus}
    return json_response(
        [serializers.event(event, indices) for event in context.services.history.events(start_ms, end_ms, wanted)]
    )


def _find_gpu_uuid(context: Context, index: int) -> str:
    """Return the UUID of the GPU with this index, at present or in the history. Raise as `get_gpu` does."""
    sample = context.get_sample()
    if (gpu := sample.gpu(index)) is not None:
        return gpu.device.uuid
    stored = next((gpu.uuid for gpu in context.services.history.gpus() if gpu.index == index), None)
    return stored if stored is not None else get_gpu(sample, index).device.uuid


def processes_history(context: Context, params: ProcessHistoryParams) -> Response:
    """Return the memory of each process on one GPU over time, the oldest first."""
    gpu = get_gpu(context.get_sample(), params.gpu_id)
    start_ms, end_ms, _ = params.resolve(context.services.clock)
    return json_response(
        [
            {
                "start": span.start_ms,
                "end": span.end_ms,
                "pid": span.pid,
                **span.info.to_json(),
                "type": span.kind,
                "gpu_memory_mb": scaled(span.gpu_memory_bytes, MIB),
                "peak_gpu_memory_mb": scaled(span.peak_gpu_memory_bytes, MIB),
                "peak_sm_percent": span.peak_sm_percent,
            }
            for span in context.services.history.processes(gpu.device.uuid, start_ms, end_ms)
        ]
    )
