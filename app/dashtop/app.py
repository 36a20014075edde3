"""Builds one dashtop from its settings: readers, collector, history, web server and pages."""

from __future__ import annotations

import atexit
import logging
import os
import platform
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_data_path

from dashtop.actions.audit import AuditLog
from dashtop.actions.service import ActionService
from dashtop.alerts.service import AlertService
from dashtop.client.environment import read_boot_id
from dashtop.collector.latest import LatestSample
from dashtop.collector.loop import Collector
from dashtop.collector.sampler import Sampler
from dashtop.demo import SceneSampler, build_past
from dashtop.demo import build_runs as build_runs_of_demo
from dashtop.model.action import ActionScope
from dashtop.model.errors import SettingsError
from dashtop.model.ports import Services, SystemClock
from dashtop.model.run import NoRuns
from dashtop.model.timerange import DAY_MS
from dashtop.model.unavailable import Unavailable
from dashtop.runs.service import RunService
from dashtop.settings import assets_dir
from dashtop.sources.host.notebooks import JupyterSessions, NotebookFinder
from dashtop.sources.host.process_tree import HostProcessTree
from dashtop.sources.host.reader import PsutilHostReader
from dashtop.sources.nvml.kernel_log import KernelLogReader, open_kernel_log
from dashtop.sources.nvml.subprocess_reader import SubprocessGpuReader
from dashtop.sources.simulated.reader import SimulatedGpuReader
from dashtop.sources.simulated.scenes import SCENES
from dashtop.ui.request import INTERVALS_S
from dashtop.usage.ledger import UsageLedger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dash import Dash
    from flask import Flask

    from dashtop.fleet.poller import FleetPoller
    from dashtop.history.database import Database
    from dashtop.history.store import HistoryStore
    from dashtop.model.ports import Clock, FleetSource, Latest
    from dashtop.model.readers import GpuReader, HostReader, MemoryUse
    from dashtop.model.sample import StoredGpu
    from dashtop.settings import Settings


log = logging.getLogger(__name__)

KERNEL_LOG = Path("/dev/kmsg")

