from __future__ import annotations

import os
import resource
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from dashtop.metrics import HOST_METRICS
from dashtop.model.ports import SystemClock
from dashtop.model.readers import ByteRates, MemoryUse
from dashtop.model.unavailable import Unavailable, UnavailableReason
from dashtop.sources.host.io_devices import SELECT_INTERVAL_S
from dashtop.sources.host.reader import PsutilHostReader
from dashtop.sources.metric_reader import MetricReader
from tests.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dashtop.model.readers import HostReader

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
SECTOR = 512
GIB = 2**30


class FakeMachine:
    """The files of /proc and /sys that psutil and dashtop read."""

    def __init__(self, root: Path) -> None:
        self.proc, self.sys = root / "proc", root / "sys"
        (self.proc / "net").mkdir(parents=True)
        (self.sys / "class" / "net").mkdir(parents=True)
        self.cores([1_000] * 8)
        self.network(lo=(5, 5))
        self.disks()

    def cores(self, *cores: list[int], numbers: Sequence[int] | None = None) -> None:
        """Set each core's clock ticks: user nice system idle iowait irq softirq steal (guest times follow as 0)."""
        numbered = zip(range(len(cores)) if numbers is None else numbers, cores, strict=True)
        lines = [f"cpu{n} {' '.join(map(str, ticks))} 0 0" for n, ticks in numbered]
        total = [sum(column) for column in zip(*cores, strict=True)]
        (self.proc / "stat").write_text("\n".join([f"cpu  {' '.join(map(str, total))} 0 0", *lines, ""]))

    def memory(self, *, total: int, available: int) -> None:
        """Set bytes of RAM."""
        rows = dict.fromkeys(("Buffers", "Cached", "Shmem", "Active", "Inactive"), 0)
        rows |= {"MemTotal": total, "MemFree": available // 2, "MemAvailable": available}
        (self.proc / "meminfo").write_text("".join(f"{name}: {size // 1024} kB\n" for name, size in rows.items()))

    @property
    def arcstats(self) -> Path:
        return self.proc / "spl" / "kstat" / "zfs" / "arcstats"

    def arc(self, *, size: int, c_min: int) -> None:
        """Set bytes of the cache of ZFS."""
        self.arcstats.parent.mkdir(parents=True)
        rows = {"hits": 2163, "c_min": c_min, "c_max": 99, "size": size, "arc_meta_min": 1}
        head = ["9 1 0x01 147 39984 4385 3081", f"{'name':<32}type data"]
        self.arcstats.write_text("\n".join([*head, *(f"{name:<32}4    {value}" for name, value in rows.items()), ""]))

    def network(self, **interfaces: tuple[int, int]) -> None:
        """Set (sent, received) bytes; every interface but lo is a card."""
        lines = ["Inter-|   Receive |  Transmit", " face |bytes packets"]
        for name, (sent, received) in interfaces.items():
            lines.append(f"{name:>6}: {received} 0 0 0 0 0 0 0 {sent} 0 0 0 0 0 0 0")
            here = self.sys / "class" / "net" / name
            here.mkdir(exist_ok=True)
            (here / "type").write_text("772\n" if name == "lo" else "1\n")
            if name != "lo":
                (here / "device").mkdir(exist_ok=True)
        (self.proc / "net" / "dev").write_text("\n".join([*lines, ""]))

    def disks(self, **disks: tuple[int, int]) -> None:
        """Set (written, read) sectors; names that end in p1 are partitions."""
        lines = []
        for name, (written, read) in disks.items():
            lines.append(f" 8 0 {name} 1 0 {read} 0 1 0 {written} 0 0 0 0 0 0 0 0 0 0")
            if not name.endswith("p1"):
                (self.sys / "block" / name / "slaves").mkdir(parents=True, exist_ok=True)
        (self.proc / "diskstats").write_text("\n".join([*lines, ""]))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    machine = FakeMachine(tmp_path)
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(machine.proc))
    return machine


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def host(machine: FakeMachine, clock: FakeClock) -> Iterator[PsutilHostReader]:
    host = PsutilHostReader(clock=clock, proc=machine.proc, sys=machine.sys)
    yield host
    host.close()


