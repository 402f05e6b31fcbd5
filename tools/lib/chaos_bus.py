"""Starts a conductor or worker whose messages are lost or doubled when it is told so: chaos_bus.py ROLE FILE [arguments of the daemon].

The driver's ``_send`` is replaced from outside; the product knows nothing of this. FILE says how likely what happens to a message:
``{"lost": 0.3, "doubled": 0.3}``; with ``"methods": ["run"]`` to those alone. Without the file nothing does. What has happened to a message
is said on standard error.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

#: a second copy comes at once or so many seconds late, when what it asks for may long be over
LATEST = 5.0


def hook(control: Path) -> None:
    """Put the trouble between the daemon and the bus."""
    from oslo_messaging import MessagingTimeout
    from oslo_messaging._drivers.amqpdriver import AMQPDriverBase

    send = AMQPDriverBase._send

    @wraps(send)
    def troubled(driver: Any, target: Any, context: Any, message: dict[str, Any], wait_for_reply: bool | None = None,
                 timeout: float | None = None, *more: Any, **others: Any) -> Any:
        method = message.get("method", "")
        fate = _fate(control, method)
        if fate:
            print(f"chaos_bus: {fate} {method}", file=sys.stderr, flush=True)

        def once() -> Any:
            """Send a copy to which no answer is wanted."""
            return send(driver, target, context, dict(message), None, timeout, *more, **others)

        if fate == "doubled":
            threading.Timer(random.uniform(0, LATEST), once).start()
        elif fate in ("lost", "unanswered"):
            if fate == "unanswered":
                once()
            if wait_for_reply:
                time.sleep(timeout or 0)
                raise MessagingTimeout("lost on purpose")
            return None
        return send(driver, target, context, message, wait_for_reply, timeout, *more, **others)

    AMQPDriverBase._send = troubled  # type: ignore[method-assign]


def _fate(control: Path, method: str) -> str:
    try:
        chances = json.loads(control.read_text())
    except FileNotFoundError:
        return ""
    if method not in chances.pop("methods", [method]):
        return ""
    drawn = random.random()
    for fate, chance in chances.items():
        drawn -= chance
        if drawn < 0:
            return str(fate)
    return ""


def main(role: str, control: str, *arguments: str) -> None:
    """Load, hook, run."""
    daemon = import_module(f"cml_nova.cmd.{role}")  # first of the product's: it chooses the threads that all of it runs in
    hook(Path(control))
    sys.argv = [f"cml-nova-{role}", *arguments]
    daemon.main()


if __name__ == "__main__":
    main(*sys.argv[1:])
