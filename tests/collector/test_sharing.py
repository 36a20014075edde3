"""One collects, the others follow: what they see, who may follow, and what becomes of those who do it badly."""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dashtop.collector import publisher
from dashtop.collector.collection import PATIENCE, Collection
from dashtop.collector.latest import LatestSample
from dashtop.collector.loop import Collector
from dashtop.collector.news import News, decode, decode_wish, encode
from dashtop.collector.sampler import Sampler
from dashtop.collector.seat import LOCK, SOCKET, Seat
from dashtop.model.clock import SystemClock
from dashtop.model.metric import Severity
from dashtop.model.sample import CollectorRun, Event, GpuProcess, Mount, Owner, Sample, SeriesKey
from dashtop.model.unavailable import UnavailableReason
from tests.builders import NOON_MS, make_gpu, make_history, make_sample
from tests.processes import eventually

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

CPU = SeriesKey("system.cpu.usage_percent")
CLOCK = SystemClock()


class Readings(Sampler):
    """Takes a sample of the present at once, with that CPU load; `processes` make it as long as one likes."""

    def __init__(self, load: float, processes: int = 0) -> None:
        self._load = load
        self._processes = tuple(
            GpuProcess(pid=pid, kind="C", gpu_memory_bytes=pid, name="x" * 100) for pid in range(processes)
        )

    def sample(self, gpu_timeout_s: float) -> Sample:
        gpus = (make_gpu(values={"gpu.utilization.gpu": self._load}, processes=self._processes),)
        made = make_sample(time_ms=CLOCK.now_ms(), host={CPU.metric: self._load}, gpus=gpus)
        return replace(made, monotonic_s=CLOCK.monotonic())

    def close(self) -> None:
        pass


class Process:
    """What one process of dashtop has, but for its pages."""

    def __init__(
        self, folder: Path, load: float, *, family: str = "", interval_s: float = 0.05, processes: int = 0
    ) -> None:
        self.history = make_history(folder, interval_s=0.01, leads=False)
        self.board = LatestSample(clock=CLOCK, interval_s=interval_s)
        self.seat = Seat(folder)
        self.collection = Collection(
            board=self.board,
            collector=Collector(
                sampler=Readings(load, processes),
                history=self.history,
                board=self.board,
                clock=CLOCK,
                interval_s=interval_s,
            ),
            history=self.history,
            seat=self.seat,
            family=family,
        )
        self.collection.start()

    def load(self) -> float | None:
        """The CPU load that it shows: it tells who collected it."""
        sample = self.board.latest()
        return sample.host.values[CPU.metric] if sample is not None else None

    def end(self) -> None:
        self.collection.stop()
        self.history.close()
        self.seat.close()


@pytest.fixture
def started() -> Iterator[list[Process]]:
    """Processes that are ended after the test."""
    processes: list[Process] = []
    yield processes
    for process in processes:
        with suppress(OSError):
            process.end()


def shows(process: Process, load: float) -> None:
    eventually(lambda: process.load() == load)


def test_the_second_shows_what_the_first_collects_and_takes_over_without_a_gap(
    tmp_path: Path, started: list[Process]
) -> None:
    first = Process(tmp_path, 1.0)
    started.append(first)
    shows(first, 1.0)
    second = Process(tmp_path, 2.0, interval_s=0.04)
    started.append(second)
    shows(second, 1.0)
    heard = eventually(second.board.latest)
    assert second.board.wait(heard.sequence, 5) is not None
    assert second.board.interval_s == 0.05
    said = second.history.trouble()
    assert said is not None
    assert f"Another dashtop (process {os.getpid()})" in said
    assert first.history.trouble() is None
    first.end()
    ended = time.monotonic()
    shows(second, 2.0)
    assert time.monotonic() - ended < 5
    assert second.history.trouble() is None
    assert eventually(lambda: second.history.flush(1))
    now_ms = CLOCK.now_ms()
    told = [event for event in second.history.events(0, now_ms + 1) if "taken over" in event.text]
    assert [event.kind for event in told] == ["restart"]
    newest = eventually(second.board.latest)
    assert newest.sequence > heard.sequence + 1
    found = second.history.query([CPU], heard.time_ms, now_ms, 10).series[0].mean
    assert set(found[~np.isnan(found)].tolist()) == {1.0, 2.0}


def test_workers_of_one_server_need_not_say_that_they_follow(tmp_path: Path, started: list[Process]) -> None:
    started.append(Process(tmp_path, 1.0, family="gunicorn"))
    shows(started[0], 1.0)
    started.append(Process(tmp_path, 2.0, family="gunicorn"))
    shows(started[1], 1.0)
    assert started[1].history.trouble() is None


def test_the_wish_of_a_followers_viewer_reaches_the_one_that_collects(tmp_path: Path, started: list[Process]) -> None:
    started.append(Process(tmp_path, 1.0, interval_s=3600))
    shows(started[0], 1.0)
    started.append(Process(tmp_path, 2.0))
    follower = started[1].board
    first = eventually(follower.latest)
    follower.follow(0.02)
    second = follower.wait(first.sequence, 20)
    assert second is not None
    assert follower.wait(second.sequence, 20) is not None


def test_histories_of_both_are_the_same(tmp_path: Path, started: list[Process]) -> None:
    started += [Process(tmp_path, 1.0), Process(tmp_path, 2.0)]
    for process in started:
        eventually(process.board.latest)
    newest = eventually(started[1].board.latest)
    sample = started[0].board.wait(newest.sequence + 3, 5)
    assert sample is not None
    leader = next(each for each in started if each.history.trouble() is None)
    assert eventually(lambda: leader.history.flush(1))
    end_ms = newest.time_ms + 1
    means = [
        process.history.query([CPU], end_ms - 2000, end_ms, 20).series[0].mean.tobytes()  # with the empty time before
        for process in started
    ]
    assert means[0] == means[1]


