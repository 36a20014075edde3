"""Every exception dashtop raises on purpose.

DashtopError                  base of all; its message is a sentence that says what to do
├── SettingsError             a setting is unknown or impossible (command line: exit 2)
├── ServerStartError          the server cannot listen where it was told to (exit 1)
├── Unavailable               one reading is missing; carries the Reason
├── CollectionEndedError      no sample will follow: dashtop is ending
├── ExportError               an export cannot be made; says what to do
└── QueryError                a history question that cannot be answered as asked
"""

from __future__ import annotations

from enum import Enum


class Reason(str, Enum):
    """Why a value is missing. The enum's value is the wording shown to people and sent by the API."""

    NOT_SUPPORTED = "not supported by this device"
    NO_PERMISSION = "no permission"
    LIBRARY_TOO_OLD = "the NVIDIA driver is too old for this reading"
    NO_LIBRARY = "the NVIDIA driver library (libnvidia-ml.so.1) was not found"
    NO_DRIVER = "the NVIDIA driver is not loaded"
    DRIVER_MISMATCH = "the NVIDIA driver was upgraded: its library and kernel module differ until it is reloaded"
    NO_DEVICE = "no NVIDIA GPU was found"
    DRIVER_SILENT = "the NVIDIA driver is not answering"
    DRIVER_ERROR = "the NVIDIA driver reported an error"
    STALE = "the last reading is too old to be shown"
    STARTING = "the first reading is under way"
    ASLEEP = "the GPU is asleep and was left so"
    MIG_PARENT = "split into MIG instances: see each of them"
    MIG_INSTANCE = "not told for a single MIG instance"
    WDDM = "not told by the driver under Windows (WDDM, WSL)"
    UNIFIED_MEMORY = "shares the memory of the host"
    GPU_LOST = "the GPU has fallen off the bus"
    GPU_RESET_REQUIRED = "the GPU needs a reset"
    FIRST_READING = "a rate needs two readings"
    UNREADABLE = "the operating system does not tell"
    ABSENT = "this machine has none"
    DISABLED = "switched off in the settings"


class DashtopError(Exception):
    """Base of every exception dashtop raises on purpose."""


class SettingsError(DashtopError):
    """A setting is unknown or impossible; the message is one line for a person."""


class ServerStartError(DashtopError):
    """The server cannot listen on the address it was given; the message names a way out."""


class Unavailable(DashtopError):  # noqa: N818 - an answer, not an error
    """A reading is missing, for `reason`. Raised by readers, turned into N/A by the table walk."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class CollectionEndedError(DashtopError):
    """Collection has been ended; who waits for the next sample waits in vain."""


class QueryError(DashtopError):
    """A question to the history that cannot be answered as asked; the message says what is allowed."""


class ExportError(DashtopError):
    """An export that cannot be made as asked; the message names a way out."""
