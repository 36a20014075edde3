"""Calls about what happened: events, and which processes held what."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashtop.web.api.context import answer, one_gpu
from dashtop.web.api.params import GpuQuery, TimeRangeParams
from dashtop.web.api.serializers import MIB, scaled

if TYPE_CHECKING:
    from flask import Response

    from dashtop.web.api.context import Context


class EventsQuery(TimeRangeParams):
    """Of which stretch of time."""


class PastProcessesQuery(TimeRangeParams, GpuQuery):
    """Of which GPU and which stretch of time."""


def events(context: Context, query: EventsQuery) -> Response:
    """Answer with events, the oldest first."""
    start_ms, end_ms, _ = query.stretch(context.services.clock)
    indices = {gpu.device.uuid: gpu.device.index for gpu in context.sample().gpus}
    return answer(
        [
            {
                "timestamp": event.time_ms,
                "kind": event.kind,
                "severity": event.severity.value,
                "text": event.text,
                "advice": event.advice,
                "gpu_uuid": event.gpu_uuid,
                "gpu_id": indices.get(event.gpu_uuid or ""),
                "code": event.code,
            }
            for event in context.services.history.events(start_ms, end_ms)
        ]
    )


def processes(context: Context, query: PastProcessesQuery) -> Response:
    """Answer with what each process held on one GPU, the oldest first."""
    gpu = one_gpu(context.sample(), query.gpu_id)
    start_ms, end_ms, _ = query.stretch(context.services.clock)
    found = context.services.history.processes(gpu.device.uuid, start_ms, end_ms)
    return answer(
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
            for span in found
        ]
    )
