"""The table of endpoints, one row each. Routes, OpenAPI document and documentation page derive from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dashtop.export.table import FORMATS
from dashtop.usage.report import CSV_TYPE
from dashtop.web.api import actions, alerts, fleet, handlers, runs, schemas, sse, usage
from dashtop.web.api.bodies import (
    AckBody,
    ChannelBody,
    MarksBody,
    ProcessBody,
    RunBody,
    RunChangeBody,
    SignalBody,
    SilenceBody,
    WatchBody,
)
from dashtop.web.api.params import (
    AlertParams,
    AlertsParams,
    EventsParams,
    ExportParams,
    FleetParams,
    FreeParams,
    GpuParams,
    HistoryParams,
    Params,
    ProcessHistoryParams,
    ProcessParams,
    RunParams,
    RunsParams,
    ServiceParams,
    SilenceParams,
    StreamParams,
    TimeRangeParams,
    UsageParams,
    WatchParams,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask import Response

    from dashtop.web.api.bodies import Body

JSON = "application/json"
ERRORS = {
    400: "No such GPU: `Invalid GPU ID`. Or the body is not JSON.",
    404: "There is no such alert, silence, service, watch, channel, run, GPU or process. Or no fleet is configured.",
    409: "There are too many silences, services, watches or runs. Another process has the PID now, or it holds no"
    " memory of the GPU; or it is too early to kill it.",
    410: "The process has ended.",
    415: "The body must be application/json.",
    401: "Access token required: `Authorization: Bearer TOKEN`. Or the action token: `X-Dashtop-Action-Token: TOKEN`.",
    403: "The host name in the request is not allowed (--allowed-hosts). Or the action is not (--allow-actions).",
    413: "The body is too large; no endpoint needs one.",
    414: "The URL is too long.",
    422: "Unknown or malformed parameter.",
    429: "Rate limit exceeded; `Retry-After` is the number of seconds to wait.",
    500: "NVML failed: `Failed to collect GPU metrics: …`.",
    501: "This system cannot signal processes safely (pidfd).",
    503: "No GPU on this system (`GPU monitoring not available on this system`), or no sample yet, or too"
    " many streams or large queries (`Retry-After`), or the data folder does not answer.",
}
COMMON_ERRORS = frozenset({401, 403, 413, 414, 422, 429, 503})


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """One endpoint. A part of the path in braces is a field of `params`. `errors`: in addition to COMMON_ERRORS.

    `method`: one that writes needs the header Authorization or a page of this server. `body`: the model of the JSON
    that it takes; the handler gets it as its third argument.
    """

    path: str
    summary: str
    handler: Callable[..., Response]
    response: Any
    """Type of the JSON body, None if the body is not JSON or there is none."""
    params: type[Params] = Params
    method: str = "GET"
    body: type[Body] | None = None
    status: int = 200
    errors: frozenset[int] = frozenset()
    media_types: tuple[str, ...] = (JSON,)

    @property
    def name(self) -> str:
        """The path as an identifier, with the method if it writes."""
        path = self.path.strip("/").translate(str.maketrans("/-.", "___", "{}"))
        return path if self.method == "GET" else f"{self.method.lower()}_{path}"


ONE_GPU_ERRORS = frozenset({400, 500})
ALL_GPUS_ERRORS = frozenset({500})

ENDPOINTS = (
    Endpoint(
        path="/monitoring/all",
        summary="All values of the machine and one GPU. Works without a GPU.",
        handler=handlers.monitoring_all,
        params=GpuParams,
        response=schemas.MonitoringAll,
        errors=frozenset({400}),
    ),
    Endpoint(
        path="/gpu-list",
        summary="Static facts of each GPU.",
        handler=handlers.gpu_list,
        response=list[schemas.GpuInfo],
        errors=ALL_GPUS_ERRORS,
    ),
    Endpoint(
        path="/gpu-metrics",
        summary="Every metric of one GPU.",
        handler=handlers.gpu_metrics,
        params=GpuParams,
        response=schemas.GpuMetricsWithReasons,
        errors=ONE_GPU_ERRORS,
    ),
    Endpoint(
        path="/gpu-metrics/all",
        summary="Every metric of every GPU.",
        handler=handlers.gpu_metrics_all,
        response=list[schemas.GpuMetricsWithReasons],  # type: ignore[valid-type]
        errors=ALL_GPUS_ERRORS,
    ),
    Endpoint(
        path="/gpu-info/{gpu_id}",
        summary="Static facts of one GPU.",
        handler=handlers.gpu_info,
        params=GpuParams,
        response=schemas.GpuInfo,
        errors=ONE_GPU_ERRORS,
    ),
    Endpoint(
        path="/metrics",
        summary="Every metric of the machine.",
        handler=handlers.metrics,
        response=schemas.SystemMetricsWithReasons,
    ),
    Endpoint(
        path="/processes",
        summary="Processes that use memory of any GPU.",
        handler=handlers.processes,
        response=list[schemas.ProcessOnGpu],
        errors=ALL_GPUS_ERRORS,
    ),
    Endpoint(
        path="/storage",
        summary="Mounted file systems.",
        handler=handlers.storage,
        response=list[schemas.Storage],
    ),
    Endpoint(
        path="/history",
        summary="Time series as columns: mean, minimum and maximum of each bucket.",
        handler=handlers.history,
        params=HistoryParams,
        response=schemas.History,
        errors=ONE_GPU_ERRORS,
    ),
    Endpoint(
        path="/export",
        summary="Time series as a file: one row for each bucket that has data, units in the header.",
        handler=handlers.export,
        params=ExportParams,
        response=schemas.Export | schemas.LongExport,
        media_types=tuple(each.media_type for each in FORMATS.values()),
        errors=ONE_GPU_ERRORS,
    ),
    Endpoint(
        path="/processes/history",
        summary="Memory of each process on one GPU over time; the newest 10 000 periods.",
        handler=handlers.processes_history,
        params=ProcessHistoryParams,
        response=list[schemas.ProcessSpan],
        errors=ONE_GPU_ERRORS,
    ),
    Endpoint(
        path="/usage",
        summary="Hours and energy of GPUs by user, container, Slurm job, process or GPU, in buckets of ten minutes.",
        handler=usage.get_usage,
        params=UsageParams,
        response=schemas.Usage,
        media_types=(JSON, CSV_TYPE),
    ),
    Endpoint(
        path="/events",
        summary="Events, oldest first: the newest 10 000, and in any case the newest 1 000 of each kind and severity.",
        handler=handlers.events,
        params=EventsParams,
        response=list[schemas.Event],
        errors=ONE_GPU_ERRORS,
    ),
    Endpoint(
        path="/fleet",
        summary="GPUs and nodes of the fleet (--fleet-url, --fleet-peers), by node and index.",
        handler=fleet.get_fleet,
        params=FleetParams,
        response=schemas.Fleet,
        errors=frozenset({404}),
    ),
    Endpoint(
        path="/fleet/free",
        summary="Nodes of the fleet with free GPUs: first those that have the fewest left over.",
        handler=fleet.get_free,
        params=FreeParams,
        response=schemas.FleetFree,
        errors=frozenset({404}),
    ),
    Endpoint(
        path="/alerts",
        summary="Alerts that are pending, firing or recovering, the most severe first.",
        handler=alerts.get_alerts,
        params=AlertsParams,
        response=list[schemas.Alert],
    ),
    Endpoint(
        path="/alerts/log",
        summary="Alerts that have fired or ended, oldest first.",
        handler=alerts.get_log,
        params=TimeRangeParams,
        response=list[schemas.Event],
    ),
    Endpoint(
        path="/alerts/rules",
        summary="The alert rules.",
        handler=alerts.get_rules,
        response=list[schemas.AlertRule],
    ),
    Endpoint(
        path="/alerts/{alert_id}/ack",
        summary="Mark an active alert as seen: it sends no further notices.",
        handler=alerts.acknowledge,
        params=AlertParams,
        method="POST",
        body=AckBody,
        response=schemas.Alert,
        errors=frozenset({400, 404, 415}),
    ),
    Endpoint(
        path="/silences",
        summary="Silences that have not ended.",
        handler=alerts.get_silences,
        response=list[schemas.Silence],
    ),
    Endpoint(
        path="/silences",
        summary="Suppress the notices of matching alerts for at most 30 days; evaluation goes on.",
        handler=alerts.add_silence,
        method="POST",
        body=SilenceBody,
        status=201,
        response=schemas.Silence,
        errors=frozenset({400, 409, 415}),
    ),
    Endpoint(
        path="/silences/{silence_id}",
        summary="End a silence.",
        handler=alerts.remove_silence,
        params=SilenceParams,
        method="DELETE",
        status=204,
        response=None,
        media_types=(),
        errors=frozenset({404}),
    ),
    Endpoint(
        path="/services",
        summary="Processes that may hold GPU memory without computing.",
        handler=alerts.get_services,
        response=list[schemas.Service],
    ),
    Endpoint(
        path="/services",
        summary="Mark processes with owner, name and container of this one as a service: no alert that they are idle.",
        handler=alerts.add_service,
        method="POST",
        body=ProcessBody,
        status=201,
        response=schemas.Service,
        errors=frozenset({400, 404, 409, 415}),
    ),
    Endpoint(
        path="/services/{service_id}",
        summary="Forget a service.",
        handler=alerts.remove_service,
        params=ServiceParams,
        method="DELETE",
        status=204,
        response=None,
        media_types=(),
        errors=frozenset({404}),
    ),
    Endpoint(
        path="/watches",
        summary="Watches that are open, or were met in the last hour.",
        handler=alerts.get_watches,
        response=list[schemas.Watch],
    ),
    Endpoint(
        path="/watches",
        summary="Wait, for at most seven days, until a GPU has been free for a minute or a process has ended.",
        handler=alerts.add_watch,
        method="POST",
        body=WatchBody,
        status=201,
        response=schemas.Watch,
        errors=frozenset({400, 404, 409, 415}),
    ),
    Endpoint(
        path="/watches/{watch_id}",
        summary="Remove a watch.",
        handler=alerts.remove_watch,
        params=WatchParams,
        method="DELETE",
        status=204,
        response=None,
        media_types=(),
        errors=frozenset({404}),
    ),
    Endpoint(
        path="/processes/{pid}/signal",
        summary="Interrupt, end, pause or resume a process that holds GPU memory. Needs --allow-actions and the header"
        " `X-Dashtop-Action-Token`.",
        handler=actions.send_signal,
        params=ProcessParams,
        method="POST",
        body=SignalBody,
        status=202,
        response=schemas.SentSignal,
        errors=frozenset({400, 409, 410, 415, 501}),
    ),
    Endpoint(
        path="/actions",
        summary="The newest 200 signals that were sent or refused, the newest first. Needs the header"
        " `X-Dashtop-Action-Token`.",
        handler=actions.get_records,
        response=list[schemas.ActionRecord],
    ),
    Endpoint(
        path="/notify/test",
        summary="Send a test notice to a channel of the settings file.",
        handler=alerts.send_test,
        method="POST",
        body=ChannelBody,
        response=schemas.ChannelTest,
        errors=frozenset({400, 404, 415}),
    ),
    Endpoint(
        path="/runs",
        summary="The newest runs, the newest first.",
        handler=runs.get_runs,
        params=RunsParams,
        response=list[schemas.Run],
    ),
    Endpoint(
        path="/runs",
        summary="Begin a run. It needs a heartbeat (PATCH) or marks every 90 s.",
        handler=runs.add_run,
        method="POST",
        body=RunBody,
        status=201,
        response=schemas.RunStarted,
        errors=frozenset({400, 409, 415}),
    ),
    Endpoint(
        path="/runs/{run_id}",
        summary="Say that a run goes on, or how it has ended.",
        handler=runs.change_run,
        params=RunParams,
        method="PATCH",
        body=RunChangeBody,
        response=schemas.Run,
        errors=frozenset({400, 404, 415}),
    ),
    Endpoint(
        path="/runs/{run_id}/marks",
        summary="Add marks to a run; 10 000 are kept.",
        handler=runs.add_marks,
        params=RunParams,
        method="POST",
        body=MarksBody,
        status=201,
        response=schemas.Run,
        errors=frozenset({400, 404, 415}),
    ),
    Endpoint(
        path="/runs/{run_id}/report",
        summary="The report of a run, until now if it is running.",
        handler=runs.get_report,
        params=RunParams,
        response=schemas.RunWithReport,
        errors=frozenset({404}),
    ),
    Endpoint(
        path="/stream",
        summary="Server-Sent Events: the body of /monitoring/all for each sample, and alerts if wanted; supports"
        " `Last-Event-ID`.",
        handler=sse.stream,
        params=StreamParams,
        response=None,
        media_types=("text/event-stream",),
        errors=frozenset({400}),
    ),
)
