"""The only wiring: which reader, which history, which pages. Nothing else knows more than what it is passed."""

from __future__ import annotations

import atexit
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dashtop.collector.collection import Collection
from dashtop.collector.latest import LatestSample
from dashtop.collector.loop import Collector
from dashtop.collector.sampler import Sampler
from dashtop.collector.seat import Seat
from dashtop.model.clock import SystemClock
from dashtop.model.errors import SettingsError
from dashtop.model.ports import Services
from dashtop.model.timerange import DAY_MS
from dashtop.sources.host.reader import PsutilHostReader
from dashtop.sources.nvml.subprocess_reader import SubprocessGpuReader
from dashtop.sources.simulated.reader import SimulatedGpuReader
from dashtop.ui.request import INTERVALS_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from dash import Dash
    from flask import Flask

    from dashtop.collector.siblings import Siblings
    from dashtop.history.database import Database
    from dashtop.history.store import HistoryStore
    from dashtop.model.ports import Clock, GpuReader, HostReader
    from dashtop.settings import Settings


log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Readers:
    """Where readings come from. `gpus` is None where GPU monitoring is switched off."""

    host: HostReader
    gpus: GpuReader | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Dashtop:
    """One running dashtop: its pages, the Flask server under them, and how to end it."""

    dash: Dash
    server: Flask
    services: Services
    close: Callable[[], None]
    entrance: str
    """Path to open in a browser: the URL prefix, and the token where one was made."""


def make_readers(settings: Settings, clock: Clock) -> Readers:
    """Return the readers that the settings call for."""
    gpus: GpuReader | None = None
    if settings.demo:
        gpus = SimulatedGpuReader(settings.demo, clock=clock)
    elif settings.gpu:
        gpus = SubprocessGpuReader(clock=clock)
    return Readers(host=PsutilHostReader(clock=clock), gpus=gpus)


def make_sampler(settings: Settings) -> Sampler:
    """Return a sampler alone, for a single reading. The caller closes it."""
    clock = SystemClock()
    readers = make_readers(settings, clock)
    return Sampler(host=readers.host, gpus=readers.gpus, clock=clock)


def make_history(settings: Settings, clock: Clock, siblings: Siblings | None = None) -> HistoryStore:
    """Return the history that the settings call for. The caller closes it; until it is led, nothing is written."""
    from dashtop.history.store import HistoryStore  # noqa: PLC0415

    return HistoryStore(
        make_database(settings, siblings),
        clock=clock,
        interval_s=min(settings.interval, *INTERVALS_S),  # collection follows viewers
    )


def make_database(settings: Settings, siblings: Siblings | None = None) -> Database:
    """Return what keeps the history, not opened yet. Raises SettingsError."""
    from dashtop.history.sqlite import FILE, SqliteDatabase  # noqa: PLC0415

    kept_ms, most_bytes = settings.keep_days * DAY_MS, settings.keep_mb * 1_000_000
    if settings.history_url is not None and is_on_server(settings):
        try:
            from dashtop.history.postgresql import PostgresDatabase  # noqa: PLC0415 - its library is optional
        except ImportError as error:
            raise SettingsError(
                "--history-url needs psycopg and PostgreSQL's library libpq: pip install 'dashtop[postgresql]'"
                " 'psycopg[binary]'."
            ) from error
        return PostgresDatabase(settings.history_url, kept_ms=kept_ms, most_bytes=most_bytes)
    folder = data_folder(settings)
    if folder is None and siblings is not None:
        folder, most_bytes = siblings.folder, min(most_bytes, siblings.most_bytes)
    return SqliteDatabase(folder / FILE if folder is not None else None, kept_ms=kept_ms, most_bytes=most_bytes)


def is_on_server(settings: Settings) -> bool:
    """Tell whether the history lies in a database server rather than in a file."""
    return settings.history_url is not None and _is_kept(settings)


def _is_kept(settings: Settings) -> bool:
    return settings.persist and not settings.demo


