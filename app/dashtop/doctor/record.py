"""`dashtop doctor --record FILE`: writes what NVML answers on this machine as a world file, without private names.

The fake library of the tests and `--demo FILE` replay it. A call that hangs or crashes is written down as such, and the
recording goes on without it.
"""

from __future__ import annotations

import json
import os
import select
import shlex
import subprocess
import time
from typing import IO, TYPE_CHECKING, Any

from dashtop.model.errors import DashtopError
from dashtop.model.python_process import build_python_command
from dashtop.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

CALL_TIMEOUT_S = 10.0
# With persistence mode off, nvmlInit initializes every GPU.
INIT_TIMEOUT_S = 60.0
MAX_FAILED_CALLS = 40
MIN_LATENCY_US = 50
"""Shorter calls are written without their latency: that is the time of the recorder itself."""

SUCCESS, INVALID_ARGUMENT, NOT_SUPPORTED, NOT_FOUND, LIBRARY_NOT_FOUND = 0, 2, 3, 6, 12
FIELD_VALUES, HANDLE = "nvmlDeviceGetFieldValues", "nvmlDeviceGetHandleByIndex_v2"
# Called with rising numbers until they fail.
_PROBES = ("nvmlDeviceGetNvLinkState", "nvmlDeviceGetMigDeviceHandleByIndex")
# In the fake library these succeed without a key, so that NOT_SUPPORTED is written down as well.
_LISTS = ("RunningProcesses", "GetNumFans", "nvmlGpmQueryDeviceSupport")
_PROCESS_UTILIZATION = "nvmlDeviceGetProcessUtilization"

_START = "from dashtop.sources.nvml.recorder import main; main(sys.argv[1])"


class RecordError(DashtopError):
    """Nothing can be recorded, or the file cannot be written. The message is a sentence."""


def record(file: Path) -> str:
    """Record this machine to a file, and return a sentence about it. Raise RecordError."""
    lines, faults = _run_recorder()
    world = build_world(lines, faults)
    scratch = file.with_name(f".{file.name}.{os.getpid()}.new")
    try:
        scratch.write_text(json.dumps(world, indent=2, ensure_ascii=False) + "\n")
        scratch.replace(file)
    except OSError as error:
        raise RecordError(f"{file} cannot be written: {error.strerror or error}.") from None
    count, calls = len(world["gpus"]), len(world["calls"])
    return (
        f"{file}: {calls} NVML calls, {count} GPU{'' if count == 1 else 's'}. Serial numbers, UUIDs, pids and the names"
        f" of processes are replaced. Look at it with: dashtop --demo {shlex.quote(str(file))}"
    )


Fault = tuple[str, str, str]
"""Device, function, and what the call did: hang or crash."""


def _run_recorder() -> tuple[list[dict[str, Any]], list[Fault]]:
    """Return the lines of a recorder that ran to its end, and the calls that were left out because they did not."""
    faults: list[Fault] = []
    while len(faults) <= MAX_FAILED_CALLS:
        skipped = json.dumps([[device, function] for device, function, _ in faults])
        process = subprocess.Popen(
            build_python_command(_START, skipped),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )
        try:
            lines, is_silent = _read_lines(process.stdout)
        finally:
            process.kill()
            _, errors = process.communicate()
        if lines and "end" in lines[-1]:
            return lines, faults
        begun = next((line["begin"] for line in reversed(lines) if "begin" in line), None)
        is_in_call = bool(lines) and "begin" in lines[-1]
        if begun is None or not (is_in_call or is_silent):
            message = errors.decode(errors="replace").strip().rpartition("\n")[2] or "it printed nothing"
            raise RecordError(f"The recorder failed: {message}.")
        faults.append((begun[0], begun[1], "hang" if is_silent else "crash"))
    raise RecordError(f"More than {MAX_FAILED_CALLS} NVML calls hang or crash.")


