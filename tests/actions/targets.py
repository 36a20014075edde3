"""Real processes that receive signals in tests, and the samples that list them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dashtop.model.ports import SystemClock
from dashtop.model.sample import GpuProcess, ProcessInfo
from dashtop.sources.host.process_handle import read_facts
from tests.builders import make_gpu, make_sample
from tests.processes import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dashtop.model.sample import Sample

# Prints a line when it is ready, so that no signal arrives before its handler is there.
# A shell that starts the tests in the background has them ignore SIGINT.
SLEEP = (
    # Built in: another user may not read the files of this Python.
    "import _signal, sys, time; _signal.signal(_signal.SIGINT, _signal.default_int_handler);"
    " print('ready', flush=True); time.sleep(600)"
)
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
STARTED_MS = 1_700_000_000_000


@contextmanager
def child(program: str = SLEEP) -> Iterator[subprocess.Popen[str]]:
    """Run a Python program as a child of the tests, until the end of the block."""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait(10)
        process.stdout.close()


@contextmanager
def orphan(program: str = SLEEP) -> Iterator[int]:
    """Run a Python program that is no child of the tests, as training is no child of dashtop; yield its PID."""
    code = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=subprocess.PIPE,"
        " stderr=subprocess.DEVNULL); p.stdout.readline(); print(p.pid)"
    )
    found = subprocess.run([sys.executable, "-c", code, program], capture_output=True, text=True, check=True)
    pid = int(found.stdout)
    descriptor = os.pidfd_open(pid)
    try:
        eventually(lambda: read_facts(pid).parent != os.getpid())
        yield pid
    finally:
        with suppress(ProcessLookupError):  # the test has ended it
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        os.close(descriptor)


def has_ended(pid: int) -> bool:
    """Return whether a process has ended, also if nobody has asked for its exit status yet."""
    try:
        return read_facts(pid).has_ended
    except OSError:
        return True


def state(pid: int) -> str:
    """Return the state of a process: S sleeping, T stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def on_gpu(pid: int, **changes: Any) -> GpuProcess:
    """Return a process as a sample has it."""
    try:
        ticks = read_facts(pid).start_ticks
    except OSError:
        ticks = 1
    info = ProcessInfo(name="python", username="ada", started_ms=STARTED_MS)
    return replace(GpuProcess(pid=pid, kind="C", gpu_memory_bytes=2**30, start_ticks=ticks, info=info), **changes)


def sample_of(*processes: GpuProcess, age_s: float = 0.0) -> Sample:
    """Return a sample of one GPU with these processes."""
    sample = make_sample(gpus=(make_gpu(0, processes=processes),))
    return replace(sample, monotonic_s=SystemClock().monotonic() - age_s)
