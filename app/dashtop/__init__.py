"""dashtop: GPU and system monitor with history in the browser. What an embedding program imports is here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashtop.version import __version__

if TYPE_CHECKING:
    from dashtop.app import Dashtop
    from dashtop.settings import Settings

__all__ = ["__version__", "create_app"]


def create_app(settings: Settings | None = None) -> Dashtop:
    """Wire one dashtop and start collecting; settings from the environment where none are given.

    `create_app().server` is the WSGI application; `create_app().close()` ends collection.
    """
    from dashtop import app as factory  # noqa: PLC0415 - importing dashtop must cost nothing
    from dashtop.settings import load  # noqa: PLC0415

    return factory.create_app(settings or load())
