"""Runs over a fixed sample and processes that tests invent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dashtop.history.read_pool import ReadPool
from dashtop.history.runs import RunStore
from dashtop.model.run import START_TOLERANCE_MS, Run
from dashtop.model.sample import GpuProcess, ProcessInfo
from dashtop.runs.service import RunService
from tests.builders import NOON_MS, FixedSample, make_history, make_sample
from tests.clock import FakeClock

if TYPE_CHECKING:
    from pathlib import Path

    from dashtop.model.ports import History

STARTED_MS = NOON_MS - 60_000


@dataclass
class FakeTree:
    """Processes by pid: their start, and their parent."""

    started: dict[int, int] = field(default_factory=dict)
    parents: dict[int, int] = field(default_factory=dict)

    def find(self, pid: int, started_ms: int, _boot_id: str | None) -> int | None:
        start_ms = self.started.get(pid)
        return pid if start_ms is not None and abs(start_ms - started_ms) <= START_TOLERANCE_MS else None

    def has_ended(self, pid: int, boot_id: str | None) -> bool:
        return boot_id is not None and pid not in self.started

    def start_ms(self, pid: int) -> int | None:
        return self.started.get(pid)

    def user(self, pid: int) -> str | None:
        return "ada" if pid in self.started else None

    def ancestors(self, pid: int) -> tuple[int, ...]:
        found = []
        while (parent := self.parents.get(pid)) is not None:
            found.append(parent)
            pid = parent
        return tuple(found)


@dataclass
class World:
    """A service with what it depends on."""

    service: RunService
    tree: FakeTree
    clock: FakeClock
    latest: FixedSample
    is_writer: bool = True

    def get(self, run_id: str = "00000001") -> Run:
        run = self.service.find(run_id)
        assert run is not None
        return run


def make_world(folder: Path | None = None, *, history: History | None = None) -> World:
    tree, clock, latest = FakeTree(), FakeClock(now_ms=NOON_MS), FixedSample(make_sample())
    service = RunService(
        RunStore(folder),
        pool=ReadPool(10.0),
        history=history or make_history(),
        latest=latest,
        clock=clock,
        tree=tree,
        is_writer=lambda: world.is_writer,
    )
    world = World(service, tree, clock, latest)
    return world


def make_run(number: int = 1, **changes: object) -> Run:
    facts: dict[str, object] = {
        "id": f"{number:08x}",
        "name": f"run {number}",
        "begin_ms": NOON_MS,
        "beat_ms": NOON_MS,
    }
    return Run(**{**facts, **changes})  # type: ignore[arg-type]


def make_process(pid: int, gib: float = 1.0, *, started_ms: int = STARTED_MS, user: str = "ada") -> GpuProcess:
    info = ProcessInfo(name="python", username=user, started_ms=started_ms)
    return GpuProcess(pid=pid, kind="C", gpu_memory_bytes=round(gib * 2**30), info=info)
