from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dashtop.model.readers import ByteRates
from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.host.io_devices import Rate, TrafficRates, select_disks, select_interfaces

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

    def select_all(self) -> set[str]:
        return set(select_interfaces([path.name for path in (self.root / "class" / "net").iterdir()], self.root))


@pytest.fixture
def sys(tmp_path: Path) -> FakeSys:
    return FakeSys(tmp_path)


def test_host_with_containers_counts_its_card_only(sys: FakeSys) -> None:
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

    assert sys.select_all() == {"eth0"}


def test_bond_is_counted_at_its_cards(sys: FakeSys) -> None:
    sys.interface("eno1", card=True, master="bond0")
    sys.interface("eno2", card=True, master="bond0")
    sys.interface("bond0", inside="bonding", lower="eno1")
    sys.interface("br0", inside="bridge", lower="bond0")

    assert sys.select_all() == {"eno1", "eno2"}


def test_card_below_bridge_is_counted_instead_of_the_bridge(sys: FakeSys) -> None:
    sys.interface("enp3s0", card=True, master="br0")
    sys.interface("br0", inside="bridge", lower="enp3s0")

    assert sys.select_all() == {"enp3s0"}


def test_accelerated_pair_is_counted_at_the_upper_device(sys: FakeSys) -> None:
    sys.interface("eth0", card=True, lower="enP1s2")
    sys.interface("enP1s2", card=True, master="eth0")

    assert sys.select_all() == {"eth0"}


def test_infiniband_is_counted(sys: FakeSys) -> None:
    sys.interface("eth0", card=True)
    sys.interface("ib0", kind=32, card=True)

    assert sys.select_all() == {"eth0", "ib0"}


def test_container_counts_its_virtual_interface(sys: FakeSys) -> None:
    sys.interface("lo", kind=772)
    sys.interface("eth0")
    sys.interface("tun0", kind=65534)

    assert sys.select_all() == {"eth0"}


def test_pod_with_its_own_card_counts_both(sys: FakeSys) -> None:
    sys.interface("eth0")
    sys.interface("net1", card=True)

    assert sys.select_all() == {"eth0", "net1"}


def test_loopback_is_not_counted(sys: FakeSys) -> None:
    sys.interface("lo", kind=772)

    assert sys.select_all() == set()


def test_interfaces_are_selected_by_name_without_sysfs(tmp_path: Path) -> None:
    names = ["lo", "eth0", "wlan0", "docker0", "br-12", "veth1", "virbr0", "bond0", "tun0"]

    assert select_interfaces(names, tmp_path) == {"eth0", "wlan0"}


def test_partitions_and_stacked_disks_are_not_counted(sys: FakeSys) -> None:
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


def test_disk_name_with_slash_is_found_in_sysfs(sys: FakeSys) -> None:
    sys.disk("cciss!c0d0")

    assert select_disks(["cciss/c0d0", "cciss/c0d0p1"], sys.root) == {"cciss/c0d0"}


def assert_no_rate_yet(rate: Rate, count: int, at: float) -> None:
    with pytest.raises(Unavailable) as missing:
        rate.update(count, at)
    assert missing.value.reason is UnavailableReason.FIRST_READING


def test_rate_is_growth_per_second() -> None:
    rate = Rate()
    assert_no_rate_yet(rate, 1_000, 10.0)

    assert rate.update(4_000, 12.0) == 1_500.0
    assert rate.update(4_000, 12.5) == 0.0
    assert rate.update(4_001, 13.0) == 2.0


def test_reading_at_clock_zero_counts() -> None:
    rate = Rate()
    assert_no_rate_yet(rate, 0, 0.0)

    assert rate.update(5, 1.0) == 5.0


@pytest.mark.parametrize(("before", "after"), [(2**32 - 100, 50), (10**15, 0), (7, 6)])
def test_decreasing_counter_gives_no_rate(before: int, after: int) -> None:
    rate = Rate()
    assert_no_rate_yet(rate, before, 1.0)

    assert_no_rate_yet(rate, after, 2.0)
    assert rate.update(after + 30, 3.0) == 30.0


def test_two_readings_at_the_same_time() -> None:
    rate = Rate()
    assert_no_rate_yet(rate, 0, 1.0)

    assert_no_rate_yet(rate, 100, 1.0)
    assert rate.update(200, 2.0) == 200.0


def test_traffic_is_summed_over_devices() -> None:
    rates = TrafficRates()
    with pytest.raises(Unavailable, match="two readings"):
        rates.update({"a": (0, 0), "b": (1_000, 1_000)}, 1.0)

    assert rates.update({"a": (10, 20), "b": (1_100, 1_200)}, 3.0) == ByteRates(55.0, 110.0)


def test_new_device_with_large_counter_is_no_burst() -> None:
    rates = TrafficRates()
    with pytest.raises(Unavailable):
        rates.update({"a": (0, 0)}, 1.0)

    assert rates.update({"a": (10, 10), "new": (10**12, 10**12)}, 2.0) == ByteRates(10.0, 10.0)
    assert rates.update({"a": (10, 10), "new": (10**12 + 5, 10**12 + 6)}, 3.0) == ByteRates(5.0, 6.0)


def test_device_that_returns_starts_again() -> None:
    rates = TrafficRates()
    with pytest.raises(Unavailable):
        rates.update({"a": (0, 0), "usb": (50, 50)}, 1.0)
    assert rates.update({"a": (1, 1)}, 2.0) == ByteRates(1.0, 1.0)

    assert rates.update({"a": (1, 1), "usb": (10**9, 10**9)}, 3.0) == ByteRates(0.0, 0.0)


def test_reset_of_one_device_keeps_the_rates_of_others() -> None:
    rates = TrafficRates()
    with pytest.raises(Unavailable):
        rates.update({"a": (500, 500), "b": (500, 500)}, 1.0)

    assert rates.update({"a": (0, 600), "b": (600, 600)}, 2.0) == ByteRates(100.0, 100.0)
    with pytest.raises(Unavailable):
        rates.update({"a": (-1, 0), "b": (0, 0)}, 3.0)


def test_no_device_is_absent() -> None:
    with pytest.raises(Unavailable) as missing:
        TrafficRates().update({}, 1.0)
    assert missing.value.reason is UnavailableReason.ABSENT
