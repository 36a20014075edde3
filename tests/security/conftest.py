"""A complete dashtop with simulated GPUs, called in-process."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from dashtop import create_app, demo
from dashtop.settings import load
from tests.processes import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dashtop.app import Dashtop


@contextmanager
def running_app(**settings: Any) -> Iterator[Dashtop]:
    """Run a dashtop that has its first sample."""
    dashtop = create_app(load(**{"demo": 2, "rate_limit": "100000/second", **settings}))
    try:
        eventually(dashtop.services.latest.latest)
        yield dashtop
    finally:
        dashtop.close()


@pytest.fixture(autouse=True, scope="module")
def _short_past() -> Iterator[None]:
    """Simulate the last hour only: these tests start many demos and do not look at the history."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "PARTS", demo.PARTS[-1:])
        yield


@pytest.fixture
def start() -> Iterator[Callable[..., Dashtop]]:
    """Return a function that starts a dashtop with the given settings. It ends with the test."""
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(running_app(**settings))


@pytest.fixture(scope="module")
def plain() -> Iterator[Dashtop]:
    with running_app() as dashtop:
        yield dashtop
