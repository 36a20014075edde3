"""What outlives a restart: active alerts and known GPUs, and what people have said. JSON files in the data folder.

All processes of a folder share the marks of people, so each change reads the file again under a lock. Only the process
that writes the history keeps the active alerts.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import stat
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from dashtop.alerts.delivery import SentNotice
from dashtop.alerts.rule import KnownGpu
from dashtop.model.alert import Alert, AlertState, ServiceMark, Silence, Watch, WatchKind
from dashtop.model.metric import Severity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

ALERTS_FILE: Final = "alerts.json"
SENT_FILE: Final = "alert-notices.json"
MARKS_FILE: Final = "alert-marks.json"
MAX_BYTES: Final = 4_000_000
RecordT = TypeVar("RecordT")


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Somebody has seen the episode of an alert that was active at `time_ms`."""

    alert: str
    by: str
    time_ms: int


@dataclass(frozen=True, slots=True)
class Marks:
    """Acknowledgements by alert id; silences, services and watches by their ids."""

    acknowledgements: Mapping[str, Acknowledgement] = field(default_factory=dict)
    silences: Mapping[str, Silence] = field(default_factory=dict)
    services: Mapping[str, ServiceMark] = field(default_factory=dict)
    watches: Mapping[str, Watch] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunState:
    """What a run leaves to the next one: its active alerts, the GPUs it knew, and the boot of the machine.

    `boot_id` None: not known.
    """

    alerts: tuple[Alert, ...] = ()
    gpus: tuple[KnownGpu, ...] = ()
    boot_id: str | None = None


class AlertFiles:
    """The files in `folder`; None: nothing is kept. Every method raises OSError; it blocks as long as the disk."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._seen: tuple[int, int] | None = None

    def read_state(self) -> RunState:
        """Return what was last written."""
        data = self._read(ALERTS_FILE)
        boot_id = data.get("boot_id")
        return RunState(
            tuple(filter(None, map(_parse_alert, _get_list(data, "alerts")))),
            tuple(filter(None, map(_parse_gpu, _get_list(data, "gpus")))),
            boot_id if isinstance(boot_id, str) else None,
        )

    def write_state(self, state: RunState) -> None:
        """Replace what is stored."""
        self._write(
            ALERTS_FILE,
            {
                "version": 1,
                "alerts": [asdict(alert) for alert in state.alerts],
                "gpus": [gpu._asdict() for gpu in state.gpus],
                "boot_id": state.boot_id,
            },
        )

    def read_sent(self) -> dict[str, dict[str, SentNotice]]:
        """Return the last notice of each alert that was sent, by channel and alert."""
        sent: dict[str, dict[str, SentNotice]] = {}
        for entry in _get_list(self._read(SENT_FILE), "sent"):
            if isinstance(entry, dict):
                channel, alert = entry.pop("channel", None), entry.pop("alert", None)
                parsed = _parse(SentNotice, entry)
                if isinstance(channel, str) and isinstance(alert, str) and parsed is not None:
                    sent.setdefault(channel, {})[alert] = parsed
        return sent

    def write_sent(self, sent: Mapping[str, Mapping[str, SentNotice]]) -> None:
        """Replace the notices that were sent."""
        entries = [
            {"channel": channel, "alert": alert, **asdict(each)}
            for channel, alerts in sent.items()
            for alert, each in alerts.items()
        ]
        self._write(SENT_FILE, {"version": 1, "sent": entries})

    def read_changed_marks(self) -> Marks | None:
        """Return the marks if the file has changed since the last call."""
        if self._folder is None:
            return None
        try:
            status = (self._folder / MARKS_FILE).stat()
        except FileNotFoundError:
            return None
        changed = (status.st_mtime_ns, status.st_ino)
        if changed == self._seen:
            return None
        self._seen = changed
        return self._read_marks()

    def change_marks(self, change: Callable[[Marks], Marks]) -> Marks:
        """Apply a change to the marks as they are in the file now; return them."""
        if self._folder is None:
            return change(Marks())
        with self._lock():
            marks = change(self._read_marks())
            self._write(
                MARKS_FILE,
                {
                    "version": 1,
                    "acknowledgements": [asdict(each) for each in marks.acknowledgements.values()],
                    "silences": [asdict(each) for each in marks.silences.values()],
                    "services": [asdict(each) for each in marks.services.values()],
                    "watches": [asdict(each) for each in marks.watches.values()],
                },
            )
        return marks

    def _read_marks(self) -> Marks:
        data = self._read(MARKS_FILE)
        acknowledgements = filter(None, (_parse(Acknowledgement, each) for each in _get_list(data, "acknowledgements")))
        silences = filter(None, (_parse(Silence, each) for each in _get_list(data, "silences")))
        services = filter(None, (_parse(ServiceMark, each) for each in _get_list(data, "services")))
        watches = filter(None, map(_parse_watch, _get_list(data, "watches")))
        return Marks(
            {each.alert: each for each in acknowledgements},
            {each.id: each for each in silences},
            {each.id: each for each in services},
            {each.id: each for each in watches},
        )

    @contextmanager
    def _lock(self) -> Iterator[None]:
        assert self._folder is not None  # noqa: S101 - the caller has checked it
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f"{MARKS_FILE}.lock"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _read(self, name: str) -> Mapping[str, Any]:
        """Return the content of a file; empty if it is missing or damaged, or another user could have written it."""
        if self._folder is None:
            return {}
        try:
            descriptor = os.open(self._folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return {}
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o002:
                return {}
            content = file.read(MAX_BYTES)
        try:
            data = json.loads(content)
        except ValueError:
            return {}
        return data if isinstance(data, dict) else {}

    def _write(self, name: str, data: Mapping[str, Any]) -> None:
        """Replace a file as a whole: a reader sees the old or the new content."""
        if self._folder is None:
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._folder / f"{name}.{secrets.token_hex(8)}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(data, file)
                file.flush()
                os.fsync(descriptor)
            temporary.replace(self._folder / name)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _get_list(data: Mapping[str, Any], name: str) -> list[Any]:
    value = data.get(name)
    return value if isinstance(value, list) else []


def _parse(record: type[RecordT], data: object) -> RecordT | None:
    """Return a record of plain fields; None if one is missing, unknown or of another type."""
    untyped: Any = record
    if not isinstance(data, dict) or data.keys() != {each.name for each in fields(untyped)}:
        return None
    allowed = (str, int, type(None))
    return record(**data) if all(isinstance(value, allowed) for value in data.values()) else None


def _parse_watch(data: object) -> Watch | None:
    watch = _parse(Watch, data)
    try:
        return None if watch is None else replace(watch, kind=WatchKind(watch.kind))
    except ValueError:
        return None  # of another version


def _parse_gpu(data: object) -> KnownGpu | None:
    try:
        gpu = KnownGpu(**data) if isinstance(data, dict) else None
    except TypeError:
        return None  # of another version
    if gpu is None or not isinstance(gpu.uuid, str) or not isinstance(gpu.label, str):
        return None
    return gpu if isinstance(gpu.gpu_id, (int, type(None))) else None


def _parse_alert(data: object) -> Alert | None:
    if not isinstance(data, dict):
        return None
    try:
        known = {**data, "severity": Severity(data["severity"]), "state": AlertState(data["state"])}
        return Alert(**known)
    except (KeyError, TypeError, ValueError):
        return None  # of another version
