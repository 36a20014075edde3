"""The only wiring: which reader, which history, which pages. Nothing else knows more than what it is passed."""

from __future__ import annotations

import atexit
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dashtop.collect.loop import Collector
from dashtop.collect.sampler import Sampler
from dashtop.domain.services import Services
from dashtop.sources.clock import SystemClock
from dashtop.sources.demo import DemoGpus
from dashtop.sources.host import PsutilHost
from dashtop.sources.isolated import IsolatedGpus

if TYPE_CHECKING:
    from collections.abc import Callable

    from dash import Dash
    from flask import Flask

    from dashtop.domain.ports import Clock, GpuReader, HostReader
    from dashtop.settings import Settings


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


def make_readers(settings: Settings, clock: Clock) -> Readers:
    """Return the readers that the settings call for."""
    gpus: GpuReader | None = None
    if settings.demo:
        gpus = DemoGpus(settings.demo, clock=clock)
    elif settings.gpu:
        gpus = IsolatedGpus(clock=clock)
    return Readers(host=PsutilHost(clock=clock), gpus=gpus)


def make_sampler(settings: Settings) -> Sampler:
    """Return a sampler alone, for a single reading. The caller closes it."""
    clock = SystemClock()
    readers = make_readers(settings, clock)
    return Sampler(host=readers.host, gpus=readers.gpus, clock=clock)


def create_app(settings: Settings, *, readers: Readers | None = None, clock: Clock | None = None) -> Dashtop:
    """Wire one dashtop and start collecting. It ends with the process, or when its `close` is called."""
    # Dash takes a second to import: a single reading on the command line does without it.
    from flask import Flask  # noqa: PLC0415

    from dashtop.api import routes  # noqa: PLC0415
    from dashtop.exporter import route as exporter  # noqa: PLC0415
    from dashtop.history.memory import MemoryHistory  # noqa: PLC0415
    from dashtop.ui.shell import create_dash  # noqa: PLC0415

    clock = clock or SystemClock()
    readers = readers or make_readers(settings, clock)
    history = MemoryHistory(interval_s=settings.interval)
    collector = Collector(
        sampler=Sampler(host=readers.host, gpus=readers.gpus, clock=clock),
        history=history,
        clock=clock,
        interval_s=settings.interval,
    )
    services = Services(latest=collector, history=history, clock=clock)
    server = Flask("dashtop", static_folder=None)
    routes.register(server, services)
    exporter.register(server, services)
    dash = create_dash(services, server=server, assets_folder=str(assets_dir()), interval_s=settings.interval)
    atexit.register(collector.stop)
    collector.start()

    def close() -> None:
        atexit.unregister(collector.stop)
        collector.stop()

    return Dashtop(dash=dash, server=server, services=services, close=close)


def assets_dir() -> Path:
    """Return the folder of static files: inside the installed package, or beside the source tree."""
    package = Path(__file__).parent
    inside = package / "assets"
    return inside if inside.is_dir() else package.parent.parent / "assets"