def _read_lines(stdout: IO[bytes] | None) -> tuple[list[dict[str, Any]], bool]:
    """Return the lines of a process until it ends, and whether it was silent for too long."""
    if stdout is None:
        return [], False
    descriptor, received = stdout.fileno(), b""
    lines: list[dict[str, Any]] = []
    deadline = time.monotonic() + INIT_TIMEOUT_S
    while select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
        chunk = os.read(descriptor, 65_536)
        if not chunk:
            return lines, False
        *complete, received = (received + chunk).split(b"\n")
        lines += map(json.loads, complete)
        is_initializing = bool(lines) and lines[-1].get("begin") == ["", "nvmlInit_v2"]
        deadline = time.monotonic() + (INIT_TIMEOUT_S if is_initializing else CALL_TIMEOUT_S)
    return lines, True


def build_world(lines: list[dict[str, Any]], faults: list[Fault]) -> dict[str, Any]:
    """Return the world (see tests/fake_nvml/README.md) for the lines of a recorder. Raise RecordError."""
    calls = [line["call"] for line in lines if "call" in line]
    if any(call["function"] == "nvmlInit_v2" and call["code"] == LIBRARY_NOT_FOUND for call in calls):
        raise RecordError("The NVIDIA driver library (libnvidia-ml.so.1) was not found: there is nothing to record.")
    world: dict[str, Any] = {
        "source": f"dashtop doctor --record, dashtop {__version__}, {time.strftime('%Y-%m-%d', time.gmtime())}",
        "description": "What NVML answered on a user's machine.",
        "gpus": [],
    }
    devices = sorted(
        {call["gpu"] for call in calls if call["gpu"]} | {device for device, _, _ in faults if device},
        key=lambda device: [int(part) for part in device.split("/")],
    )
    sections: dict[str, dict[str, Any]] = {"": world}
    for device in devices:
        parent, _, instance = device.partition("/")
        sections[device] = {"uuid": _invent_uuid(device)}
        if instance:
            sections[parent].setdefault("mig", {}).setdefault("instances", []).append(sections[device])
        else:
            world["gpus"].append(sections[device])
    for line in lines:
        device, keys = (line["call"]["gpu"], line["keys"]) if "call" in line else line.get("facts", ["", {}])
        for key, value in keys.items():
            _store(sections[device], key, value)
    for device, section in sections.items():
        own = [call for call in calls if call["gpu"] == device]
        _add_codes(section, [call for call in own if call["function"] != FIELD_VALUES], world.get("absent", []))
        _add_latencies(section, own)
    for device, function, kind in faults:
        sections[device].setdefault(kind, []).append(function)
    _add_field_results(world, sections, [call for call in calls if call["function"] == FIELD_VALUES])
    _replace_private_values(sections, calls)
    world["calls"] = calls
    return world


def _store(section: dict[str, Any], key: str, value: Any) -> None:
    """Store a value under a key with dots; a last part that is a number is a position in a list."""
    *parents, last = key.split(".")
    if last.isdigit():
        items = section.setdefault(".".join(parents), [])
        items += [None] * (int(last) + 1 - len(items))
        items[int(last)] = value
        return
    holder = section
    for parent in parents:
        holder = holder.setdefault(parent, {})
    if isinstance(value, dict) and isinstance(holder.get(last), dict):
        holder[last] |= value
    else:
        holder[last] = value


