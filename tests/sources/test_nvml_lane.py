"""When the slow lane asks: with the main path while that is running, and by itself where it is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dashtop.model.unavailable import Unavailable
from dashtop.sources.nvml import background_poller as nvml_lane
from dashtop.sources.nvml.background_poller import BackgroundPoller
from tests.processes import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Counter:
    """A question that counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> int:
        self.asked += 1
        return self.asked


@pytest.fixture
def lane() -> Iterator[BackgroundPoller]:
    lane = BackgroundPoller()
    yield lane
    lane.close()


def answered(lane: BackgroundPoller, ask: Callable[[], int], period_s: float) -> int:
    """Pose a question and wait for an answer."""

    def answer() -> int | None:
        try:
            return lane.answer("gpu", ask, period_s)
        except Unavailable:
            return None

    told: int = eventually(answer)
    return told


def test_what_is_due_is_asked_when_the_main_path_has_run(
    lane: BackgroundPoller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml_lane, "SLACK_S", 30.0)  # the main path is awaited for a minute
    ask = Counter()
    assert answered(lane, ask, 1.0) == 1

    def asked_again() -> bool:
        lane.turn()
        return ask.asked == 2

    eventually(asked_again)


def test_what_is_not_due_is_left_alone(lane: BackgroundPoller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml_lane, "SLACK_S", 0.1)
    ask = Counter()
    assert answered(lane, ask, 60.0) == 1
    lane.turn()
    assert answered(lane, Counter(), 60.0) == 1, "its thread has looked at what is due since"
    assert ask.asked == 1


def test_where_the_main_path_runs_seldom_it_is_not_waited_for(
    lane: BackgroundPoller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvml_lane, "SLACK_S", 0.01)
    ask = Counter()
    answered(lane, ask, 0.05)
    eventually(lambda: ask.asked > 3)
