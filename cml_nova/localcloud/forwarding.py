"""Floating addresses on this machine: what connects to one is connected to the guest that it stands for at that time."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine
from typing import Any

from cml_nova.localcloud.guest import AddressInUse

_PIECE = 65536


class Forwards:
    """Listeners in the hypervisor's loop, by address.

    :param port: listened on and connected to.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._servers: dict[str, asyncio.Server] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def add(self, address: str, target: Callable[[], str | None]) -> None:
        """Begin to listen.

        :param target: gives the address to connect to, None where there is none now.
        :raises AddressInUse: something else listens there.
        """
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            if task:
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            # Not in the loop: the answer may have to wait for a request that itself waits for the loop.
            await self._forward(reader, writer, await asyncio.to_thread(target))

        try:
            self._servers[address] = await asyncio.start_server(accept, address, self._port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise AddressInUse(f"{address}:{self._port} is in use") from error
            raise

    def remove(self, address: str) -> None:
        """Listen no more; one that nobody listens on is fine."""
        server = self._servers.pop(address, None)
        if server:
            server.close()

    def close(self) -> None:
        """End all listeners and connections."""
        for address in list(self._servers):
            self.remove(address)
        for task in self._tasks:
            task.cancel()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str | None) -> None:
        """Connect one connection on, until either side ends it."""
        far: asyncio.StreamWriter | None = None
        try:
            if target:
                far_reader, far = await asyncio.open_connection(target, self._port)
                await _either(_copy(reader, far), _copy(far_reader, writer))
        except OSError:
            pass  # the guest is off or cut off: so is the connection
        finally:
            for end in (writer, far):
                if end:
                    end.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_PIECE):
        writer.write(data)
        await writer.drain()


async def _either(*ways: Coroutine[Any, Any, None]) -> None:
    """Run both directions until one has ended."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
