"""Starts a conductor or worker whose messages are lost or doubled when it is told so: chaos_bus.py ROLE FILE [arguments of the daemon].

The driver's ``_send`` is replaced from outside; the product knows nothing of this. FILE says how likely what happens to a message:
``{"lost": 0.3, "doubled": 0.3}``; without the file nothing does.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from functools import wraps
from pathlib import Path
from typing import Any

from cml_nova.cmd import conductor, worker  # first of the product's: it chooses the threads that all of it runs in

COMMANDS = {"conductor": conductor.main, "worker": worker.main}
#: a second copy comes at once or so many seconds late, when what it asks for may long be over
_LATEST = 5.0


def hook(control: Path) -> None:
    """Put the trouble between the daemon and the bus."""
    from oslo_messaging import MessagingTimeout
    from oslo_messaging._drivers.amqpdriver import AMQPDriverBase

    send = AMQPDriverBase._send

    @wraps(send)
    def troubled(driver: Any, target: Any, context: Any, message: dict[str, Any], wait_for_reply: bool | None = None,
                 timeout: float | None = None, *more: Any, **others: Any) -> Any:
        fate = _fate(control)

        def once() -> Any:
            """Send a copy to which no answer is wanted."""
            return send(driver, target, context, dict(message), None, timeout, *more, **others)

        if fate == "doubled":
            threading.Timer(random.uniform(0, _LATEST), once).start()
        elif fate in ("lost", "unanswered"):
            if fate == "unanswered":
                once()
            if wait_for_reply:
                time.sleep(timeout or 0)
                raise MessagingTimeout("lost on purpose")
            return None
        return send(driver, target, context, message, wait_for_reply, timeout, *more, **others)

    AMQPDriverBase._send = troubled  # type: ignore[method-assign]


def _fate(control: Path) -> str:
    try:
        chances = json.loads(control.read_text())
    except FileNotFoundError:
        return ""
    drawn = random.random()
    for fate, chance in chances.items():
        drawn -= chance
        if drawn < 0:
            return str(fate)
    return ""


def main(role: str, control: str, *arguments: str) -> None:
    """Hook, run."""
    hook(Path(control))
    sys.argv = [f"cml-nova-{role}", *arguments]
    COMMANDS[role]()


if __name__ == "__main__":
    main(*sys.argv[1:])
