"""How the history is stored: the tiers of resolution, the tables, and the compression of columns of numbers."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import numpy as np

from dashtop.history.events import EVENT_INDEX
from dashtop.history.usage import USAGE_TABLES
from dashtop.model.timerange import DAY_MS, HOUR_MS, MINUTE_MS, TIER_RETENTION_MS, TIER_STEPS_MS

if TYPE_CHECKING:
    from numpy.typing import NDArray

VERSION = 1
"""Of the tables. A database of another version is not read."""
ZLIB_LEVEL = 6

Number = TypeVar("Number", np.float32, np.int64)


@dataclass(frozen=True, slots=True)
class Tier:
    """One resolution. `width_ms` is the length of its buckets, 0 for raw readings.

    Readings are compacted one window of `window_ms` at a time, a multiple of the bucket lengths of all coarser tiers.
    `kept_ms` is how much of dashtop's running time is kept; None: as much as `--keep-days` allows.
    """

    number: int
    width_ms: int
    window_ms: int
    kept_ms: int | None

    def can_build(self, step_ms: int) -> bool:
        """Return whether buckets of `step_ms` are made of whole buckets of this tier."""
        return self.width_ms == 0 or step_ms % self.width_ms == 0


# A window holds some hundred readings: fewer cost more bytes a value, more leave more rows in the buffer to read.
TIERS: Final = (
    Tier(0, 0, 20 * MINUTE_MS, TIER_RETENTION_MS[0]),
    Tier(1, TIER_STEPS_MS[1], HOUR_MS, TIER_RETENTION_MS[1]),
    Tier(2, TIER_STEPS_MS[2], 4 * HOUR_MS, TIER_RETENTION_MS[2]),
    Tier(3, TIER_STEPS_MS[3], 2 * DAY_MS, TIER_RETENTION_MS[3]),
)
RAW: Final = TIERS[0]


def find_tier(step_ms: int) -> Tier:
    """Return the coarsest tier whose buckets make up buckets of `step_ms` exactly, or nearly if none does.

    A tier as wide as the step is exact, since both lie on the epoch's grid. One that does not divide the step is at
    most half as wide, so that a reading is out of place by that much at most.
    """
    exact = next(tier for tier in reversed(TIERS) if tier.can_build(step_ms))
    near = next(tier for tier in reversed(TIERS) if 2 * tier.width_ms <= step_ms)
    return exact if exact.number else near


# Table `head` is the buffer of rows that are not compacted yet. `window` is a keyword in PostgreSQL, hence the quotes.
_TABLES = """
CREATE TABLE series (id {key}, metric TEXT NOT NULL, gpu TEXT NOT NULL, UNIQUE (metric, gpu));
CREATE TABLE layout (id {key}, series {blob} NOT NULL);
CREATE UNIQUE INDEX layout_series ON layout ({layout_series});
CREATE TABLE head (id {key}, tier {integer} NOT NULL, time_ms {integer} NOT NULL, layout {integer} NOT NULL,
    data {blob} NOT NULL);
CREATE INDEX head_time ON head (tier, time_ms);
CREATE TABLE "window" (id {integer} PRIMARY KEY, tier {integer} NOT NULL, start_ms {integer} NOT NULL,
    times {blob} NOT NULL);
CREATE INDEX window_start ON "window" (tier, start_ms);
CREATE TABLE chunk (id {key}, series {integer} NOT NULL, "window" {integer} NOT NULL, data {blob} NOT NULL);
CREATE UNIQUE INDEX chunk_place ON chunk (series, "window");
CREATE TABLE event (id {key}, time_ms {integer} NOT NULL, kind TEXT NOT NULL, severity TEXT NOT NULL,
    text TEXT NOT NULL, gpu TEXT, advice TEXT NOT NULL, code {integer});
CREATE INDEX event_time ON event (time_ms);
CREATE TABLE process (id {key}, gpu TEXT NOT NULL, pid {integer} NOT NULL, start_ms {integer} NOT NULL,
    end_ms {integer} NOT NULL, memory {integer}, peak_memory {integer}, peak_sm {real}, facts TEXT NOT NULL,
    UNIQUE (gpu, pid, start_ms));
CREATE INDEX process_time ON process (gpu, end_ms);
"""

# Present index and name of each GPU. `time_ms`: when it was first sampled with them by the process that wrote last.
GPU_TABLE: Final = """
CREATE TABLE IF NOT EXISTS gpu (uuid TEXT PRIMARY KEY, position BIGINT NOT NULL, name TEXT NOT NULL,
    time_ms BIGINT NOT NULL);
"""


def build_schema(*, key: str, integer: str, real: str, blob: str, layout_series: str) -> str:
    """Return the statements that create the tables, with the type names of one database.

    `key`: an id that the database assigns in ascending order; `layout_series`: what is unique of a layout.
    """
    tables = _TABLES.format(key=key, integer=integer, real=real, blob=blob, layout_series=layout_series)
    return f"{tables}{GPU_TABLE}{EVENT_INDEX};{USAGE_TABLES}"


def compress(numbers: NDArray[Number]) -> bytes:
    """Return the numbers (of any shape, in C order) as a compressed blob.

    The bytes are shuffled first: all first bytes, then all second ones. Neighbouring readings differ in few bytes, so
    this compresses about twice as well as the numbers themselves.
    """
    planes = np.ascontiguousarray(numbers).reshape(-1).view(np.uint8).reshape(-1, numbers.itemsize).T
    return zlib.compress(planes.tobytes(), ZLIB_LEVEL)


def decompress(blob: bytes, kind: type[Number]) -> NDArray[Number]:
    """Return the numbers of a blob in one dimension. Raises ValueError if it is damaged."""
    width = np.dtype(kind).itemsize
    try:
        planes = np.frombuffer(zlib.decompress(blob), dtype=np.uint8)
    except zlib.error as error:
        raise ValueError("a chunk of the history cannot be decompressed") from error
    return np.ascontiguousarray(planes.reshape(width, -1).T).reshape(-1).view(kind)


def compress_times(times_ms: NDArray[np.int64]) -> bytes:
    """Return ascending times as a blob: the first, then the differences, which are nearly equal."""
    return compress(np.diff(times_ms, prepend=np.int64(0)))


def decompress_times(blob: bytes) -> NDArray[np.int64]:
    """Return the times that `compress_times` encoded."""
    times: NDArray[np.int64] = np.cumsum(decompress(blob, np.int64))
    return times
