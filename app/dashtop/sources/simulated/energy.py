"""The energy counter of a simulated GPU: the integral of its power."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from dashtop.sources.simulated.curves import Number

_CELL_S = 60
_SAMPLES_PER_CELL = 2
_CELLS_PER_BLOCK = 1440
# Samples at equal distances would always or never meet what repeats, as the pauses between frames. Multiples of the
# golden ratio are spread evenly.
_GOLDEN_RATIO = 0.618_033_988_749_895
_CELLS_PER_HOUR = 3600 // _CELL_S


class EnergyCounter:
    """Energy since the driver was loaded.

    Power is a function of the time, so its integral is the same in live values and in the history. Each minute has the
    mean of two values, and within it the counter grows evenly. Sums are computed once, a day at a time: eight days of
    64 GPUs take a second.
    """

    def __init__(
        self, driver_loaded_s: float, read_watts: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    ) -> None:
        """`read_watts`: the power at these times, epoch seconds."""
        self._start_s, self._read_watts = driver_loaded_s, read_watts
        self._sums = np.zeros(1)  # Wh until the begin of each cell

    def read(self, t: Number) -> Number:
        """Return Wh at `t`, 0 before the driver was loaded."""
        cells = np.maximum((np.asarray(t) - self._start_s) / _CELL_S, 0.0)
        index = cells.astype(np.int64)
        sums = self._extend(int(index.max()) + 1)
        return sums[index] + (cells - index) * (sums[index + 1] - sums[index])

    def _extend(self, last: int) -> NDArray[np.float64]:
        """Return the sums up to cell `last`. Threads may compute the same ones at once; each uses its own."""
        sums = self._sums
        while len(sums) <= last:
            first = len(sums) - 1
            steps = np.arange(_CELLS_PER_BLOCK * _SAMPLES_PER_CELL)
            cells = first + (steps + steps * _GOLDEN_RATIO % 1.0) / _SAMPLES_PER_CELL
            watts = self._read_watts(self._start_s + _CELL_S * cells)
            means = watts.reshape(_CELLS_PER_BLOCK, _SAMPLES_PER_CELL).mean(axis=1)
            sums = np.concatenate([sums, sums[-1] + np.cumsum(means) / _CELLS_PER_HOUR])
            self._sums = sums
        return sums
