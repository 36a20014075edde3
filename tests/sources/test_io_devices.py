from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dashtop.sources.host.io_devices import select_disks, select_interfaces

if TYPE_CHECKING:
    from pathlib import Path


class FakeSys:
    """Builds the part of /sys that tells network interfaces and disks apart."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def interface(
        self, name: str, *, kind: int = 1, card: bool = False, master: str = "", inside: str = "", lower: str = ""
    ) -> None:
        here = self.root / "class" / "net" / name
        here.mkdir(parents=True)
        (here / "type").write_text(f"{kind}\n")
        if card:
            (here / "device").mkdir()
        if master:
            (here / "master").symlink_to(f"../{master}")
        if inside:
            (here / inside).mkdir()
        if lower:
            (here / f"lower_{lower}").symlink_to(f"../{lower}")

    def disk(self, name: str, *slaves: str) -> None:
        here = self.root / "block" / name
        (here / "slaves").mkdir(parents=True)
        for slave in slaves:
            (here / "slaves" / slave).symlink_to(f"../../{slave}")

    def counted(self) -> set[str]:
        return set(select_interfaces([path.name for path in (self.root / "class" / "net").iterdir()], self.root))


@pytest.fixture
def sys(tmp_path: Path) -> FakeSys:
    return FakeSys(tmp_path)


def test_a_host_with_containers_counts_its_card_alone(sys: FakeSys) -> None:
    sys.interface("lo", kind=772)
    sys.interface("eth0", card=True)
    sys.interface("docker0", inside="bridge")
    sys.interface("br-1a2b", inside="bridge")
    sys.interface("virbr0", inside="bridge")
    sys.interface("veth12ab", master="docker0")
    sys.interface("cali3f", kind=1)
    sys.interface("vnet0", master="virbr0")
    sys.interface("wg0", kind=65534)
    sys.interface("eth0.20", lower="eth0")
    sys.interface("ifb0")
    sys.interface("dummy0")

    assert sys.counted() == {"eth0"}


def test_a_bond_is_counted_at_its_cards(sys: FakeSys) -> None:
    sys.interface("eno1", card=True, master="bond0")
    sys.interface("eno2", card=True, master="bond0")
    sys.interface("bond0", inside="bonding", lower="eno1")
    sys.interface("br0", inside="bridge", lower="bond0")

    assert sys.counted() == {"eno1", "eno2"}


def test_a_card_under_a_bridge_is_counted_and_the_bridge_is_not(sys: FakeSys) -> None:
    sys.interface("enp3s0", card=True, master="br0")
    sys.interface("br0", inside="bridge", lower="enp3s0")

    assert sys.counted() == {"enp3s0"}


def test_an_accelerated_pair_is_counted_at_its_upper_half(sys: FakeSys) -> None:
    sys.interface("eth0", card=True, lower="enP1s2")
    sys.interface("enP1s2", card=True, master="eth0")

    assert sys.counted() == {"eth0"}


def test_infiniband_counts(sys: FakeSys) -> None:
    sys.interface("eth0", card=True)
    sys.interface("ib0", kind=32, card=True)

    assert sys.counted() == {"eth0", "ib0"}


def test_a_container_counts_its_own_link(sys: FakeSys) -> None:
    sys.interface("lo", kind=772)
    sys.interface("eth0")
    sys.interface("tun0", kind=65534)

    assert sys.counted() == {"eth0"}


def test_a_pod_with_a_card_of_its_own_counts_both(sys: FakeSys) -> None:
    sys.interface("eth0")
    sys.interface("net1", card=True)

    assert sys.counted() == {"eth0", "net1"}


def test_a_machine_with_loopback_alone_counts_nothing(sys: FakeSys) -> None:
    sys.interface("lo", kind=772)

    assert sys.counted() == set()


def test_without_sys_names_decide(tmp_path: Path) -> None:
    names = ["lo", "eth0", "wlan0", "docker0", "br-12", "veth1", "virbr0", "bond0", "tun0"]

    assert select_interfaces(names, tmp_path) == {"eth0", "wlan0"}


def test_partitions_and_layers_of_disks_are_not_counted(sys: FakeSys) -> None:
    for name in ("sda", "sdb", "vda", "mmcblk0", "nbd0", "loop0", "ram0", "zram0", "zd16", "sr0"):
        sys.disk(name)
    sys.disk("md0", "sda", "sdb")
    sys.disk("dm-0", "md0")
    sys.disk("bcache0", "vda")
    listed = ["sda", "sda1", "sda2", "sdb", "vda", "vda1", "mmcblk0", "mmcblk0p1", "nbd0", "md0", "md0p1", "dm-0"]
    listed += ["bcache0", "loop0", "ram0", "zram0", "zd16", "sr0"]

    assert select_disks(listed, sys.root) == {"sda", "sdb", "vda", "mmcblk0", "nbd0", "sr0"}


def test_nvme_multipath_is_counted_at_its_paths(sys: FakeSys) -> None:
    for name in ("nvme0n1", "nvme1n1", "nvme1c0n1", "nvme1c1n1"):
        sys.disk(name)

    listed = ["nvme0n1", "nvme0n1p1", "nvme1n1", "nvme1c0n1", "nvme1c1n1"]
    assert select_disks(listed, sys.root) == {"nvme0n1", "nvme1c0n1", "nvme1c1n1"}


def test_a_disk_name_with_a_slash_is_found_in_sys(sys: FakeSys) -> None:
    sys.disk("cciss!c0d0")

    assert select_disks(["cciss/c0d0", "cciss/c0d0p1"], sys.root) == {"cciss/c0d0"}