def test_a_folder_with_a_path_longer_than_a_sockets_address(tmp_path: Path, started: list[Process]) -> None:
    folder = tmp_path / ("long" * 40) / ("longer" * 30)
    started += [Process(folder, 1.0)]
    shows(started[0], 1.0)
    started += [Process(folder, 2.0)]
    shows(started[1], 1.0)


def test_lock_and_socket_are_the_users_alone_and_what_was_left_behind_is_replaced(
    tmp_path: Path, started: list[Process]
) -> None:
    folder = tmp_path / "new"
    for load in (1.0, 2.0):  # the first leaves its socket's name behind, as a killed one does
        process = Process(folder, load)
        started.append(process)
        shows(process, load)
        modes = [stat.S_IMODE((folder / name).stat().st_mode) for name in (".", LOCK, SOCKET)]
        assert modes == [0o700, 0o600, 0o600]
        process.end()


def connected(folder: Path) -> socket.socket:
    seat = Seat(folder)
    connection: socket.socket = eventually(seat.connect)
    seat.close()
    connection.settimeout(10)
    return connection


def ended(connection: socket.socket) -> bool:
    """Read until the other end hangs up."""
    try:
        while connection.recv(1 << 20):
            pass
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize("sent", [b"x\n", b"nan\n", b"-1\n", b"1e9\n", b"\xff\n", b"\n", b"0" * 100_000])
def test_a_follower_that_asks_for_nonsense_is_dropped_alone(
    sent: bytes, tmp_path: Path, started: list[Process], caplog: pytest.LogCaptureFixture
) -> None:
    started.append(Process(tmp_path, 1.0))
    shows(started[0], 1.0)
    with connected(tmp_path) as good, connected(tmp_path) as bad:
        with suppress(BrokenPipeError, ConnectionResetError):
            bad.sendall(sent)
        assert ended(bad)
        assert good.recv(100)
    assert "makes no sense" in caplog.text


def test_a_follower_that_does_not_read_is_dropped_and_keeps_nobody_waiting(
    tmp_path: Path, started: list[Process], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(publisher, "MOST_UNREAD_BYTES", 300_000)
    started.append(Process(tmp_path, 1.0, interval_s=0.02, processes=500))
    shows(started[0], 1.0)
    started.append(Process(tmp_path, 2.0))
    shows(started[1], 1.0)
    with connected(tmp_path) as slow:
        eventually(lambda: "reads too slowly" in caplog.text, timeout_s=20)
        newest = eventually(started[1].board.latest)
        assert started[1].board.wait(newest.sequence, 5) is not None
        assert ended(slow)


def test_another_users_process_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seat = Seat(tmp_path)
    with seat.listen():
        user = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: user + 1)
        with pytest.raises(PermissionError):
            seat.connect()
    seat.close()


@pytest.mark.parametrize("sent", [b"{}\n", b"\x80\x04garbage\n", b"[" * 100_000 + b"\n", b"no end of line"])
def test_one_that_collects_and_talks_nonsense_is_told_of_and_outlived(
    sent: bytes, tmp_path: Path, started: list[Process]
) -> None:
    seat = Seat(tmp_path)
    assert seat.take()
    with seat.listen() as listener:
        started.append(Process(tmp_path, 2.0))
        for _ in range(PATIENCE):
            connection, _ = listener.accept()
            with connection:
                connection.sendall(sent)
        said = eventually(started[0].history.trouble)
        assert "cannot be followed" in said
        assert started[0].board.latest() is None
    seat.close()
    shows(started[0], 2.0)
    assert started[0].history.trouble() is None


def test_a_sample_travels_whole() -> None:
    process = GpuProcess(
        pid=7,
        kind="C+G",
        gpu_memory_bytes=None,
        name="ü\n\x00<b>",
        started_ms=5,
        owner=Owner(user="a", slurm_job="8"),
        foreign=True,
    )
    event = Event(time_ms=1, kind="xid", severity=Severity.CRITICAL, text="x\ny", gpu_uuid="GPU-1", code=79)
    gpu = replace(make_gpu(values={"gpu.utilization.gpu": 0.1}, processes=(process,)), state=UnavailableReason.GPU_LOST)
    mount = Mount(mount_point="/", filesystem="ext4", used_bytes=1, total_bytes=2, used_percent=None)
    sample = replace(
        make_sample(gpus=(gpu,), mounts=(mount,), trouble=UnavailableReason.STALE, gpu_age_s=0.25, events=(event,)),
        collectors=(CollectorRun(name="gpu", duration_s=0.001, failures=3),),
        skipped_ticks=4,
    )
    news = News(pid=1, family="", interval_s=1.0, trouble="disk full", sample=sample)
    line = encode(news)
    assert line.count(b"\n") == 1
    assert decode(line) == news


def test_a_sample_with_other_metrics_is_refused() -> None:
    sample = make_sample(time_ms=NOON_MS)
    fewer = {key: value for key, value in sample.host.values.items() if key != CPU.metric}
    other = replace(sample, host=replace(sample.host, values=fewer))
    with pytest.raises(ValueError, match="other metrics"):
        decode(encode(News(pid=1, family="", interval_s=1.0, trouble=None, sample=other)))


def test_a_wish_is_a_number_of_seconds() -> None:
    assert decode_wish(b"0.500\n") == 0.5
    with pytest.raises(ValueError, match="no such interval"):
        decode_wish(b"0\n")