@pytest.fixture
def real() -> Iterator[HostReader]:
    host = PsutilHostReader(clock=SystemClock())
    yield host
    host.close()


def reason_of(read: Callable[[], object]) -> UnavailableReason:
    with pytest.raises(Unavailable) as missing:
        read()
    return missing.value.reason


class TestCpu:
    def test_first_tick_has_no_rates(self, host: PsutilHostReader) -> None:
        host.begin()

        assert reason_of(host.cpu_percent) is UnavailableReason.FIRST_READING
        assert host.per_core() == ()

    def test_busy_excludes_idle_and_iowait(self, machine: FakeMachine, host: PsutilHostReader) -> None:
        machine.cores([0] * 8, [100] * 8)
        host.begin()
        machine.cores([10, 10, 10, 20, 30, 10, 5, 5], [100, 100, 100, 200, 100, 100, 100, 100])
        host.begin()

        assert host.per_core() == pytest.approx((50.0, 0.0))
        assert host.cpu_percent() == pytest.approx(25.0)

    def test_decreasing_iowait_keeps_percent_in_range(self, machine: FakeMachine, host: PsutilHostReader) -> None:
        machine.cores([0, 0, 0, 100, 50, 0, 0, 0])
        host.begin()
        machine.cores([60, 0, 0, 140, 10, 0, 0, 0])
        host.begin()

        assert host.cpu_percent() == pytest.approx(60.0)

    def test_change_of_core_count_restarts_rates(self, machine: FakeMachine, host: PsutilHostReader) -> None:
        machine.cores([0] * 8)
        host.begin()
        machine.cores([10] * 8, [10] * 8)
        host.begin()
        assert reason_of(host.cpu_percent) is UnavailableReason.FIRST_READING
        assert host.per_core() == ()

        machine.cores([20] * 8, [10, 10, 10, 20, 10, 10, 10, 10])
        host.begin()
        assert host.per_core() == pytest.approx((75.0, 0.0))

    def test_cores_have_their_real_numbers_if_some_are_offline(
        self, machine: FakeMachine, host: PsutilHostReader
    ) -> None:
        machine.cores([0] * 8, [0] * 8, [0] * 8, numbers=(0, 1, 4))
        host.begin()
        assert host.core_ids() == ()
        machine.cores([0, 0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0], numbers=(0, 1, 4))
        host.begin()
        assert dict(zip(host.core_ids(), host.per_core(), strict=True)) == {0: 0.0, 1: 0.0, 4: 100.0}

    def test_cores_that_are_offline_are_those_that_the_machine_has(
        self, machine: FakeMachine, host: PsutilHostReader
    ) -> None:
        machine.cores([0] * 8, [0] * 8, numbers=(0, 1))
        host.begin()
        assert host.offline_cores() == ()
        folder = machine.sys / "devices/system/cpu"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "present").write_text("0-5\n")
        (folder / "offline").write_text("3-127\n")
        machine.cores([0] * 8, [0] * 8, [0] * 8, numbers=(0, 1, 2))
        host.begin()
        assert host.offline_cores() == (3, 4, 5)

    def test_another_core_online_restarts_rates(self, machine: FakeMachine, host: PsutilHostReader) -> None:
        machine.cores([0] * 8, [0] * 8, numbers=(0, 1))
        host.begin()
        machine.cores([10] * 8, [90_000] * 8, numbers=(0, 2))
        host.begin()
        assert reason_of(host.cpu_percent) is UnavailableReason.FIRST_READING

    def test_unreadable_stat_is_reported_and_recovers(self, machine: FakeMachine, host: PsutilHostReader) -> None:
        host.begin()
        (machine.proc / "stat").unlink()
        host.begin()
        assert reason_of(host.cpu_percent) is UnavailableReason.UNREADABLE

        machine.cores([2_000] * 8)
        host.begin()
        assert reason_of(host.cpu_percent) is UnavailableReason.FIRST_READING

    def test_stat_without_cores_is_unreadable(self, machine: FakeMachine, host: PsutilHostReader) -> None:
        (machine.proc / "stat").write_text("cpu  1 2 3 4 5 6 7 8 0 0\n")
        host.begin()

        assert reason_of(host.cpu_percent) is UnavailableReason.UNREADABLE

    def test_this_machine_agrees_with_proc_stat(self, real: HostReader) -> None:
        def busy_and_total() -> tuple[int, int]:
            fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
            return sum(fields) - fields[3] - fields[4], sum(fields)

        real.begin()
        busy, total = busy_and_total()
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            pass
        real.begin()
        busy_now, total_now = busy_and_total()

        assert real.cpu_percent() == pytest.approx(100 * (busy_now - busy) / (total_now - total), abs=8)
        assert real.cpu_count() == len(real.per_core()) == os.cpu_count()
        assert max(real.per_core()) > 10
        assert all(0 <= percent <= 100 for percent in real.per_core())

    def test_load_average_equals_proc_loadavg(self, real: HostReader) -> None:
        def read_loadavg() -> tuple[float, ...]:
            return tuple(float(field) for field in Path("/proc/loadavg").read_text().split()[:3])

        before, load, after = read_loadavg(), real.load_average(), read_loadavg()
        for value, *around in zip(load, before, after, strict=True):
            assert min(around) - 0.01 <= value <= max(around) + 0.01


