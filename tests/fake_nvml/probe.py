"""A subprocess that calls pynvml in a world.

As a module it executes the code sent to its standard input; :class:`Probe` starts it and sends the code. In the code,
`n` is pynvml, `gpu(i)` returns a handle (cached until `fresh()`), `raw(name, …)` calls a function of the library
without pynvml's logic, and `answer` is the result. Names persist between requests.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import select
import subprocess
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.fake_nvml.world import World


class NvmlFailure(Exception):  # noqa: N818 - a result of NVML, no error of the probe
    """The code raised an NVMLError with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"NVML error {code}")
        self.code = code


class ProbeHangs(Exception):  # noqa: N818 - tests expect it
    """There was no result in time."""


class ProbeDied(Exception):  # noqa: N818 - tests expect it
    """The process exited during a request; `returncode` as in subprocess."""

    def __init__(self, returncode: int, stderr: str) -> None:
        super().__init__(f"the probe ended with {returncode}: {stderr}")
        self.returncode = returncode


class Probe:
    """The subprocess, started in a world."""

    def __init__(self, world: World) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "tests.fake_nvml.probe"],
            env=world.env(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.communicate()

    def evaluate(self, expression: str, timeout: float = 10.0) -> Any:
        """Return the value of an expression."""
        return self.run(f"answer = {expression}", timeout)

    def run(self, code: str, timeout: float = 10.0) -> Any:
        """Execute code and return the value of `answer`."""
        self.send(code)
        return self.answer(timeout)

    def send(self, code: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(textwrap.dedent(code)).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self, timeout: float = 10.0) -> Any:
        stdout, stderr = self.process.stdout, self.process.stderr
        assert stdout is not None
        assert stderr is not None
        if not select.select([stdout], [], [], timeout)[0]:
            raise ProbeHangs
        line = stdout.readline()
        if not line:
            raise ProbeDied(self.process.wait(), stderr.read().decode(errors="replace"))
        reply = json.loads(line)
        if "nvml" in reply:
            raise NvmlFailure(reply["nvml"])
        if "error" in reply:
            raise AssertionError(reply["error"])
        return reply["value"]


def _plain(value: Any) -> Any:
    """Convert ctypes values to what JSON can represent."""
    if isinstance(value, ctypes.Structure | ctypes.Union):
        value = {name: getattr(value, name) for name, *_ in value._fields_}
    elif isinstance(value, ctypes._SimpleCData):
        value = value.value
    elif isinstance(value, ctypes._Pointer):
        value = ctypes.cast(value, ctypes.c_void_p).value
    elif hasattr(value, "__dict__"):
        value = vars(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, ctypes.Array | list | tuple):
        return [_plain(item) for item in value]
    return value


def _serve() -> None:
    import pynvml

    handles: dict[int, Any] = {}

    def gpu(index: int) -> Any:
        if index not in handles:
            handles[index] = pynvml.nvmlDeviceGetHandleByIndex(index)
        return handles[index]

    def fresh() -> int:
        """Initialize again; return the number of devices."""
        handles.clear()
        with contextlib.suppress(pynvml.NVMLError):
            while True:
                pynvml.nvmlShutdown()
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())

    def raw(function: str, *arguments: Any) -> int:
        return int(getattr(pynvml.nvmlLib, function)(*arguments))

    names: dict[str, Any] = {
        "n": pynvml, "ctypes": ctypes, "time": time, "gpu": gpu, "fresh": fresh, "raw": raw,
    }  # fmt: skip
    for line in sys.stdin:
        reply: dict[str, Any]
        try:
            names["answer"] = None
            exec(json.loads(line), names)
            reply = {"value": _plain(names["answer"])}
        except pynvml.NVMLError as failure:
            reply = {"nvml": failure.value}
        except Exception as error:  # noqa: BLE001 - reported to the test
            reply = {"error": f"{line.strip()}: {error!r}"}
        print(json.dumps(reply))


if __name__ == "__main__":
    _serve()
