"""Waiting for something to become true, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(probe: Callable[[], T], timeout: float, what: str, interval: float = 0.05) -> T:
    """Call ``probe`` until it gives something true, and give that.

    :param timeout: seconds after which the wait is over.
    :param what: what is waited for, for the message.
    :raises AssertionError: it did not come; the message shows what was seen last.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout} s; seen last: {value!r}")
        time.sleep(interval)
