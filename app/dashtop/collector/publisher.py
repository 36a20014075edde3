"""Tells the processes that follow of every sample, and hears how often their viewers look."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from dashtop.collector.news import LONGEST_WISH, decode_wish
from dashtop.collector.seat import of_this_user

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

log = logging.getLogger(__name__)

MOST_FOLLOWERS = 64
MOST_UNREAD_BYTES = 8 * 2**20
"""A follower that lets more than this pile up is dropped; it will connect again when it can."""


class Publisher:
    """One thread for all followers. `news` makes the line that is sent, None while there is nothing to tell."""

    def __init__(
        self, listener: socket.socket, *, news: Callable[[], bytes | None], wished: Callable[[float], object]
    ) -> None:
        self._listener = listener
        self._news = news
        self._wished = wished
        self._followers: set[asyncio.StreamWriter] = set()
        self._loop: asyncio.AbstractEventLoop
        self._stopped: asyncio.Event
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="dashtop-publish", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()
        self._ready.wait()

    def publish(self) -> None:
        """Send the news to everybody who follows; returns at once."""
        if self._followers:
            self._loop.call_soon_threadsafe(self._send)

    def stop(self) -> None:
        """Hang up."""
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(1.0)

    async def _run(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        # Not start_unix_server: since Python 3.13 it looks for the socket's file, whose address here is a descriptor.
        server = await asyncio.start_server(self._serve, sock=self._listener, limit=LONGEST_WISH)
        self._ready.set()
        await self._stopped.wait()
        server.close()
        for follower in self._followers:
            follower.transport.abort()
        serving = asyncio.all_tasks() - {asyncio.current_task()}
        if serving:  # each ends with its connection
            await asyncio.wait(serving, timeout=1.0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not of_this_user(writer.get_extra_info("socket")) or len(self._followers) >= MOST_FOLLOWERS:
            writer.transport.abort()
            return
        self._followers.add(writer)
        try:
            line = self._news()
            if line is not None:
                writer.write(line)
            with suppress(OSError):
                while wish := await reader.readline():
                    self._wished(decode_wish(wish))
        except ValueError:  # too long a line is one, too
            log.warning("A process that follows this one asked for what makes no sense, and was dropped.")
        finally:
            self._followers.discard(writer)
            writer.transport.abort()

    def _send(self) -> None:
        line = self._news()
        if line is None:
            return
        for follower in tuple(self._followers):
            follower.write(line)
            if follower.transport.get_write_buffer_size() > MOST_UNREAD_BYTES:
                log.warning("A process that follows this one reads too slowly, and was dropped.")
                follower.transport.abort()