class TestFrequency:
    def test_frequency_is_mean_of_cores(self, machine: FakeMachine, host: PsutilHostReader) -> None:
        (machine.proc / "cpuinfo").write_text(
            "processor : 0\ncpu MHz\t\t: 1000.500\n\nprocessor : 1\ncpu MHz\t\t: 3000.500\n"
        )

        assert host.cpu_frequency() == pytest.approx(2000.5)

    def test_frequency_from_cpufreq_without_cpuinfo_mhz(self, machine: FakeMachine, host: PsutilHostReader) -> None:
        (machine.proc / "cpuinfo").write_text("processor : 0\nBogoMIPS : 108.00\n")
        for policy, khz in (("policy0", 1_800_000), ("policy4", 2_400_000)):
            here = machine.sys / "devices/system/cpu/cpufreq" / policy
            here.mkdir(parents=True)
            (here / "scaling_cur_freq").write_text(f"{khz}\n")

        assert host.cpu_frequency() == pytest.approx(2_100.0)

    @pytest.mark.parametrize("text", ["processor : 0\n", "cpu MHz : 0.000\n"])
    def test_unknown_frequency_is_missing(self, machine: FakeMachine, host: PsutilHostReader, text: str) -> None:
        (machine.proc / "cpuinfo").write_text(text)

        assert reason_of(host.cpu_frequency) is UnavailableReason.UNREADABLE

    def test_missing_cpuinfo(self, host: PsutilHostReader) -> None:
        assert reason_of(host.cpu_frequency) is UnavailableReason.UNREADABLE