def create_app(
    settings: Settings,
    *,
    readers: Readers | None = None,
    clock: Clock | None = None,
    siblings: Siblings | None = None,
) -> Dashtop:
    """Wire one dashtop and start collecting. It ends with the process, or when its `close` is called.

    Where another process collects in the same folder already, or among its `siblings`, it follows that one.
    """
    # Dash takes a second to import: a single reading on the command line does without it.
    from flask import Flask  # noqa: PLC0415

    from dashtop.ui.page import create_dash  # noqa: PLC0415
    from dashtop.web.api import routes  # noqa: PLC0415
    from dashtop.web.prometheus import route as exporter  # noqa: PLC0415
    from dashtop.web.security import guard  # noqa: PLC0415
    from dashtop.web.security.hosts import Hosts  # noqa: PLC0415
    from dashtop.web.security.proxy import behind  # noqa: PLC0415
    from dashtop.web.security.token import Token  # noqa: PLC0415

    clock = clock or SystemClock()
    readers = readers or make_readers(settings, clock)
    history = make_history(settings, clock, siblings)
    board = LatestSample(clock=clock, interval_s=settings.interval)
    collector = Collector(
        sampler=Sampler(host=readers.host, gpus=readers.gpus, clock=clock),
        history=history,
        board=board,
        clock=clock,
        interval_s=settings.interval,
    )
    seat = _seat(data_folder(settings), siblings)
    family = str(siblings.folder) if siblings is not None else ""
    collection = Collection(board=board, collector=collector, history=history, seat=seat, family=family)
    services = Services(latest=board, history=history, clock=clock)
    server = Flask("dashtop", static_folder=None)
    prefix = settings.url_prefix
    routes.register(server, services, url_prefix=prefix)
    exporter.register(server, services, url_prefix=prefix)
    dash = create_dash(
        services, server=server, assets_folder=str(assets_dir()), interval_s=settings.interval, url_prefix=prefix
    )
    token = _token(settings, siblings)
    guard.register(
        server,
        guard.Rules(
            hosts=Hosts(bound_to=settings.host, allowed=settings.allowed_hosts),
            token=Token(token, path=prefix) if token is not None else None,
            rate_limit=settings.rate_limit,
            url_prefix=prefix,
            frame_ancestors=settings.frame_ancestors,
            script_hashes=dash.csp_hashes(),
            callbacks=dash.callback_map,
        ),
    )
    server.wsgi_app = behind(  # type: ignore[method-assign, assignment]
        server.wsgi_app, url_prefix=prefix, trusted_proxies=settings.trusted_proxies
    )

    def close() -> None:
        atexit.unregister(close)
        collection.stop()
        history.close()
        if seat is not None:
            seat.close()
        if siblings is not None:
            siblings.close()

    atexit.register(close)
    collection.start()

    return Dashtop(
        dash=dash,
        server=server,
        services=services,
        close=close,
        entrance=prefix if token in {None, settings.token} else f"{prefix}?token={token}",
    )


def _seat(folder: Path | None, siblings: Siblings | None) -> Seat | None:
    """Return the seat of the one that collects; None where there is nobody to share with."""
    for place in (folder, siblings.folder if siblings is not None else None):
        try:
            if place is not None:
                return Seat(place)
        except OSError as error:
            log.debug("No seat in %s: %s", place, error)  # the history will say that it cannot be written
    return None


def _token(settings: Settings, siblings: Siblings | None) -> str | None:
    """Return the token that clients must know: none on loopback unless it was set, one that is made elsewhere."""
    from dashtop.web.security.hosts import is_loopback  # noqa: PLC0415
    from dashtop.web.security.token import made  # noqa: PLC0415

    if not settings.auth:
        log.warning("--no-auth: everyone who can connect to %s sees this machine.", settings.host)
        return None
    if settings.token is not None or is_loopback(settings.host):
        return settings.token
    return siblings.agreed("token", made) if siblings is not None else made()


def data_folder(settings: Settings) -> Path | None:
    """Return the folder of what is kept: the one of the settings, or dashtop's among the user's data (XDG).

    None: nothing is to be kept, or this user has no home.
    """
    if not _is_kept(settings):
        return None
    if settings.data_dir is not None:
        return settings.data_dir
    given = Path(os.environ.get("XDG_DATA_HOME", ""))
    if given.is_absolute():  # the XDG Base Directory Specification has relative paths ignored
        return given / "dashtop"
    try:
        return Path.home() / ".local" / "share" / "dashtop"
    except RuntimeError:
        if not is_on_server(settings):
            log.warning(
                "This user has no home folder: the history is kept in memory only. Name a folder with --data-dir."
            )
        return None


def assets_dir() -> Path:
    """Return the folder of static files: inside the installed package, or beside the source tree."""
    package = Path(__file__).parent
    inside = package / "assets"
    return inside if inside.is_dir() else package.parent.parent / "assets"
