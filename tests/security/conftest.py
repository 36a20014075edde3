"""One whole dashtop of simulated GPUs a module, asked in-process."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from dashtop import create_app
from dashtop.settings import load
from tests.processes import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dashtop.app import Dashtop


@contextmanager
def started(**settings: Any) -> Iterator[Dashtop]:
    """A dashtop that has taken its first sample."""
    dashtop = create_app(load(**{"demo": 2, "rate_limit": "100000/second", **settings}))
    try:
        eventually(dashtop.services.latest.latest)
        yield dashtop
    finally:
        dashtop.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Dashtop]]:
    """Start a dashtop with those settings, ended with the test."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(started(**settings))


@pytest.fixture(scope="module")
def plain() -> Iterator[Dashtop]:
    with started() as dashtop:
        yield dashtop