class TestMemory:
    def test_used_is_total_minus_available(self, machine: FakeMachine, host: PsutilHostReader) -> None:
        kib = {"MemTotal": 1000, "MemFree": 100, "MemAvailable": 600, "Buffers": 10, "Cached": 400, "SReclaimable": 5}
        kib |= {"Shmem": 1, "Active": 1, "Inactive": 1, "Slab": 1, "SwapTotal": 500, "SwapFree": 350}
        (machine.proc / "meminfo").write_text("".join(f"{name}: {size} kB\n" for name, size in kib.items()))
        (machine.proc / "vmstat").write_text("pswpin 0\npswpout 0\n")
        host.begin()

        assert host.memory() == MemoryUse(400 * 1024, 1000 * 1024, 600 * 1024)
        assert host.swap() == MemoryUse(150 * 1024, 500 * 1024, 350 * 1024)

    def test_missing_meminfo(self, host: PsutilHostReader) -> None:
        host.begin()

        assert reason_of(host.memory) is UnavailableReason.UNREADABLE
        assert reason_of(host.swap) is UnavailableReason.UNREADABLE

    def test_this_machine_agrees_with_proc_meminfo(self, real: HostReader) -> None:
        real.begin()
        memory, swap = real.memory(), real.swap()
        meminfo = {
            line.split(":")[0]: 1024 * int(line.split()[1])
            for line in Path("/proc/meminfo").read_text().splitlines()
            if line.endswith("kB")
        }

        assert memory.total == meminfo["MemTotal"]
        assert memory.available == pytest.approx(meminfo["MemAvailable"], abs=512 * 2**20)
        assert memory.used == memory.total - memory.available
        assert swap.total == meminfo["SwapTotal"]
        assert swap.available == pytest.approx(meminfo["SwapFree"], abs=64 * 2**20)

    def test_memory_is_read_once_per_tick(self, real: HostReader, monkeypatch: pytest.MonkeyPatch) -> None:
        real.begin()
        first = real.memory()
        monkeypatch.setattr(psutil, "virtual_memory", lambda: pytest.fail("read twice"))

        assert real.memory() is first


class TestZfs:
    def test_arc_is_available_except_for_its_minimum(self, machine: FakeMachine, host: PsutilHostReader) -> None:
        machine.memory(total=64 * GIB, available=20 * GIB)
        machine.arc(size=30 * GIB, c_min=2 * GIB)

        assert host.memory() == MemoryUse(used=16 * GIB, total=64 * GIB, available=48 * GIB)
        assert host.zfs_arc() == 30 * GIB

    def test_arc_below_its_minimum_frees_nothing(self, machine: FakeMachine, host: PsutilHostReader) -> None:
        machine.memory(total=64 * GIB, available=60 * GIB)
        machine.arc(size=GIB, c_min=2 * GIB)

        assert host.memory().used == 4 * GIB

    def test_memory_of_a_container_has_no_arc(self, machine: FakeMachine, host: PsutilHostReader) -> None:
        machine.memory(total=8 * GIB, available=4 * GIB)
        machine.arc(size=30 * GIB, c_min=2 * GIB)
        with tempfile.TemporaryDirectory(dir="/dev/shm") as other_file_system:
            meminfo = (machine.proc / "meminfo").rename(machine.proc / "moved")
            lxcfs = Path(other_file_system, "meminfo")
            lxcfs.write_bytes(meminfo.read_bytes())
            (machine.proc / "meminfo").symlink_to(lxcfs)

            assert host.memory().used == 4 * GIB

    def test_without_zfs_there_is_no_arc(self, machine: FakeMachine, host: PsutilHostReader) -> None:
        machine.memory(total=64 * GIB, available=20 * GIB)

        assert reason_of(host.zfs_arc) is UnavailableReason.ABSENT
        assert host.memory().used == 44 * GIB

    @pytest.mark.parametrize("content", [b"", b"size 4 x\n", b"c_min 4 5\n", b"\xff"])
    def test_garbage_is_unreadable_and_not_counted(
        self, machine: FakeMachine, host: PsutilHostReader, content: bytes
    ) -> None:
        machine.memory(total=64 * GIB, available=20 * GIB)
        machine.arc(size=GIB, c_min=GIB)
        machine.arcstats.write_bytes(content)

        assert reason_of(host.zfs_arc) is UnavailableReason.UNREADABLE
        assert host.memory().used == 44 * GIB


