"""Why a value is missing."""

from __future__ import annotations

from enum import Enum

from dashtop.model.errors import DashtopError


class UnavailableReason(str, Enum):
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


class Unavailable(DashtopError):  # noqa: N818 - an answer, not an error
    """A reading is missing, for `reason`. Raised by readers, turned into N/A by the table walk."""

    def __init__(self, reason: UnavailableReason) -> None:
        super().__init__(reason.value)
        self.reason = reason
