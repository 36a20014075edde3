"""Decides which network interfaces and disks are counted, so that no byte is counted twice.

The kernel lists the same traffic at several levels: a packet passes a network card, a bond, a bridge and the virtual
interface of a container; a block passes a RAID, its members and their partitions. Counted is the lowest level.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# /sys/class/net/*/type (ARPHRD_* of if_arp.h)
_ETHERNET = "1"
_LOOPBACK = "772"

# Beside cards of their own, pods and containers have virtual interfaces of these names (CNI: eth0; Multus: net1, ...);
# any other virtual interface beside a card is a tunnel through it, or the host's end of a container's link.
_CONTAINER_LINK = re.compile(r"(eth|net)\d+")
# Made for tests and traffic shaping; nothing in /sys marks them.
_COPIES = re.compile(r"(ifb|dummy)\d+")
# Where /sys says nothing about an interface, its name has to do.
_RELAY_NAMES = re.compile(r"lo|(veth|docker|br-|virbr|vnet|bond|team|tun|tap|wg|ifb|dummy|cali|lxc|cni|flannel).*")

_NO_DISKS = re.compile(r"(loop|ram|zram|zd|fd)\d+")
# A path of a multipath namespace, and its head without `c1`: older kernels count at the paths alone.
_NVME_PATH = re.compile(r"(nvme\d+)c\d+(n\d+)")


def select_interfaces(names: Iterable[str], sys: Path) -> frozenset[str]:
    """Return those of `names` whose traffic is the machine's own; `sys` is where sysfs is mounted."""
    net = sys / "class" / "net"
    cards, links = set(), set()
    for name in names:
        here = net / name
        kind = _text(here / "type")
        if kind is None:
            if not _RELAY_NAMES.fullmatch(name):
                links.add(name)
        elif kind == _LOOPBACK:
            continue
        elif (here / "device").exists():
            # A card below another card (Hyper-V's and virtio's accelerated pairs) is in that one's counters already;
            # a card below a bond or bridge is counted itself, in place of its master.
            if not (here / "master" / "device").exists():
                cards.add(name)
        elif kind == _ETHERNET and _is_own_link(here):
            links.add(name)
    return frozenset(cards | {name for name in links if not cards or _CONTAINER_LINK.fullmatch(name)})


def _is_own_link(here: Path) -> bool:
    """Tell a virtual interface that ends here from bridges, bonds, VLANs, the ports of a bridge, and copies."""
    if _COPIES.fullmatch(here.name) or (here / "master").exists():
        return False
    if (here / "bridge").exists() or (here / "bonding").exists():
        return False
    return not any(here.glob("lower_*"))


def select_disks(names: Iterable[str], sys: Path) -> frozenset[str]:
    """Return those of `names` that are whole disks and not made of other disks.

    Not counted: partitions (they have no entry in /sys/block), RAID, LVM and encrypted volumes (their `slaves` are),
    loop devices and ZFS volumes (the disk below is), disks in RAM, floppies.
    """
    block = sys / "block"
    whole = {name for name in names if not _NO_DISKS.fullmatch(name) and (block / name.replace("/", "!")).is_dir()}
    heads = {match[1] + match[2] for name in whole if (match := _NVME_PATH.fullmatch(name))}
    return frozenset(name for name in whole - heads if not any((block / name.replace("/", "!")).glob("slaves/*")))


def _text(path: Path) -> str | None:
    try:
        return path.read_text("ascii").strip()
    except (OSError, ValueError):
        return None
