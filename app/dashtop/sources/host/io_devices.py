"""Traffic of network interfaces and disks: which of them to count, so that no byte is counted twice, and their rates.

The kernel lists the same traffic at several levels: a packet passes a network card, a bond, a bridge and the virtual
interface of a container; a block passes a RAID, its members and their partitions. The lowest level is counted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from dashtop.model.readers import ByteRates
from dashtop.model.unavailable import Unavailable, UnavailableReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

# Bonds and cards can be added at any time; reading /sys in every tick costs more than the counters.
SELECT_INTERVAL_S = 10.0

# /sys/class/net/*/type (ARPHRD_* of if_arp.h)
_ETHERNET = "1"
_LOOPBACK = "772"

# Pods and containers can have virtual interfaces of these names beside cards of their own (CNI: eth0; Multus: net1).
# Any other virtual interface beside a card is a tunnel through it, or the host's end of a container's link.
_CONTAINER_INTERFACE = re.compile(r"(eth|net)\d+")
# Interfaces for tests and traffic shaping. /sys does not mark them.
_COPY_INTERFACE = re.compile(r"(ifb|dummy)\d+")
# Names of interfaces to skip if /sys has no entry for an interface.
_VIRTUAL_INTERFACE = re.compile(
    r"lo|(veth|docker|br-|virbr|vnet|bond|team|tun|tap|wg|ifb|dummy|cali|lxc|cni|flannel).*"
)
_VIRTUAL_DISK = re.compile(r"(loop|ram|zram|zd|fd)\d+")
# A path of an NVMe multipath disk, and the disk without `c1`: older kernels count at the paths only.
_NVME_PATH = re.compile(r"(nvme\d+)c\d+(n\d+)")


def select_interfaces(names: Iterable[str], sys: Path) -> frozenset[str]:
    """Return the interfaces of `names` to count. `sys` is where sysfs is mounted."""
    cards, virtual = set(), set()
    for name in names:
        interface = sys / "class" / "net" / name
        kind = _read_text(interface / "type")
        if kind is None:
            if not _VIRTUAL_INTERFACE.fullmatch(name):
                virtual.add(name)
        elif kind == _LOOPBACK:
            continue
        elif (interface / "device").exists():
            # A card below another card (accelerated pairs of Hyper-V and virtio) is in the counters of that one; a card
            # below a bond or bridge is counted itself, instead of its master.
            if not (interface / "master" / "device").exists():
                cards.add(name)
        elif kind == _ETHERNET and _is_endpoint(interface):
            virtual.add(name)
    return frozenset(cards | {name for name in virtual if not cards or _CONTAINER_INTERFACE.fullmatch(name)})


def _is_endpoint(interface: Path) -> bool:
    """Return whether a virtual interface ends here: no bridge, bond or VLAN, no port of a bridge, no copy."""
    if _COPY_INTERFACE.fullmatch(interface.name):
        return False
    is_relay = any((interface / name).exists() for name in ("master", "bridge", "bonding"))
    return not is_relay and not any(interface.glob("lower_*"))


def select_disks(names: Iterable[str], sys: Path) -> frozenset[str]:
    """Return the disks of `names` to count: whole disks that are not built on other disks.

    Not counted: partitions (not in /sys/block), RAID, LVM and encrypted volumes (their `slaves` are), loop devices and
    ZFS volumes (the disk below is), RAM disks, floppies.
    """
    block = sys / "block"
    whole = {name for name in names if not _VIRTUAL_DISK.fullmatch(name) and (block / name.replace("/", "!")).is_dir()}
    multipath = {match[1] + match[2] for name in whole if (match := _NVME_PATH.fullmatch(name))}
    return frozenset(name for name in whole - multipath if not any((block / name.replace("/", "!")).glob("slaves/*")))


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text("ascii").strip()
    except (OSError, ValueError):
        return None


class Rate:
    """Growth of one counter per second."""

    def __init__(self) -> None:
        self._count: int | None = None
        self._read_at = 0.0

    def update(self, count: int, monotonic_s: float) -> float:
        """Return the growth per second since the last call. `monotonic_s`: when `count` was read.

        Raise Unavailable(FIRST_READING) the first time, if no time has passed, and if the counter went back: it was
        reset or has wrapped, which cannot be told apart.
        """
        before, elapsed = self._count, monotonic_s - self._read_at
        if before is not None and elapsed <= 0:
            raise Unavailable(UnavailableReason.FIRST_READING)
        self._count, self._read_at = count, monotonic_s
        if before is None or count < before:
            raise Unavailable(UnavailableReason.FIRST_READING)
        return (count - before) / elapsed


class TrafficRates:
    """Bytes per second in both directions, summed over devices that come and go."""

    def __init__(self) -> None:
        self._rates: dict[str, tuple[Rate, Rate]] = {}

    def update(self, counters: Mapping[str, tuple[int, int]], monotonic_s: float) -> ByteRates:
        """Return the sum of the rates. `counters`: bytes (sent, received) of each device.

        A device that is new or whose counters went back is added at the next call. Raise Unavailable: ABSENT without
        any device, FIRST_READING if no device has a rate yet.
        """
        if not counters:
            self._rates.clear()
            raise Unavailable(UnavailableReason.ABSENT)
        # A device that was removed and is back starts again: it may be another device of the same name.
        self._rates = {name: self._rates.get(name) or (Rate(), Rate()) for name in counters}
        found = []
        for name, counts in counters.items():
            sent, received = (
                _update_or_none(rate, count, monotonic_s) for rate, count in zip(self._rates[name], counts, strict=True)
            )
            if sent is not None and received is not None:
                found.append((sent, received))
        if not found:
            raise Unavailable(UnavailableReason.FIRST_READING)
        return ByteRates(sum(sent for sent, _ in found), sum(received for _, received in found))


def _update_or_none(rate: Rate, count: int, monotonic_s: float) -> float | None:
    try:
        return rate.update(count, monotonic_s)
    except Unavailable:
        return None


class TrafficReader:
    """Traffic of the interfaces, or of the disks. The counters are read in every tick, devices selected less often.

    `read_counters` returns bytes (sent, received) by name; `select` returns the names to count.
    """

    def __init__(
        self,
        read_counters: Callable[[], dict[str, tuple[int, int]]],
        select: Callable[[frozenset[str]], frozenset[str]],
    ) -> None:
        self._read_counters = read_counters
        self._select = select
        self._names: frozenset[str] = frozenset()
        self._selected: frozenset[str] = frozenset()
        self._selected_at = -float("inf")
        self._sums = TrafficRates()
        self._result: ByteRates | Exception = Unavailable(UnavailableReason.FIRST_READING)

    def update(self, now: float) -> None:
        """Read the counters. `now`: monotonic seconds. `rates` raises what fails here, for its own metrics only."""
        try:
            counters = self._read_counters()
            names = frozenset(counters)
            if names != self._names or now - self._selected_at >= SELECT_INTERVAL_S:
                self._selected = self._select_devices(names)
                self._names, self._selected_at = names, now
            self._result = self._sums.update({name: counters[name] for name in self._selected}, now)
        except Exception as error:  # noqa: BLE001 - raised by `rates`
            self._result = error

    def _select_devices(self, names: frozenset[str]) -> frozenset[str]:
        try:
            return self._select(names)
        except OSError:
            raise Unavailable(UnavailableReason.UNREADABLE) from None

    def rates(self) -> ByteRates:
        """Return the rates since the last update, or raise why there are none."""
        if isinstance(self._result, Exception):
            raise self._result
        return self._result
