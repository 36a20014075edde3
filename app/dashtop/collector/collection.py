"""The one thread of collection: it collects if no other process does, and follows the one that does until it ends."""

from __future__ import annotations

import logging
import os
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from dashtop.collector.news import MOST_BYTES, News, decode, encode, encode_wish
from dashtop.collector.publisher import Publisher

if TYPE_CHECKING:
    from dashtop.collector.latest import LatestSample
    from dashtop.collector.loop import Collector
    from dashtop.collector.seat import Seat
    from dashtop.model.ports import History

log = logging.getLogger(__name__)

RETRY_S = 0.25
PATIENCE = 8
"""So many times in a row one may fail to hear of whoever collects before it is said: it may only just have begun."""


class Collection:
    """Started and stopped once. `seat` None: there is nobody to share with. `family`: see News."""

    def __init__(
        self, *, board: LatestSample, collector: Collector, history: History, seat: Seat | None = None, family: str = ""
    ) -> None:
        self._board = board
        self._collector = collector
        self._history = history
        self._seat = seat
        self._family = family
        self._failed = 0
        self._ended = threading.Event()
        self._connection: socket.socket | None = None
        self._publisher: Publisher | None = None
        self._thread = threading.Thread(target=self._run, name="dashtop-collect", daemon=True)

    def start(self) -> None:
        """Begin to collect, or to follow."""
        self._thread.start()

    def stop(self) -> None:
        """End collection, those who wait for it, and the readers; returns within two seconds. Once is enough."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._board.end()
        self._collector.stop()
        connection = self._connection
        if connection is not None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        if self._thread.is_alive():
            self._thread.join(1.0)
        self._collector.close()

    def _run(self) -> None:
        if self._seat is not None:
            while not self._seat.take():
                self._follow(self._seat)
                if self._ended.wait(RETRY_S):
                    return
        self._history.lead()
        if self._seat is not None:
            self._publish(self._seat)
        self._collector.run(self._publisher.publish if self._publisher is not None else lambda: None)
        if self._publisher is not None:
            self._publisher.stop()

    def _publish(self, seat: Seat) -> None:
        try:
            listener = seat.listen()
        except OSError as error:
            log.warning("Other processes cannot follow this one: there is no socket in %s (%s).", seat.folder, error)
            return
        self._publisher = Publisher(listener, news=self._news, wished=self._board.follow)
        self._publisher.start()

    def _news(self) -> bytes | None:
        sample = self._board.latest()
        if sample is None:
            return None
        return encode(
            News(
                pid=os.getpid(),
                family=self._family,
                interval_s=self._board.interval_s,
                trouble=self._history.trouble(),
                sample=sample,
            )
        )

    def _follow(self, seat: Seat) -> None:
        """Show and keep what is heard, until there is nothing more to hear."""
        try:
            with seat.connect() as connection, connection.makefile("rb") as lines:
                self._connection = connection
                self._board.wished = lambda interval_s: _wish(connection, interval_s)
                while not self._ended.is_set() and (line := lines.readline(MOST_BYTES)):
                    self._hear(seat, decode(line))
                    self._failed = 0
        except (OSError, ValueError) as error:
            self._failed += 1
            if self._failed == PATIENCE:
                self._history.follow(
                    f"Another dashtop collects in {seat.folder}, but cannot be followed; end it, or name another folder"
                    " with --data-dir."
                )
            log.debug("Nothing was heard in %s: %s", seat.folder, error)
        finally:
            self._connection = None
            self._board.wished = lambda _interval_s: None

    def _hear(self, seat: Seat, news: News) -> None:
        trouble = news.trouble
        if not self._family or news.family != self._family:
            other = (
                f"Another dashtop (process {news.pid}) collects, and writes the history in {seat.folder}; this one"
                " shows what it finds, and takes over when that ends."
            )
            trouble = f"{other} {trouble}" if trouble else other
        self._history.follow(trouble)
        self._board.show(news.sample, interval_s=news.interval_s)
        self._history.append(news.sample)


def _wish(connection: socket.socket, interval_s: float) -> None:
    with suppress(OSError):  # it is said again in two seconds
        connection.send(encode_wish(interval_s), socket.MSG_DONTWAIT)
