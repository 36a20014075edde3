"""Calls to the NVML library: return codes become reasons, texts are cleaned, and C arrays are filled and unpacked."""

from __future__ import annotations

import ctypes
from struct import Struct
from typing import TYPE_CHECKING, Any, TypeVar

import pynvml

from dashtop.model.text import sanitize_text
from dashtop.model.unavailable import Unavailable, UnavailableReason

if TYPE_CHECKING:
    from collections.abc import Callable

ResultT = TypeVar("ResultT")

MAX_TEXT_LENGTH = 96
INITIAL_ROWS = 32

# NVML manual, "Return values" (nvmlReturn_t).
REASONS = {
    pynvml.NVML_ERROR_UNINITIALIZED: UnavailableReason.NO_DRIVER,
    pynvml.NVML_ERROR_NOT_SUPPORTED: UnavailableReason.NOT_SUPPORTED,
    pynvml.NVML_ERROR_NO_PERMISSION: UnavailableReason.NO_PERMISSION,
    pynvml.NVML_ERROR_NOT_FOUND: UnavailableReason.NOT_SUPPORTED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: UnavailableReason.NO_DRIVER,
    pynvml.NVML_ERROR_TIMEOUT: UnavailableReason.DRIVER_SILENT,
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: UnavailableReason.NO_LIBRARY,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: UnavailableReason.LIBRARY_TOO_OLD,
    pynvml.NVML_ERROR_GPU_IS_LOST: UnavailableReason.GPU_LOST,
    pynvml.NVML_ERROR_RESET_REQUIRED: UnavailableReason.GPU_RESET_REQUIRED,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: UnavailableReason.DRIVER_MISMATCH,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH: UnavailableReason.LIBRARY_TOO_OLD,
    pynvml.NVML_ERROR_DEPRECATED: UnavailableReason.NOT_SUPPORTED,
}

# Struct layouts as the C compiler arranges them (nvml.h).
FIELD_VALUE = Struct("@IIqqIIQ")
"""nvmlFieldValue_t: fieldId, scopeId, timestamp, latencyUsec, valueType, nvmlReturn, value."""
PROCESS_INFO = Struct("@IQII")
"""nvmlProcessInfo_v2_t, and the same in v3: pid, usedGpuMemory, gpuInstanceId, computeInstanceId."""
UTILIZATION_SAMPLE = Struct("@IQIIII")
"""nvmlProcessUtilizationSample_t: pid, timeStamp, smUtil, memUtil, encUtil, decUtil."""


def get_reason(code: int) -> UnavailableReason:
    """Return the reason for an NVML return code."""
    return REASONS.get(code, UnavailableReason.DRIVER_ERROR)


def call(function: Callable[..., ResultT], *arguments: object) -> ResultT:
    """Call one function of pynvml. Raise Unavailable if NVML returns an error.

    Callers keep the exception, so it is raised where it does not keep that of pynvml, with its frames, as its context.
    """
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        reason = get_reason(error.value)
    raise Unavailable(reason)


def call_or_none(function: Callable[..., ResultT], *arguments: object) -> ResultT | None:
    """Call one function of pynvml. Return None if NVML returns an error."""
    try:
        return function(*arguments)
    except pynvml.NVMLError:
        return None


def read_text(function: Callable[..., str], *arguments: object) -> str:
    """Read a text and remove what cannot be shown. Raise Unavailable if NVML returns an error.

    pynvml decodes it as UTF-8, but a name or serial number stored on a card can hold any bytes.
    """
    text: str | bytes
    try:
        text = call(function, *arguments)
    except UnicodeDecodeError as error:
        text = error.object
    return sanitize_text(text, limit=MAX_TEXT_LENGTH)


def read_text_or_none(function: Callable[..., str], *arguments: object) -> str | None:
    """Read a text. Return None if it is empty or NVML returns an error."""
    try:
        return read_text(function, *arguments) or None
    except Unavailable:
        return None


def find_function(name: str) -> Any:
    """Return a C function of the library. Raise Unavailable if this version does not have it."""
    function = getattr(pynvml.nvmlLib, name, None)
    if function is None:
        raise Unavailable(UnavailableReason.LIBRARY_TOO_OLD)
    return function


def check(code: int) -> None:
    """Raise Unavailable if an NVML return code is an error."""
    if code != pynvml.NVML_SUCCESS:
        raise Unavailable(get_reason(code))


class RowBuffer:
    """A reusable C array for a list that NVML fills. It grows when the list does not fit.

    pynvml allocates such arrays at every call, calls NVML twice (for the length, then for the rows), and reads each
    field through a Python attribute. That takes several times as long as the driver itself.

    Pass `array` and `count` to the C function: the rows, and a pointer to their number.
    """

    def __init__(self, layout: Struct) -> None:
        self._layout = layout
        self._number = ctypes.c_uint()
        self.count = ctypes.byref(self._number)
        self._allocate(INITIAL_ROWS)

    def _allocate(self, capacity: int) -> None:
        self._capacity = capacity
        self.array = ctypes.create_string_buffer(capacity * self._layout.size)

    def read(self, fill: Callable[[], int]) -> list[tuple[Any, ...]]:
        """Call `fill`, which returns NVML's code, and return the rows. Raise Unavailable if it fails."""
        code = self._fill(fill)
        if code == pynvml.NVML_ERROR_INSUFFICIENT_SIZE and self._number.value > self._capacity:
            self._allocate(2 * self._number.value)  # the list can grow between the two calls
            code = self._fill(fill)
        check(code)
        return list(self._layout.iter_unpack(memoryview(self.array)[: self._number.value * self._layout.size]))

    def _fill(self, fill: Callable[[], int]) -> int:
        self._number.value = self._capacity
        return fill()