HISTORY_TIMEOUT_S = 1.0
"""Time that a request waits for the database of the history before it is answered from memory."""
RUNS_TIMEOUT_S = 2.0
"""Time that a request about a run waits for the disk."""
TOKEN_TIMEOUT_S = 3.0
"""Time that the start waits for the data folder, which can be on a file system that hangs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Readers:
    """The sources of samples. `gpus` is None if GPU monitoring is disabled."""

    host: HostReader
    gpus: GpuReader | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Dashtop:
    """One running dashtop: its pages, the Flask server below them, and `close`, which ends it."""

    dash: Dash
    server: Flask
    services: Services
    close: Callable[[], None]
    path: str
    """Path to open in a browser: the URL prefix, and the access token if it was generated."""


def build_readers(settings: Settings, clock: Clock) -> Readers:
    """Return the readers for these settings."""
    gpus: GpuReader | None = None
    if settings.demo:
        gpus = SimulatedGpuReader(settings.demo, clock=clock)
    elif settings.gpu:
        gpus = KernelLogReader(SubprocessGpuReader(clock=clock), open_kernel_log(KERNEL_LOG), clock=clock)
    return Readers(host=PsutilHostReader(clock=clock, notebooks=_build_notebooks(settings, clock)), gpus=gpus)


def _build_notebooks(settings: Settings, clock: Clock) -> NotebookFinder | None:
    if not settings.notebook_names:
        return None
    sessions = JupyterSessions(settings.jupyter, clock=clock) if settings.jupyter is not None else None
    return NotebookFinder(sessions=sessions)


def build_sampler(settings: Settings) -> Sampler:
    """Return a sampler without a collector, for single samples. The caller closes it."""
    clock = SystemClock()
    readers = build_readers(settings, clock)
    return _build_sampler(settings, readers, clock)


def build_history(settings: Settings, clock: Clock, *, read_timeout_s: float | None = None) -> HistoryStore:
    """Return the history for these settings. It writes nothing before `start`. The caller closes it.

    `read_timeout_s`: time that a read waits for the database; None: as long as it takes.
    """
    from dashtop.history.store import HistoryStore  # noqa: PLC0415

    return HistoryStore(
        build_database(settings),
        clock=clock,
        interval_s=min(settings.interval, *INTERVALS_S),  # a viewer may request any of these
        read_timeout_s=read_timeout_s,
    )


def open_history(settings: Settings, clock: Clock) -> HistoryStore:
    """Return the history for these settings, to be read. That of the demo is simulated. The caller closes it."""
    history = build_history(settings, clock)
    if settings.demo:
        host = PsutilHostReader(clock=clock)
        gpus = SimulatedGpuReader(settings.demo, clock=clock).gpus
        history.start(build_past(gpus, clock.now_ms(), host_memory=_read_memory(host)))
        host.close()
    return history


def build_runs(settings: Settings, history: HistoryStore, latest: LatestSample, clock: Clock) -> RunService | NoRuns:
    """Return the runs for these settings."""
    try:
        from dashtop.history.runs import RunStore  # noqa: PLC0415 - a Python may be built without SQLite
    except ImportError:
        return NoRuns("Runs are not recorded: this Python has no SQLite.")
    from dashtop.history.read_pool import ReadPool  # noqa: PLC0415

    return RunService(
        RunStore(data_folder(settings)),
        pool=ReadPool(RUNS_TIMEOUT_S),
        history=history,
        latest=latest,
        clock=clock,
        tree=HostProcessTree(boot_id=read_boot_id()),
        is_writer=lambda: history.is_writer,
    )


def build_database(settings: Settings) -> Database:
    """Return the database of the history, not opened yet. Raises SettingsError."""
    kept_ms, max_bytes = settings.keep_days * DAY_MS, settings.keep_mb * 1_000_000
    if settings.history_url is not None and is_on_server(settings):
        try:
            from dashtop.history.postgresql import PostgresDatabase  # noqa: PLC0415 - psycopg is optional
        except ImportError as error:
            raise SettingsError(
                "--history-url needs psycopg and PostgreSQL's library libpq: pip install 'dashtop[postgresql]'"
                " 'psycopg[binary]'."
            ) from error
        return PostgresDatabase(settings.history_url, kept_ms=kept_ms, max_bytes=max_bytes)
    try:
        from dashtop.history.sqlite import FILE, SqliteDatabase  # noqa: PLC0415 - a Python may be built without it
    except ImportError:
        from dashtop.history.memory import MissingDatabase  # noqa: PLC0415

        return MissingDatabase()
    folder = data_folder(settings)
    return SqliteDatabase(folder / FILE if folder is not None else None, kept_ms=kept_ms, max_bytes=max_bytes)


def is_on_server(settings: Settings) -> bool:
    """Return whether the history is in a PostgreSQL server instead of a file."""
    return settings.history_url is not None and _is_kept(settings)


def _is_kept(settings: Settings) -> bool:
    return settings.persist and not settings.demo


def build_fleet(settings: Settings, clock: Clock) -> FleetPoller | None:
    """Return the fleet that the settings describe; None if they describe none. Raises SettingsError."""
    if settings.fleet_url is None and not settings.fleet_peers:
        return None
    from dashtop.fleet import peers  # noqa: PLC0415 - most dashtops show one machine
    from dashtop.fleet.client import Credentials  # noqa: PLC0415
    from dashtop.fleet.poller import FleetPoller  # noqa: PLC0415
    from dashtop.fleet.prometheus import DEFAULT_INTERVAL_S, PrometheusSource  # noqa: PLC0415

    certificate = settings.fleet_cert
    if certificate is not None and not os.access(certificate, os.R_OK):
        raise SettingsError(f"--fleet-cert {certificate}: must be a file that exists and can be read.")
    credentials = Credentials(
        token=settings.fleet_token,
        headers={name: value.strip() for name, _, value in (each.partition(":") for each in settings.fleet_headers)},
        certificate=certificate,
    )
    source: FleetSource
    if settings.fleet_url is None:
        interval_s = settings.fleet_interval or peers.find_interval(len(settings.fleet_peers))
        source = peers.PeersSource(settings.fleet_peers, credentials=credentials, clock=clock, interval_s=interval_s)
    else:
        source = PrometheusSource(
            settings.fleet_url,
            credentials=credentials,
            clock=clock,
            interval_s=settings.fleet_interval or DEFAULT_INTERVAL_S,
            select=settings.fleet_select,
            node_label=settings.fleet_node_label,
        )
    return FleetPoller(source, clock)


def create_app(settings: Settings, *, readers: Readers | None = None, clock: Clock | None = None) -> Dashtop:
    """Build one dashtop and start its collector. It ends with the process, or when its `close` is called."""
    # Dash takes a second to import, which the other commands need not spend.
    from flask import Flask, has_request_context, request  # noqa: PLC0415

    from dashtop.ui.page import create_dash  # noqa: PLC0415
    from dashtop.web.api import blueprint  # noqa: PLC0415
    from dashtop.web.prometheus import exporter  # noqa: PLC0415
    from dashtop.web.security.proxy import find_viewer  # noqa: PLC0415

    clock = clock or SystemClock()
    latest = LatestSample(clock=clock, interval_s=settings.interval)
    folder = data_folder(settings)
    actions = _build_actions(settings, folder, latest, clock)
    readers = readers or build_readers(settings, clock)
    history = build_history(settings, clock, read_timeout_s=HISTORY_TIMEOUT_S)
    alerts = AlertService(
        folder,
        clock=clock,
        is_writer=lambda: history.is_writer,
        channels=settings.notify,
        overrides=settings.alerts,
        interval_s=settings.interval,
        is_simulated=bool(settings.demo),
        public_url=settings.public_url,
        boot_id=read_boot_id(),
    )
    runs = build_runs(settings, history, latest, clock)
    sampler = _build_sampler(settings, readers, clock, history.gpus)
    ledger = UsageLedger(interval_s=settings.interval, read_usage=history.usage)
    collector = Collector(
        sampler=sampler,
        history=history,
        latest=latest,
        clock=clock,
        evaluate_alerts=alerts.update,
        measure_usage=lambda sample: (ledger.update(sample), ledger.totals()),
    )
    fleet = build_fleet(settings, clock)
    services = Services(
        latest=latest,
        history=history,
        alerts=alerts,
        clock=clock,
        runs=runs,
        fleet=fleet,
        actions=actions,
        prices=settings.prices,
    )
    server = Flask("dashtop", static_folder=None)
    prefix = settings.url_prefix
    viewer_header = settings.auth_header
    blueprint.register(
        server, services, url_prefix=prefix, viewer_header=viewer_header, action_token=settings.action_token
    )
    exporter.register(server, services, url_prefix=prefix)
    dash = create_dash(
        services,
        server=server,
        assets_folder=str(assets_dir()),
        interval_s=settings.interval,
        url_prefix=prefix,
        find_viewer=lambda: find_viewer(request, viewer_header) if has_request_context() else None,
    )
    token = _access_token(settings)
    _protect(server, dash, settings, token)

    def close() -> None:
        atexit.unregister(close)
        collector.close()
        if not collector.is_running:
            history.append_usage(ledger.finish(), clock.now_ms())
        alerts.close()
        runs.close()
        if fleet is not None:
            fleet.close()
        history.close()

    atexit.register(close)
    _start_history(readers, history, runs, clock)
    alerts.start()
    if isinstance(sampler, SceneSampler):
        for sample in sampler.rehearse():
            alerts.update(sample)
    runs.start()
    collector.start()

    return Dashtop(
        dash=dash,
        server=server,
        services=services,
        close=close,
        path=prefix if token in {None, settings.token} else f"{prefix}?token={token}",
    )


def _protect(server: Flask, dash: Dash, settings: Settings, token: str | None) -> None:
    """Check every request to the server: host, token, rate, origin. Wrap it for the proxies in front."""
    from dashtop.ui.dash_internals import CALLBACK_PATH, get_callback_map  # noqa: PLC0415
    from dashtop.ui.embed import EMBED_PATHS  # noqa: PLC0415
    from dashtop.web.security import guard  # noqa: PLC0415
    from dashtop.web.security.hosts import AllowedHosts  # noqa: PLC0415
    from dashtop.web.security.proxy import wrap_proxy  # noqa: PLC0415
    from dashtop.web.security.token import TokenAuth, accept_token_in_path  # noqa: PLC0415

    prefix = settings.url_prefix
    build_auth = partial(TokenAuth, path=prefix, is_embedded=bool({*settings.frame_ancestors} - {"'self'", "'none'"}))
    policy = guard.SecurityPolicy(
        hosts=AllowedHosts(bound_to=settings.host, allowed=settings.allowed_hosts),
        token=build_auth(token) if token is not None else None,
        embed_token=build_auth(settings.embed_token) if settings.embed_token is not None else None,
        embed_paths=EMBED_PATHS,
        has_proxy=settings.trusted_proxies > 0,
        viewer_header=settings.auth_header,
        rate_limit=settings.rate_limit,
        url_prefix=prefix,
        frame_ancestors=_find_frame_ancestors(settings),
        script_hashes=dash.csp_hashes(),
        callback_path=prefix + CALLBACK_PATH,
        callbacks=get_callback_map(dash),
    )
    guard.register(server, policy)
    tokens = [each for each in (policy.token, policy.embed_token) if each is not None]
    server.wsgi_app = accept_token_in_path(  # type: ignore[method-assign, assignment]
        server.wsgi_app, tokens, url_prefix=prefix
    )
    server.wsgi_app = wrap_proxy(  # type: ignore[method-assign, assignment]
        server.wsgi_app, url_prefix=prefix, trusted_proxies=settings.trusted_proxies
    )


def _build_actions(settings: Settings, folder: Path | None, latest: Latest, clock: Clock) -> ActionService:
    """Return the actions on processes, which are off by default. Raise SettingsError if they cannot be used."""
    scope = settings.allow_actions
    if scope is ActionScope.ALL and os.geteuid() != 0:
        raise SettingsError(
            "--allow-actions all: needs root; --allow-actions own allows the processes of dashtop's user."
        )
    audit = AuditLog(folder) if folder is not None and scope is not ActionScope.OFF else None
    if audit is not None:
        try:
            audit.check()
        except OSError as error:
            log.warning(
                "Process actions are refused until the audit log %s can be written (%s).",
                audit.path,
                error.strerror or error,
            )
    return ActionService(scope, audit=audit, latest=latest, clock=clock)


def _start_history(readers: Readers, history: HistoryStore, runs: RunService | NoRuns, clock: Clock) -> None:
    """Start the history; that of simulated GPUs begins with simulated days and runs."""
    if not isinstance(readers.gpus, SimulatedGpuReader):
        history.start()
        return
    log.info("Simulating seven days of history; this takes about a third of a second per GPU.")
    gpus, now_ms = readers.gpus.gpus, clock.now_ms()
    history.start(build_past(gpus, now_ms, host_memory=_read_memory(readers.host)))
    if isinstance(runs, RunService):
        runs.add_simulated(build_runs_of_demo(gpus, history, now_ms))


def _build_sampler(
    settings: Settings,
    readers: Readers,
    clock: Clock,
    read_stored_gpus: Callable[[], Sequence[StoredGpu]] = tuple,
) -> Sampler:
    if settings.demo_scene is not None and isinstance(readers.gpus, SimulatedGpuReader):
        return SceneSampler(SCENES[settings.demo_scene], readers.gpus, host=readers.host, clock=clock)
    return Sampler(host=readers.host, gpus=readers.gpus, clock=clock, read_stored_gpus=read_stored_gpus)


def _read_memory(host: HostReader) -> MemoryUse | None:
    try:
        return host.memory()
    except Unavailable:
        return None


def _find_frame_ancestors(settings: Settings) -> tuple[str, ...]:
    """Return the origins that may embed the pages: the configured ones, and dashtop itself for its gallery of panels.

    If none are set, a server on loopback allows those of this machine: a cell of a local JupyterLab then shows
    `IFrame("http://127.0.0.1:8050")`.
    """
    from dashtop.web.security.hosts import is_loopback  # noqa: PLC0415

    ancestors = settings.frame_ancestors
    if "'none'" in ancestors:
        return ancestors
    if "frame_ancestors" not in settings.model_fields_set and is_loopback(settings.host):
        ancestors = ("http://localhost:*", "http://127.0.0.1:*")
    return ("'self'", *(each for each in ancestors if each != "'self'"))


def _access_token(settings: Settings) -> str | None:
    """Return the token that clients need, None if only this machine can connect. Generate one if none is configured.

    `allowed_hosts` and `trusted_proxies` say that others connect through a proxy, `embed_token` says that the rest is
    not for everyone. Then a token is generated on loopback as well.

    A generated token is kept in the data folder, so that it stays the same after a restart and in every worker.
    """
    from dashtop.history.read_pool import ReadPool, ReadTimeoutError  # noqa: PLC0415
    from dashtop.web.security.hosts import is_loopback  # noqa: PLC0415
    from dashtop.web.security.token import generate_token, load_token  # noqa: PLC0415

    if not settings.auth:
        log.warning("--no-auth: everyone who can connect to %s can read this machine's metrics.", settings.host)
        return None
    is_private = is_loopback(settings.host) and not (
        settings.embed_token or settings.allowed_hosts or settings.trusted_proxies
    )
    if settings.token is not None or is_private:
        return settings.token
    folder = data_folder(settings)
    if folder is None:
        return generate_token()
    try:
        return ReadPool(TOKEN_TIMEOUT_S).run(partial(load_token, folder))
    except ReadTimeoutError:
        log.warning("%s does not answer: the access token changes at each start. Set one with --token.", folder)
        return generate_token()


def data_folder(settings: Settings) -> Path | None:
    """Return the data folder: the configured one, or `dashtop/HOSTNAME` in the user's data folder.

    Several machines may share a home folder, and only one process can write a history: hence the host name.
    None: nothing is to be stored, or this user has no home folder.
    """
    if not _is_kept(settings):
        return None
    if settings.data_dir is not None:
        return settings.data_dir
    folder = user_data_path("dashtop", appauthor=False)
    if folder.is_absolute():  # it begins with ~ if there is no home folder
        return folder / (re.sub(r"[^\w.-]", "_", platform.node()) or "localhost")
    if not is_on_server(settings):
        log.warning("This user has no home folder: the history is kept in memory only. Set a folder with --data-dir.")
    return None