class TestMemoryPressure:
    def test_pressure_and_kills(self, machine: FakeMachine, host: PsutilHostReader) -> None:
        (machine.proc / "pressure").mkdir()
        (machine.proc / "pressure" / "memory").write_text(
            "some avg10=9.00 avg60=8.00 avg300=7.00 total=5\nfull avg10=0.10 avg60=12.34 avg300=0.02 total=3\n"
        )
        (machine.proc / "vmstat").write_text("pswpin 4\noom_kill 3\noom_kill_x 9\n")

        assert host.memory_pressure() == 12.34
        assert host.oom_kills() == 3

    def test_swap_traffic(self, machine: FakeMachine, host: PsutilHostReader, clock: FakeClock) -> None:
        page, vmstat = resource.getpagesize(), machine.proc / "vmstat"
        vmstat.write_text("pswpin 100\npswpout 300\n")
        host.begin()
        assert reason_of(host.swap_rates) is UnavailableReason.FIRST_READING

        vmstat.write_text("pswpin 110\npswpout 340\n")
        clock.advance(2.0)
        host.begin()
        assert host.swap_rates() == host.swap_rates() == (20 * page, 5 * page)

    def test_kernel_without_them(self, machine: FakeMachine, host: PsutilHostReader) -> None:
        (machine.proc / "vmstat").write_text("pswpin 4\n")

        assert reason_of(host.memory_pressure) is UnavailableReason.NOT_SUPPORTED
        assert reason_of(host.oom_kills) is UnavailableReason.NOT_SUPPORTED

    def test_file_that_cannot_be_read(self, machine: FakeMachine, host: PsutilHostReader) -> None:
        (machine.proc / "vmstat").mkdir()

        assert reason_of(host.oom_kills) is UnavailableReason.UNREADABLE

    def test_values_of_this_machine(self, real: HostReader) -> None:
        vmstat = Path("/proc/vmstat").read_text()
        if "oom_kill " in vmstat:
            assert real.oom_kills() >= 0