def _add_codes(section: dict[str, Any], calls: list[dict[str, Any]], absent: list[str]) -> None:
    """Add `returns`: the code of each function that always fails with the same one, unless a missing key has it."""
    codes: dict[str, set[int]] = {}
    for call in calls:
        is_end = call["function"] in _PROBES and call["arguments"][0] > 0
        if not is_end and call["function"] not in absent:
            codes.setdefault(call["function"], set()).add(call["code"])
    failing = {function: next(iter(found)) for function, found in codes.items() if len(found) == 1}
    returns = {
        function: code
        for function, code in failing.items()
        if code not in {SUCCESS, NOT_SUPPORTED} or (code == NOT_SUPPORTED and any(part in function for part in _LISTS))
    }
    if returns.get(_PROCESS_UTILIZATION) == NOT_FOUND:
        del returns[_PROCESS_UTILIZATION]  # nothing has run: the default
    elif failing.get(_PROCESS_UTILIZATION) == NOT_SUPPORTED:
        section["process_utilization_supported"] = False
    common = set(returns.values())
    if (
        len(common) == 1
        and len(returns) > 1
        and not any(SUCCESS in found for name, found in codes.items() if name != HANDLE)
    ):
        returns = {"*": common.pop(), **({HANDLE: SUCCESS} if SUCCESS in codes.get(HANDLE, ()) else {})}
    if returns:
        section["returns"] = returns


def _add_latencies(section: dict[str, Any], calls: list[dict[str, Any]]) -> None:
    """Add the shortest latency of each function: the longer ones were interrupted."""
    latencies: dict[str, int] = {}
    for call in calls:
        known = latencies.get(call["function"], call["latency_us"])
        latencies[call["function"]] = min(known, call["latency_us"])
    slow = {name: latency for name, latency in latencies.items() if latency >= MIN_LATENCY_US and name != FIELD_VALUES}
    if slow:
        section["latency_us"] = slow


def _add_field_results(world: dict[str, Any], sections: dict[str, dict[str, Any]], calls: list[dict[str, Any]]) -> None:
    """Add the first field that this driver does not know, other failures of single fields, and their latencies."""
    fields = sorted({call["arguments"][0] for call in calls})
    known = [call["arguments"][0] for call in calls if call["code"] != INVALID_ARGUMENT]
    limit = next((field for field in fields if field > max(known, default=0)), None)
    if limit is not None:
        world["field_max"] = limit
    slow: dict[str, int] = {}
    for call in calls:
        field, code = call["arguments"][0], call["code"]
        if code not in {SUCCESS, NOT_SUPPORTED} and (limit is None or field < limit):
            sections[call["gpu"]].setdefault("field_returns", {})[str(field)] = code
        if call["latency_us"] >= MIN_LATENCY_US:
            slow[str(field)] = min(call["latency_us"], slow.get(str(field), call["latency_us"]))
    if slow:
        world["field_latency_us"] = slow


def _invent_uuid(device: str) -> str:
    parent, _, instance = device.partition("/")
    kind = "MIG" if instance else "GPU"
    return f"{kind}-00000000-0000-4000-8000-{int(parent) + 1:06d}{int(instance or -1) + 1:06d}"


def _replace_private_values(sections: dict[str, dict[str, Any]], calls: list[dict[str, Any]]) -> None:
    """Replace UUIDs, serial numbers, pids and names of processes by numbered ones, in the keys and in the calls."""
    pids: dict[int, int] = {}
    for device, section in sections.items():
        if not device:
            continue
        section["uuid"] = _invent_uuid(device)
        if "serial" in section:
            section["serial"] = _invent_serial(device)
        for process in section.get("processes", []):
            number = pids.setdefault(process["pid"], 1001 + len(pids))
            process |= {"pid": number, "name": f"program-{number - 1000}"}
    for call in calls:
        if call["function"] == "nvmlDeviceGetUUID":
            call["value"] = call["value"] and _invent_uuid(call["gpu"])
        elif call["function"] == "nvmlDeviceGetSerial":
            call["value"] = call["value"] and _invent_serial(call["gpu"])
        for row in call["value"] if isinstance(call["value"], list) else []:
            if isinstance(row, dict) and "pid" in row:
                row["pid"] = pids.setdefault(row["pid"], 1001 + len(pids))


def _invent_serial(device: str) -> str:
    return f"{int(device.partition('/')[0]) + 1:013d}"
