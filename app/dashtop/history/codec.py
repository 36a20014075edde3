"""How columns of numbers lie in the file: bytes of equal weight side by side, then zlib.

Neighbouring readings differ in few bytes, so a plane of all first bytes, then all second ones, compresses about twice
as well as the numbers themselves.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Number = TypeVar("Number", np.float32, np.int64)

LEVEL = 6


def pack(numbers: NDArray[Number]) -> bytes:
    """Return the numbers (any shape, in C order) as a compressed blob."""
    planes = np.ascontiguousarray(numbers).reshape(-1).view(np.uint8).reshape(-1, numbers.itemsize).T
    return zlib.compress(planes.tobytes(), LEVEL)


def unpack(blob: bytes, kind: type[Number]) -> NDArray[Number]:
    """Return the numbers of a blob in one dimension. Raises ValueError where it is none of ours."""
    width = np.dtype(kind).itemsize
    try:
        planes = np.frombuffer(zlib.decompress(blob), dtype=np.uint8)
    except zlib.error as error:
        raise ValueError("a block of the history cannot be unpacked") from error
    return np.ascontiguousarray(planes.reshape(width, -1).T).reshape(-1).view(kind)


def pack_times(times_ms: NDArray[np.int64]) -> bytes:
    """Return times as a blob: the first, then the steps, which are nearly equal."""
    return pack(np.diff(times_ms, prepend=np.int64(0)))


def unpack_times(blob: bytes) -> NDArray[np.int64]:
    """Return what `pack_times` was given."""
    times: NDArray[np.int64] = np.cumsum(unpack(blob, np.int64))
    return times