class TestTraffic:
    def test_first_tick_has_no_rates(self, machine: FakeMachine, host: PsutilHostReader) -> None:
        machine.network(lo=(1, 1), eth0=(10**9, 10**9))
        machine.disks(sda=(10**9, 10**9))
        host.begin()

        assert reason_of(host.network_rates) is UnavailableReason.FIRST_READING
        assert reason_of(host.disk_rates) is UnavailableReason.FIRST_READING

    def test_bytes_per_second_of_the_monotonic_clock(
        self, machine: FakeMachine, clock: FakeClock, host: PsutilHostReader
    ) -> None:
        machine.network(lo=(0, 0), eth0=(1_000, 5_000), eth1=(0, 0))
        machine.disks(nvme0n1=(100, 200), nvme0n1p1=(100, 200), sda=(0, 0))
        host.begin()
        machine.network(lo=(10**9, 10**9), eth0=(3_000, 9_000), eth1=(500, 1_500))
        machine.disks(nvme0n1=(150, 220), nvme0n1p1=(150, 220), sda=(10, 40))
        clock.advance(2.0)
        host.begin()

        assert host.network_rates() == ByteRates(sent=1_250.0, received=2_750.0)
        assert host.disk_rates() == ByteRates(sent=60 * SECTOR / 2, received=60 * SECTOR / 2)

    @pytest.mark.parametrize("after", [(50, 50), (0, 0)])
    def test_counter_wrap_or_reset_gives_no_rate(
        self, machine: FakeMachine, clock: FakeClock, host: PsutilHostReader, after: tuple[int, int]
    ) -> None:
        machine.network(lo=(0, 0), eth0=(2**32 - 10, 2**32 - 10))
        host.begin()
        machine.network(lo=(0, 0), eth0=after)
        clock.advance(1.0)
        host.begin()
        assert reason_of(host.network_rates) is UnavailableReason.FIRST_READING

        machine.network(lo=(0, 0), eth0=(after[0] + 7, after[1] + 8))
        clock.advance(1.0)
        host.begin()
        assert host.network_rates() == ByteRates(7.0, 8.0)

    def test_devices_added_and_removed(self, machine: FakeMachine, clock: FakeClock, host: PsutilHostReader) -> None:
        steps: list[tuple[dict[str, tuple[int, int]], ByteRates | UnavailableReason]] = [
            ({}, UnavailableReason.ABSENT),
            ({"usb0": (10**6, 10**6)}, UnavailableReason.FIRST_READING),
            ({"usb0": (10**6 + 1, 10**6 + 2)}, ByteRates(1.0, 2.0)),
            ({"usb0": (10**6 + 1, 10**6 + 2), "eth0": (10**9, 10**9)}, ByteRates(0.0, 0.0)),
            ({"eth0": (10**9 + 5, 10**9 + 6)}, ByteRates(5.0, 6.0)),
            ({"usb0": (1, 1), "eth0": (10**9 + 5, 10**9 + 6)}, ByteRates(0.0, 0.0)),
        ]
        for interfaces, expected in steps:
            machine.network(lo=(0, 0), **interfaces)
            host.begin()
            if isinstance(expected, UnavailableReason):
                assert reason_of(host.network_rates) is expected
            else:
                assert host.network_rates() == expected
            clock.advance(1.0)

    def test_card_below_another_card_is_counted_once_after_recheck(
        self, machine: FakeMachine, clock: FakeClock, host: PsutilHostReader
    ) -> None:
        machine.network(lo=(0, 0), eth0=(0, 0), vf0=(0, 0))
        host.begin()
        (machine.sys / "class/net/vf0/master").symlink_to("../eth0")
        clock.advance(SELECT_INTERVAL_S)
        machine.network(lo=(0, 0), eth0=(1_000, 1_000), vf0=(1_000, 1_000))
        host.begin()

        assert host.network_rates() == ByteRates(1_000 / SELECT_INTERVAL_S, 1_000 / SELECT_INTERVAL_S)

    def test_unreadable_counters(self, machine: FakeMachine, host: PsutilHostReader) -> None:
        (machine.proc / "net" / "dev").unlink()
        (machine.proc / "diskstats").write_text("8 0 sda 1 2\n")
        host.begin()

        assert reason_of(host.network_rates) is UnavailableReason.UNREADABLE
        assert reason_of(host.disk_rates) is UnavailableReason.UNREADABLE

    def test_internal_error_is_not_reported_as_unreadable(
        self, host: PsutilHostReader, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> frozenset[str]:
            raise KeyError("internal error")

        monkeypatch.setattr("dashtop.sources.host.reader.select_interfaces", fail)
        host.begin()

        with pytest.raises(KeyError):
            host.network_rates()
        assert host.load_average()

    def test_this_machine_has_rates_or_no_devices(self, real: HostReader) -> None:
        real.begin()
        real.begin()
        for rates in (real.network_rates, real.disk_rates):
            try:
                sent, received = rates()
            except Unavailable as missing:
                assert missing.reason is UnavailableReason.ABSENT  # noqa: PT017 - a container may have neither
            else:
                assert sent >= 0
                assert received >= 0


def test_whole_table_on_this_machine(real: HostReader) -> None:
    reader: MetricReader[HostReader] = MetricReader(HOST_METRICS)
    real.begin()
    _, first = reader.read(real, 0.0)
    time.sleep(2 * TICK_S)
    real.begin()
    values, unavailable = reader.read(real, 100.0)

    assert first["system.cpu.usage_percent"] is UnavailableReason.FIRST_READING
    assert values["system.memory.total_gb"] == pytest.approx(psutil.virtual_memory().total / 2**30)
    assert {key for key, value in values.items() if value is None} == set(unavailable)
    expected = {UnavailableReason.ABSENT, UnavailableReason.UNREADABLE, UnavailableReason.NO_LIMIT}
    assert set(unavailable.values()) <= expected
    assert not {"system.cpu.usage_percent", "system.cpu.load_1m", "system.memory.used_gb"} & set(unavailable)
