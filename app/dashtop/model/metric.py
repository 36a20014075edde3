"""The words a metric is described with: unit, kind, aggregation, thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from dashtop.model.sample import Device

ReaderT_contra = TypeVar("ReaderT_contra", contravariant=True)


class Unit(Enum):
    """A unit: its sign on the page, decimals shown, and the base unit (and factor) Prometheus wants."""

    PERCENT = ("%", 0, "ratio", 0.01)
    CELSIUS = ("°C", 0, "celsius", 1.0)
    KELVIN = ("K", 0, "celsius", 1.0)  # a difference of temperatures, for which one is as large as the other
    WATT = ("W", 0, "watts", 1.0)
    WATT_HOUR = ("Wh", 1, "joules", 3600.0)
    MEGAHERTZ = ("MHz", 0, "hertz", 1e6)
    GIBIBYTE = ("GiB", 1, "bytes", 2.0**30)
    MEGABIT_PER_SECOND = ("Mbit/s", 1, "bytes_per_second", 125_000.0)
    MEGABYTE_PER_SECOND = ("MB/s", 1, "bytes_per_second", 1e6)
    GIGABYTE_PER_SECOND = ("GB/s", 1, "bytes_per_second", 1e9)
    COUNT = ("", 0, "", 1.0)
    LOAD = ("", 2, "", 1.0)

    def __init__(self, symbol: str, digits: int, prometheus: str, factor: float) -> None:
        self.symbol = symbol
        self.digits = digits
        self.prometheus = prometheus
        self.factor = factor


class Kind(str, Enum):
    """How a value behaves: a level, an ever-growing count, or a set of bits."""

    GAUGE = "gauge"
    COUNTER = "counter"
    FLAGS = "flags"


class Aggregation(str, Enum):
    """What one bucket of a roll-up keeps beside minimum and maximum."""

    MEAN = "mean"
    LAST = "last"
    MAX = "max"
    OR = "or"


class Severity(str, Enum):
    """How urgent a crossed threshold is."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, kw_only=True, slots=True)
class Thresholds:
    """Limits in the metric's own unit; a value at or above a limit has reached it.

    `elevated` and `high` only turn the colour; the three severities also say something.
    """

    elevated: float
    high: float
    info: float | None = None
    warning: float | None = None
    critical: float | None = None
    message: str = ""

    def severity(self, value: float) -> Severity | None:
        """Return the most urgent severity that `value` has reached, or None."""
        for limit, severity in (
            (self.critical, Severity.CRITICAL),
            (self.warning, Severity.WARNING),
            (self.info, Severity.INFO),
        ):
            if limit is not None and value >= limit:
                return severity
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric(Generic[ReaderT_contra]):
    """One row of the metric table: everything that is said about a metric, in one place.

    `read` returns the value in `unit`, or raises Unavailable. `period_s` is how often it is worth its cost
    (0: every collection). `limits` gives the thresholds one device itself reports, in place of `thresholds`.
    """

    key: str
    title: str
    help: str
    unit: Unit
    read: Callable[[ReaderT_contra], float]
    prometheus: str
    kind: Kind = Kind.GAUGE
    aggregation: Aggregation = Aggregation.MEAN
    thresholds: Thresholds | None = None
    limits: Callable[[Device], Thresholds | None] | None = None
    colour: str | None = None
    period_s: float = 0.0
    constant: bool = False

    @property
    def path(self) -> str:
        """The key without its scope: the field path inside `gpu_metrics` or `system_metrics`."""
        return self.key.partition(".")[2]

    def thresholds_for(self, device: Device | None) -> Thresholds | None:
        """Return the thresholds that hold on `device`: its own reported limits before the general ones."""
        own = self.limits(device) if self.limits is not None and device is not None else None
        return own or self.thresholds
