"""Arrays that the driver fills: made once, and read in one go.

The binding makes them anew at every call, asks for lists twice (how long, then what) and reads each field through
Python: that takes several times what the driver itself takes.
"""

from __future__ import annotations

import ctypes
from struct import Struct
from typing import TYPE_CHECKING, Any

import pynvml

from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.nvml.errors import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable

# As the C compiler lays them out (nvml.h).
FIELD_VALUE = Struct("@IIqqIIQ")
"""nvmlFieldValue_t: fieldId, scopeId, timestamp, latencyUsec, valueType, nvmlReturn, value."""
PROCESS = Struct("@IQII")
"""nvmlProcessInfo_v2_t, and the same under v3: pid, usedGpuMemory, gpuInstanceId, computeInstanceId."""
UTILIZATION_SAMPLE = Struct("@IQIIII")
"""nvmlProcessUtilizationSample_t: pid, timeStamp, smUtil, memUtil, encUtil, decUtil."""

ROOM = 32


def function(name: str) -> Any:
    """Return a function of the library; raise Unavailable where it has none of that name."""
    try:
        return getattr(pynvml.nvmlLib, name)
    except AttributeError:
        raise Unavailable(UnavailableReason.LIBRARY_TOO_OLD) from None


def check(code: int) -> None:
    """Raise Unavailable unless this is NVML's code for success."""
    if code != pynvml.NVML_SUCCESS:
        raise Unavailable(reason_of(code))


class Rows:
    """Room for a list of the driver's, which grows with the list.

    `array` and `count` are what the driver is called with: where the rows go, and a pointer to their number.
    """

    def __init__(self, layout: Struct) -> None:
        self._layout = layout
        self._number = ctypes.c_uint()
        self.count = ctypes.byref(self._number)
        self._make_room(ROOM)

    def _make_room(self, rows: int) -> None:
        self._room = rows
        self.array = ctypes.create_string_buffer(rows * self._layout.size)

    def filled(self, ask: Callable[[], int]) -> list[tuple[Any, ...]]:
        """Return the rows that `ask` has the driver fill in; it returns NVML's code. Raises Unavailable."""
        code = self._asked(ask)
        if code == pynvml.NVML_ERROR_INSUFFICIENT_SIZE and self._number.value > self._room:
            self._make_room(2 * self._number.value)  # more may come meanwhile
            code = self._asked(ask)
        check(code)
        return list(self._layout.iter_unpack(memoryview(self.array)[: self._number.value * self._layout.size]))

    def _asked(self, ask: Callable[[], int]) -> int:
        self._number.value = self._room
        return ask()
