"""Every call of the API, one row each: routes, OpenAPI document and documentation page are made from this table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dashtop.export.formats import FORMATS
from dashtop.web.api import export, history, live, past
from dashtop.web.api import schemas as models
from dashtop.web.api import sse as stream
from dashtop.web.api.params import GpuQuery, Query

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Response

    from dashtop.web.api.context import Context

JSON = "application/json"
ERRORS = {
    400: "A GPU that does not exist: `Invalid GPU ID`.",
    401: "The server asks for a token: `Authorization: Bearer TOKEN`.",
    403: "The server was called by a name that it does not know (--allowed-hosts).",
    413: "A body that is too large; no call takes one.",
    414: "An address that is too long.",
    422: "A parameter that is unknown or malformed.",
    429: "Over the rate limit; `Retry-After` says for how many seconds.",
    500: "NVML failed: `Failed to collect GPU metrics: …`.",
    503: "Not now: no GPU on this system (`GPU monitoring not available on this system`), or no reading yet.",
}
EVERYWHERE = frozenset({401, 403, 413, 414, 422, 429, 503})


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """One GET call. A part of the path in braces is a field of `query`. `errors`: those beyond EVERYWHERE."""

    path: str
    summary: str
    run: Callable[[Context, Any], Response]
    answer: Any
    """The type of the JSON body; None where there is no JSON."""
    query: type[Query] = Query
    errors: frozenset[int] = frozenset()
    media_types: tuple[str, ...] = (JSON,)

    @property
    def name(self) -> str:
        """The path as an identifier."""
        return self.path.strip("/").translate(str.maketrans("/-.", "___", "{}"))


OF_ONE_GPU = frozenset({400, 500})
OF_ALL_GPUS = frozenset({500})

ENDPOINTS = (
    Endpoint(
        path="/monitoring/all",
        summary="Everything about the machine and one GPU, in one answer; also where there is no GPU.",
        run=live.monitoring_all,
        query=GpuQuery,
        answer=models.MonitoringAll,
        errors=frozenset({400}),
    ),
    Endpoint(
        path="/gpu-list",
        summary="Static facts of each GPU.",
        run=live.gpu_list,
        answer=list[models.GpuInfo],
        errors=OF_ALL_GPUS,
    ),
    Endpoint(
        path="/gpu-metrics",
        summary="Every metric of one GPU.",
        run=live.gpu_metrics,
        query=GpuQuery,
        answer=models.GpuMetricsExplained,
        errors=OF_ONE_GPU,
    ),
    Endpoint(
        path="/gpu-metrics/all",
        summary="Every metric of every GPU.",
        run=live.gpu_metrics_all,
        answer=list[models.GpuMetricsExplained],  # type: ignore[valid-type]
        errors=OF_ALL_GPUS,
    ),
    Endpoint(
        path="/gpu-info/{gpu_id}",
        summary="Static facts of one GPU.",
        run=live.gpu_info,
        query=GpuQuery,
        answer=models.GpuInfo,
        errors=OF_ONE_GPU,
    ),
    Endpoint(
        path="/metrics",
        summary="Every metric of the machine.",
        run=live.system_metrics,
        answer=models.SystemMetricsExplained,
    ),
    Endpoint(
        path="/processes",
        summary="Processes that hold memory on any GPU.",
        run=live.processes,
        answer=list[models.ProcessOnGpu],
        errors=OF_ALL_GPUS,
    ),
    Endpoint(path="/storage", summary="Mount points that hold data.", run=live.storage, answer=list[models.Storage]),
    Endpoint(
        path="/history",
        summary="Series of the past as columns: mean, minimum and maximum of equal buckets.",
        run=history.history,
        query=history.HistoryQuery,
        answer=models.History,
        errors=OF_ONE_GPU,
    ),
    Endpoint(
        path="/export",
        summary="Series of the past as a file: a row for each bucket with a reading, units in the header.",
        run=export.export,
        query=export.ExportQuery,
        answer=models.Export,
        media_types=tuple(each.media_type for each in FORMATS.values()),
        errors=OF_ONE_GPU,
    ),
    Endpoint(
        path="/processes/history",
        summary="Which processes held how much memory of one GPU, and when; the newest 10 000 stretches.",
        run=past.processes,
        query=past.PastProcessesQuery,
        answer=list[models.ProcessSpan],
        errors=OF_ONE_GPU,
    ),
    Endpoint(
        path="/events",
        summary="What happened, in plain words, the oldest first; the newest 10 000 events.",
        run=past.events,
        query=past.EventsQuery,
        answer=list[models.Event],
    ),
    Endpoint(
        path="/stream",
        summary="Server-Sent Events: what /monitoring/all answers, once per collection; `Last-Event-ID` is honoured.",
        run=stream.stream,
        query=GpuQuery,
        answer=None,
        media_types=("text/event-stream",),
        errors=frozenset({400}),
    ),
)
