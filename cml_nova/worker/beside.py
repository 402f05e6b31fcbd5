"""Something that takes long, done while the job is looked after."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

T = TypeVar("T")

_TICK = 0.5


def beside(name: str, action: Callable[[], T], look: Callable[[], None]) -> T:
    """Do ``action`` in a thread of its own and call ``look`` every half second until it is done; give its result.

    What ``action`` raises is raised here. Where ``look`` raises, the thread is left to itself.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(action())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    while not wait([future], _TICK).done:
        look()
    return future.result()
