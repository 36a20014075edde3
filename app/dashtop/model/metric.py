"""The row of a metric table, and what describes a metric: unit, kind, aggregation, thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from dashtop.model.sample import Device

KIB = 2**10
MIB = 2**20
GIB = 2**30

ReaderT_contra = TypeVar("ReaderT_contra", contravariant=True)


class Unit(Enum):
    """A unit: symbol and decimals on the page, base unit and factor in Prometheus, and the values that are plausible.

    Drivers report 2^32-1, 255 °C or 991 % when something is wrong; the ranges are wide enough for hardware to come.
    """

    PERCENT = ("%", 0, "ratio", 0.01, (0.0, 100.0))
    CELSIUS = ("°C", 0, "celsius", 1.0, (-50.0, 150.0))
    CELSIUS_DIFFERENCE = ("°C", 0, "celsius", 1.0, (-150.0, 150.0))
    WATT = ("W", 0, "watts", 1.0, (0.0, 20_000.0))
    WATT_HOUR = ("Wh", 1, "joules", 3600.0, (0.0, 1e9))
    MEGAHERTZ = ("MHz", 0, "hertz", 1e6, (0.0, 50_000.0))
    GIBIBYTE = ("GiB", 1, "bytes", float(GIB), (0.0, 2.0**20))
    MEGABIT_PER_SECOND = ("Mbit/s", 1, "bytes_per_second", 125_000.0, (0.0, 1e8))
    MEGABYTE_PER_SECOND = ("MB/s", 1, "bytes_per_second", 1e6, (0.0, 1e7))
    GIGABYTE_PER_SECOND = ("GB/s", 1, "bytes_per_second", 1e9, (0.0, 1e4))
    COUNT = ("", 0, "", 1.0, (0.0, 2.0**32 - 2))  # 2^32-1 is NVML's value for "not available"
    CORES = ("cores", 2, "cores", 1.0, (0.0, 1e6))
    RPM = ("rpm", 0, "rpm", 1.0, (0.0, 50_000.0))
    LOAD = ("", 2, "", 1.0, (0.0, 1e6))

    def __init__(
        self, symbol: str, digits: int, prometheus: str, factor: float, plausible: tuple[float, float]
    ) -> None:
        self.symbol = symbol
        self.plausible = plausible
        self.digits = digits
        self.prometheus = prometheus
        self.factor = factor

    @property
    def is_difference(self) -> bool:
        """Whether a value is converted to °F without the offset of 32."""
        return self is Unit.CELSIUS_DIFFERENCE


class Kind(str, Enum):
    """Type of a value: a level, a monotonic count, or a set of bits."""

    GAUGE = "gauge"
    COUNTER = "counter"
    FLAGS = "flags"


class Aggregation(str, Enum):
    """How values are combined in a bucket of a roll-up, besides minimum and maximum."""

    MEAN = "mean"
    LAST = "last"
    MAX = "max"
    OR = "or"


class Severity(str, Enum):
    """Severity of an event or of a threshold that is reached."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, kw_only=True, slots=True)
class Thresholds:
    """Limits in the metric's unit; a value at or above a limit has reached it.

    `elevated` and `high` only change the colour; the three severities also show `message`.
    """

    elevated: float
    high: float
    info: float | None = None
    warning: float | None = None
    critical: float | None = None
    message: str = ""

    def severity(self, value: float) -> Severity | None:
        """Return the highest severity that `value` has reached, or None."""
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
    """One row of a metric table: everything about a metric, in one place.

    `read` returns the value in `unit`, or raises Unavailable. `period_s` is how often it is read (0: each sample).
    `device_thresholds` returns thresholds that depend on the device, which take precedence over `thresholds`.
    `constant`: the value does not change while the device is present, so it is not stored. `plausible`: the lowest and
    the highest value that can be true, if they are not those of the unit; others are missing as implausible readings.
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
    device_thresholds: Callable[[Device], Thresholds | None] | None = None
    period_s: float = 0.0
    constant: bool = False
    plausible: tuple[float, float] | None = None

    @property
    def plausible_range(self) -> tuple[float, float]:
        """The lowest and the highest plausible value."""
        return self.plausible or self.unit.plausible

    @property
    def path(self) -> str:
        """Return the key without its scope: the field path in `gpu_metrics` or `system_metrics`."""
        return self.key.partition(".")[2]

    def thresholds_for(self, device: Device | None) -> Thresholds | None:
        """Return the thresholds for `device`: those of the device, else the general ones."""
        own = self.device_thresholds(device) if self.device_thresholds is not None and device is not None else None
        return own or self.thresholds
