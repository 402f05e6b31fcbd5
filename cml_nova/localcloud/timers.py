"""What is due later: one thread with a heap for all servers' simulated times, and a few threads for what is due."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

LOG = logging.getLogger(__name__)

Clock = Callable[[], float]


class Timers:
    """Calls functions at given times.

    :param clock: gives the time in seconds.
    :param workers: number of threads that run what is due (booting a guest blocks its thread).
    """

    def __init__(self, clock: Clock, workers: int = 16) -> None:
        self._clock = clock
        self._workers = workers
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="timers", daemon=True)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="timer")

    def start(self) -> None:
        """Start the threads. Without it nothing is called but by ``run_due``."""
        self._thread.start()

    def stop(self) -> None:
        """Drop what is not due yet, and return when what runs has ended."""
        with self._changed:
            self._stopped = True
            self._heap.clear()
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Have ``call`` called in so many seconds."""
        with self._changed:
            if not self._stopped:
                heapq.heappush(self._heap, (self._clock() + seconds, next(self._order), call))
                self._changed.notify()

    def run_due(self) -> None:
        """Call in this thread what is due now, also what that makes due."""
        while True:
            with self._changed:
                if not self._heap or self._heap[0][0] > self._clock():
                    return
                call = heapq.heappop(self._heap)[2]
            call()

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._stopped:
                    return
                wait = self._heap[0][0] - self._clock() if self._heap else None
                if wait is None or wait > 0:
                    self._changed.wait(wait)
                    continue
                call = heapq.heappop(self._heap)[2]
                self._pool.submit(self._call, call)

    @staticmethod
    def _call(call: Callable[[], None]) -> None:
        try:
            call()
        except Exception:
            LOG.exception("a timed action of the local cloud failed")
