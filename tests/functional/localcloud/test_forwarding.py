"""What listens on floating addresses."""

from __future__ import annotations

import asyncio

from cml_nova.localcloud.forwarding import Forwards
from tests.harness.process import free_port


def test_connection_to_a_floating_address_does_not_hold_the_loop_while_its_target_is_asked_for() -> None:
    """Whoever knows the target may wait for the loop itself."""
    async def connect() -> None:
        loop = asyncio.get_running_loop()
        asked: asyncio.Future[None] = loop.create_future()

        def target() -> None:
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(5)
            loop.call_soon_threadsafe(asked.set_result, None)

        port = free_port()
        forwards = Forwards(port)
        await forwards.add("127.0.0.1", target)
        try:
            await asyncio.open_connection("127.0.0.1", port)
            await asyncio.wait_for(asked, 10)
        finally:
            forwards.close()

    asyncio.run(connect())
