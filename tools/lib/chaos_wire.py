"""The wire between the daemons and a server: it can be cut, slowed down and mended, and all connections over it can be broken."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading


class Wire:
    """A TCP port of this machine behind which a server stands, in a thread of its own.

    :param target: the server's port.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self._target = target
        self._delay = 0.0
        self._loop = asyncio.new_event_loop()
        self._mended = asyncio.Event()
        self._mended.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="wire", daemon=True)

    def __enter__(self) -> Wire:
        self._thread.start()
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._relay, "127.0.0.1", 0), self._loop).result()
        self.port = server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *exc: object) -> None:
        self.mend()
        self.break_connections()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def cut(self) -> None:
        """From now on nothing gets through, and nobody is told so."""
        self._loop.call_soon_threadsafe(self._mended.clear)

    def slow(self, delay: float) -> None:
        """From now on each piece takes its time.

        :param delay: seconds.
        """
        self._delay = delay

    def mend(self) -> None:
        """Let through what waits, and what comes, at once."""
        self._delay = 0.0
        self._loop.call_soon_threadsafe(self._mended.set)

    def break_connections(self) -> None:
        """Reset every connection; new ones get through."""
        self._loop.call_soon_threadsafe(self._abort_all)

    def _abort_all(self) -> None:
        for writer in self._writers:
            # to linger for no time is to reset
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        other = None
        try:
            await self._mended.wait()
            back, other = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(other)
            await asyncio.gather(self._pump(reader, other), self._pump(back, writer))
        except OSError:
            pass  # one of the two is gone, so the other is told
        finally:
            for end in (writer, other):
                if end:
                    self._writers.discard(end)
                    end.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 16):
            await asyncio.sleep(self._delay)
            await self._mended.wait()
            sink.write(data)
            await sink.drain()
        with contextlib.suppress(OSError):
            sink.write_eof()
