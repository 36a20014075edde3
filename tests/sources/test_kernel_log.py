"""XIDs of the kernel log, and which of them NVML reports as well."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from dashtop.metrics.xid import xid_event
from dashtop.model.sample import Event, GpuReading
from dashtop.sources.nvml.event_buffer import REPEAT_INTERVAL_S
from dashtop.sources.nvml.kernel_log import KernelLogReader, open_kernel_log, parse_xids
from tests.builders import make_gpu
from tests.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GPUS = (make_gpu(0), make_gpu(1))
UUIDS = [gpu.device.uuid for gpu in GPUS]
LINE = "6,{number},99,-;NVRM: Xid (PCI:0000:{bus:02x}:00): {code}, pid='<unknown>', name=<unknown>, fallen off\n"


class EventReader:
    """A GpuReader that returns GPUS with the events that a test sets, once."""

    simulated = False

    def __init__(self) -> None:
        self.events: tuple[Event, ...] = ()

    def read(self, timeout_s: float) -> GpuReading:
        events, self.events = self.events, ()
        return GpuReading(gpus=GPUS, events=events)

    def failures(self) -> int:
        return 7

    def close(self) -> None: ...


class Log:
    """A kernel log that a test writes: a pipe that keeps records apart, as /dev/kmsg does."""

    def __init__(self) -> None:
        self.descriptor, self._end = os.pipe2(os.O_NONBLOCK | os.O_DIRECT)
        self.clock = FakeClock()
        self.nvml = EventReader()
        self.reader = KernelLogReader(self.nvml, self.descriptor, clock=self.clock)

    def write(self, text: str) -> None:
        os.write(self._end, text.encode())

    def report(self, code: int, gpu: int = 0) -> None:
        self.write(LINE.format(number=1, bus=gpu + 1, code=code))

    def report_by_nvml(self, code: int, gpu: int = 0) -> None:
        self.nvml.events = (xid_event(code, time_ms=self.clock.now_ms(), gpu_uuid=UUIDS[gpu]),)

    def read(self) -> list[tuple[str | None, int | None]]:
        return [(event.gpu_uuid, event.code) for event in self.reader.read(0.1).events]

    def close(self) -> None:
        self.reader.close()
        os.close(self._end)


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    yield log
    log.close()


def test_xids_of_the_log_name_their_gpu(log: Log) -> None:
    assert log.read() == []
    log.report(79, gpu=1)
    log.report(62, gpu=0)
    log.report(62, gpu=9)  # no GPU of this machine
    assert log.read() == [(UUIDS[1], 79), (UUIDS[0], 62)]
    assert log.read() == []
    assert log.reader.failures() == 7


@pytest.mark.parametrize("first", ["nvml", "kernel"])
@pytest.mark.parametrize("seconds", [0.0, 4.0])
def test_error_that_both_report_is_one_event(log: Log, first: str, seconds: float) -> None:
    earlier, later = (log.report_by_nvml, log.report) if first == "nvml" else (log.report, log.report_by_nvml)
    earlier(79)
    found = log.read() if seconds else []
    log.clock.advance(seconds)
    later(79)
    found += log.read()
    assert found == [(UUIDS[0], 79)]


def test_same_error_much_later_or_of_another_gpu_is_another_event(log: Log) -> None:
    log.report(79)
    assert log.read() == [(UUIDS[0], 79)]
    log.clock.advance(6.0)
    log.report_by_nvml(79)
    assert log.read() == [(UUIDS[0], 79)]
    log.report_by_nvml(79, gpu=1)
    log.report(79)
    assert log.read() == [(UUIDS[1], 79)], "NVML has reported the other one a moment ago"


def test_repeated_error_is_counted_once(log: Log) -> None:
    for _ in range(50):
        log.report(13)
        log.read()
        log.clock.advance(1.0)
    log.clock.advance(REPEAT_INTERVAL_S)
    (event,) = log.reader.read(0.1).events
    assert "49 more in" in event.text


def test_errors_that_nvml_counts_are_not_counted_again(log: Log) -> None:
    log.report_by_nvml(13)
    assert log.read() == [(UUIDS[0], 13)]
    for _ in range(40):
        log.report(13)
        assert log.read() == []
        log.clock.advance(1.0)


@pytest.mark.parametrize(
    "line",
    [
        "14,1,2,-;NVRM: Xid (PCI:0000:01:00): 79, written by a program\n",  # facility 1
        "6,1,2,-;usb: NVRM: Xid (PCI:0000:01:00): 79\n",
        "6,1,2,-;NVRM: Xid (PCI:0000:zz:00): 79\n",
        "6,1,2,-;NVRM: Xid (PCI:0000:01:00): seventy\n",
        "6,1,2,-;NVRM: GPU at PCI:0000:01:00: GPU-1\n",
        "",
    ],
)
def test_other_lines_are_no_xids(line: str) -> None:
    assert list(parse_xids(line.encode())) == []


@pytest.mark.parametrize(
    ("text", "code", "slot"),
    [
        ("6,1,2,-;NVRM: Xid (PCI:0000:c1:00): 119, pid=7, name=python, Timeout\n SUBSYSTEM=pci\n", 119, (0, 0xC1, 0)),
        ("4,1,2,c;NVRM: Xid (0000:03:00): 31, Ch 0000000b\n", 31, (0, 3, 0)),
        ("6,1,2,-;NVRM: Xid (PCI:0008:06:00 GPU-I:02): 45, pid=1\n", 45, (8, 6, 0)),
    ],
)
def test_lines_of_several_drivers(text: str, code: int, slot: tuple[int, int, int]) -> None:
    assert list(parse_xids(text.encode())) == [(code, slot)]


def test_log_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    assert open_kernel_log(tmp_path / "missing") is None
    reader = EventReader()
    event = xid_event(79, time_ms=1, gpu_uuid=UUIDS[0])
    reader.events = (event,)
    without = KernelLogReader(reader, None, clock=FakeClock())
    assert without.read(0.1).events == (event,)
    without.close()


def test_log_is_read_from_its_end(tmp_path: Path) -> None:
    file = tmp_path / "kmsg"
    file.write_text(LINE.format(number=1, bus=1, code=79))
    descriptor = open_kernel_log(file)
    assert descriptor is not None
    reader = KernelLogReader(EventReader(), descriptor, clock=FakeClock())
    assert reader.read(0.1).events == ()
    with file.open("a") as end:
        end.write(LINE.format(number=2, bus=2, code=62))
    assert [event.code for event in reader.read(0.1).events] == [62]
    reader.close()
