"""The history charts of a browser's view: each is new when a bucket is complete, and rendered once for all viewers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dashtop.alerts.events import build_event
from dashtop.model.errors import RunsError
from dashtop.model.run import MAX_MARKS
from dashtop.model.sample import ALERT_KINDS, EventFilter
from dashtop.ui.charts.base_figure import ChartStyle
from dashtop.ui.charts.notes import EVENT_KINDS
from dashtop.ui.charts.resolution import RANGES_MS, Window, build_window, build_zoom_window, choose_span, widen_window
from dashtop.ui.panels import CHARTS, ChartData
from dashtop.ui.panels.charts import ADDED_OPTION, find_added, series_key
from dashtop.ui.parts import calculate_version
from dashtop.ui.theme import chart_theme

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dashtop.model.ports import Services
    from dashtop.model.run import Run, RunMark
    from dashtop.model.sample import Event, Gpu, ProcessSpan, Sample, SeriesKey, SeriesSet
    from dashtop.ui.panels import Chart
    from dashtop.ui.parts import RenderCache
    from dashtop.ui.request import ViewRequest

# Every history has some of these, from its first sample on.
_START_METRICS = ("system.cpu.usage_percent", "gpu.temperature", "gpu.memory.used_gb", "gpu.utilization.gpu")
# The newest of all GPUs; a chart shows at most _MAX_EVENTS of one.
_EVENTS = EventFilter(kinds=(*EVENT_KINDS, *ALERT_KINDS), limit=2_000)
_EVENTS_INTERVAL_MS = 10_000
_MAX_EVENTS = 500
_MAX_RUNS = 40


class View(NamedTuple):
    """The buckets that are looked at, when the history begins (None in a zoom), and a key of both."""

    window: Window
    first_ms: int | None
    is_short: bool
    key: str


class ChartRenderer:
    """Render charts from the history. Thread-safe."""

    def __init__(self, services: Services, cache: RenderCache) -> None:
        self._services = services
        self._cache = cache

    def render(self, sample: Sample, gpu: Gpu | None, request: ViewRequest, *, now_ms: int) -> dict[str, Any] | None:
        """Return the figures that the browser does not have, by id of the chart; None if it has all.

        {"charts": figures, "versions": their versions, "recorded": when a history begins that is shorter than its
        range}. `sample` may be of the past; `now_ms` is the time of the latest one. The version of a chart depends on
        the view and its last complete bucket, so only what is sent is drawn.
        """
        added = find_added(request.options.get(ADDED_OPTION, ""))
        charts = [chart for chart in (*CHARTS, *added) if request.is_visible(f"panel-{chart.id}")]
        if not charts:
            return None
        view = self._find_view(sample, gpu, request, now_ms)
        versions = {chart.id: self._version(chart, gpu, sample, request, view) for chart in charts}
        changed = [chart for chart in charts if request.versions.get(chart.id) != versions[chart.id]]
        if not changed:
            return None

        def draw() -> dict[str, Any]:
            style = ChartStyle(
                theme=chart_theme(dark=request.dark),
                width_px=request.width_px,
                revision=request.span_key,
                zoom=request.zoom,
                recorded_from_ms=view.first_ms if view.is_short else None,
                options=request.options,
            )
            data = self._read_data(changed, view.window, gpu, sample, request.options)
            figures = {chart.id: chart.draw(data, sample, gpu, style) for chart in changed}
            return {name: figure for name, figure in figures.items() if figure is not None}

        of_changed = {chart.id: versions[chart.id] for chart in changed}
        drawn = self._cache.get_or_create(f"charts|{'|'.join(of_changed.values())}", draw)
        return {"charts": drawn, "versions": of_changed, "recorded": view.first_ms if view.is_short else None}

    @property
    def _interval_ms(self) -> int:
        return round(self._services.latest.interval_s * 1000)

    def _version(self, chart: Chart, gpu: Gpu | None, sample: Sample, request: ViewRequest, view: View) -> str:
        options = request.options
        gpus = ",".join(dict.fromkeys(key.gpu_uuid or "" for key in _list_series([chart], gpu, sample, options)))
        metrics = "" if chart.choose_metrics is None else ",".join(chart.choose_metrics(options))
        # A GPU that is lost or comes back changes the texts of empty charts. A chart of all GPUs has no chosen one.
        state = gpu.state.name if gpu is not None and gpu.state is not None else ""
        return calculate_version(f"{chart.id}|{request.view_key}|{gpus}|{state}|{gpu is None}|{metrics}|{view.key}")

    def _find_view(self, sample: Sample, gpu: Gpu | None, request: ViewRequest, now_ms: int) -> View:
        outages = self._services.history.read_status().version  # what is rendered during one lacks a part
        owners = gpu.device.uuid if gpu is not None else ""
        keys = [series_key(metric, gpu) for metric in _START_METRICS if gpu is not None or metric.startswith("system.")]
        if request.zoom is not None:
            zoomed = build_zoom_window(request.zoom, now_ms, request.width_px, self._interval_ms)
            distance = self._cache.get_or_create(
                f"distance|{owners}|{request.view_key}|{zoomed.end_ms}|{outages}",
                lambda: _measure_distance(self._read(keys, zoomed)),
            )
            window = widen_window(zoomed, distance)
            return View(window, None, is_short=False, key=f"{window.end_ms}|{window.step_ms}|{outages}")
        first_ms = self._cache.get_or_create(
            f"start|{owners}|{request.view_key}|{outages}", lambda: self._find_start(sample, keys, request)
        )
        window = self._window(sample, request, first_ms)
        is_short = first_ms > self._window(sample, request, 0).start_ms
        # Not the start: it moves to the next bucket at another moment than the end.
        return View(window, first_ms, is_short, f"{first_ms}|{window.end_ms}|{outages}")

    def _window(self, sample: Sample, request: ViewRequest, first_ms: int) -> Window:
        """Return the buckets of the chosen range, if the history begins at `first_ms`."""
        span_ms = choose_span(RANGES_MS[request.range], sample.time_ms - first_ms, self._interval_ms)
        return build_window(sample.time_ms, span_ms, request.width_px, self._interval_ms)

    def _find_start(self, sample: Sample, keys: Sequence[SeriesKey], request: ViewRequest) -> int:
        """Return when the history begins, to the bucket; the sample's time if there is none.

        A short history begins somewhere in the first wide bucket, so search again with the window that it would have.
        """
        window = self._window(sample, request, 0)
        while True:
            first_ms = _find_first_value(self._read(keys, window), sample.time_ms)
            narrower = self._window(sample, request, first_ms)
            if narrower.start_ms <= window.start_ms:
                return first_ms
            window = narrower

    def _read_data(
        self, charts: Sequence[Chart], window: Window, gpu: Gpu | None, sample: Sample, options: Mapping[str, str]
    ) -> ChartData:
        processes: tuple[ProcessSpan, ...] = ()
        events: tuple[Event, ...] = ()
        if gpu is not None and any(chart.needs_events for chart in charts):
            history, uuid = self._services.history, gpu.device.uuid
            processes = history.processes(uuid, window.start_ms, window.end_ms)
            events = self._read_events(uuid, window)
        series = self._read(_list_series(charts, gpu, sample, options), window)
        runs = self._find_runs(window)
        return ChartData(series=series, processes=processes, events=events, runs=runs, interval_ms=self._interval_ms)

    def _find_runs(self, window: Window) -> tuple[tuple[Run, tuple[RunMark, ...]], ...]:
        """Return the newest runs in a time range, with their marks."""
        runs = [run for run in self._services.runs.recent() if run.gpus and run.begin_ms < window.end_ms]
        shown = [run for run in runs if run.end_ms is None or run.end_ms > window.start_ms][:_MAX_RUNS]
        return tuple((run, self._read_marks(run) if run.mark_count else ()) for run in shown)

    def _read_marks(self, run: Run) -> tuple[RunMark, ...]:
        """Return the marks of a run, which are read again when it has more."""
        key = f"marks|{run.id}|{run.mark_count}"
        try:
            return self._cache.get_or_create(key, lambda: self._services.runs.marks(run.id, MAX_MARKS))
        except RunsError:  # shown without them; the page of runs says why
            return ()

    def _read_events(self, uuid: str, window: Window) -> tuple[Event, ...]:
        """Return the events of a GPU and of the host. They are read from the database, so at most every ten seconds."""
        end_ms = -(-window.end_ms // _EVENTS_INTERVAL_MS) * _EVENTS_INTERVAL_MS

        def read() -> tuple[Event, ...]:
            found = self._services.history.events(window.start_ms, end_ms, _EVENTS)
            of_gpu = [event for event in found if _is_shown(event, uuid)]
            newest = sorted(of_gpu, key=lambda event: event.time_ms)[-_MAX_EVENTS:]
            return (*self._find_older_alerts(uuid, window.start_ms), *newest)

        span_ms = window.end_ms - window.start_ms
        return self._cache.get_or_create(f"events|{uuid}|{end_ms}|{span_ms}", read)

    def _find_older_alerts(self, uuid: str, start_ms: int) -> list[Event]:
        """Return the beginnings of the alerts of a GPU that fire since before `start_ms`."""
        return [
            build_event(alert, alert.since_ms)
            for alert in self._services.alerts.current()
            if alert.gpu_uuid == uuid and alert.since_ms is not None and alert.since_ms < start_ms
            if alert.state.is_active and alert.inhibited_by is None
        ]

    def _read(self, keys: Sequence[SeriesKey], window: Window) -> SeriesSet:
        return self._services.history.query(keys, window.start_ms, window.end_ms, window.step_ms)


def _is_shown(event: Event, uuid: str) -> bool:
    """Return whether the charts of a GPU show an event. Alerts of the host are not about it."""
    return event.gpu_uuid == uuid or (event.gpu_uuid is None and event.kind not in ALERT_KINDS)


def _list_series(
    charts: Sequence[Chart], gpu: Gpu | None, sample: Sample, options: Mapping[str, str]
) -> list[SeriesKey]:
    """Return the series that the charts need: of the host, the chosen GPU, or all GPUs."""
    keys: dict[SeriesKey, None] = {}
    for chart in charts:
        gpus = sample.gpus if chart.all_gpus else [gpu] if gpu is not None else []
        for metric in chart.list_metrics(options):
            owners = gpus if metric.startswith("gpu.") else [None]
            keys |= dict.fromkeys(series_key(metric, owner) for owner in owners)
    return list(keys)


def _measure_distance(data: SeriesSet) -> float:
    """Return how many buckets readings are apart, 1 if every bucket has one."""
    known = np.any([np.isfinite(series.mean) for series in data.series], axis=0)
    distances = np.diff(np.flatnonzero(known))
    return float(np.median(distances)) if len(distances) else 1.0


def _find_first_value(data: SeriesSet, default_ms: int) -> int:
    """Return the start of the first bucket with a value."""
    present = [np.isfinite(series.mean) for series in data.series]
    starts = [int(np.argmax(mask)) for mask in present if mask.any()]
    return data.start_ms + min(starts) * data.step_ms if starts else default_ms
