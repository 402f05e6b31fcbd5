"""What a process of the API remembers for a short time, so as not to ask others for it at each request."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class Memory(Generic[V]):
    """Values that are forgotten in time, and the oldest ones where there are too many. Threads may share it.

    keystonemiddleware calls ``get`` and ``set`` like memcached's.

    :param size: most values that are kept.
    """

    def __init__(self, size: int = 10000, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, tuple[float, V]] = OrderedDict()

    def get(self, key: Hashable) -> V | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if entry[0] <= self._clock():
                del self._entries[key]
                return None
            return entry[1]

    def set(self, key: Hashable, value: V, time: float = 0) -> None:
        """Keep a value for ``time`` seconds."""
        with self._lock:
            self._entries[key] = (self._clock() + time, value)
            self._entries.move_to_end(key)
            while len(self._entries) > self._size:
                self._entries.popitem(last=False)
