"""Whether a conductor may take jobs over from other workers: not while its own view of the world may be the reason why leases run out.

While a conductor's database or bus is away, no heartbeat reaches it, and the leases of the best of workers expire. So after an outage,
and at its start, it leaves expired leases alone until it has seen both healthy for one lease time: whoever lives has renewed by then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import StrEnum

#: seconds that a look may take on a busy machine, however short leases are
_SILENCE_MIN = 5.0


class Part(StrEnum):
    """What a conductor can't do without."""

    DATABASE = "database"
    BUS = "bus"


class Health:
    """What has been seen of the database and of the bus. A silence of half a lease time is as bad as a failure: a worker that was
    heard just before it may have lost its lease by the end of a longer one.

    :param lease_time: seconds.
    :param interval: seconds between looks.
    :param clock: monotonic seconds.
    """

    def __init__(self, lease_time: float, interval: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_time = lease_time
        self._silence = max(lease_time / 2, 3 * interval, _SILENCE_MIN)
        self._clock = clock
        self._lock = threading.Lock()
        #: first and last good look since the last bad one
        self._good: dict[Part, tuple[float, float]] = {}

    def good(self, part: Part) -> None:
        """Note that a part has just been seen at work."""
        with self._lock:
            now = self._clock()
            first, last = self._good.get(part, (now, now))
            self._good[part] = (first if now - last <= self._silence else now, now)

    def bad(self, part: Part) -> None:
        """Note that a part has just failed."""
        with self._lock:
            self._good.pop(part, None)

    def wanting(self) -> list[Part]:
        """List the parts that have not been healthy for one lease time up to now; none of them is what a take-over needs."""
        with self._lock:
            now = self._clock()
            return [part for part in Part if not self._settled(part, now)]

    def _settled(self, part: Part, now: float) -> bool:
        if part not in self._good:
            return False
        first, last = self._good[part]
        return now - first >= self._lease_time and now - last <= self._silence


class Allowance:
    """So many in a minute, and no more at once than come in one: a token bucket.

    :param per_minute: 0 for without limit.
    :param clock: monotonic seconds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._lock = threading.Lock()
        self._left = float(per_minute)
        self._at = clock()

    @property
    def any_left(self) -> bool:
        """Whether one may be taken at this time."""
        with self._lock:
            self._refill()
            return not self._per_minute or self._left >= 1

    def take(self) -> None:
        """Take one. Who asks first and takes then may overdraw a little beside others; the next ones wait for that."""
        with self._lock:
            self._refill()
            self._left -= 1

    def _refill(self) -> None:
        now = self._clock()
        self._left = min(float(self._per_minute), self._left + (now - self._at) * self._per_minute / 60)
        self._at = now
