"""The runs of a running dashtop: which are still running, their processes and GPUs, and their reports."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from dashtop.model.errors import RunsError
from dashtop.model.run import SILENCE_MS, START_TOLERANCE_MS, TOO_SHORT_MS, Run, RunStatus
from dashtop.model.sample import PROCESSES
from dashtop.runs.report import build_report, is_of_run, summarize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from dashtop.history.read_pool import ReadPool
    from dashtop.history.runs import RunStore
    from dashtop.model.ports import Clock, History, Latest, ProcessTree
    from dashtop.model.run import RunMark
    from dashtop.model.sample import Sample

log = logging.getLogger(__name__)

TICK_INTERVAL_S: Final = 2.0
STOP_TIMEOUT_S: Final = 1.0
MAX_SHOWN: Final = 300
"""Runs that `recent` returns, beside those that are running."""
MAX_PROCESSES: Final = 512
"""Processes that are kept of one run."""
REPORT_DELAY_MS: Final = 20_000
"""The report is stored this long after the end: the history gets the ends of processes up to 15 s late."""
MAX_KEPT_REPORTS: Final = 16
REPORT_MAX_AGE_MS: Final = 5_000
"""How long a report that is not final yet is answered without calculating it again."""
SUMMARY_INTERVAL_MS: Final = 30_000
"""How often the list shows other sums of a run whose report is not final."""
MAX_SUMMARY_SHARE: Final = 0.001
"""Of the time of the thread, which sums of runs that go on may take."""
ResultT = TypeVar("ResultT")


class RunService:
    """Implements the Runs port. Thread-safe. `pool` runs what touches the disk, with a deadline."""

    def __init__(
        self,
        store: RunStore,
        *,
        pool: ReadPool,
        history: History,
        latest: Latest,
        clock: Clock,
        tree: ProcessTree,
        is_writer: Callable[[], bool],
    ) -> None:
        """`is_writer`: whether this process writes the history, and so follows the runs and stores their reports."""
        self._store = store
        self._pool = pool
        self._history = history
        self._latest = latest
        self._clock = clock
        self._tree = tree
        self._is_writer = is_writer
        self._lock = threading.Lock()
        self._runs: tuple[Run, ...] = ()
        self._reports: OrderedDict[str, tuple[int, dict[str, Any]]] = OrderedDict()
        self._summaries: dict[str, tuple[int, dict[str, Any]]] = {}
        """By run: when its sums were calculated, and the sums."""
        self._next_summary_s = 0.0
        self._started_ms = clock.now_ms()
        self._has_failed = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="dashtop-runs", daemon=True)

    def start(self) -> None:
        """Start the thread that follows the runs."""
        self._thread.start()

    def add_simulated(self, runs: Iterable[tuple[Run, Sequence[RunMark]]]) -> None:
        """Store invented runs with their marks."""
        for run, marks in runs:
            self._store.add(run)
            self._store.add_marks(run.id, marks, run.beat_ms)

    def close(self) -> None:
        """Stop the thread."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(STOP_TIMEOUT_S)

    # --- requests -----------------------------------------------------------------------------------------------------

    def recent(self) -> tuple[Run, ...]:
        """Return the newest runs; see the Runs port."""
        return self._runs

    def find(self, run_id: str) -> Run | None:
        """Return the run with this id; see the Runs port."""
        return self._run(lambda: self._store.find(run_id))

    def add(self, run: Run, boot_id: str | None = None) -> Run | None:
        """Store a run; see the Runs port."""
        return self._publish(self._run(lambda: self._store.add(self._identify(run, boot_id))))

    def update(self, run_id: str, status: RunStatus | None, end_ms: int | None) -> Run | None:
        """Note a heartbeat or the end of a run; see the Runs port. One that was taken for lost goes on."""
        now_ms = self._clock.now_ms()

        def update() -> Run | None:
            known = self._store.find(run_id)
            if known is None:
                return None
            changes: dict[str, Any] = {"beat_ms": now_ms}
            if status is not None and status is not RunStatus.RUNNING:
                end = min(max(end_ms if end_ms is not None else now_ms, known.begin_ms), now_ms)
                changes |= {"status": status, "end_ms": end, "has_report": False}
            elif known.status in {RunStatus.FINISHED, RunStatus.FAILED}:
                return known
            elif known.status is RunStatus.LOST:
                changes |= {"status": RunStatus.RUNNING, "end_ms": None, "has_report": False}
            return self._store.change(run_id, **changes)

        return self._publish(self._run(update))

    def add_marks(self, run_id: str, marks: Sequence[RunMark]) -> Run | None:
        """Store marks; see the Runs port."""
        now_ms = self._clock.now_ms()
        return self._publish(self._run(lambda: self._store.add_marks(run_id, marks, now_ms)))

    def marks(self, run_id: str, limit: int) -> tuple[RunMark, ...]:
        """Return the newest marks; see the Runs port."""
        return self._run(lambda: self._store.read_marks(run_id, limit))

    def report(self, run: Run) -> Mapping[str, Any]:
        """Return the report of a run; see the Runs port."""
        now_ms = self._clock.now_ms()
        with self._lock:
            made_ms, kept = self._reports.get(self._key(run), (0, None))
        if kept is not None and (kept["is_final"] or now_ms - made_ms < REPORT_MAX_AGE_MS):
            return kept
        report = self._run(lambda: self._store.read_report(run.id)) if run.has_report else None
        if report is None:
            report = self._build_report(run)
        with self._lock:
            self._reports[self._key(run)] = now_ms, report
            while len(self._reports) > MAX_KEPT_REPORTS:
                self._reports.popitem(last=False)
        return report

    @staticmethod
    def _key(run: Run) -> str:
        return f"{run.id}|{run.end_ms}|{run.has_report}"

    def _build_report(self, run: Run, *, is_final: bool = False) -> dict[str, Any]:
        sample = self._latest.latest()
        report = build_report(
            run,
            self._history,
            sample.gpus if sample is not None else (),
            interval_ms=round(1000 * self._latest.interval_s),
            now_ms=self._clock.now_ms(),
        )
        return {**report, "is_final": is_final}

    def _run(self, task: Callable[[], ResultT]) -> ResultT:
        """Run a task that touches the disk. Raises RunsError."""
        from dashtop.history.read_pool import ReadTimeoutError  # noqa: PLC0415

        try:
            return self._pool.run(task)
        except ReadTimeoutError:
            raise RunsError("Runs cannot be stored or read at present: the data folder does not answer.") from None

    def _publish(self, run: Run | None) -> Run | None:
        """Show a change at once, before the next reading of the store."""
        if run is not None:
            with self._lock:
                others = [each for each in self._runs if each.id != run.id]
                self._runs = tuple(sorted([self._add_summary(run), *others], key=lambda each: -each.begin_ms))
        return run

    def _identify(self, run: Run, boot_id: str | None) -> Run:
        """Return the run with what this machine knows of its process."""
        if run.is_simulated or run.pid is None or run.started_ms is None:
            return run
        pid = self._tree.find(run.pid, run.started_ms, boot_id)
        if pid is None:
            # Later it may have ended hours ago: then the GPUs that it held are not known.
            is_new = self._clock.now_ms() - run.begin_ms < TOO_SHORT_MS
            return replace(run, is_local=True) if is_new and self._tree.has_ended(run.pid, boot_id) else run
        return replace(run, is_local=True, pid=pid, user=self._tree.user(pid) or run.user)

    # --- following ----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._closing.is_set():
            try:
                self.follow()
                self._has_failed = False
            except RunsError as error:
                if not self._has_failed:
                    log.warning("%s", error)
                self._has_failed = True
            except Exception:
                log.exception("Runs were not followed; retrying in %g s", TICK_INTERVAL_S)
            self._closing.wait(TICK_INTERVAL_S)

    def follow(self) -> None:
        """Read the runs again. The process that writes the history also finds their processes and ends lost runs."""
        runs = self._store.read_recent(MAX_SHOWN)
        if self._is_writer():
            sample = self._latest.latest() if any(run.status is RunStatus.RUNNING for run in runs) else None
            processes = _list_processes(sample, self._tree) if sample is not None else []
            runs = tuple(self._follow(run, processes) for run in runs)
            self._store_report(runs)
        self._update_summaries(runs)
        with self._lock:
            newest = {run.id: run for run in runs}
            # What a request has changed while this was read stays until the next reading.
            changed = {run.id: run for run in self._runs if run.beat_ms > newest.get(run.id, run).beat_ms}
            self._runs = tuple(self._add_summary(changed.get(run.id, run)) for run in runs)

    def _update_summaries(self, runs: Sequence[Run]) -> None:
        """Calculate the sums of the running run whose last ones are the oldest, if they are old and it is cheap."""
        now_ms = self._clock.now_ms()
        kept = {run.id for run in runs if not run.has_report}
        self._summaries = {run_id: each for run_id, each in self._summaries.items() if run_id in kept}
        running = [run for run in runs if run.status is RunStatus.RUNNING and run.gpus]
        ages = [(now_ms - self._summaries[run.id][0] if run.id in self._summaries else now_ms, run) for run in running]
        age_ms, run = max(ages, key=lambda each: each[0], default=(0, None))
        begun_s = time.monotonic()
        if run is None or age_ms < SUMMARY_INTERVAL_MS or begun_s < self._next_summary_s:
            return
        self._summaries[run.id] = now_ms, summarize(self._build_report(run))
        now_s = time.monotonic()
        self._next_summary_s = now_s + (now_s - begun_s) / MAX_SUMMARY_SHARE

    def _add_summary(self, run: Run) -> Run:
        """Return the run with its latest sums, until its report has the final ones."""
        _, summary = self._summaries.get(run.id, (0, {}))
        return run if run.has_report else replace(run, **summary)

    def _follow(self, run: Run, processes: Sequence[_Process]) -> Run:
        if run.status is not RunStatus.RUNNING:
            return run
        if run.is_simulated:
            return self._find_simulated_end(run, processes)
        return self._find_lost(run) or self._find_processes(run, processes)

    def _find_lost(self, run: Run) -> Run | None:
        """Return the run as lost if its process has ended, or nothing was heard of it for long; else None."""
        now_ms = self._clock.now_ms()
        if run.is_local and run.pid is not None and run.started_ms is not None:
            started_ms = self._tree.start_ms(run.pid)
            if started_ms is None or abs(started_ms - run.started_ms) > START_TOLERANCE_MS:
                # It ended since the last look at it, or while dashtop did not run.
                end_ms = now_ms if self._was_running(run) else run.beat_ms
                return self._store.change(
                    run.id, only_running=True, status=RunStatus.LOST, end_ms=max(end_ms, run.begin_ms)
                )
        if now_ms - max(run.beat_ms, self._started_ms) > SILENCE_MS:
            return self._store.change(
                run.id, only_running=True, status=RunStatus.LOST, end_ms=max(run.beat_ms, run.begin_ms)
            )
        return None

    def _find_simulated_end(self, run: Run, processes: Sequence[_Process]) -> Run:
        """Return the run, which has finished if no simulated process of it is left."""
        if not processes or any(is_of_run(run, process.pid, process.started_ms) for process in processes):
            return run
        return (
            self._store.change(run.id, only_running=True, status=RunStatus.FINISHED, end_ms=self._clock.now_ms()) or run
        )

    def _was_running(self, run: Run) -> bool:
        return any(known.id == run.id and known.status is RunStatus.RUNNING for known in self._runs)

    def _find_processes(self, run: Run, processes: Sequence[_Process]) -> Run:
        """Return the run with the processes of its tree that hold a GPU now."""
        if not run.is_local:
            return run
        gpus, known = dict.fromkeys(run.gpus), dict.fromkeys(run.processes)
        for process in processes:
            is_known = is_of_run(run, process.pid, process.started_ms)
            if is_known or run.pid in process.line:
                gpus[process.gpu_uuid] = None
                if not is_known and len(known) < MAX_PROCESSES:
                    known[process.pid, process.started_ms] = None
        if len(gpus) == len(run.gpus) and len(known) == len(run.processes):
            return run
        return self._store.change(run.id, gpus=tuple(gpus), processes=tuple(known)) or run

    def _store_report(self, runs: Sequence[Run]) -> None:
        """Store the report of one run that has ended, if the history answers."""
        due_ms = self._clock.now_ms() - REPORT_DELAY_MS
        run = next((each for each in runs if each.end_ms is not None and not each.has_report), None)
        if run is None or run.end_ms is None or run.end_ms > due_ms:
            return
        report = self._build_report(run, is_final=True)
        if self._history.read_status().error is None:
            self._store.put_report(run.id, report, **summarize(report))


class _Process(NamedTuple):
    """A process on a GPU. `line`: its pid and those of its parents."""

    gpu_uuid: str
    pid: int
    started_ms: int | None
    line: tuple[int, ...]


def _list_processes(sample: Sample, tree: ProcessTree) -> list[_Process]:
    """Return the processes on GPUs that are known on this machine."""
    found = [
        (gpu.device.uuid, process.pid, process.info.started_ms)
        for gpu in sample.gpus
        if PROCESSES not in gpu.unavailable
        for process in gpu.processes
        if not process.info.foreign
    ]
    lines = {} if sample.simulated else {pid: tree.ancestors(pid) for pid in {pid for _, pid, _ in found}}
    return [_Process(uuid, pid, started_ms, (pid, *lines.get(pid, ()))) for uuid, pid, started_ms in found]
