"""The fault table: every reason why a value can be missing, and what it means. A new fault kind is one member here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum

from dashtop.model.errors import DashtopError
from dashtop.model.metric import Severity


class Scope(Enum):
    """What a reason makes unreadable, as a rule."""

    METRIC = "one metric"
    GPU = "one GPU"
    DRIVER = "every GPU"


class Fix(Enum):
    """What removes a fault. `doctor.fixes` turns it into the command for the machine at hand."""

    INSTALL_DRIVER = "install the NVIDIA driver"
    LOAD_DRIVER = "load the NVIDIA driver"
    RELOAD_DRIVER = "reload the NVIDIA driver, or reboot"
    RESCAN_BUS = "rescan the PCI bus"
    RESET_GPU = "reset the GPU"
    RESET_GPU_OR_REBOOT = "reset the GPU, or reboot"
    REBOOT = "reboot the machine"
    GRANT_ACCESS = "give this user access to the GPU"
    READ_KERNEL_LOG = "look for NVRM and Xid lines in the kernel log"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fault:
    """One row of the table.

    `text` is shown to people and sent by the API. `is_failure`: something is broken, as opposed to absent, asleep or
    not supported. `retry_after_s`: when a metric is read again, None for its own period. `requires_restart`: only a new
    worker process can recover. `http_status`: the answer to an API call about a GPU in this state. `severity` is that
    of the event when the fault begins.
    """

    text: str
    scope: Scope = Scope.METRIC
    is_failure: bool = False
    is_lost: bool = False
    is_unsupported: bool = False
    requires_restart: bool = False
    retry_after_s: float | None = None
    http_status: int = 200
    severity: Severity = Severity.INFO
    fix: Fix | None = None


def _failure(
    text: str, scope: Scope, fix: Fix | None, *, is_lost: bool = False, requires_restart: bool = False
) -> _Fault:
    return _Fault(
        text=text,
        scope=scope,
        is_failure=True,
        is_lost=is_lost,
        requires_restart=requires_restart,
        http_status=500,
        severity=Severity.CRITICAL,
        fix=fix,
    )


class UnavailableReason(Enum):
    """Why a value is missing. The member's value is its text."""

    text: str
    scope: Scope
    is_failure: bool
    is_lost: bool
    is_unsupported: bool
    requires_restart: bool
    retry_after_s: float | None
    http_status: int
    severity: Severity
    fix: Fix | None

    # What a device cannot report it seldom learns later, and asking again costs an exception and, for some calls,
    # milliseconds. A value that only waits for a second reading is read at once.
    NOT_SUPPORTED = _Fault(text="not supported by this device", is_unsupported=True, retry_after_s=300.0)
    LIBRARY_TOO_OLD = _Fault(
        text="not supported by this version of the NVIDIA driver", is_unsupported=True, retry_after_s=300.0
    )
    NO_PERMISSION = _Fault(
        text="no permission",
        is_failure=True,
        retry_after_s=60.0,
        http_status=500,
        severity=Severity.CRITICAL,
        fix=Fix.GRANT_ACCESS,
    )
    NO_LIBRARY = _Fault(
        text="the NVIDIA driver library (libnvidia-ml.so.1) was not found",
        scope=Scope.DRIVER,
        http_status=503,
        fix=Fix.INSTALL_DRIVER,
    )
    NO_DRIVER = _Fault(
        text="the NVIDIA driver is not loaded",
        scope=Scope.DRIVER,
        http_status=503,
        severity=Severity.CRITICAL,
        fix=Fix.LOAD_DRIVER,
    )
    NO_DEVICE = _Fault(text="no NVIDIA GPU was found", scope=Scope.DRIVER, http_status=503, fix=Fix.RESCAN_BUS)
    DISABLED = _Fault(text="dashtop was started with --no-gpu", scope=Scope.DRIVER, http_status=503)
    STARTING = _Fault(text="waiting for the first reading", scope=Scope.DRIVER, http_status=503, retry_after_s=0.0)
    INITIALIZING = _Fault(text="initializing the driver", scope=Scope.DRIVER, http_status=503, retry_after_s=0.0)
    DRIVER_MISMATCH = _failure(
        "the NVIDIA driver was upgraded: its library and kernel module differ until it is reloaded",
        Scope.DRIVER,
        Fix.RELOAD_DRIVER,
        requires_restart=True,
    )
    DRIVER_SILENT = _failure("the NVIDIA driver does not respond", Scope.DRIVER, Fix.REBOOT)
    DRIVER_ERROR = _failure("the NVIDIA driver reported an error", Scope.DRIVER, Fix.READ_KERNEL_LOG)
    STALE = _failure("the last reading is too old", Scope.DRIVER, Fix.READ_KERNEL_LOG)
    INTERNAL_ERROR = _failure("internal error of dashtop, see its log", Scope.METRIC, None)
    GPU_LOST = _failure("the GPU has fallen off the bus", Scope.GPU, Fix.RESET_GPU_OR_REBOOT, is_lost=True)
    NOT_RESPONDING = _failure("the GPU does not respond", Scope.GPU, Fix.RESET_GPU_OR_REBOOT, is_lost=True)
    GPU_RESET_REQUIRED = _failure("the GPU needs a reset", Scope.GPU, Fix.RESET_GPU, is_lost=True)
    ASLEEP = _Fault(text="the GPU is asleep (dashtop does not wake it)", scope=Scope.GPU)
    IDLE = _Fault(text="idle: left alone for a while so that the GPU can suspend", scope=Scope.GPU)
    MIG_PARENT = _Fault(text="split into MIG instances, which report it")
    MIG_INSTANCE = _Fault(text="not reported for MIG instances")
    WDDM = _Fault(text="not reported by the driver under Windows (WDDM, WSL)")
    UNIFIED_MEMORY = _Fault(text="shares the memory of the host")
    IMPLAUSIBLE = _Fault(text="implausible reading")
    FIRST_READING = _Fault(text="a rate needs two readings", retry_after_s=0.0)
    UNREADABLE = _Fault(text="not reported by the OS")
    ABSENT = _Fault(text="not present on this machine")
    NO_LIMIT = _Fault(text="no cgroup limit", retry_after_s=60.0)
    NOT_RECORDED = _Fault(text="not recorded at that time")

    def __new__(cls, fault: _Fault) -> UnavailableReason:
        """Return the member for a row, with the row's columns as attributes."""
        member = object.__new__(cls)
        member._value_ = fault.text
        for column in fields(fault):
            setattr(member, column.name, getattr(fault, column.name))
        return member

    @property
    def is_pending(self) -> bool:
        """Whether the value is about to arrive."""
        return self.retry_after_s == 0

    @property
    def advice(self) -> str:
        """What to do, as a sentence; empty where nothing is to be done."""
        return f"{self.fix.value[:1].upper()}{self.fix.value[1:]}." if self.fix is not None else ""

    @property
    def silences_driver(self) -> bool:
        """Whether a driver with GPUs has stopped reporting."""
        return self.scope is Scope.DRIVER and (self.is_failure or self is UnavailableReason.NO_DRIVER)


class Unavailable(DashtopError):  # noqa: N818 - an answer, not an error
    """A reading is missing, for `reason`. Raised by readers; MetricReader turns it into a missing value."""

    def __init__(self, reason: UnavailableReason) -> None:
        super().__init__(reason.text)
        self.reason = reason
